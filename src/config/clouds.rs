//! Which hosts are the registries of a cloud: where tokens of its accounts may go, and what the names say.
//!
//! A cloud's token opens far more than a registry, so that `credentials = "ecr"`, `"gcp"` and `"acr"` are refused for any
//! other host (I9). Suffixes end in a dot-separated label: `evil-azurecr.io` is no sister of `azurecr.io`. Pure.

use std::sync::LazyLock;

use regex::Regex;

/// A registry of Amazon's, as its host name describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EcrHost {
    /// `ACCOUNT.dkr.ecr.REGION.amazonaws.com` and its relatives.
    Private {
        /// The region, which its tokens are made in.
        region: String,
        /// The host of the service that makes them.
        api: String,
        /// The domain of the partition, which the other services of the region are under.
        domain: &'static str,
    },
    /// `public.ecr.aws`
    Public,
}

#[expect(clippy::expect_used, reason = "a constant, and a test uses it")]
static PRIVATE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^[0-9]{12}\.dkr[.-]ecr(-fips)?\.([a-z0-9][a-z0-9-]*)\.(amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|on\.aws|on\.amazonwebservices\.com\.cn|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)$",
    )
    .expect("a constant is right")
});

const DOMAINS: [&str; 7] =
    ["amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "sc2s.sgov.gov", "c2s.ic.gov", "cloud.adc-e.uk", "csp.hci.ic.gov"];

impl EcrHost {
    /// Reads a host name (as in Amazon's own credential helper); `None` for one that is no registry of Amazon's.
    pub fn parse(host: &str) -> Option<Self> {
        if matches!(host, "public.ecr.aws" | "ecr-public.aws.com") {
            return Some(Self::Public);
        }
        let parts = PRIVATE.captures(host)?;
        let region = parts.get(2)?.as_str().to_owned();
        let ecr = if parts.get(1).is_some() { "ecr-fips" } else { "ecr" };
        let (api, domain) = match parts.get(3)?.as_str() {
            // Names that have IPv6, too.
            "on.aws" => (format!("{ecr}.{region}.api.aws"), "amazonaws.com"),
            "on.amazonwebservices.com.cn" => (format!("{ecr}.{region}.api.amazonwebservices.com.cn"), "amazonaws.com.cn"),
            suffix => {
                let domain = DOMAINS.into_iter().find(|domain| *domain == suffix)?;
                let api = if ecr == "ecr" { "api.ecr" } else { ecr };
                (format!("{api}.{region}.{domain}"), domain)
            }
        };
        Some(Self::Private { region, api, domain })
    }
}

/// Whether `host` is one of Google's registries.
pub fn is_google(host: &str) -> bool {
    host == "gcr.io" || below(host, "gcr.io") || host.strip_suffix("-docker.pkg.dev").is_some_and(is_label)
}

/// Whether `host` is a registry of Azure Container Registry.
pub fn is_acr(host: &str) -> bool {
    ["azurecr.io", "azurecr.cn", "azurecr.us"].into_iter().any(|domain| below(host, domain))
}

fn below(host: &str, domain: &str) -> bool {
    let name = host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.'));
    name.is_some_and(|name| name.split('.').all(is_label))
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amazon() {
        let api = |host: &str| match EcrHost::parse(host) {
            Some(EcrHost::Private { region, api, domain }) => format!("{region} {api} {domain}"),
            Some(EcrHost::Public) => "public".into(),
            None => "none".into(),
        };
        for (host, expected) in [
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1 api.ecr.eu-west-1.amazonaws.com amazonaws.com"),
            (
                "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
                "us-gov-west-1 ecr-fips.us-gov-west-1.amazonaws.com amazonaws.com",
            ),
            (
                "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                "cn-north-1 api.ecr.cn-north-1.amazonaws.com.cn amazonaws.com.cn",
            ),
            ("123456789012.dkr-ecr.us-east-2.on.aws", "us-east-2 ecr.us-east-2.api.aws amazonaws.com"),
            ("public.ecr.aws", "public"),
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", "none"),
            ("evil.example", "none"),
            ("1234.dkr.ecr.eu-west-1.amazonaws.com", "none"),
            ("x123456789012.dkr.ecr.eu-west-1.amazonaws.com", "none"),
            ("123456789012.dkr.ecr.eu-west-1.evilamazonaws.com", "none"),
            ("123456789012.dkr.ecr.eu_west.amazonaws.com", "none"),
        ] {
            assert_eq!(api(host), expected, "{host}");
        }
    }

    #[test]
    fn i9_google_and_azure() {
        for host in ["gcr.io", "eu.gcr.io", "europe-west1-docker.pkg.dev"] {
            assert!(is_google(host), "{host}");
        }
        for host in ["evilgcr.io", "gcr.io.evil.example", "docker.pkg.dev", "-docker.pkg.dev", "x.evil-docker.pkg.dev", "pkg.dev"]
        {
            assert!(!is_google(host), "{host}");
        }
        for host in ["team.azurecr.io", "team.westeurope.geo.azurecr.io", "team.azurecr.cn"] {
            assert!(is_acr(host), "{host}");
        }
        for host in ["azurecr.io", "evil-azurecr.io", "team.azurecr.io.evil.example", ".azurecr.io", "azurecr.com"] {
            assert!(!is_acr(host), "{host}");
        }
    }
}
