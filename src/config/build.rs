//! From [`Raw`] to [`Config`]: defaults where the file is silent, and the checks that concern several keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use super::defaults::built_in_upstreams;
use super::document::Document;
use super::raw::{self, Raw};
use super::value::{Many, One, RepositoryGlob, TagPattern, Text, Time, Timeout};
use super::{
    Admin, Amount, Cache, Config, ConfigError, Credentials, Fill, Freshness, Globs, Import, Log, Prefetch, RepositoryRule,
    Secret, Server, TagPatterns, Upstream,
};
use crate::oci::name::UpstreamName;

/// Looks up an environment variable.
type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn build(document: Document<'_>, raw: Raw, env: Env<'_>) -> Result<Config, ConfigError> {
    let mut builder = Builder { document, env };
    let server = builder.server(raw.server);
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
        admin,
        cache,
        upstreams,
        freshness,
        prefetch,
        import,
        fill: Fill {
            abandoned: one(raw.fill.abandoned, fill.abandoned),
            abandon_after: time(raw.fill.abandon_after, fill.abandon_after),
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
        let bound: Vec<_> = listen.iter().filter(|address| address.port() != 0).collect();
        if let Some((_, twice)) = bound.iter().enumerate().find(|(index, address)| bound[..*index].contains(address)) {
            self.document.problem(&["server", "listen"], format!("{twice} is named twice"));
        }
        Server {
            listen,
            default_upstream: one(raw.default_upstream, default.default_upstream),
            max_connections: raw.max_connections.map_or(default.max_connections, |One(count)| count.0),
            header_timeout: timeout(raw.header_timeout, default.header_timeout),
            write_timeout: timeout(raw.write_timeout, default.write_timeout),
            shutdown_timeout: time(raw.shutdown_timeout, default.shutdown_timeout),
        }
    }

    fn admin(&mut self, raw: raw::Admin, server: &Server) -> Admin {
        let listen = raw.listen.map_or(Admin::default().listen, |One(listen)| listen.0);
        if let Some(address) = listen.filter(|address| address.port() != 0 && server.listen.contains(address)) {
            let message = format!(
                "{address} is both in server.listen and admin.listen; the admin interface needs an address of its own, or \"off\""
            );
            self.document.problem_among(&[&["admin", "listen"], &["server", "listen"]], message);
        }
        Admin { listen }
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
        }
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
        Freshness {
            fresh_for: time(raw.fresh_for, default.fresh_for),
            revalidate_within: time(raw.revalidate_within, default.revalidate_within),
            stale_while_revalidate: time(raw.stale_while_revalidate, default.stale_while_revalidate),
            stale_if_error: time(raw.stale_if_error, default.stale_if_error),
            negative: time(raw.negative, default.negative),
            immutable_tags,
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
            credentials,
            token_realms: raw
                .token_realms
                .map_or(default.token_realms, |Many(realms)| realms.into_iter().map(|host| host.0).collect()),
            ca,
            connect_timeout: timeout(raw.connect_timeout, default.connect_timeout),
            response_timeout: timeout(raw.response_timeout, default.response_timeout),
            stall_timeout: timeout(raw.stall_timeout, default.stall_timeout),
            max_connections: raw.max_connections.map_or(default.max_connections, |One(count)| count.0),
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

    fn globs(&mut self, raw: Option<Many<RepositoryGlob>>, default: Globs, path: &[&str]) -> Globs {
        let Some(Many(globs)) = raw else { return default };
        Globs::new(globs.iter().map(|RepositoryGlob(glob)| glob)).unwrap_or_else(|reason| {
            self.document.problem(path, reason);
            default
        })
    }

    fn credentials(&mut self, name: &UpstreamName, raw: raw::Credentials) -> Credentials {
        let path = ["upstream", name.as_str(), "credentials"];
        let table = match raw {
            raw::Credentials::Table(table) => table,
            raw::Credentials::DockerConfig => {
                let Some(file) = self.docker_config() else {
                    let message = "neither DOCKER_CONFIG nor HOME is set; write { docker_config = \"PATH\" }";
                    self.document.problem(&path, message);
                    return Credentials::Anonymous;
                };
                return self.docker_credentials(&path, file);
            }
        };
        let secret = |key| ["upstream", name.as_str(), "credentials", key];
        match (table.docker_config, table.username, table.password, table.password_file) {
            (Some(One(file)), None, None, None) => self.docker_credentials(&secret("docker_config"), file),
            (None, Some(username), Some(password), None) => {
                let username = self.secret(&secret("username"), Secret::from_text(username.0, self.env));
                let password = self.secret(&secret("password"), Secret::from_text(password.0, self.env));
                Credentials::Password { username: username.expose().to_owned(), password }
            }
            (None, Some(username), None, Some(One(file))) => {
                let username = self.secret(&secret("username"), Secret::from_text(username.0, self.env));
                let password = self.secret(&secret("password_file"), Secret::from_file(&file));
                Credentials::Password { username: username.expose().to_owned(), password }
            }
            _ => {
                let message = "needs either username with one of password and password_file, or docker_config alone";
                self.document.problem(&path, message);
                Credentials::Anonymous
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
            if let Some(url) = upstream.urls.iter().find(|url| server.listen.iter().any(|own| is_at(url, *own))) {
                let message = format!("{url} is where this mirror itself listens (server.listen)");
                self.document.problem(&["upstream", name.as_str(), "url"], message);
            }
        }
    }
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
