//! Google: an access token of the machine's service account, or of a key file.
//!
//! A key file is taken from the configuration or from `GOOGLE_APPLICATION_CREDENTIALS`; without one the metadata server
//! is asked (`GCE_METADATA_HOST` replaces it), which is also how Workload Identity of GKE works. The token is the
//! password of the user `oauth2accesstoken`. Scoped to reading storage, which is all a pull needs.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::json;
use tokio::task::spawn_blocking;
use url::Url;

use super::http::{Call, Reply};
use super::{Fetch, Fresh, Ground, failed};
use crate::clock::seconds;
use crate::config::{Secret, clouds};
use crate::upstream::credentials::{Credential, CredentialError};

const METADATA: &str = "Google metadata server";
const TOKENS: &str = "Google token service";
const KEY: &str = "Google key file";
const SCOPE: &str =
    "https://www.googleapis.com/auth/devstorage.read_only https://www.googleapis.com/auth/cloud-platform.read-only";
/// The user whose password an access token is.
const USER: &str = "oauth2accesstoken";
/// What an assertion lives for; Google takes no more.
const ASSERTION: u64 = 3600;

/// The tokens of one registry of Google's.
#[derive(Debug)]
pub(in crate::upstream) struct Gcp {
    ground: Ground,
    key_file: Option<PathBuf>,
    /// The upstream is a registry of Google's.
    fits: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum KeyFile {
    ServiceAccount {
        client_email: String,
        private_key: String,
        private_key_id: Option<String>,
        token_uri: Option<String>,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: String,
        refresh_token: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    expires_in: Option<f64>,
}

impl Gcp {
    pub(in crate::upstream) fn new(ground: Ground, key_file: Option<PathBuf>, registry: &Url) -> Self {
        Self { ground, key_file, fits: registry.host_str().is_some_and(clouds::is_google) }
    }

    async fn ask_metadata(&self) -> Result<Fresh, CredentialError> {
        let host = self.ground.env.get("GCE_METADATA_HOST").unwrap_or_else(|| "metadata.google.internal".to_owned());
        let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
        let url = Url::parse(&url).map_err(|_| failed(METADATA, "GCE_METADATA_HOST is not a host"))?;
        let reply = self.ground.call(Call::get(METADATA, url).header("metadata-flavor", "Google")?).await.map_err(|error| {
            failed("Google credentials", format!("no key file is set (GOOGLE_APPLICATION_CREDENTIALS), and {error}"))
        })?;
        // Anything may answer at that name in a network that is not Google's.
        if reply.headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
            return Err(failed(METADATA, "what answers there is not Google's"));
        }
        if !reply.status.is_success() {
            let status = reply.status.as_u16();
            return Err(failed(METADATA, format!("it refuses ({status}): has this machine or pod a service account?")));
        }
        fresh(METADATA, &reply)
    }

    async fn use_file(&self, file: &str) -> Result<Fresh, CredentialError> {
        let text = super::read(KEY, file).await?;
        let parsed = serde_json::from_str(&text)
            .map_err(|error| failed(KEY, format!("{file} is not one (line {}, column {})", error.line(), error.column())))?;
        match parsed {
            KeyFile::ServiceAccount { client_email, private_key, private_key_id, token_uri } => {
                let uri = token_uri.as_deref().unwrap_or("https://oauth2.googleapis.com/token");
                let url = Url::parse(uri).map_err(|_| failed(KEY, format!("{file}: its token_uri is not a URL")))?;
                let der = PrivatePkcs8KeyDer::from_pem_slice(private_key.as_bytes());
                let pair = der.ok().and_then(|der| RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).ok());
                let pair = pair.ok_or_else(|| failed(KEY, format!("{file}: its private_key is no RSA key in PEM form")))?;
                let pair = std::sync::Arc::new(pair);
                let mut time = SystemTime::now();
                let mut corrected = false;
                loop {
                    let assertion = Assertion { issuer: &client_email, key: private_key_id.as_deref(), audience: uri, time };
                    let assertion = assertion.sign(std::sync::Arc::clone(&pair)).await?;
                    let pairs = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
                    let reply = self.ground.call(Call::form(TOKENS, url.clone(), &pairs)).await?;
                    match reply.clock() {
                        Some((theirs, problem)) if !reply.status.is_success() && !corrected => {
                            tracing::warn!(upstream = %self.ground.name, "{TOKENS} refuses an assertion; {problem}");
                            (time, corrected) = (theirs, true);
                        }
                        _ => return granted(file, &reply),
                    }
                }
            }
            KeyFile::AuthorizedUser { client_id, client_secret, refresh_token } => {
                let url = Url::parse("https://oauth2.googleapis.com/token").map_err(|_| failed(TOKENS, "no URL"))?;
                let pairs = [
                    ("grant_type", "refresh_token"),
                    ("client_id", client_id.as_str()),
                    ("client_secret", &client_secret),
                    ("refresh_token", &refresh_token),
                ];
                granted(file, &self.ground.call(Call::form(TOKENS, url, &pairs)).await?)
            }
            KeyFile::Other => {
                let message =
                    format!("{file} is neither of a service account nor of a user; use the metadata server, or such a key");
                Err(failed(KEY, message))
            }
        }
    }
}

