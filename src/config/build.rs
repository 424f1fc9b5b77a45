//! From [`Raw`] to [`Config`]: defaults where the file is silent, and the checks that concern several keys.

mod access;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use super::clouds::{self, EcrHost};
use super::defaults::built_in_upstreams;
use super::document::Document;
use super::raw::{self, CredentialsKind, Raw};
use super::value::{HelperName, Many, One, RepositoryGlob, Size, TagPattern, Text, Time, Timeout};
use super::{
    Admin, Amount, Breaker, Cache, ClientAuth, Config, ConfigError, Credentials, Fill, Freshness, FreshnessRule, Globs, Import,
    KeyPair, Listen, Log, Prefetch, Quota, RepositoryRule, ScopedCredentials, Secret, Server, TagPatterns, Tls, TlsVersion,
    Upstream, Visibility,
};
use crate::oci::MAX_MANIFEST;
use crate::oci::name::UpstreamName;

/// Characters of a token that nobody guesses over the network.
const MIN_TOKEN: usize = 16;

/// Looks up an environment variable.
type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn build(document: Document<'_>, raw: Raw, env: Env<'_>) -> Result<Config, ConfigError> {
    let mut builder = Builder { document, env };
    let server = builder.server(raw.server);
    let access = builder.access(raw.access, &server);
    let admin = builder.admin(raw.admin, &server);
    let cache = builder.cache(raw.cache);
    let freshness = builder.freshness(raw.freshness, &Freshness::default(), &["freshness"]);
    let upstreams = builder.upstreams(raw.upstream, &freshness);
    builder.check_upstreams(&upstreams, &server);
    let prefetch = builder.prefetch(raw.prefetch);
    let import = Import { verify_key: raw.import.verify_key.map(|One(path)| path) };
    let fill = Fill::default();
    let log = Log::default();
    let config = Config {
        server,
        access,
        admin,
        cache,
        upstreams,
        freshness,
        prefetch,
        import,
        fill: Fill {
            abandoned: one(raw.fill.abandoned, fill.abandoned),
            abandon_after: time(raw.fill.abandon_after, fill.abandon_after),
            parallel: raw.fill.parallel.map_or(fill.parallel, |One(parts)| parts.0),
            parallel_threshold: raw.fill.parallel_threshold.map_or(fill.parallel_threshold, |One(size)| size.0),
        },
        log: Log { format: one(raw.log.format, log.format), level: raw.log.level.map_or(log.level, |One(level)| level.0) },
    };
    builder.document.finish(config)
}

fn one<T>(raw: Option<One<T>>, default: T) -> T {
    raw.map_or(default, |One(value)| value)
}

fn time(raw: Option<One<Time>>, default: Duration) -> Duration {
    raw.map_or(default, |One(Time(time))| time)
}

fn timeout(raw: Option<One<Timeout>>, default: Duration) -> Duration {
    raw.map_or(default, |One(Timeout(time))| time)
}

struct Builder<'a> {
    document: Document<'a>,
    env: Env<'a>,
}

