//! `/api/v1/upstreams` and `/api/v1/offline`: how upstreams stand, and the switch that takes them offline.
//!
//! GET shows, POST changes. A POST must come as `application/json`, which no web page can send here unasked.

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Reply;
use crate::pull::Pull;
use crate::upstream::Upstream;

/// The longest body of a request.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// `POST /api/v1/offline`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    /// Off, or on again.
    offline: bool,
    /// Which one; all where none is named.
    upstream: Option<String>,
}

/// The upstreams of one mirror, as operators see them.
#[derive(Debug)]
pub struct Switchboard {
    pull: Arc<Pull>,
}

impl Switchboard {
    /// Shows and switches those of `pull`.
    pub fn new(pull: Arc<Pull>) -> Self {
        Self { pull }
    }

    /// Brings the upstreams' gauges up to date; called when metrics are read.
    pub(super) fn measure(&self) {
        self.pull.upstreams().iter().for_each(|upstream| upstream.measure());
    }

    /// Whether a path, which begins after `/api/v1/`, is answered here.
    pub(super) fn knows(path: &str) -> bool {
        matches!(path, "upstreams" | "offline")
    }

    /// Answers a request for a path that [`Switchboard::knows`].
    pub(super) fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Reply {
        let answer = match (path, method) {
            ("upstreams", &Method::GET | &Method::HEAD) => {
                Ok(json!({ "upstreams": self.pull.upstreams().iter().map(|upstream| upstream.status()).collect::<Vec<_>>() }))
            }
            ("offline", &Method::GET | &Method::HEAD) => Ok(self.switches()),
            ("offline", &Method::POST) => self.switch(headers, body),
            _ => Err((StatusCode::METHOD_NOT_ALLOWED, "GET shows the state, POST /api/v1/offline changes it".to_owned())),
        };
        match answer {
            Ok(value) => (StatusCode::OK, value),
            Err((status, problem)) => (status, json!({ "error": problem })),
        }
    }

    fn switch(&self, headers: &HeaderMap, body: &[u8]) -> Result<Value, (StatusCode, String)> {
        let bad = |problem: String| (StatusCode::BAD_REQUEST, problem);
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "send it with Content-Type: application/json".into()));
        }
        let switch: Switch = serde_json::from_slice(body)
            .map_err(|error| bad(format!("{error}; send {{\"offline\": true}}, with \"upstream\": \"NAME\" for one of them")))?;
        let named = |upstream: &&Arc<Upstream>| switch.upstream.as_deref().is_none_or(|name| name == upstream.name().as_str());
        let mut count = 0;
        for upstream in self.pull.upstreams().iter().filter(named) {
            upstream.set_offline(switch.offline);
            count += 1;
        }
        match &switch.upstream {
            Some(name) if count == 0 => Err((StatusCode::NOT_FOUND, format!("there is no upstream {name:?}"))),
            _ => Ok(self.switches()),
        }
    }

    fn switches(&self) -> Value {
        let upstreams = self.pull.upstreams();
        let each = upstreams.iter().map(|upstream| (upstream.name().to_string(), Value::from(upstream.is_offline())));
        let each: serde_json::Map<String, Value> = each.collect();
        json!({ "offline": each.values().all(|offline| offline == true), "upstreams": each })
    }
}
