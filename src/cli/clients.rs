//! `roadstead clients`: what to write into the clients' configuration so that they pull through the mirror.
//!
//! Made from the configured upstreams, so that no registry is forgotten. Every form keeps the registry itself as the
//! last resort: a client goes on without the mirror.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use url::{Host, Url};

use super::serve::reachable;
use super::{ConfigFile, print};
use crate::config::{Config, Listen, Upstream};
use crate::oci::name::UpstreamName;

/// Print the configuration that points Docker, containerd, podman, CRI-O, buildkit, K3s, RKE2 or Talos at the mirror
///
/// The output covers every configured upstream and is ready to paste. With CLIENT, it is that client's file and nothing
/// else; containerd has a file for each registry, which comments name. Without CLIENT, it is the files of all clients.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roadstead clients
  roadstead clients docker
  roadstead clients --url http://mirror.internal:5000 containerd
  roadstead clients podman > /etc/containers/registries.conf.d/50-roadstead.conf")]
pub(super) struct Clients {
    #[command(flatten)]
    file: ConfigFile,

    /// The mirror's address as the clients see it, without a path [default: the first address of server.listen]
    #[arg(short, long, value_name = "URL")]
    url: Option<Url>,

    /// Print only this client's configuration
    client: Option<Client>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Client {
    /// /etc/docker/daemon.json (docker.io only)
    Docker,
    /// /etc/containerd/certs.d/REGISTRY/hosts.toml
    Containerd,
    /// /etc/containers/registries.conf.d/50-roadstead.conf
    Podman,
    /// The same file as for podman, for Kubernetes nodes
    Crio,
    /// /etc/buildkit/buildkitd.toml
    Buildkit,
    /// /etc/rancher/k3s/registries.yaml or /etc/rancher/rke2/registries.yaml
    K3s,
    /// A patch of Talos Linux's machine configuration
    Talos,
}

impl Clients {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.file.load()?;
        let url = match self.url {
            Some(url) => url,
            None => own_url(&config)?,
        };
        let guide = Guide::new(&config, &url)?;
        let text = match self.client {
            Some(client) => guide.file(client)?,
            None => guide.all(),
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The first address that clients can be told.
fn own_url(config: &Config) -> anyhow::Result<Url> {
    let tls = config.server.tls.is_some();
    let (scheme, address) = config
        .server
        .listen
        .iter()
        .find_map(|listen| match listen {
            Listen::Tcp(address) => Some((if tls { "https" } else { "http" }, *address)),
            Listen::Plain(address) => Some(("http", *address)),
            Listen::Unix(_) | Listen::Systemd(_) => None,
        })
        .context("no entry of server.listen is an address; name the mirror as its clients see it with --url")?;
    Ok(Url::parse(&format!("{scheme}://{}", reachable(address)))?)
}

/// Under which path of the mirror Docker finds docker.io; `None` if it is not mirrored. Docker says nowhere which
/// registry it means, so that without a path it gets the default upstream.
pub(super) fn docker_mirror_path(config: &Config) -> Option<String> {
    let (hub, _) = config.upstreams.iter().find(|(name, _)| name.is_docker_hub())?;
    Some(if config.server.default_upstream == *hub { String::new() } else { format!("/{hub}") })
}

struct Guide<'a> {
    config: &'a Config,
    /// `http://mirror:5000`
    base: String,
    /// `mirror:5000`
    authority: String,
    plain: bool,
    is_loopback: bool,
}

impl<'a> Guide<'a> {
    fn new(config: &'a Config, url: &Url) -> anyhow::Result<Self> {
        let base = url.as_str().trim_end_matches('/');
        match (url.scheme(), base.split_once("://")) {
            ("http" | "https", Some((_, authority))) if !authority.contains(['/', '?', '#', '@']) => {
                let is_loopback = match url.host() {
                    Some(Host::Ipv4(address)) => address.is_loopback(),
                    Some(Host::Ipv6(address)) => address.is_loopback(),
                    Some(Host::Domain(name)) => name == "localhost",
                    None => false,
                };
                let plain = url.scheme() == "http";
                Ok(Self { config, base: base.to_owned(), authority: authority.to_owned(), plain, is_loopback })
            }
            _ => bail!("--url: expected scheme, host and port alone, as in http://mirror.internal:5000"),
        }
    }

    fn file(&self, client: Client) -> anyhow::Result<String> {
        Ok(match client {
            Client::Docker => {
                self.docker().context("docker.io is no upstream of this mirror, and Docker mirrors no other registry")?
            }
            Client::Containerd => self.containerd(),
            Client::Podman => {
                self.registries("/etc/containers/registries.conf.d/50-roadstead.conf; podman reads it at every start.")
            }
            Client::Crio => self.registries("/etc/containers/registries.conf.d/50-roadstead.conf; then: systemctl reload crio"),
            Client::Buildkit => self.buildkit(),
            Client::K3s => self.k3s(),
            Client::Talos => self.talos(),
        })
    }

    fn all(&self) -> String {
        let mut text = String::new();
        let mut section = |name: &str, content: &str| {
            let _ = write!(text, "##### {name}\n\n{content}\n");
        };
        if let Some(content) = self.docker() {
            section("Docker: /etc/docker/daemon.json, then: systemctl restart docker", &content);
        }
        section(
            "containerd (and for other registries than docker.io, Docker with the containerd image store)",
            &self.containerd(),
        );
        section("podman, CRI-O, skopeo, buildah", &self.registries("/etc/containers/registries.conf.d/50-roadstead.conf"));
        section("buildkit", &self.buildkit());
        section("K3s, RKE2", &self.k3s());
        section("Talos Linux", &self.talos());
        text
    }

