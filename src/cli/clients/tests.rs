use super::*;

/// docker.io, a registry with a port and without TLS, and one below a path; nothing else.
fn config() -> Config {
    let off: String = ["ghcr.io", "quay.io", "registry.k8s.io", "gcr.io", "mcr.microsoft.com", "public.ecr.aws", "nvcr.io"]
        .iter()
        .map(|name| format!("[upstream.\"{name}\"]\nenabled = false\n"))
        .collect();
    let text = format!(
        "{off}[upstream.\"registry.example:5000\"]\nurl = \"http://registry.example:5000\"\n\
         [upstream.\"team.example\"]\nurl = \"https://artifacts.example/docker/team\"\n"
    );
    Config::parse(&text, "test").unwrap()
}

fn file(config: &Config, url: &str, client: Client) -> String {
    Guide::new(config, &url.parse().unwrap()).unwrap().file(client).unwrap()
}

const MIRROR: &str = "http://mirror.internal:5000";

#[test]
fn docker() {
    assert_eq!(file(&config(), MIRROR, Client::Docker), "{\n  \"registry-mirrors\": [\"http://mirror.internal:5000\"]\n}\n");
}

#[test]
fn docker_names_no_registry_so_a_mirror_of_another_default_needs_the_path() {
    let other = Config::parse("[server]\ndefault_upstream = \"ghcr.io\"\n", "test").unwrap();
    assert_eq!(
        file(&other, "https://mirror.internal", Client::Docker),
        "{\n  \"registry-mirrors\": [\"https://mirror.internal/docker.io\"]\n}\n"
    );
    let none = "[server]\ndefault_upstream = \"ghcr.io\"\n[upstream.\"docker.io\"]\nenabled = false\n";
    let none = Config::parse(none, "test").unwrap();
    let guide = Guide::new(&none, &MIRROR.parse().unwrap()).unwrap();
    assert!(guide.file(Client::Docker).is_err());
    assert!(!guide.all().contains("daemon.json"));
}

#[test]
fn containerd_has_a_file_for_each_registry() {
    let text = file(&config(), MIRROR, Client::Containerd);
    let files = text.split_once("\n\n").unwrap().1;
    assert_eq!(
        files,
        r#"# /etc/containerd/certs.d/docker.io/hosts.toml
server = "https://registry-1.docker.io"

[host."http://mirror.internal:5000"]
  capabilities = ["pull", "resolve"]

# /etc/containerd/certs.d/registry.example:5000/hosts.toml
server = "http://registry.example:5000"

[host."http://mirror.internal:5000"]
  capabilities = ["pull", "resolve"]

# /etc/containerd/certs.d/team.example/hosts.toml
server = "https://artifacts.example/docker/team"

[host."http://mirror.internal:5000"]
  capabilities = ["pull", "resolve"]
"#
    );
    for file in files.split("\n# ") {
        file.split_once('\n').unwrap().1.parse::<toml::Table>().unwrap();
    }
}

#[test]
fn podman_and_crio_name_the_registry_in_the_location() {
    for client in [Client::Podman, Client::Crio] {
        let text = file(&config(), MIRROR, client);
        let content = text.split_once("\n\n").unwrap().1;
        assert_eq!(
            content,
            r#"[[registry]]
prefix = "docker.io"
location = "docker.io"

[[registry.mirror]]
location = "mirror.internal:5000/docker.io"
insecure = true

[[registry]]
prefix = "registry.example:5000"
location = "registry.example:5000"
insecure = true

[[registry.mirror]]
location = "mirror.internal:5000/registry.example:5000"
insecure = true

[[registry]]
prefix = "team.example"
location = "team.example"

[[registry.mirror]]
location = "mirror.internal:5000/team.example"
insecure = true
"#
        );
        text.parse::<toml::Table>().unwrap();
    }
    assert!(!file(&Config::default(), "https://mirror.internal", Client::Podman).contains("insecure"));
}

