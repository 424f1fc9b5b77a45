//! The Internet as a proxy: registries under their real names, by https, each answered by one closure.
//!
//! An upstream is configured exactly as an operator would, with this proxy and its root; nothing in the code under test
//! knows of it. Everything that arrives anywhere is kept by host, so that a canary can be looked for.

use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::server::{read_request, serve};
use super::*;

type Log = Arc<Mutex<Vec<(String, Arc<Mutex<Vec<Seen>>>)>>>;

pub struct Internet {
    proxy: String,
    ca: tempfile::NamedTempFile,
    log: Log,
}

impl Internet {
    /// `answer` gets the host and the request.
    pub async fn start(answer: impl Fn(&str, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let mut root = CertificateParams::new(Vec::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = KeyPair::generate().unwrap();
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), root.self_signed(&root_key).unwrap().pem()).unwrap();
        let issuer = Arc::new(Issuer::new(root, root_key));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let log = Log::default();
        let (hosts, answer) = (Arc::clone(&log), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (hosts, answer, issuer) = (Arc::clone(&hosts), Arc::clone(&answer), Arc::clone(&issuer));
                tokio::spawn(async move {
                    let Some(connect) = read_request(&mut client, &mut Vec::new(), 0).await else { return };
                    assert_eq!(connect.method, "CONNECT", "nothing goes unencrypted: {}", connect.target);
                    let host = connect.target.strip_suffix(":443").unwrap_or(&connect.target).to_owned();
                    let seen = Arc::new(Mutex::new(Vec::new()));
                    hosts.lock().unwrap().push((host.clone(), Arc::clone(&seen)));
                    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                    let name = host.split(':').next().unwrap().to_owned();
                    if let Ok(stream) = acceptor(&name, &issuer).accept(client).await {
                        serve(stream, 0, seen, Arc::new(move |seen: &Seen| answer(&host, seen))).await;
                    }
                });
            }
        });
        Self { proxy, ca, log }
    }

    /// An upstream that reaches the Internet by this proxy, and what the variables name.
    pub fn upstream(&self, url: &str, credentials: config::Credentials, variables: &[(&str, &str)]) -> Upstream {
        within(&self.config(url, credentials), self.proxies(), variables)
    }

    /// An upstream of this configuration.
    pub fn within(&self, config: &config::Upstream) -> Upstream {
        within(config, self.proxies(), &[])
    }

    fn proxies(&self) -> Matcher {
        Matcher::builder().https(self.proxy.clone()).build()
    }

    pub fn config(&self, url: &str, credentials: config::Credentials) -> config::Upstream {
        config::Upstream { urls: vec![url.parse().unwrap()], credentials, ca: Some(self.ca.path().to_owned()), ..config(&[]) }
    }

    /// An upstream with an ordinary account.
    pub fn signed_in(&self, url: &str, username: &str) -> Upstream {
        let credentials = config::Credentials::Password { username: username.into(), password: Secret::new(CANARY) };
        self.upstream(url, credentials, &[])
    }

    /// Everything that arrived at `host`, in no order between connections.
    pub fn at(&self, host: &str) -> Vec<Seen> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|(name, _)| name == host).flat_map(|(_, seen)| seen.lock().unwrap().clone()).collect()
    }

    /// `GET /path` of it.
    pub fn lines(&self, host: &str) -> Vec<String> {
        self.at(host).iter().map(|seen| format!("{} {}", seen.method, seen.path())).collect()
    }

    /// Every host that was connected to, sorted.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<_> = self.log.lock().unwrap().iter().map(|(host, _)| host.clone()).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }

    /// I9: of all hosts only these have heard any of `secrets`.
    pub fn assert_heard_only_at(&self, secrets: &[&str], allowed: &[&str]) {
        for host in self.hosts().iter().filter(|host| !allowed.contains(&host.as_str())) {
            let text = format!("{:?}", self.at(host));
            for secret in secrets {
                assert!(!text.contains(secret), "{secret} at {host}: {text}");
            }
        }
    }
}

fn acceptor(name: &str, issuer: &Issuer<'_, KeyPair>) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(tls))
}