    /// JSON knows no comments: this is the file alone.
    fn docker(&self) -> Option<String> {
        let mirror = format!("{}{}", self.base, docker_mirror_path(self.config)?);
        Some(format!("{{\n  \"registry-mirrors\": [{mirror:?}]\n}}\n"))
    }

    fn containerd(&self) -> String {
        let mut text = "\
# /etc/containerd/config.toml names the folder of the files below:
#   containerd 1.x  [plugins.\"io.containerd.grpc.v1.cri\".registry]
#                     config_path = \"/etc/containerd/certs.d\"
#   containerd 2.x  [plugins.\"io.containerd.cri.v1.images\".registry]
#                     config_path = \"/etc/containerd/certs.d\"
# Docker with the containerd image store reads the same files in /etc/docker/certs.d.
"
        .to_owned();
        for (name, upstream) in self.upstreams() {
            let server = upstream.urls.first().map_or_else(String::new, |url| url.as_str().trim_end_matches('/').to_owned());
            let _ = write!(
                text,
                "\n# /etc/containerd/certs.d/{name}/hosts.toml\nserver = {server:?}\n\n[host.{:?}]\n  capabilities = [\"pull\", \"resolve\"]\n",
                self.base
            );
        }
        text
    }

    /// containers-registries.conf(5), version 2. No `?ns=` is sent, so the upstream is part of the location.
    fn registries(&self, place: &str) -> String {
        let mut text = format!("# {place}\n");
        for (name, upstream) in self.upstreams() {
            let (location, plain) = own_location(name, upstream);
            let _ = write!(text, "\n[[registry]]\nprefix = \"{name}\"\nlocation = {location:?}\n{}", insecure(plain));
            let mirror = format!("{}/{name}", self.authority);
            let _ = write!(text, "\n[[registry.mirror]]\nlocation = {mirror:?}\n{}", insecure(self.plain));
        }
        text
    }

    fn buildkit(&self) -> String {
        // To a BuildKit in a container of its own, loopback is that container.
        let network = if self.is_loopback { "--driver-opt network=host " } else { "" };
        let mut text = format!("# /etc/buildkit/buildkitd.toml, or: docker buildx create {network}--buildkitd-config FILE\n");
        // A host may be a registry and the place of another: it has one table.
        let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut plain: BTreeSet<String> = self.plain.then(|| self.authority.clone()).into_iter().collect();
        for (name, upstream) in self.upstreams() {
            let (own, own_is_plain) = own_location(name, upstream);
            if own_is_plain {
                plain.insert(own.clone());
            }
            let list = mirrors.entry(name.to_string()).or_default();
            list.push(self.authority.clone());
            // A registry that is elsewhere comes after the mirror as one more.
            list.extend(Some(own).filter(|own| own != name.as_str()));
        }
        for host in mirrors.keys().cloned().chain(plain.clone()).collect::<BTreeSet<_>>() {
            let _ = write!(text, "\n[registry.{host:?}]\n");
            if let Some(list) = mirrors.get(&host) {
                let _ = writeln!(text, "  mirrors = {list:?}");
            }
            if plain.contains(&host) {
                text.push_str("  http = true\n");
            }
        }
        text
    }

    /// Of this K3s makes the files of containerd. It puts the registry itself at the end, but knows of it no more than the name.
    fn k3s(&self) -> String {
        let place = "/etc/rancher/k3s/registries.yaml (of RKE2: /etc/rancher/rke2/registries.yaml); then restart the service.";
        format!("# {place}\n{}", self.yaml_mirrors("", "endpoint"))
    }

    /// So does Talos.
    fn talos(&self) -> String {
        let place = "mirror.yaml, for: talosctl patch machineconfig --patch @mirror.yaml";
        format!("# {place}\nmachine:\n  registries:\n{}", self.yaml_mirrors("    ", "endpoints"))
    }

    fn yaml_mirrors(&self, indent: &str, key: &str) -> String {
        let mut text = format!("{indent}mirrors:\n");
        for (name, upstream) in self.upstreams() {
            let _ = write!(text, "{indent}  {:?}:\n{indent}    {key}:\n", name.as_str());
            for endpoint in [Some(self.base.clone()), elsewhere(name, upstream)].into_iter().flatten() {
                let _ = writeln!(text, "{indent}      - {endpoint:?}");
            }
        }
        text
    }

    fn upstreams(&self) -> impl Iterator<Item = (&UpstreamName, &Upstream)> {
        self.config.upstreams.iter()
    }
}

/// Where podman finds the registry itself, and whether without TLS. It knows that docker.io is elsewhere, and puts a
/// path after `/v2/`, where a registry's own path comes before it.
fn own_location(name: &UpstreamName, upstream: &Upstream) -> (String, bool) {
    match upstream.urls.first() {
        Some(url) if !name.is_docker_hub() && url.path() == "/" => {
            let text = url.as_str().trim_end_matches('/');
            let authority = text.split_once("://").map_or(text, |(_, authority)| authority);
            (authority.to_owned(), url.scheme() == "http")
        }
        _ => (name.to_string(), false),
    }
}

/// The registry itself as an endpoint, where it is not what a client would make of its name. A path is used as it stands.
fn elsewhere(name: &UpstreamName, upstream: &Upstream) -> Option<String> {
    let url = upstream.urls.first()?;
    let host = if name.is_docker_hub() { "registry-1.docker.io" } else { name.as_str() };
    let text = url.as_str().trim_end_matches('/');
    match url.path() {
        "/" => (text != format!("https://{host}")).then(|| text.to_owned()),
        _ => Some(format!("{text}/v2")),
    }
}

fn insecure(plain: bool) -> &'static str {
    if plain { "insecure = true\n" } else { "" }
}

#[cfg(test)]
mod tests;
