//! config.example.toml is the default, shows every key, and what it only shows would be accepted.

use super::super::raw::known_keys;
use super::*;

const EXAMPLE: &str = include_str!("../../../config.example.toml");

#[test]
fn the_example_is_the_default() {
    assert_eq!(good(EXAMPLE), Config::default());
}

/// The example with its `#key = …` and `#[table]` lines made active; of the forms of one key the last holds.
fn example_in_full() -> toml::Table {
    let mut full = String::new();
    let mut seen = Vec::new();
    for line in EXAMPLE.lines().rev() {
        let line = match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        };
        let of_many_forms = ["credentials", "tls"].into_iter().find(|key| line.starts_with(&format!("{key} =")));
        if !of_many_forms.is_some_and(|key| seen.contains(&key)) {
            full.insert_str(0, &format!("{line}\n"));
        }
        seen.extend(of_many_forms);
        if line.starts_with('[') {
            seen.clear();
        }
    }
    full.parse().unwrap()
}

#[test]
fn the_example_shows_every_key() {
    let full = example_in_full();
    let shown = |path: &[&str], key: &str| {
        let table = path.iter().try_fold(&full, |table, name| table.get(*name)?.as_table());
        table.is_some_and(|table| table.contains_key(key))
    };
    for path in [
        &[][..],
        &["server"],
        &["server", "tls"],
        &["access"],
        &["admin"],
        &["cache"],
        &["freshness"],
        &["upstream", "docker.io"],
        &["fill"],
        &["log"],
    ] {
        let owned: Vec<_> = path.iter().map(|name| (*name).to_owned()).collect();
        let keys = known_keys(&owned).unwrap();
        assert!(!keys.is_empty());
        for key in keys {
            assert!(shown(path, key), "config.example.toml does not show {path:?} {key}");
        }
    }
    let forms: Vec<_> = EXAMPLE.lines().filter(|line| line.starts_with("#credentials = ")).collect();
    for key in known_keys(&["upstream".into(), "x".into(), "credentials".into()]).unwrap() {
        assert!(forms.iter().any(|form| form.contains(&format!("{key} = "))), "no form of credentials shows {key}");
    }
}

/// Every commented setting of the example is one that would be accepted, given the files it names.
#[test]
fn the_commented_settings_of_the_example_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let key = rcgen::generate_simple_self_signed(["registry.example".to_owned()]).unwrap();
    let files = [
        ("/run/secrets/hub", file("hub", "s3cret\n")),
        ("/run/secrets/roadstead-admin", file("admin", "0123456789abcdef\n")),
        ("/run/secrets/gcp.json", file("gcp.json", "{}")),
        ("/etc/roadstead/docker.json", file("docker.json", "{}")),
        ("/etc/ssl/registry-ca.pem", file("ca.pem", &key.cert.pem())),
        ("/etc/roadstead/htpasswd", file("users", "")),
        ("\"users\"", format!("{:?}", folder.path().join("users"))),
        ("/etc/roadstead/token-key", file("key", &"k".repeat(32))),
        ("\"docker-config\"", format!("{{ docker_config = {:?} }}", folder.path().join("docker.json"))),
    ];
    let commented = EXAMPLE.lines().filter_map(|line| line.strip_prefix('#'));
    let commented = commented.filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    // Keys of rules mean something only together; they are tried below.
    let rules = ["tags", "repositories", "fresh_for = \"forever\"", "fresh_for = \"0s\"", "no_cache"];
    let mut count = 0;
    for line in commented.filter(|line| !rules.iter().any(|rule| line.starts_with(rule))) {
        let line = files.iter().fold(line.to_owned(), |line, (named, real)| line.replace(named, real));
        let (table, without) = match line.split(' ').next() {
            Some("fresh_for") => ("[freshness]", "[freshness]"),
            Some("images") => ("[[prefetch]]", ""),
            Some("platforms" | "with_referrers" | "every") => ("[[prefetch]]\nimages = \"x\"", "[[prefetch]]\nimages = \"x\""),
            Some("token" | "token_file") => ("[admin]", "[admin]"),
            Some("verify_key") => ("[import]", "[import]"),
            Some("tls") if line.contains("admin.crt") => ("[admin]", "[admin]"),
            Some("tls") => ("[server]", "[server]"),
            Some("htpasswd") => ("[[access.rule]]\nwho = \"anyone\"\n[access]", "[[access.rule]]\nwho = \"anyone\""),
            Some("token_key_file" | "token_url" | "requests_per_second" | "max_fills_per_client") => ("[access]", "[access]"),
            Some("burst") => ("[access]\nrequests_per_second = 9", "[access]\nrequests_per_second = 9\nburst = 1"),
            Some("who") => (
                "[server]\ntls = { cert = \"a\", key = \"b\", client_ca = \"/etc/ssl/registry-ca.pem\" }\n[access]\nhtpasswd = \"users\"\n[[access.rule]]",
                "[server]",
            ),
            Some("pull" | "deny") => ("[[access.rule]]\nwho = \"anyone\"", "[[access.rule]]\nwho = \"anyone\""),
            Some("client_cert") => ("[upstream.\"x.example\"]\nclient_key = \"/k\"", "[upstream.\"x.example\"]"),
            Some("client_key") => ("[upstream.\"x.example\"]\nclient_cert = \"/c\"", "[upstream.\"x.example\"]"),
            _ if line.contains("gcp") => ("[upstream.\"gcr.io\"]", "[upstream.\"gcr.io\"]"),
            _ => ("[upstream.\"x.example\"]", "[upstream.\"x.example\"]"),
        };
        let table = files.iter().fold(table.to_owned(), |table, (named, real)| table.replace(named, real));
        let config = good(&format!("{table}\n{line}\n"));
        assert_ne!(config, good(&format!("{without}\n")), "{line} changes nothing");
        count += 1;
    }
    assert!(count >= 7, "{count}");
}
