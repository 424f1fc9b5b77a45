//! Amazon ECR: `GetAuthorizationToken`, signed with whatever identity this machine has.
//!
//! Region and partition come from the registry's own host name. The token is asked for without naming an account (that
//! parameter is deprecated): it opens every registry that the identity may read. Endpoints can be replaced as the SDKs
//! let them: `AWS_ENDPOINT_URL_ECR`, `_ECR_PUBLIC`, `_STS`, or `AWS_ENDPOINT_URL` for all.

mod chain;
mod profile;
mod sigv4;

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use serde::Deserialize;
use url::Url;

use super::http::{Call, Reply};
use super::{Fetch, Fresh, Ground, failed};
use crate::clock::seconds;
use crate::config::Secret;
use crate::config::clouds::EcrHost;
use crate::upstream::credentials::{Credential, CredentialError};

/// What ECR's tokens live for, where it does not say so.
const LIFE: Duration = Duration::from_secs(12 * 3600);

/// Keys of an AWS identity.
#[derive(Clone, Debug)]
struct Keys {
    id: String,
    secret: Secret,
    /// For temporary ones.
    token: Option<Secret>,
}

/// The tokens of one registry.
#[derive(Debug)]
pub(in crate::upstream) struct Ecr {
    ground: Ground,
    host: Option<EcrHost>,
}

/// A service of AWS that signed requests go to.
struct Service<'a> {
    /// For errors.
    title: &'static str,
    /// What to do where it denies access.
    denied: &'static str,
    /// Its name in signatures.
    name: &'a str,
    region: &'a str,
    url: Url,
}

/// Who makes the tokens of a registry.
#[derive(Clone, Copy, Debug)]
enum EcrApi {
    Private,
    Public,
}

impl EcrApi {
    fn title(self) -> &'static str {
        match self {
            Self::Private => "Amazon ECR",
            Self::Public => "Amazon ECR Public",
        }
    }

    /// See [`Service::name`].
    fn name(self) -> &'static str {
        match self {
            Self::Private => "ecr",
            Self::Public => "ecr-public",
        }
    }

    /// The variable that names another endpoint.
    fn variable(self) -> &'static str {
        match self {
            Self::Private => "AWS_ENDPOINT_URL_ECR",
            Self::Public => "AWS_ENDPOINT_URL_ECR_PUBLIC",
        }
    }

    /// What is asked for.
    fn target(self) -> &'static str {
        match self {
            Self::Private => "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
            Self::Public => "SpencerFrontendService.GetAuthorizationToken",
        }
    }

    /// See [`Service::denied`].
    fn denied(self) -> &'static str {
        match self {
            Self::Private => "allow ecr:GetAuthorizationToken to this identity",
            Self::Public => "allow ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken to this identity",
        }
    }
}

impl Ecr {
    pub(in crate::upstream) fn new(ground: Ground, registry: &Url) -> Self {
        Self { ground, host: registry.host_str().and_then(EcrHost::parse) }
    }
}

impl Fetch for Ecr {
    async fn fetch(&self) -> Result<Fresh, CredentialError> {
        let ground = &self.ground;
        let (api, region, host, domain) = match &self.host {
            Some(EcrHost::Private { region, api, domain }) => (EcrApi::Private, region.as_str(), api.as_str(), *domain),
            // There is one region that makes them, for the registry of all regions.
            Some(EcrHost::Public) => (EcrApi::Public, "us-east-1", "api.ecr-public.us-east-1.amazonaws.com", "amazonaws.com"),
            None => return Err(failed("ECR", "the `url` of this upstream is no registry of Amazon's")),
        };
        let title = api.title();
        let keys = chain::keys(ground, region, domain).await?;
        let url = endpoint(ground, title, api.variable(), host)?;
        let service = Service { title, denied: api.denied(), name: api.name(), region, url };
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1")),
            (HeaderName::from_static("x-amz-target"), HeaderValue::from_static(api.target())),
        ];
        let reply = signed(ground, &service, &keys, &headers, Bytes::from_static(b"{}")).await?;
        fresh(title, &reply)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    authorization_data: Data,
}

/// ECR answers with a list, ECR Public with one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Data {
    Many(Vec<Authorization>),
    One(Authorization),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorization {
    authorization_token: Secret64,
    #[serde(default)]
    expires_at: Option<f64>,
}

/// Base64 of `AWS:password`.
#[derive(Deserialize)]
struct Secret64(String);

