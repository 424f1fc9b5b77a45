//! Client certificates as names: what the `cert:` rules make of them, over real connections.

use http::Method;

use super::authority::{Authority, Folder, Pair};
use super::client::{Client, Requests};
use crate::support::image::Image;
use crate::support::mirror::Mirror;
use crate::support::upstream::Upstream;

const TEAM: &str = "/v2/team/app/manifests/latest";
const PUBLIC: &str = "/v2/library/alpine/manifests/latest";

/// A mirror whose clients have certificates of an authority of their own, and rules for two of them.
struct Site {
    _up: Upstream,
    mirror: Mirror,
    server: Authority,
    clients: Authority,
    strangers: Authority,
}

impl Site {
    async fn new(client_auth: &str, rules: &str) -> Self {
        let up = Upstream::start().await;
        for repository in ["team/app", "library/alpine"] {
            up.push_image(repository, "latest", &Image::small(1));
        }
        let (server, clients, strangers) = (Authority::new("server"), Authority::new("clients"), Authority::new("strangers"));
        let folder = Folder::new();
        folder.write("a", &server.server(&["a.example"]));
        std::fs::write(folder.path("clients.pem"), clients.pem()).unwrap();
        let mut tls = folder.table("a");
        tls.insert("client_ca".to_owned(), folder.path("clients.pem").to_str().unwrap().into());
        tls.insert("client_auth".to_owned(), client_auth.into());
        let rules: toml::Table = rules.parse().unwrap();
        let mirror = Mirror::with(&up, |settings| {
            settings.set("server", "tls", tls);
            for (key, value) in rules {
                settings.set("access", &key, value);
            }
        })
        .await;
        Self { _up: up, mirror, server, clients, strangers }
    }

    /// The status of a GET by a client with this certificate, over a connection of its own; `None` where there is none.
    async fn get(&self, own: Option<&Pair>, path: &str) -> Option<u16> {
        let client = Client::with(&self.server, own, &[&rustls::version::TLS13, &rustls::version::TLS12]);
        let stream = client.dial(self.mirror.address()).await.ok()?;
        let answer = Requests::http1(stream).await.try_send(Method::GET, path, &[]).await.ok()?;
        Some(answer.status().as_u16())
    }
}

const RULES: &str = r#"
rule = [
  { who = "cert:revoked", deny = true },
  { who = ["cert:ci-*", "cert:spiffe://site/build/*"], pull = "docker.io/team/**" },
  { who = "signed-in", pull = "docker.io/library/*" },
]"#;

#[tokio::test]
async fn a_certificate_opens_what_its_rule_says_and_nothing_else() {
    for client_auth in ["required", "optional"] {
        let site = Site::new(client_auth, RULES).await;
        for (own, team, public) in [
            (site.clients.client("ci-7"), 200, 200),
            (site.clients.client_named("worker", &["spiffe://site/build/7"]), 200, 200),
            (site.clients.client("desk-7"), 403, 200),
            (site.clients.client_named("desk", &["spiffe://site/desk/7"]), 403, 200),
            (site.clients.client("revoked"), 403, 403),
        ] {
            assert_eq!(site.get(Some(&own), TEAM).await, Some(team), "{client_auth}");
            assert_eq!(site.get(Some(&own), PUBLIC).await, Some(public), "{client_auth}");
        }
        // The right name of a wrong authority never gets as far as to a rule.
        let forged = site.strangers.client("ci-7");
        assert_eq!(site.get(Some(&forged), TEAM).await, None, "{client_auth}");
        // And without one: no connection, or nothing that a rule is for.
        let without = if client_auth == "required" { None } else { Some(403) };
        for path in [TEAM, PUBLIC, "/v2/"] {
            assert_eq!(site.get(None, path).await, without, "{client_auth} {path}");
        }
        let refused = if client_auth == "required" { 4.0 } else { 1.0 };
        site.mirror.metric_becomes("roadstead_connections_refused_total", &[("reason", "certificate")], refused).await;
    }
}

/// A certificate is for its connection: what is asked by plain HTTP beside it has no name.
#[tokio::test]
async fn a_name_is_good_for_its_own_connection_alone() {
    let site = Site::new("optional", RULES).await;
    let own = site.clients.client("ci-7");
    let client = Client::with(&site.server, Some(&own), &[&rustls::version::TLS13]);
    let mut named = Requests::http1(client.dial(site.mirror.address()).await.unwrap()).await;
    for header in [("X-SSL-Client-CN", "ci-7"), ("X-Forwarded-Client-Cert", "Subject=\"CN=ci-7\"")] {
        let mut nobody = Requests::http1(Client::of(&site.server).dial(site.mirror.address()).await.unwrap()).await;
        assert_eq!(named.send(Method::GET, TEAM, &[]).await.status().as_u16(), 200);
        assert_eq!(nobody.send(Method::GET, TEAM, &[header]).await.status().as_u16(), 403, "a header is no certificate");
    }
}