#[test]
fn buildkit() {
    let text = file(&config(), MIRROR, Client::Buildkit);
    assert_eq!(
        text.split_once("\n\n").unwrap().1,
        r#"[registry."docker.io"]
  mirrors = ["mirror.internal:5000"]

[registry."mirror.internal:5000"]
  http = true

[registry."registry.example:5000"]
  mirrors = ["mirror.internal:5000"]
  http = true

[registry."team.example"]
  mirrors = ["mirror.internal:5000"]
"#
    );
    assert!(!file(&Config::default(), "https://mirror.internal", Client::Buildkit).contains("http"));
}

/// As `docker buildx create` makes it.
#[test]
fn a_buildkit_in_a_container_reaches_the_machines_loopback() {
    for (url, is_loopback) in
        [("http://127.0.0.1:5000", true), ("http://[::1]:5000", true), ("http://localhost", true), (MIRROR, false)]
    {
        assert_eq!(file(&config(), url, Client::Buildkit).contains("--driver-opt network=host "), is_loopback, "{url}");
    }
}

#[test]
fn buildkit_asks_a_registry_that_is_elsewhere_after_the_mirror() {
    let text = "[upstream.\"quay.io\"]\nurl = \"http://copy.example:5000\"\n\
        [upstream.\"copy.example:5000\"]\nurl = \"http://copy.example:5000\"\n";
    let text = file(&Config::parse(text, "test").unwrap(), MIRROR, Client::Buildkit);
    assert!(text.contains("[registry.\"quay.io\"]\n  mirrors = [\"mirror.internal:5000\", \"copy.example:5000\"]\n\n"), "{text}");
    let own = "[registry.\"copy.example:5000\"]\n  mirrors = [\"mirror.internal:5000\"]\n  http = true\n";
    assert!(text.contains(own), "{text}");
    text.parse::<toml::Table>().unwrap();
}

#[test]
fn every_upstream_is_in_every_file() {
    let config = Config::default();
    for client in [Client::Containerd, Client::Podman, Client::Crio, Client::Buildkit] {
        let text = file(&config, "https://[fd00::1]:5000/", client);
        for name in config.upstreams.keys() {
            assert!(text.contains(name.as_str()), "{client:?} {name}");
        }
        assert!(text.contains("[fd00::1]:5000"), "{client:?}");
    }
}

#[test]
fn the_address_is_scheme_host_and_port() {
    for bad in ["http://m/path", "ftp://m", "http://user@m", "http://m?x", "http://m#x", "mirror:5000", "unix:/x"] {
        assert!(Guide::new(&Config::default(), &bad.parse().unwrap()).is_err(), "{bad}");
    }
}

#[test]
fn k3s_and_talos_get_the_mirrors_of_their_containerd_and_the_registries_that_are_not_where_their_name_says() {
    assert_eq!(
        file(&config(), MIRROR, Client::K3s).split_once('\n').unwrap().1,
        r#"mirrors:
  "docker.io":
    endpoint:
      - "http://mirror.internal:5000"
  "registry.example:5000":
    endpoint:
      - "http://mirror.internal:5000"
      - "http://registry.example:5000"
  "team.example":
    endpoint:
      - "http://mirror.internal:5000"
      - "https://artifacts.example/docker/team/v2"
"#
    );
    let talos = file(&config(), MIRROR, Client::Talos);
    let expected = r#"
machine:
  registries:
    mirrors:
      "docker.io":
        endpoints:
          - "http://mirror.internal:5000"
      "registry.example:5000":
        endpoints:
          - "http://mirror.internal:5000"
          - "http://registry.example:5000"
"#;
    assert!(talos.contains(expected), "{talos}");
    // Those that exist by default are where their names say.
    assert_eq!(file(&Config::default(), MIRROR, Client::K3s).matches("- ").count(), Config::default().upstreams.len());
}
