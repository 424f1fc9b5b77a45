//! Azure Container Registry: a token of Entra ID, exchanged at the registry for a refresh token of its own.
//!
//! Which identity, in the order of the SDKs: a service principal's secret, a workload identity's token file, App
//! Service's managed identity, the virtual machine's. The Entra token goes to the registry's own `/oauth2/exchange` and
//! nowhere else, whatever realm a challenge names. An admin user is an ordinary user and password.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::http::{Call, Reply};
use super::{Fetch, Fresh, Ground, failed, read};
use crate::config::{Secret, clouds};
use crate::upstream::credentials::{Credential, CredentialError};
use crate::upstream::jwt;

const ENTRA: &str = "Microsoft Entra ID";
const MANAGED: &str = "Azure managed identity";
const EXCHANGE: &str = "the registry's token exchange";
/// The account that a refresh token of a registry belongs to.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";
/// A refresh token that does not say how long it lives; usually it is three hours.
const LIFE: Duration = Duration::from_secs(3600);

/// The refresh tokens of one registry.
#[derive(Debug)]
pub(in crate::upstream) struct Acr {
    ground: Ground,
    registry: Url,
}

impl Acr {
    pub(in crate::upstream) fn new(ground: Ground, registry: &Url) -> Self {
        Self { ground, registry: registry.clone() }
    }

    /// The registry's host, if it is one of Azure's and reached by https.
    fn host(&self) -> Result<&str, CredentialError> {
        let host = self.registry.host_str().filter(|host| clouds::is_acr(host));
        let fits = host.filter(|_| self.registry.scheme() == "https" && self.registry.port().is_none());
        fits.ok_or_else(|| failed("Azure credentials", "the `url` of this upstream is no https://NAME.azurecr.io"))
    }

    /// A token of Entra ID for registries.
    async fn identity(&self, host: &str) -> Result<Secret, CredentialError> {
        let env = &self.ground.env;
        let (tenant, client) = (env.get("AZURE_TENANT_ID"), env.get("AZURE_CLIENT_ID"));
        let resource = resource(host);
        let secret = env.secret("AZURE_CLIENT_SECRET");
        let file = env.get("AZURE_FEDERATED_TOKEN_FILE");
        let (proof, tenant, client) = match (secret, file, tenant, client) {
            (Some(secret), _, Some(tenant), Some(client)) => (Proof::Secret(secret), tenant, client),
            (None, Some(file), Some(tenant), Some(client)) => {
                // Read each time: the kubelet replaces it.
                let assertion = read("Azure workload identity", &file).await?;
                (Proof::Assertion(Secret::new(assertion.trim())), tenant, client)
            }
            (None, None, _, client) => return self.managed(resource, client).await,
            _ => {
                let message = "AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE needs AZURE_TENANT_ID and AZURE_CLIENT_ID, too";
                return Err(failed("Azure credentials", message));
            }
        };
        let authority = env.get("AZURE_AUTHORITY_HOST").unwrap_or_else(|| authority(host).to_owned());
        let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|_| failed(ENTRA, "AZURE_AUTHORITY_HOST is not a URL"))?;
        let scope = format!("{resource}/.default");
        let mut pairs = vec![("grant_type", "client_credentials"), ("client_id", &client), ("scope", &scope)];
        match &proof {
            Proof::Secret(secret) => pairs.push(("client_secret", secret.expose())),
            Proof::Assertion(assertion) => pairs.extend([
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", assertion.expose()),
            ]),
        }
        token(ENTRA, &self.ground.call(Call::form(ENTRA, url, &pairs)).await?)
    }

    /// Of App Service, Container Apps and the like; else of the virtual machine.
    async fn managed(&self, resource: &str, client: Option<String>) -> Result<Secret, CredentialError> {
        let env = &self.ground.env;
        let (base, version, name, value) = match (env.get("IDENTITY_ENDPOINT"), env.get("IDENTITY_HEADER")) {
            (Some(endpoint), Some(header)) => (endpoint, "2019-08-01", "x-identity-header", header),
            _ => {
                let host = env.get("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| "http://169.254.169.254".to_owned());
                let path = "/metadata/identity/oauth2/token";
                (format!("{}{path}", host.trim_end_matches('/')), "2018-02-01", "metadata", "true".to_owned())
            }
        };
        let mut url = Url::parse(&base).map_err(|_| failed(MANAGED, "IDENTITY_ENDPOINT is not a URL"))?;
        url.query_pairs_mut().append_pair("api-version", version).append_pair("resource", resource);
        url.query_pairs_mut().extend_pairs(client.iter().map(|client| ("client_id", client)));
        let reply = self.ground.call(Call::get(MANAGED, url).header(name, &value)?).await.map_err(|error| {
            failed("Azure credentials", format!("no service principal or workload identity is set, and {error}"))
        })?;
        token(MANAGED, &reply)
    }
}

