//! The JSON interface: how upstreams stand, and the switch that takes them offline.
//!
//! GET shows, POST changes. A POST must come as `application/json`, which no web page can send here unasked; the admin
//! interface has no other lock than its address.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
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

impl Admin {
    /// Answers a request below `/api/v1/` that is known here.
    pub(super) fn api(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Option<(StatusCode, Value)> {
        let answer = match (path, method) {
            ("/api/v1/upstreams", &Method::GET | &Method::HEAD) => {
                Ok(json!({ "upstreams": self.upstreams.iter().map(|upstream| upstream.status()).collect::<Vec<_>>() }))
            }
            ("/api/v1/offline", &Method::GET | &Method::HEAD) => Ok(self.switches()),
            ("/api/v1/offline", &Method::POST) => self.switch(headers, body),
            ("/api/v1/upstreams" | "/api/v1/offline", _) => {
                Err((StatusCode::METHOD_NOT_ALLOWED, "GET shows the state, POST /api/v1/offline changes it".to_owned()))
            }
            _ => return None,
        };
        Some(match answer {
            Ok(value) => (StatusCode::OK, value),
            Err((status, problem)) => (status, json!({ "error": problem })),
        })
    }

    fn switch(&self, headers: &HeaderMap, body: &[u8]) -> Result<Value, (StatusCode, String)> {
        let bad = |problem: String| (StatusCode::BAD_REQUEST, problem);
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "send it with Content-Type: application/json".into()));
        }
        let switch: Switch = serde_json::from_slice(body)
            .map_err(|error| bad(format!("{error}; send {{\"offline\": true}}, with \"upstream\": \"NAME\" for one of them")))?;
        let named =
            |upstream: &&std::sync::Arc<Upstream>| switch.upstream.as_deref().is_none_or(|name| name == upstream.name().as_str());
        let mut count = 0;
        for upstream in self.upstreams.iter().filter(named) {
            upstream.set_offline(switch.offline);
            count += 1;
        }
        match &switch.upstream {
            Some(name) if count == 0 => Err((StatusCode::NOT_FOUND, format!("there is no upstream {name:?}"))),
            _ => Ok(self.switches()),
        }
    }

    fn switches(&self) -> Value {
        let each = self.upstreams.iter().map(|upstream| (upstream.name().to_string(), Value::from(upstream.is_offline())));
        let each: serde_json::Map<String, Value> = each.collect();
        json!({ "offline": each.values().all(|offline| offline == true), "upstreams": each })
    }
}

/// A JSON answer's bytes.
pub(super) fn text(value: &Value) -> Bytes {
    format!("{value:#}\n").into()
}