impl Fetch for Gcp {
    async fn fetch(&self) -> Result<Fresh, CredentialError> {
        if !self.fits {
            return Err(failed("Google credentials", "the `url` of this upstream is no registry of Google's"));
        }
        let configured = self.key_file.as_ref().map(|path| path.display().to_string());
        match configured.or_else(|| self.ground.env.get("GOOGLE_APPLICATION_CREDENTIALS")) {
            Some(file) => self.use_file(&file).await,
            None => self.ask_metadata().await,
        }
    }
}

/// A token for an assertion or a refresh token, or what the service has against it.
fn granted(file: &str, reply: &Reply) -> Result<Fresh, CredentialError> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    if reply.status.is_success() {
        return fresh(TOKENS, reply);
    }
    let code = serde_json::from_slice(&reply.body).map(|Refusal { error }| error).unwrap_or_default();
    let code: String = code.chars().take(40).filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let clock = reply.clock().map(|(_, problem)| format!("; {problem}")).unwrap_or_default();
    let status = reply.status.as_u16();
    Err(failed(TOKENS, format!("it refuses the key of {file} ({status} {code}): it may be deleted, disabled or expired{clock}")))
}

fn fresh(service: &str, reply: &Reply) -> Result<Fresh, CredentialError> {
    let answer: Answer = reply.json(service)?;
    if answer.access_token.is_empty() {
        return Err(failed(service, "its answer holds no token"));
    }
    let life = answer.expires_in.and_then(|life| Duration::try_from_secs_f64(life).ok()).unwrap_or(Duration::from_secs(300));
    let credential = Credential::Password { username: USER.to_owned(), password: Secret::new(answer.access_token) };
    Ok(Fresh { credential, life })
}

/// What a service account says of itself (RFC 7523).
struct Assertion<'a> {
    issuer: &'a str,
    key: Option<&'a str>,
    audience: &'a str,
    time: SystemTime,
}

impl Assertion<'_> {
    /// Signed with RS256, off the reactor: that takes milliseconds.
    async fn sign(&self, pair: std::sync::Arc<RsaKeyPair>) -> Result<String, CredentialError> {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let now = seconds(self.time);
        let mut head = json!({ "alg": "RS256", "typ": "JWT" });
        if let Some(key) = self.key {
            head["kid"] = key.into();
        }
        let claims = json!({ "iss": self.issuer, "scope": SCOPE, "aud": self.audience, "iat": now, "exp": now + ASSERTION });
        let text = format!("{}.{}", part(head), part(claims));
        let signed = spawn_blocking(move || {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).ok()?;
            Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
        });
        signed.await.ok().flatten().ok_or_else(|| failed(KEY, "its private key does not sign"))
    }
}
