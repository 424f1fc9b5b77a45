//! A client certificate as the key to the admin interface, over real TLS; and the commands that have it.

use http::Method;

use super::{TOKEN, roadstead};
use crate::support::mirror::{Mirror, Process, Settings};
use crate::support::upstream::Upstream;
use crate::support::{until, within};
use crate::tls::authority::{Authority, Folder, Pair};
use crate::tls::client::{Client, Requests};

struct Papers {
    server: Authority,
    operators: Authority,
    folder: Folder,
}

impl Papers {
    fn new() -> Self {
        let this = Self { server: Authority::new("server"), operators: Authority::new("operators"), folder: Folder::new() };
        this.folder.write("a", &this.server.server(&["a.example", "127.0.0.1"]));
        this.folder.write("operator", &this.operators.client("operator"));
        this.trust(&this.operators);
        std::fs::write(this.folder.path("server.pem"), this.server.pem()).unwrap();
        this
    }

    /// From now on the operators are those whom this authority names.
    fn trust(&self, authority: &Authority) {
        std::fs::write(self.folder.path("operators.pem"), authority.pem()).unwrap();
    }

    fn set(&self, settings: &mut Settings, client_auth: &str) {
        let mut tls = self.folder.table("a");
        tls.insert("client_ca".to_owned(), self.folder.path("operators.pem").to_str().unwrap().into());
        tls.insert("client_auth".to_owned(), client_auth.into());
        settings.set("admin", "tls", tls);
    }

    fn file(&self, name: &str) -> String {
        self.folder.path(name).to_str().unwrap().to_owned()
    }