fn fresh(title: &str, reply: &Reply) -> Result<Fresh, CredentialError> {
    let answer: Answer = reply.json(title)?;
    let data = match answer.authorization_data {
        Data::Many(list) => list.into_iter().next(),
        Data::One(one) => Some(one),
    };
    let data = data.ok_or_else(|| failed(title, "its answer holds no token"))?;
    let decoded = STANDARD.decode(&data.authorization_token.0).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = decoded
        .as_deref()
        .and_then(|text| text.split_once(':'))
        .filter(|(_, password)| !password.is_empty())
        .ok_or_else(|| failed(title, "its token is not base64 of user:password"))?;
    // By its own clock where it tells, so that ours does not matter.
    let now = reply.clock().map_or_else(SystemTime::now, |(theirs, _)| theirs);
    let life = data.expires_at.and_then(|at| Duration::try_from_secs_f64(at - seconds(now) as f64).ok()).unwrap_or(LIFE);
    let credential = Credential::Password { username: username.to_owned(), password: Secret::new(password) };
    Ok(Fresh { credential, life })
}

/// The URL of a service: what the environment says, else its host.
fn endpoint(ground: &Ground, title: &str, variable: &str, host: &str) -> Result<Url, CredentialError> {
    let set = [variable, "AWS_ENDPOINT_URL"].into_iter().find_map(|name| Some((name, ground.env.get(name)?)));
    let (name, text) = set.unwrap_or_else(|| (variable, format!("https://{host}/")));
    Url::parse(&text).ok().filter(Url::has_host).ok_or_else(|| failed(title, format!("{name} is not a URL")))
}

/// A signed POST. A clock that is off is made up for once, by the service's own.
async fn signed(
    ground: &Ground,
    service: &Service<'_>,
    keys: &Keys,
    headers: &[(HeaderName, HeaderValue)],
    body: Bytes,
) -> Result<Reply, CredentialError> {
    let (title, url) = (service.title, &service.url);
    let mut time = SystemTime::now();
    let mut corrected = false;
    loop {
        let mut map: http::HeaderMap = headers.iter().cloned().collect();
        let scope = sigv4::Scope { region: service.region, service: service.name, time };
        sigv4::sign(keys, scope, &Method::POST, url, &mut map, &body)
            .ok_or_else(|| failed(title, "the AWS key or session token has characters that no header takes"))?;
        let reply = ground
            .call(Call { service: title, method: Method::POST, url: url.clone(), headers: map, body: body.clone() })
            .await?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        match reply.clock() {
            Some((theirs, problem)) if !corrected && matches!(reply.status.as_u16(), 400 | 401 | 403) => {
                tracing::warn!(upstream = %ground.name, "{title} refuses a signature; {problem}");
                (time, corrected) = (theirs, true);
            }
            _ => return Err(refused(title, service.denied, &reply)),
        }
    }
}

/// An error of AWS: its code, which is a word, and never its message, which may quote the request and its tokens. `denied`:
/// what to do where it denies access.
fn refused(title: &str, denied: &str, reply: &Reply) -> CredentialError {
    #[derive(Deserialize)]
    struct Json {
        #[serde(rename = "__type", alias = "code", alias = "Code")]
        code: String,
    }
    let body = String::from_utf8_lossy(&reply.body);
    let code = serde_json::from_str(&body).ok().map(|Json { code }| code.rsplit('#').next().unwrap_or_default().to_owned());
    let code = code.or_else(|| tag(&body, "Code")).unwrap_or_default();
    let code: String = code.chars().take(80).filter(char::is_ascii_alphanumeric).collect();
    let remedy = match code.as_str() {
        "AccessDenied" | "AccessDeniedException" => denied,
        "ExpiredToken" | "ExpiredTokenException" | "ExpiredIdentityToken" => "the credentials have expired, renew them",
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "InvalidIdentityToken"
        | "IncompleteSignature" => "the AWS key or token is not valid (any more)",
        _ => "",
    };
    let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
    let clock = reply.clock().map(|(_, problem)| format!("; {problem}")).unwrap_or_default();
    let code = if code.is_empty() { String::new() } else { format!(" {code}") };
    failed(title, format!("it refuses ({}{code}){remedy}{clock}", reply.status.as_u16()))
}

/// The text of the first `<name>` in an answer of STS, whose XML has neither attributes nor CDATA in these places.
fn tag(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}