enum Proof {
    Secret(Secret),
    Assertion(Secret),
}

impl Fetch for Acr {
    async fn fetch(&self) -> Result<Fresh, CredentialError> {
        #[derive(Deserialize)]
        struct Answer {
            refresh_token: String,
        }
        let host = self.host()?;
        let identity = self.identity(host).await?;
        let url = self.registry.join("/oauth2/exchange").map_err(|_| failed(EXCHANGE, "no URL"))?;
        let tenant = self.ground.env.get("AZURE_TENANT_ID");
        let mut pairs = vec![("grant_type", "access_token"), ("service", host)];
        pairs.extend(tenant.as_deref().map(|tenant| ("tenant", tenant)));
        pairs.push(("access_token", identity.expose()));
        let reply = self.ground.call_registry(Call::form(EXCHANGE, url, &pairs)).await?;
        if !reply.status.is_success() {
            let status = reply.status.as_u16();
            return Err(failed(EXCHANGE, format!("{host} refuses this identity ({status}): give it the role AcrPull")));
        }
        let Answer { refresh_token } = reply.json(EXCHANGE)?;
        if refresh_token.is_empty() {
            return Err(failed(EXCHANGE, "its answer holds no token"));
        }
        let life = jwt::life(&refresh_token).unwrap_or(LIFE);
        Ok(Fresh { credential: Credential::Identity { username: Some(NOBODY.into()), token: Secret::new(refresh_token) }, life })
    }
}

fn token(service: &str, reply: &Reply) -> Result<Secret, CredentialError> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: String,
    }
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    if reply.status.is_success() {
        return reply.json(service).map(|Answer { access_token }| Secret::new(access_token));
    }
    let code = serde_json::from_slice(&reply.body).map(|Refusal { error }| error).unwrap_or_default();
    let code: String = code.chars().take(40).filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let remedy = match code.as_str() {
        "invalid_client" => "; the secret or federated token is wrong or has expired",
        "unauthorized_client" | "invalid_request" => {
            "; check AZURE_CLIENT_ID and AZURE_TENANT_ID, and that the identity is assigned"
        }
        _ => "",
    };
    let clock = reply.clock().map(|(_, problem)| format!("; {problem}")).unwrap_or_default();
    Err(failed(service, format!("it refuses ({} {code}){remedy}{clock}", reply.status.as_u16())))
}

/// What the token shall be for. The sovereign clouds' registries take tokens for their resource manager.
fn resource(host: &str) -> &'static str {
    match host.rsplit('.').next() {
        Some("cn") => "https://management.chinacloudapi.cn",
        Some("us") => "https://management.usgovcloudapi.net",
        _ => "https://containerregistry.azure.net",
    }
}

fn authority(host: &str) -> &'static str {
    match host.rsplit('.').next() {
        Some("cn") => "https://login.chinacloudapi.cn",
        Some("us") => "https://login.microsoftonline.us",
        _ => "https://login.microsoftonline.com",
    }
}