    /// Status and text of one request; `None` where there is no connection.
    async fn ask(
        &self,
        mirror: &Mirror,
        own: Option<&Pair>,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
    ) -> Option<(u16, String)> {
        let client = Client::with(&self.server, own, &[&rustls::version::TLS13, &rustls::version::TLS12]);
        let mut all = vec![("Host", "127.0.0.1:5001")];
        all.retain(|(name, _)| !headers.iter().any(|(other, _)| other == name));
        all.extend(headers);
        let stream = client.dial(mirror.admin_address()).await.ok()?;
        let answer = Requests::http1(stream).await.try_send(method, path, &all).await.ok()?;
        Some((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
    }
}

/// What a client without a certificate is told where there is no other key, as a row of the table of refusals has it.
pub async fn refused() -> (u16, Option<String>, Option<String>) {
    let (up, papers) = (Upstream::start().await, Papers::new());
    let mirror = Mirror::with(&up, |settings| papers.set(settings, "optional")).await;
    let (status, text) = papers.ask(&mirror, None, STATS, &[]).await.unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    (status, None, document["error"].as_str().map(str::to_owned))
}

const STATS: (Method, &str) = (Method::GET, "/api/v1/stats");
const GC: (Method, &str) = (Method::POST, "/api/v1/gc");

#[tokio::test]
async fn a_certificate_is_the_key() {
    let (up, papers) = (Upstream::start().await, Papers::new());
    let mirror = Mirror::with(&up, |settings| papers.set(settings, "required")).await;
    let (good, forged) = (papers.operators.client("me"), Authority::new("others").client("me"));
    let (status, text) = papers.ask(&mirror, Some(&good), STATS, &[]).await.unwrap();
    assert_eq!(status, 200, "{text}");
    assert_eq!(papers.ask(&mirror, Some(&good), GC, &[]).await.unwrap().0, 200);
    for path in [STATS, GC, (Method::GET, "/healthz")] {
        assert_eq!(papers.ask(&mirror, None, path.clone(), &[]).await, None, "{path:?}");
        assert_eq!(papers.ask(&mirror, Some(&forged), path, &[]).await, None);
    }
    // A browser shows it unasked: pages of other sites and names that were made to lead here are refused all the same.
    let foreign = papers.ask(&mirror, Some(&good), GC, &[("Origin", "https://evil.example")]).await.unwrap();
    assert_eq!(foreign.0, 403, "{}", foreign.1);
    let rebound = papers.ask(&mirror, Some(&good), STATS, &[("Host", "evil.example:5001")]).await.unwrap();
    assert!(rebound.0 == 403 && rebound.1.contains("admin.hosts"), "{rebound:?}");
    // Whoever speaks no TLS gets nothing.
    let plain = crate::support::client::raw(mirror.admin_address(), b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(!plain.starts_with(b"HTTP/1.1"), "{plain:?}");
}

#[tokio::test]
async fn without_one_there_is_health_and_with_a_token_everything() {
    let (up, papers) = (Upstream::start().await, Papers::new());
    let good = papers.operators.client("me");
    for token in [false, true] {
        let mirror = Mirror::with(&up, |settings| {
            papers.set(settings, "optional");
            if token {
                settings.set("admin", "token", TOKEN);
            }
        })
        .await;
        for path in ["/healthz", "/readyz", "/"] {
            assert_eq!(papers.ask(&mirror, None, (Method::GET, path), &[]).await.unwrap().0, 200, "{path}");
        }
        for what in [STATS, GC, (Method::GET, "/metrics"), (Method::POST, "/api/v1/purge?ref=x")] {
            let (status, text) = papers.ask(&mirror, None, what.clone(), &[]).await.unwrap();
            assert_eq!(status, if token { 401 } else { 403 }, "{what:?}");
            assert!(text.contains(if token { "admin.token" } else { "admin.tls.client_ca" }), "{text}");
        }
        assert_eq!(papers.ask(&mirror, Some(&good), STATS, &[]).await.unwrap().0, 200, "the certificate needs no token");
        let bearer = format!("Bearer {TOKEN}");
        let shown = papers.ask(&mirror, None, STATS, &[("Authorization", &bearer)]).await.unwrap().0;
        assert_eq!(shown, if token { 200 } else { 403 });
    }
}

/// Another authority in the file is another key, and no restart.
#[tokio::test]
async fn the_keys_change_while_the_mirror_runs() {
    let (up, papers) = (Upstream::start().await, Papers::new());
    let mut mirror = Mirror::with(&up, |settings| papers.set(settings, "required")).await;
    let next = Authority::new("next operators");
    let (old, new) = (papers.operators.client("me"), next.client("me"));
    assert_eq!(papers.ask(&mirror, Some(&old), STATS, &[]).await.unwrap().0, 200);
    papers.trust(&next);
    within("the file to be read again", async {
        while papers.ask(&mirror, Some(&new), STATS, &[]).await.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(papers.ask(&mirror, Some(&old), STATS, &[]).await, None);
    // What cannot be used is refused as a whole, and what was in use stays.
    std::fs::write(papers.folder.path("a.key"), "nothing").unwrap();
    let error = mirror.reload(|_| {}).await.unwrap_err().to_string();
    assert!(error.starts_with("admin.tls.key: "), "{error}");
    assert_eq!(papers.ask(&mirror, Some(&new), STATS, &[]).await.unwrap().0, 200);
}

#[tokio::test]
async fn commands_show_a_certificate() {
    let (up, papers) = (Upstream::start().await, Papers::new());
    let mirror = Process::with(&up, |settings| papers.set(settings, "required")).await;
    let admin = format!("https://{}", mirror.admin_address());
    let (ca, cert, key) = (papers.file("server.pem"), papers.file("operator.crt"), papers.file("operator.key"));
    let config = mirror.config().to_str().unwrap().to_owned();
    let shown = ["--admin-ca", &ca, "--admin-cert", &cert, "--admin-key", &key];
    for place in [["--admin", admin.as_str()], ["--config", config.as_str()]] {
        let ran = roadstead(&[&["stats"], &place[..], &shown[..]].concat());
        assert!(ran.status.success(), "{place:?}: {}", String::from_utf8_lossy(&ran.stderr));
        for (without, told) in [(&shown[2..], "UnknownIssuer"), (&shown[..2], "CertificateRequired")] {
            let ran = roadstead(&[&["stats"], &place[..], without].concat());
            let error = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(1), "{place:?} {without:?}");
            assert!(error.contains(told), "{place:?} {without:?}: {error}");
        }
    }
    let named = format!("https://localhost:{}", mirror.admin_address().port());
    let ran = roadstead(&[&["stats", "--admin", &named], &shown[..]].concat());
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && error.contains("not valid for name"), "{error}");
}

/// The certificate that the configuration names is believed by whoever reads that configuration.
#[tokio::test]
async fn commands_believe_the_certificate_of_the_configuration() {
    let (up, folder) = (Upstream::start().await, Folder::new());
    let own = rcgen::generate_simple_self_signed(["mirror.example".to_owned()]).unwrap();
    folder.write("own", &Pair { cert: own.cert.pem(), key: own.signing_key.serialize_pem() });
    let mirror = Process::with(&up, |settings| {
        settings.set("admin", "tls", folder.table("own")).set("admin", "token", TOKEN);
    })
    .await;
    let config = mirror.config().to_str().unwrap().to_owned();
    let ran = roadstead(&["stats", "--config", &config]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    until("the announcement", || mirror.log().contains("health, metrics and status on https://")).await;
}
