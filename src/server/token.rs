//! `/token`: where clients get the mirror's tokens (distribution's *Token Authentication Specification*, and its OAuth2
//! form, which containerd and Docker try first).
//!
//! The login is in `Authorization: Basic` of a GET, or in the form of a POST. [`crate::policy`] knows whose it is.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::json;
use url::form_urlencoded;

use super::account::Account;
use super::handle::{self, Handler};
use crate::config::Secret;
use crate::metrics::Outcome;
use crate::oci::{ErrorCode, Route, UpstreamName};
use crate::policy::{Issued, Login, Peer};
use crate::pull::body::Body;
use crate::pull::respond::{self, Answer};

/// The challenge where there is no better one: to `/token` itself a client signs in by password.
pub(super) const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"roadstead\"");

/// Bytes of a form. Some clouds' passwords have a few KiB.
const MAX_FORM: usize = 32 << 10;
/// How long a client may take to send the form.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// A request for a token, read.
#[derive(Debug, Default)]
struct Wish {
    login: Option<Login>,
    scopes: Vec<String>,
}

/// Answers a request for a token.
pub(super) async fn answer(handler: &Handler, request: &mut Request<Incoming>, peer: &Peer, account: &mut Account) -> Answer {
    let wish = match *request.method() {
        Method::GET => Ok(asked(request)),
        Method::POST => posted(request).await,
        _ => Err((ErrorCode::Unsupported, "a token is got by GET or POST")),
    };
    let wish = match wish {
        Ok(wish) => wish,
        Err((code, message)) => {
            let mut answer = respond::refusal(code, Outcome::Invalid, message.to_owned());
            if code == ErrorCode::Unsupported {
                answer.response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            }
            return answer;
        }
    };
    let upstream = wish.upstream(handler, handle::host(request));
    let mut refused = match handler.policy.issue(peer, wish.login, upstream.as_ref()).await {
        Ok(issued) => {
            account.of(&issued.identity);
            match handler.try_login(&issued.identity, upstream.as_ref(), peer).await {
                Ok(()) => return granted(&issued),
                Err(error) => respond::login_refused(&error),
            }
        }
        Err(refused) => handle::refusal(&refused),
    };
    if refused.response.status() == http::StatusCode::UNAUTHORIZED {
        refused.response.headers_mut().insert(header::WWW_AUTHENTICATE, BASIC);
    }
    refused
}

/// A GET: `?service=…&scope=…&account=…`, and the login in a header.
fn asked(request: &Request<Incoming>) -> Wish {
    let query = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let scopes = query.filter(|(key, _)| key == "scope").flat_map(|(_, value)| words(&value)).collect();
    Wish { login: Login::from_headers(request.headers()), scopes }
}

/// A POST: an OAuth2 form (RFC 6749 § 4.3). A client that has something else than a password goes on to try GET.
async fn posted(request: &mut Request<Incoming>) -> Result<Wish, (ErrorCode, &'static str)> {
    let from_header = Login::from_headers(request.headers());
    let body = Limited::new(request.body_mut(), MAX_FORM).collect();
    let form = match tokio::time::timeout(FORM_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => return Err((ErrorCode::Unsupported, "the form is too long, or was not sent to its end")),
    };
    let (mut grant, mut username, mut password, mut wish) = (None, None, None, Wish::default());
    for (key, value) in form_urlencoded::parse(&form) {
        match &*key {
            "grant_type" => grant = Some(value),
            "username" => username = Some(value),
            "password" => password = Some(value),
            "scope" => wish.scopes.extend(words(&value)),
            _ => {}
        }
    }
    if grant.as_deref() != Some("password") {
        return Err((ErrorCode::Unsupported, "only grant_type=password gets a token here"));
    }
    let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned).unwrap_or_default();
    wish.login = Login::new(owned(username), Secret::new(owned(password))).or(from_header);
    Ok(wish)
}

fn words(scopes: &str) -> Vec<String> {
    scopes.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}

impl Wish {
    /// The upstream that the token is for: that of the longest scope that names a repository. Without one, as `docker
    /// login` asks, it is the upstream that `/v2/` itself stands for.
    ///
    /// containerd and buildkit send two scopes, sorted: the repository as their request had it, whose upstream stood in
    /// `ns`, and the scope of the challenge, which is the same with the upstream before it. By the shorter one the login
    /// would be taken to be for another upstream, and sent there (I9).
    fn upstream(&self, handler: &Handler, host: Option<&str>) -> Option<UpstreamName> {
        let directory = handler.directory.load();
        let names = self.scopes.iter().filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'));
        let routes = names.filter_map(|(name, _)| {
            let route = Route::parse(&format!("/v2/{name}/tags/list"), None, host, &directory).ok()?;
            Some((name.len(), route))
        });
        let named = routes.max_by_key(|(length, _)| *length).map(|(_, route)| route);
        named.or_else(|| Route::parse("/v2/", None, host, &directory).ok()).map(|route| route.upstream)
    }
}

fn granted(issued: &Issued) -> Answer {
    let token = &issued.token;
    let issued_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    // Both names: Docker's older one and OAuth2's.
    let body = json!({
        "token": token, "access_token": token, "expires_in": issued.lifetime.as_secs(), "issued_at": issued_at,
    });
    let body = Bytes::from(body.to_string());
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    *response.body_mut() = Body::full(body);
    Answer { response, outcome: Outcome::Local, error: None }
}
