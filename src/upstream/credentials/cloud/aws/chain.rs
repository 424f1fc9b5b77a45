//! Which AWS identity this machine has, in the order of the SDKs: environment, web identity, profile files, container
//! or pod, instance.
//!
//! The first source that is configured decides. If it fails, that is the answer: falling through would, in a cluster,
//! quietly use the node's role in the place of the pod's.

use http::{Method, header};
use serde::Deserialize;
use url::{Host, Url};

use super::super::http::{Call, Reply};
use super::super::{Ground, failed, read};
use super::{Keys, Service, endpoint, profile, refused, signed, tag};
use crate::config::Secret;
use crate::upstream::credentials::CredentialError;

const STS: &str = "AWS STS";
/// What to do where it denies access.
const DENIED: &str = "the trust policy of the role does not let this identity assume it";
const CONTAINER: &str = "AWS container credentials";
const IMDS: &str = "EC2 instance metadata";

/// Keys to sign with for a registry in `region`.
pub(super) async fn keys(ground: &Ground, region: &str, domain: &str) -> Result<Keys, CredentialError> {
    let env = &ground.env;
    let place = Place { region, domain };
    if let Some(keys) = from_environment(ground)? {
        return Ok(keys);
    }
    if let (Some(file), Some(role)) = (env.get("AWS_WEB_IDENTITY_TOKEN_FILE"), env.get("AWS_ROLE_ARN")) {
        return web_identity(ground, place, &file, &role, env.get("AWS_ROLE_SESSION_NAME")).await;
    }
    if let Some(keys) = profile::keys(ground, place).await? {
        return Ok(keys);
    }
    if let Some(keys) = container(ground).await? {
        return Ok(keys);
    }
    if env.is_true("AWS_EC2_METADATA_DISABLED") {
        let message = "none in the environment, in ~/.aws or of a container, and AWS_EC2_METADATA_DISABLED is set";
        return Err(failed("AWS credentials", message));
    }
    instance(ground).await
}

/// Where a registry is: what decides which STS is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) region: &'a str,
    pub(super) domain: &'a str,
}

