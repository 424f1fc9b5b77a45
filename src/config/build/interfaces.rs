//! `[server]` and `[admin]`: where the mirror listens, and what it speaks there.

use std::path::PathBuf;

use super::super::raw;
use super::super::value::{Many, One};
use super::super::{Admin, ClientAuth, KeyPair, Listen, Tls, TlsVersion};
use super::{Builder, Secret, Server, check_authorities, one, time, timeout};

/// Characters of a token that nobody guesses over the network.
const MIN_TOKEN: usize = 16;

impl Builder<'_> {
    pub(super) fn server(&mut self, raw: raw::Server) -> Server {
        let default = Server::default();
        let listen = raw.listen.map_or(default.listen, |Many(addresses)| addresses);
        if listen.is_empty() {
            self.document.problem(&["server", "listen"], "the list is empty; name at least one address");
        }
        if let Some((_, twice)) =
            listen.iter().enumerate().find(|(index, one)| listen[..*index].iter().any(|two| one.clashes(two)))
        {
            self.document.problem(&["server", "listen"], format!("{twice} is named twice"));
        }
        let tls = raw.tls.and_then(|raw| self.tls(raw, "server"));
        Server {
            listen,
            socket_mode: raw.socket_mode.map_or(default.socket_mode, |One(mode)| mode.0),
            tls,
            http2: raw.http2.unwrap_or(default.http2),
            default_upstream: one(raw.default_upstream, default.default_upstream),
            max_connections: raw.max_connections.map_or(default.max_connections, |One(count)| count.0),
            max_connections_per_client: raw
                .max_connections_per_client
                .map_or(default.max_connections_per_client, |One(count)| count.0),
            handshake_timeout: timeout(raw.handshake_timeout, default.handshake_timeout),
            header_timeout: timeout(raw.header_timeout, default.header_timeout),
            write_timeout: timeout(raw.write_timeout, default.write_timeout),
            shutdown_timeout: time(raw.shutdown_timeout, default.shutdown_timeout),
        }
    }

    pub(super) fn admin(&mut self, raw: raw::Admin, server: &Server) -> Admin {
        let listen = raw.listen.map_or(Admin::default().listen, |One(listen)| listen.0);
        if let Some(twice) = listen.as_ref().filter(|listen| server.listen.iter().any(|other| other.clashes(listen))) {
            let message = format!(
                "{twice} is both in server.listen and admin.listen; the admin interface needs an address of its own, or \"off\""
            );
            self.document.problem_among(&[&["admin", "listen"], &["server", "listen"]], message);
        }
        let default = Admin::default();
        let tls = raw.tls.and_then(|raw| self.tls(raw, "admin"));
        if let (Some(_), Some(listen @ (Listen::Plain(_) | Listen::Unix(_)))) = (&tls, &listen) {
            let message = format!("nobody would speak it at {listen}; leave it out, or listen on an address: IP:PORT");
            self.document.problem(&["admin", "tls"], message);
        }
        let admin = Admin {
            listen,
            tls,
            token: self.admin_token(raw.token, raw.token_file),
            hosts: raw.hosts.map_or(default.hosts, |Many(hosts)| hosts.into_iter().map(|host| host.0).collect()),
            metrics_open: raw.metrics_open.unwrap_or(default.metrics_open),
        };
        if let Some(problem) = admin.exposed() {
            self.document.problem(&["admin", "listen"], problem);
        }
        admin
    }

    fn admin_token(&mut self, text: Option<raw::SecretText>, file: Option<One<PathBuf>>) -> Option<Secret> {
        let (path, token) = match (text, file) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                self.document.problem(&["admin", "token"], "token and token_file are both set; one is enough");
                return Some(Secret::new(""));
            }
            (Some(text), None) => (["admin", "token"], Secret::from_text(text.0, self.env)),
            (None, Some(One(file))) => (["admin", "token_file"], Secret::from_file(&file)),
        };
        let token = token.and_then(|token| {
            let fits = token.expose().len() >= MIN_TOKEN && token.expose().bytes().all(|c| c.is_ascii_graphic());
            let why = "a token has at least 16 visible ASCII characters and no space; make one with: openssl rand -hex 32";
            if fits { Ok(token) } else { Err(why.to_owned()) }
        });
        Some(self.secret(&path, token))
    }

    /// The `tls` of a `section`.
    fn tls(&mut self, raw: raw::Tls, section: &str) -> Option<Tls> {
        let mut certificates = Vec::new();
        match (raw.cert, raw.key) {
            (Some(One(cert)), Some(One(key))) => certificates.push(KeyPair { cert, key }),
            (None, None) => {}
            _ => self.document.problem(&[section, "tls"], "cert and key belong together; one of them is missing"),
        }
        certificates.extend(raw.certificates.into_iter().map(|pair| KeyPair { cert: pair.cert.0, key: pair.key.0 }));
        if certificates.is_empty() {
            self.document.problem(&[section, "tls"], "TLS needs a certificate: cert = \"FILE.pem\" and key = \"FILE.pem\"");
            return None;
        }
        if raw.client_ca.is_none() && raw.client_auth.is_some() {
            let message = "it says whether clients need a certificate, and client_ca, which says of whom, is missing";
            self.document.problem(&[section, "tls", "client_auth"], message);
        }
        let required = raw.client_auth.is_none_or(|One(required)| required.0);
        let clients = raw.client_ca.map(|One(ca)| ClientAuth { ca, required });
        if let Some(clients) = &clients
            && let Err(reason) = check_authorities(&clients.ca)
        {
            self.document.problem(&[section, "tls", "client_ca"], reason);
        }
        Some(Tls { certificates, clients, min_version: one(raw.min_version, TlsVersion::V1_2) })
    }
}
