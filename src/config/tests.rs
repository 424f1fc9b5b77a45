mod credentials;
mod example;
mod interfaces;
mod patterns;
mod prefetch;
mod problems;

use super::*;

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "HUB_TOKEN" => "s3cret",
        "ROADSTEAD_ADMIN_TOKEN" => "0123456789abcdef",
        "SHORT" => "0123456789abcde",
        "EMPTY" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse_with(text, "t.toml", &environment).map_err(|error| error.to_string())
}

#[track_caller]
fn good(text: &str) -> Config {
    parse(text).unwrap()
}

/// What is said about `text`.
#[track_caller]
fn wrong(text: &str) -> String {
    parse(text).unwrap_err()
}

fn upstream<'a>(config: &'a Config, name: &str) -> &'a Upstream {
    &config.upstreams[&name.parse::<UpstreamName>().unwrap()]
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(good(""), Config::default());
    assert_eq!(Config::load(None).unwrap(), Config::default());
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = Config::default();
    assert_eq!(config.server.listen, [Listen::Tcp("127.0.0.1:5000".parse().unwrap())]);
    assert_eq!(config.admin.listen, Some(Listen::Tcp("127.0.0.1:5001".parse().unwrap())));
    assert_eq!(config.cache.max_size, Amount::Bytes(50 << 30));
    assert_eq!(config.freshness_of("docker.io").stale_if_error, Duration::from_secs(30 * 24 * 3600));
    let names: Vec<_> = config.upstreams.keys().map(UpstreamName::as_str).collect();
    assert_eq!(
        names,
        ["docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "nvcr.io", "public.ecr.aws", "quay.io", "registry.k8s.io"]
    );
    assert_eq!(upstream(&config, "docker.io").urls[0].as_str(), "https://registry-1.docker.io/");
}

impl Config {
    fn freshness_of(&self, name: &str) -> &Freshness {
        &upstream(self, name).freshness
    }
}

#[test]
fn an_upstream_is_changed_key_by_key() {
    let config = good(
        r#"
[freshness]
fresh_for = "5m"
negative = "1s"
[upstream."docker.io"]
stall_timeout = "9s"
[upstream."docker.io".freshness]
fresh_for = "1h"
[upstream."registry.example:5000"]
[upstream."plain.example"]
url = ["http://10.0.0.1:8080/prefix", "https://plain.example"]
[upstream."quay.io"]
enabled = false
credentials = { username = "x", password_file = "/not/here" }
"#,
    );
    let hub = upstream(&config, "docker.io");
    assert_eq!(hub.stall_timeout, Duration::from_secs(9));
    assert_eq!(hub.urls[0].as_str(), "https://registry-1.docker.io/");
    assert_eq!(hub.hosts.len(), 3);
    assert_eq!((hub.freshness.fresh_for, hub.freshness.negative), (Duration::from_secs(3600), Duration::from_secs(1)));
    assert_eq!(config.freshness_of("ghcr.io").fresh_for, Duration::from_secs(300));
    assert_eq!(upstream(&config, "registry.example:5000").urls[0].as_str(), "https://registry.example:5000/");
    assert_eq!(upstream(&config, "plain.example").urls.len(), 2);
    assert_eq!(upstream(&config, "plain.example").urls[0].as_str(), "http://10.0.0.1:8080/prefix");
    assert!(!config.upstreams.contains_key(&"quay.io".parse::<UpstreamName>().unwrap()));
    assert_eq!(config.upstreams.len(), 9);
}

#[test]
fn one_or_many_addresses() {
    let config = good("[server]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"[::1]:5000\"]\n[admin]\nlisten = \"off\"\n");
    assert_eq!(config.server.listen.len(), 3);
    assert_eq!(config.admin.listen, None);
    assert_eq!(
        wrong("[server]\nlisten = [\"127.0.0.1:7\", \"127.0.0.1:7\"]\n"),
        "t.toml:2:10: server.listen: 127.0.0.1:7 is named twice"
    );
    assert_eq!(wrong("[server]\nlisten = []\n"), "t.toml:2:10: server.listen: the list is empty; name at least one address");
}

#[test]
fn allow_and_deny() {
    let config = good("[upstream.\"docker.io\"]\nallow = [\"library/*\", \"team/**\"]\ndeny = \"team/secret/**\"\n");
    let rule = &upstream(&config, "docker.io").repositories;
    for (repository, permitted) in
        [("library/alpine", true), ("other/alpine", false), ("team/a/b", true), ("team/secret/a", false), ("team/secrets", true)]
    {
        assert_eq!(rule.permits(&repository.parse().unwrap()), permitted, "{repository}");
    }
}

#[test]
fn the_first_rule_that_matches_holds() {
    let config = good(
        r#"
[freshness]
fresh_for = "5m"
immutable_tags = ['^v\d+$']
[[freshness.rule]]
tags = ['^v?\d+\.\d+\.\d+$']
fresh_for = "forever"
[[freshness.rule]]
tags = ["-nightly$"]
repositories = ["team/**"]
fresh_for = "0s"
no_cache = true
[upstream."ghcr.io".freshness]
fresh_for = "1h"
[[upstream."ghcr.io".freshness.rule]]
tags = "^latest$"
fresh_for = "30s"
"#,
    );
    let terms = |name: &str, repository: &str, tag: &str| config.freshness_of(name).terms(repository, tag);
    for (name, repository, tag, seconds) in [
        ("docker.io", "library/alpine", "latest", 300),
        ("docker.io", "library/alpine", "v1.2.3", u64::MAX),
        ("docker.io", "library/alpine", "v1", u64::MAX),
        ("docker.io", "library/alpine", "x-nightly", 300),
        ("docker.io", "team/a/b", "x-nightly", 0),
        ("ghcr.io", "a/b", "latest", 30),
        ("ghcr.io", "a/b", "1.2.3", u64::MAX),
        ("ghcr.io", "a/b", "other", 3600),
    ] {
        assert_eq!(terms(name, repository, tag).fresh_for.as_secs(), seconds, "{name}/{repository}:{tag}");
    }
    assert!(terms("docker.io", "team/x", "1-nightly").no_cache);
    assert!(!terms("docker.io", "team/x", "latest").no_cache);
    let bare = wrong("[[freshness.rule]]\nfresh_for = \"1m\"\n");
    assert!(bare.contains("freshness.rule: a rule needs `tags` or `repositories`"), "{bare}");
    let unknown = wrong("[[freshness.rule]]\ntags = \"x\"\nfresh_four = \"1m\"\n");
    assert!(unknown.starts_with("t.toml:3:1: ") && unknown.contains("`fresh_for`"), "{unknown}");
}

/// What an upstream gives to the mirror's certificate is no more everybody's than what it gives to its login.
#[test]
fn a_client_certificate_makes_an_upstream_the_operators() {
    let of = |lines: &str| {
        let config = good(&format!("[upstream.\"r.example\"]\n{lines}"));
        config.upstreams[&"r.example".parse().unwrap()].clone()
    };
    assert_eq!((of("").visibility, of("").client), (Visibility::Public, None));
    let pair = "client_cert = \"/c\"\nclient_key = \"/k\"";
    assert_eq!(of(pair).visibility, Visibility::Operator);
    assert_eq!(of(pair).client, Some(KeyPair { cert: "/c".into(), key: "/k".into() }));
    assert_eq!(of(&format!("{pair}\nvisibility = \"public\"")).visibility, Visibility::Public);
}