/// `AWS_ACCESS_KEY_ID` and what belongs to it.
pub(super) fn from_environment(ground: &Ground) -> Result<Option<Keys>, CredentialError> {
    let env = &ground.env;
    match (env.get("AWS_ACCESS_KEY_ID"), env.secret("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Ok(Some(Keys { id, secret, token: env.secret("AWS_SESSION_TOKEN") })),
        (None, None) => Ok(None),
        _ => {
            Err(failed("AWS credentials", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together; one of them is not set"))
        }
    }
}

/// `AssumeRoleWithWebIdentity`, as pods of EKS do it (IRSA). Not signed: the token is the proof.
pub(super) async fn web_identity(
    ground: &Ground,
    place: Place<'_>,
    file: &str,
    role: &str,
    session: Option<String>,
) -> Result<Keys, CredentialError> {
    // Read each time: the kubelet replaces it.
    let token = read("AWS web identity", file).await?;
    let pairs = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", session.as_deref().unwrap_or("roadstead")),
        ("WebIdentityToken", token.trim()),
    ];
    let url = sts(ground, place)?;
    let reply = ground.call(Call::form(STS, url, &pairs)).await?;
    assumed(&reply)
}

/// `AssumeRole`, signed with other keys.
pub(super) async fn assume_role(
    ground: &Ground,
    place: Place<'_>,
    keys: &Keys,
    role: &str,
    external_id: Option<&str>,
    session: Option<&str>,
) -> Result<Keys, CredentialError> {
    let mut pairs = vec![
        ("Action", "AssumeRole"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", session.unwrap_or("roadstead")),
    ];
    pairs.extend(external_id.map(|id| ("ExternalId", id)));
    let url = sts(ground, place)?;
    let form = Call::form(STS, url.clone(), &pairs);
    let service = Service { title: STS, denied: DENIED, name: "sts", region: place.region, url };
    let headers: Vec<_> =
        form.headers.get(header::CONTENT_TYPE).map(|value| (header::CONTENT_TYPE, value.clone())).into_iter().collect();
    assumed(&signed(ground, &service, keys, &headers, form.body).await?)
}

/// The registry's region, not this machine's, which may be in another partition with other accounts.
fn sts(ground: &Ground, place: Place<'_>) -> Result<Url, CredentialError> {
    let host = format!("sts.{}.{}", place.region, place.domain);
    endpoint(ground, STS, "AWS_ENDPOINT_URL_STS", &host)
}

fn assumed(reply: &Reply) -> Result<Keys, CredentialError> {
    if !reply.status.is_success() {
        return Err(refused(STS, DENIED, reply));
    }
    let body = String::from_utf8_lossy(&reply.body);
    let field = |name| tag(&body, name).filter(|text| !text.is_empty());
    match (field("AccessKeyId"), field("SecretAccessKey"), field("SessionToken")) {
        (Some(id), Some(secret), Some(token)) => Ok(Keys { id, secret: Secret::new(secret), token: Some(Secret::new(token)) }),
        _ => Err(failed(STS, "its answer holds no credentials")),
    }
}

/// Credentials of a container: ECS by `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`, EKS Pod Identity and others by `_FULL_URI`.
pub(super) async fn container(ground: &Ground) -> Result<Option<Keys>, CredentialError> {
    let env = &ground.env;
    let text = match (env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
        (Some(path), _) => format!("http://169.254.170.2{path}"),
        (None, Some(full)) => full,
        (None, None) => return Ok(None),
    };
    let url = Url::parse(&text).map_err(|_| failed(CONTAINER, "AWS_CONTAINER_CREDENTIALS_FULL_URI is not a URL"))?;
    if url.scheme() != "https" && !is_container_service(&url) {
        let message = "AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor one of the addresses that AWS allows";
        return Err(failed(CONTAINER, message));
    }
    let authorization = match env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => Some(Secret::new(read(CONTAINER, &file).await?.trim())),
        None => env.secret("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    };
    let mut call = Call::get(CONTAINER, url);
    if let Some(authorization) = authorization {
        call = call.header("authorization", authorization.expose())?;
    }
    let reply = ground.call(call).await?;
    if !reply.status.is_success() {
        return Err(failed(CONTAINER, format!("it refuses ({}): has this task or pod a role?", reply.status.as_u16())));
    }
    reply.json::<Temporary>(CONTAINER).map(|keys| Some(keys.into()))
}

/// Loopback, ECS and EKS: what the SDKs take over plain http.
fn is_container_service(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback() || matches!(ip.octets(), [169, 254, 170, 2 | 23]),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23],
        None => false,
    }
}

/// IMDSv2: a session token first, then the role's name, then its keys. Version 1 is never spoken.
pub(super) async fn instance(ground: &Ground) -> Result<Keys, CredentialError> {
    let env = &ground.env;
    let base = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| {
        let ipv6 = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE").is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
        if ipv6 { "http://[fd00:ec2::254]" } else { "http://169.254.169.254" }.to_owned()
    });
    let url = |path: &str| {
        let text = format!("{}/latest/{path}", base.trim_end_matches('/'));
        Url::parse(&text).map_err(|_| failed(IMDS, "AWS_EC2_METADATA_SERVICE_ENDPOINT is not a URL"))
    };
    let nowhere = |error: CredentialError| {
        let hint = "no AWS credentials in the environment, in ~/.aws or of a container, and the instance gives none; in a \
                    container the metadata service needs a hop limit of 2";
        failed("AWS credentials", format!("{hint} ({error})"))
    };
    let put = Call { method: Method::PUT, ..Call::get(IMDS, url("api/token")?) };
    let reply = ground.call(put.header("x-aws-ec2-metadata-token-ttl-seconds", "21600")?).await.map_err(nowhere)?;
    let session = text(&reply, "a session token")?;
    let roles = "meta-data/iam/security-credentials/";
    let get = |path: String| Call::get(IMDS, url(&path)?).header("x-aws-ec2-metadata-token", &session);
    let reply = ground.call(get(roles.to_owned())?).await?;
    let role = text(&reply, "a role; attach an instance profile")?;
    let role = role.lines().next().unwrap_or_default().trim();
    if role.is_empty() || !role.bytes().all(|c| c.is_ascii_alphanumeric() || b"+=,.@_-".contains(&c)) {
        return Err(failed(IMDS, "it names no role that could be one"));
    }
    let reply = ground.call(get(format!("{roles}{role}"))?).await?;
    text(&reply, "credentials of its role")?;
    reply.json::<Temporary>(IMDS).map(Into::into)
}

fn text(reply: &Reply, what: &str) -> Result<String, CredentialError> {
    let text = std::str::from_utf8(&reply.body).ok().map(str::trim).filter(|text| reply.status.is_success() && !text.is_empty());
    text.map(ToOwned::to_owned).ok_or_else(|| failed(IMDS, format!("it gives no {what} ({})", reply.status.as_u16())))
}

/// Keys as container services, instances and `credential_process` print them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Temporary {
    access_key_id: String,
    secret_access_key: String,
    #[serde(default, alias = "SessionToken")]
    token: Option<String>,
}

impl From<Temporary> for Keys {
    fn from(keys: Temporary) -> Self {
        Self { id: keys.access_key_id, secret: Secret::new(keys.secret_access_key), token: keys.token.map(Secret::new) }
    }
}