impl Builder<'_> {
    fn server(&mut self, raw: raw::Server) -> Server {
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

    fn admin(&mut self, raw: raw::Admin, server: &Server) -> Admin {
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

    fn cache(&mut self, raw: raw::Cache) -> Cache {
        let default = Cache::default();
        let max_size = one(raw.max_size, default.max_size);
        if max_size == Amount::Bytes(0) {
            self.document.problem(&["cache", "max_size"], "a cache without room cannot work; give it a size such as \"50GiB\"");
        }
        let min_free = one(raw.min_free, default.min_free);
        if min_free == Amount::Percent(100.0) {
            self.document.problem(&["cache", "min_free"], "100% leaves the cache no room; give it a share such as \"5%\"");
        }
        Cache {
            dir: one(raw.dir, default.dir),
            max_size,
            min_free,
            memory: raw.memory.map_or(default.memory, |One(size)| size.0),
            offline: raw.offline.unwrap_or(default.offline),
            eviction: one(raw.eviction, default.eviction),
            verify_every: time(raw.verify_every, default.verify_every),
            verify_rate: raw.verify_rate.map_or(default.verify_rate, |One(size)| size.0),
            quotas: self.quotas(raw.quota),
        }
    }

    /// The longest pattern comes first: it says most about what it matches.
    fn quotas(&mut self, raw: BTreeMap<String, raw::Quota>) -> Vec<Quota> {
        let mut raw: Vec<_> = raw.into_iter().collect();
        raw.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        if raw.len() > usize::from(u8::MAX) - 1 {
            self.document.problem(&["cache", "quota"], "there are more than 254 quotas");
        }
        let quota = |(pattern, raw): (String, raw::Quota)| {
            if raw.max_size.is_none() && raw.unused_for.is_none() {
                self.document.problem(&["cache", "quota", &pattern], "it limits nothing; give it max_size, unused_for or both");
            }
            let full = if pattern.contains('/') || pattern == "**" { pattern.clone() } else { format!("{pattern}/**") };
            let globs = Globs::new([full]).unwrap_or_else(|reason| {
                self.document.problem(&["cache", "quota", &pattern], reason);
                Globs::default()
            });
            let max_size = raw.max_size.map(|One(size)| size);
            Quota { pattern: globs, max_size, unused_for: raw.unused_for.map(|One(Timeout(time))| time) }
        };
        raw.into_iter().map(quota).collect()
    }

    fn freshness(&mut self, raw: raw::Freshness, default: &Freshness, path: &[&str]) -> Freshness {
        let immutable_tags = match raw.immutable_tags {
            None => default.immutable_tags.clone(),
            Some(Many(patterns)) => {
                TagPatterns::new(patterns.iter().map(|TagPattern(pattern)| pattern)).unwrap_or_else(|reason| {
                    self.document.problem(&[path, &["immutable_tags"]].concat(), reason);
                    TagPatterns::default()
                })
            }
        };
        // The upstream's own rules come before the general ones, which hold for it, too.
        let mut rules: Vec<_> = raw.rule.unwrap_or_default().into_iter().map(|rule| self.rule(rule, path)).collect();
        rules.extend(default.rules.iter().cloned());
        Freshness {
            no_cache: raw.no_cache.unwrap_or(default.no_cache),
            rules,
            fresh_for: time(raw.fresh_for, default.fresh_for),
            revalidate_within: time(raw.revalidate_within, default.revalidate_within),
            stale_while_revalidate: time(raw.stale_while_revalidate, default.stale_while_revalidate),
            stale_if_error: time(raw.stale_if_error, default.stale_if_error),
            negative: time(raw.negative, default.negative),
            immutable_tags,
        }
    }

    fn rule(&mut self, raw: raw::Rule, path: &[&str]) -> FreshnessRule {
        let path = [path, &["rule"]].concat();
        if raw.repositories.is_none() && raw.tags.is_none() {
            self.document
                .problem(&path, "a rule needs `tags` or `repositories`; what holds for all tags stands in the table above it");
        }
        let tags = match raw.tags {
            Some(Many(patterns)) => TagPatterns::new(patterns.iter().map(|TagPattern(pattern)| pattern)),
            None => TagPatterns::new([""]),
        };
        let tags = tags.unwrap_or_else(|reason| {
            self.document.problem(&path, reason);
            TagPatterns::default()
        });
        let time = |raw: Option<One<Time>>| raw.map(|One(Time(time))| time);
        FreshnessRule {
            repositories: self.globs(raw.repositories, RepositoryRule::default().allow, &path),
            tags,
            fresh_for: time(raw.fresh_for),
            revalidate_within: time(raw.revalidate_within),
            stale_while_revalidate: time(raw.stale_while_revalidate),
            stale_if_error: time(raw.stale_if_error),
            negative: time(raw.negative),
            no_cache: raw.no_cache,
        }
    }

    fn upstreams(
        &mut self,
        raw: BTreeMap<UpstreamName, raw::Upstream>,
        freshness: &Freshness,
    ) -> BTreeMap<UpstreamName, Upstream> {
        let mut upstreams = built_in_upstreams(freshness);
        for (name, raw) in raw {
            let built_in = upstreams.remove(&name);
            // What is switched off may be incomplete: its password file need not be here.
            if raw.enabled != Some(false)
                && let Some(upstream) = self.upstream(&name, raw, built_in, freshness)
            {
                upstreams.insert(name, upstream);
            }
        }
        upstreams
    }

    fn upstream(
        &mut self,
        name: &UpstreamName,
        raw: raw::Upstream,
        built_in: Option<Upstream>,
        freshness: &Freshness,
    ) -> Option<Upstream> {
        let path = |key| ["upstream", name.as_str(), key];
        let default = match built_in {
            Some(upstream) => upstream,
            None => match Url::parse(&format!("https://{name}")) {
                Ok(url) => Upstream::new(url, freshness.clone()),
                Err(error) => {
                    self.document.problem(&["upstream", name.as_str()], format!("https://{name} is no address: {error}"));
                    return None;
                }
            },
        };
        let urls = raw.url.map_or(default.urls, |Many(urls)| urls);
        if urls.is_empty() {
            self.document.problem(&path("url"), "the list is empty; name at least one address");
        }
        let credentials = match raw.credentials {
            Some(raw) => self.credentials(name, raw),
            None => default.credentials,
        };
        self.check_cloud(name, &credentials, &urls);
        let ca = raw.ca.map(|One(path)| path).or(default.ca);
        if let Some(file) = &ca
            && let Err(reason) = check_authorities(file)
        {
            self.document.problem(&path("ca"), reason);
        }
        let own = self.freshness(raw.freshness, &default.freshness, &path("freshness"));
        Some(Upstream {
            urls,
            hosts: raw.hosts.map_or(default.hosts, |Many(hosts)| hosts.into_iter().map(|host| host.0).collect()),
            visibility: one(raw.visibility, default_visibility(&credentials)),
            verdict_for: timeout(raw.verdict_for, default.verdict_for),
            credentials,
            token_realms: raw
                .token_realms
                .map_or(default.token_realms, |Many(realms)| realms.into_iter().map(|host| host.0).collect()),
            ca,
            connect_timeout: timeout(raw.connect_timeout, default.connect_timeout),
            response_timeout: timeout(raw.response_timeout, default.response_timeout),
            stall_timeout: timeout(raw.stall_timeout, default.stall_timeout),
            max_connections: raw.max_connections.map_or(default.max_connections, |One(count)| count.0),
            max_fills: raw.max_fills.map(|One(count)| count.0).or(default.max_fills),
            parallel: raw.parallel.map(|One(parts)| parts.0).or(default.parallel),
            max_queue: raw.max_queue.map_or(default.max_queue, |One(count)| count.0),
            max_bandwidth: raw.max_bandwidth.map(|One(rate)| rate.0).or(default.max_bandwidth),
            max_manifest: self.max_manifest(name, raw.max_manifest, default.max_manifest),
            quota_reserve: one(raw.quota_reserve, default.quota_reserve),
            breaker: Breaker {
                failures: raw.breaker.failures.map_or(default.breaker.failures, |One(count)| count.0),
                window: timeout(raw.breaker.window, default.breaker.window),
                probe_every: timeout(raw.breaker.probe_every, default.breaker.probe_every),
            },
            blob_outage_status: one(raw.blob_outage_status, default.blob_outage_status),
            offline: raw.offline.unwrap_or(default.offline),
            repositories: RepositoryRule {
                allow: self.globs(raw.allow, default.repositories.allow, &path("allow")),
                deny: self.globs(raw.deny, default.repositories.deny, &path("deny")),
            },
            freshness: own,
        })
    }

    fn prefetch(&mut self, raw: Vec<raw::Prefetch>) -> Vec<Prefetch> {
        let texts =
            |many: Option<Many<Text>>| many.map_or(Vec::new(), |Many(texts)| texts.into_iter().map(|text| text.0).collect());
        let entries = raw.into_iter().map(|raw| Prefetch {
            images: texts(raw.images),
            platforms: texts(raw.platforms),
            with_referrers: raw.with_referrers.unwrap_or(false),
            every: timeout(raw.every, Duration::from_secs(6 * 3600)),
        });
        let entries: Vec<_> = entries.collect();
        if entries.iter().any(|entry| entry.images.is_empty()) {
            self.document.problem(&["prefetch"], "[[prefetch]] needs images = [\"IMAGE\", …]");
        }
        for image in entries.iter().flat_map(|entry| &entry.images).filter(|image| !is_reference(image)) {
            self.document.problem(&["prefetch"], format!("{image:?} names no image such as \"docker.io/library/alpine:3.20\""));
        }
        for platform in entries.iter().flat_map(|entry| &entry.platforms) {
            let parts = platform.split('/').filter(|part| !part.is_empty()).count();
            if !(2..=3).contains(&parts) {
                self.document.problem(&["prefetch"], format!("{platform:?} is no platform such as \"linux/amd64\""));
            }
        }
        entries
    }

    fn max_manifest(&mut self, name: &UpstreamName, raw: Option<One<Size>>, default: u64) -> u64 {
        let Some(One(Size(bytes))) = raw else { return default };
        // The least is what registries have to take (OCI distribution-spec, *Pushing Manifests*).
        if !(4 << 20..=MAX_MANIFEST).contains(&bytes) {
            let message = "a manifest may have from 4MiB, which every registry takes, to 8MiB, which this mirror reads";
            self.document.problem(&["upstream", name.as_str(), "max_manifest"], message);
        }
        bytes
    }

    fn globs(&mut self, raw: Option<Many<RepositoryGlob>>, default: Globs, path: &[&str]) -> Globs {
        let Some(Many(globs)) = raw else { return default };
        Globs::new(globs.iter().map(|RepositoryGlob(glob)| glob)).unwrap_or_else(|reason| {
            self.document.problem(path, reason);
            default
        })
    }

    fn credentials(&mut self, name: &UpstreamName, raw: raw::Credentials) -> Credentials {
        let path = ["upstream", name.as_str(), "credentials"];
        match raw {
            raw::Credentials::Kind(kind) => self.credentials_kind(&path, kind),
            raw::Credentials::Table(table) => self.credentials_table(&path, *table),
            raw::Credentials::List(tables) => self.credentials_list(&path, tables),
        }
    }

    fn credentials_kind(&mut self, path: &[&str], kind: CredentialsKind) -> Credentials {
        match kind {
            CredentialsKind::DockerConfig => match self.docker_config() {
                Some(file) => self.docker_credentials(path, file),
                None => {
                    let message = "neither DOCKER_CONFIG nor HOME is set; write { docker_config = \"PATH\" }";
                    self.document.problem(path, message);
                    Credentials::Anonymous
                }
            },
            CredentialsKind::Ecr => Credentials::Ecr,
            CredentialsKind::Gcp => Credentials::Gcp { key_file: None },
            CredentialsKind::Acr => Credentials::Acr,
        }
    }

    fn credentials_list(&mut self, path: &[&str], tables: Vec<raw::CredentialsTable>) -> Credentials {
        let mut list: Vec<ScopedCredentials> = Vec::new();
        for mut table in tables {
            let prefix = table.prefix.take().map_or_else(String::new, |One(prefix)| prefix.0);
            if list.iter().any(|entry| entry.prefix == prefix) {
                let which = if prefix.is_empty() { "no prefix".to_owned() } else { format!("the prefix {prefix:?}") };
                self.document.problem(path, format!("two entries have {which}; each needs one of its own"));
            }
            let credentials = self.credentials_table(path, table);
            list.push(ScopedCredentials { prefix, credentials });
        }
        Credentials::ByRepository(list)
    }

    fn credentials_table(&mut self, path: &[&str], table: raw::CredentialsTable) -> Credentials {
        // In a list the place of a key is that of the list.
        let at = |key: &'static str| -> Vec<&str> { path.iter().copied().chain([key]).collect() };
        if table.prefix.is_some() {
            let message = "prefix belongs into a list: credentials = [{ prefix = \"team\", … }, …]";
            self.document.problem(&at("prefix"), message);
        }
        let raw::CredentialsTable { username, password, password_file, docker_config, helper, source, key_file, .. } = table;
        let forms = [username.is_some(), docker_config.is_some(), helper.is_some(), source.is_some()];
        let extra = password.is_some() && password_file.is_some()
            || username.is_none() && (password.is_some() || password_file.is_some())
            || key_file.is_some() && source != Some(One(CredentialsKind::Gcp));
        if forms.into_iter().filter(|given| *given).count() == 1 && !extra {
            match (username, password, password_file, docker_config, helper, source) {
                (Some(username), Some(password), None, ..) => {
                    let username = self.secret(&at("username"), Secret::from_text(username.0, self.env));
                    let password = self.secret(&at("password"), Secret::from_text(password.0, self.env));
                    return Credentials::Password { username: username.expose().to_owned(), password };
                }
                (Some(username), None, Some(One(file)), ..) => {
                    let username = self.secret(&at("username"), Secret::from_text(username.0, self.env));
                    let password = self.secret(&at("password_file"), Secret::from_file(&file));
                    return Credentials::Password { username: username.expose().to_owned(), password };
                }
                (None, None, None, Some(One(file)), ..) => return self.docker_credentials(&at("docker_config"), file),
                (None, None, None, None, Some(One(HelperName(name))), _) => return Credentials::Helper(name),
                (None, None, None, None, None, Some(One(kind))) => {
                    let key_file = key_file.map(|One(file)| file);
                    if let Some(file) = &key_file
                        && let Err(error) = std::fs::File::open(file)
                    {
                        self.document.problem(&at("key_file"), format!("cannot read {}: {error}", file.display()));
                    }
                    return match self.credentials_kind(path, kind) {
                        Credentials::Gcp { .. } => Credentials::Gcp { key_file },
                        other => other,
                    };
                }
                _ => {}
            }
        }
        let message = "needs either username with one of password and password_file, or docker_config alone, or helper alone, or \
                       source (with key_file, for \"gcp\")";
        self.document.problem(path, message);
        Credentials::Anonymous
    }

    /// A cloud's token opens more than a registry: it may go to the registries of that cloud alone (I9).
    fn check_cloud(&mut self, name: &UpstreamName, credentials: &Credentials, urls: &[Url]) {
        let (kind, fits): (_, fn(&str) -> bool) = match credentials {
            Credentials::ByRepository(list) => {
                return list.iter().for_each(|entry| self.check_cloud(name, &entry.credentials, urls));
            }
            Credentials::Ecr => {
                ("\"ecr\" is for https://ACCOUNT.dkr.ecr.REGION.amazonaws.com and https://public.ecr.aws", |host| {
                    EcrHost::parse(host).is_some()
                })
            }
            Credentials::Gcp { .. } => {
                ("\"gcp\" is for https://gcr.io, https://X.gcr.io and https://REGION-docker.pkg.dev", clouds::is_google)
            }
            Credentials::Acr => ("\"acr\" is for https://NAME.azurecr.io", clouds::is_acr),
            _ => return,
        };
        for url in urls {
            let plain = url.scheme() != "https" || url.port().is_some();
            if plain || !url.host_str().is_some_and(fits) {
                let message = format!("credentials = {kind}, and {url} is none of them: it would be given a token of your cloud");
                self.document.problem(&["upstream", name.as_str(), "credentials"], message);
            }
        }
    }

    fn secret(&mut self, path: &[&str], secret: Result<Secret, String>) -> Secret {
        secret.unwrap_or_else(|reason| {
            self.document.problem(path, reason);
            Secret::new("")
        })
    }

    /// The file that the Docker client uses (docker/cli: `DOCKER_CONFIG` is a folder).
    fn docker_config(&self) -> Option<PathBuf> {
        let set = |name| (self.env)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))?;
        Some(folder.join("config.json"))
    }

    fn docker_credentials(&mut self, path: &[&str], file: PathBuf) -> Credentials {
        if let Err(error) = std::fs::File::open(&file) {
            self.document.problem(path, format!("cannot read {}: {error}", file.display()));
        }
        Credentials::DockerConfig(file)
    }

    fn check_upstreams<'u>(&mut self, upstreams: &'u BTreeMap<UpstreamName, Upstream>, server: &Server) {
        if !upstreams.contains_key(&server.default_upstream) {
            let names: Vec<_> = upstreams.keys().map(UpstreamName::as_str).collect();
            let names = if names.is_empty() { "none is left".to_owned() } else { format!("there are {}", names.join(", ")) };
            let message = format!("{:?} is the default upstream, and is not enabled; {names}", server.default_upstream.as_str());
            let switch = ["upstream", server.default_upstream.as_str(), "enabled"];
            self.document.problem_among(&[&["server", "default_upstream"], &switch], message);
        }
        let mut owners: BTreeMap<&str, &'u UpstreamName> = BTreeMap::new();
        for (name, upstream) in upstreams {
            for host in &upstream.hosts {
                if let Some(other) = owners.insert(host, name).filter(|other| *other != name) {
                    let message = format!("{host:?} is in the hosts of {other} and of {name}; it can select only one upstream");
                    let hosts = |upstream: &'u UpstreamName| ["upstream", upstream.as_str(), "hosts"];
                    self.document.problem_among(&[&hosts(name), &hosts(other)], message);
                }
            }
            if let Some(url) =
                upstream.urls.iter().find(|url| server.listen.iter().filter_map(Listen::address).any(|own| is_at(url, own)))
            {
                let message = format!("{url} is where this mirror itself listens (server.listen)");
                self.document.problem(&["upstream", name.as_str(), "url"], message);
            }
        }
    }
}

/// What the mirror can read by an account of the operator's is not everybody's.
fn default_visibility(credentials: &Credentials) -> Visibility {
    if *credentials == Credentials::Anonymous { Visibility::Public } else { Visibility::Operator }
}

/// Whether text can name an image at all; the words of it are checked where it is used.
fn is_reference(text: &str) -> bool {
    !text.is_empty() && text.len() < 1000 && !text.contains("://") && text.bytes().all(|c| c.is_ascii_graphic())
}

/// Whether `url` is literally `address`. Names are not looked up.
fn is_at(url: &Url, address: SocketAddr) -> bool {
    let ip = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.into(),
        Some(url::Host::Ipv6(ip)) => ip.into(),
        Some(url::Host::Domain("localhost")) if address.ip().is_loopback() => address.ip(),
        _ => return false,
    };
    url.port_or_known_default() == Some(address.port())
        && (ip == address.ip() || (address.ip().is_unspecified() && ip.is_loopback()))
}

/// Whether `file` holds certificates.
fn check_authorities(file: &Path) -> Result<(), String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => Err(format!("{} holds no certificate in PEM form", file.display())),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{} is no PEM file: {error}", file.display())),
    }
}
