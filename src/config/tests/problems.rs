//! What is said of a configuration that is wrong: where, what, and no secret.

use super::*;

#[test]
fn unknown_keys_are_named_with_their_place_and_a_guess() {
    assert_eq!(
        wrong("[upstream.\"ghcr.io\"]\nstal_timeout = \"5s\"\n"),
        "t.toml:2:1: upstream.\"ghcr.io\".stal_timeout: unknown key; did you mean \"stall_timeout\"?"
    );
    assert_eq!(
        wrong("[server]\n  Listen = \"127.0.0.1:5000\"\n"),
        "t.toml:2:3: server.Listen: unknown key; did you mean \"listen\"?"
    );
    assert_eq!(wrong("[cache]\nmax-size = 3\n"), "t.toml:2:1: cache.max-size: unknown key; did you mean \"max_size\"?");
    assert_eq!(
        wrong("[server]\nsecret = true\n"),
        "t.toml:2:1: server.secret: unknown key; the keys of [server] are listen, socket_mode, tls, http2, default_upstream, \
         max_connections, max_connections_per_client, handshake_timeout, header_timeout, write_timeout, shutdown_timeout"
    );
    assert_eq!(
        wrong("x = 1\n"),
        "t.toml:1:1: x: unknown key; the tables are server, access, admin, cache, freshness, upstream, prefetch, import, fill, log"
    );
    assert_eq!(
        wrong("[upstream.\"a.example\"]\ncredentials = { user = \"x\", password = \"y\" }\n"),
        "t.toml:2:17: upstream.\"a.example\".credentials.user: unknown key; the keys of \
         [upstream.\"a.example\".credentials] are prefix, username, password, password_file, docker_config, helper, source, key_file"
    );
}

#[test]
fn likely_mistakes_get_their_own_hint() {
    assert_eq!(
        wrong("[upstream.registry.k8s.io]\nurl = \"https://x.example\"\n"),
        "t.toml:1:11: upstream.registry: an upstream is named by its host as images spell it, with a dot or a port in it, as in \
         registry.example:5000\n\
         t.toml:1:20: upstream.registry.k8s: unknown key; a name with dots needs quotes: [upstream.\"registry.k8s.io\"]"
    );
    assert_eq!(
        wrong("[upstream.\"ghcr.io\"]\nfresh_for = \"1m\"\n"),
        "t.toml:2:1: upstream.\"ghcr.io\".fresh_for: unknown key; it belongs under [upstream.\"ghcr.io\".freshness]"
    );
    assert_eq!(
        wrong("[cache]\nmemory = 256MiB\n"),
        "t.toml:2:10: cache.memory: string values must be quoted, expected literal string; \
         sizes and times are text, as in \"50GiB\" and \"30s\""
    );
    assert_eq!(wrong("[cache]\nmemory = 1\nmemory = 2\n"), "t.toml:3:1: memory is given twice");
    assert_eq!(
        wrong("server.listen = \":5000\"\n"),
        "t.toml:1:17: server.listen: \":5000\" is not an IP address and port such as \"127.0.0.1:5000\", \"plain:\" before one, \
         \"unix:PATH\", \"systemd\" or \"systemd:NAME\": for every address of this machine write \"0.0.0.0:5000\""
    );
    assert_eq!(wrong("[[fill]]\nabandoned = \"abort\"\n"), "t.toml:1:1: fill: invalid type: array, expected a table: [fill]");
    assert_eq!(wrong("cache = [\"x\"]\n"), "t.toml:1:9: cache: invalid type: array, expected a table: [cache]");
}

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_text() {
    let text = r#"
[log]
level = "verbose"
format = "jsonn"
[upstream."ghcr.io"]
url = ["https://ghcr.io", "ghcr.io"]
hosts = "https://ghcr.io"
stall_timeout = "0s"
response_timeout = 15
enabled = "no"
allow = ["a["]
[upstream."Ghcr.io"]
[cache]
max_size = "80%%"
min_free = -1
memory = "1 furlong"
dir = { path = "x" }
[freshness]
immutable_tags = ["("]
[server]
max_connections = 0
defaultupstream = "ghcr.io"
"#;
    let expected = r#"t.toml:3:9: log.level: "verbose" is not a level (off, error, warn, info, debug, trace) or directives such as "info,hyper=debug"
t.toml:4:10: log.format: "jsonn" is not "text" or "json"
t.toml:6:27: upstream."ghcr.io".url: "ghcr.io" is not the base address of a registry such as "https://registry.example": it begins with https:// or http://
t.toml:7:9: upstream."ghcr.io".hosts: "https://ghcr.io" is not a host with an optional port, such as "registry.example:5000": leave the scheme and the path off
t.toml:8:17: upstream."ghcr.io".stall_timeout: "0s" is not a time above zero such as "1m30s"
t.toml:9:20: upstream."ghcr.io".response_timeout: invalid type: integer `15`, expected a time above zero such as "1m30s"
t.toml:10:11: upstream."ghcr.io".enabled: invalid type: string "no", expected a boolean
t.toml:11:10: upstream."ghcr.io".allow: "a[" is not a pattern of repositories such as "library/*" or "team/**": unclosed character class; missing ']'
t.toml:12:11: upstream."Ghcr.io": an upstream is named by its host as images spell it, with a dot or a port in it, as in registry.example:5000
t.toml:14:12: cache.max_size: "80%%" is not a size such as "50GiB" or a share of the file system such as "80%": '%' comes after a number
t.toml:15:12: cache.min_free: -1 is not a size such as "50GiB" or a share of the file system such as "80%"
t.toml:16:10: cache.memory: "1 furlong" is not a size such as "256MiB": the units are B, KiB, MiB, GiB, TiB (powers of 1024) and kB, MB, GB, TB (powers of 1000)
t.toml:17:7: cache.dir: invalid type: map, expected the path of a file or folder
t.toml:19:19: freshness.immutable_tags: "(" is not a regular expression such as '^v[0-9.]+$': unclosed group
t.toml:21:19: server.max_connections: 0 is not a whole number from 1 to 1000000
t.toml:22:1: server.defaultupstream: unknown key; did you mean "default_upstream"?"#;
    assert_eq!(wrong(text), expected);
}

#[test]
fn what_concerns_several_keys_is_told_at_once_too() {
    let text = r#"
[server]
listen = ["127.0.0.1:5000", "127.0.0.1:5001"]
default_upstream = "quay.io"
[cache]
max_size = 0
min_free = "100%"
[upstream."quay.io"]
enabled = false
[upstream."a.example"]
url = "http://localhost:5000"
hosts = ["ghcr.io"]
ca = "/nonexistent/ca.pem"
credentials = { username = "a" }
[upstream."b.example"]
url = []
"#;
    let expected = r#"t.toml:3:10: server.listen: 127.0.0.1:5001 is both in server.listen and admin.listen; the admin interface needs an address of its own, or "off"
t.toml:4:20: server.default_upstream: "quay.io" is the default upstream, and is not enabled; there are a.example, b.example, docker.io, gcr.io, ghcr.io, mcr.microsoft.com, nvcr.io, public.ecr.aws, registry.k8s.io
t.toml:6:12: cache.max_size: a cache without room cannot work; give it a size such as "50GiB"
t.toml:7:12: cache.min_free: 100% leaves the cache no room; give it a share such as "5%"
t.toml:11:7: upstream."a.example".url: http://localhost:5000/ is where this mirror itself listens (server.listen)
t.toml:12:9: upstream."a.example".hosts: "ghcr.io" is in the hosts of a.example and of ghcr.io; it can select only one upstream
t.toml:13:6: upstream."a.example".ca: cannot read /nonexistent/ca.pem: No such file or directory (os error 2)
t.toml:14:1: upstream."a.example".credentials: needs either username with one of password and password_file, or docker_config alone, or helper alone, or source (with key_file, for "gcp")
t.toml:16:7: upstream."b.example".url: the list is empty; name at least one address"#;
    assert_eq!(wrong(text), expected);
}

/// "forever" is a time where it means something, and a mistake with its place where it would switch a limit off.
#[test]
fn forever_is_no_time_but_of_what_may_last_for_ever() {
    for (table, key) in [
        ("[server]", "shutdown_timeout"),
        ("[server]", "write_timeout"),
        ("[cache]", "verify_every"),
        ("[fill]", "abandon_after"),
        ("[freshness]", "negative"),
        ("[[freshness.rule]]", "negative"),
        ("[upstream.\"ghcr.io\".freshness]", "negative"),
    ] {
        let tags = if table.starts_with("[[") { "tags = \"x\"" } else { "" };
        let error = wrong(&format!("{table}\n{tags}\n{key} = \"forever\"\n"));
        let says = |what: &str| error.contains(what);
        let place = format!("t.toml:3:{}: {}.{key}: ", key.len() + 4, table.trim_matches(['[', ']']));
        assert!(error.starts_with(&place) && says("\"forever\" is not a time") && says("stale_if_error"), "{error}");
    }
    let keys = ["fresh_for", "revalidate_within", "stale_while_revalidate", "stale_if_error"];
    let lines: String = keys.iter().map(|key| format!("{key} = \"forever\"\n")).collect();
    let of = |text: &str| good(text).freshness_of("docker.io").terms("library/alpine", "v1");
    for terms in [of(&format!("[freshness]\n{lines}")), of(&format!("[[freshness.rule]]\ntags = \"v1\"\n{lines}"))] {
        let times = [terms.fresh_for, terms.revalidate_within, terms.stale_while_revalidate, terms.stale_if_error];
        assert_eq!(times, [Duration::MAX; 4]);
    }
}

#[test]
fn no_error_repeats_a_secret() {
    for text in [
        "[upstream.\"a.io\"]\ncredentials = \"hunter2\"\n",
        "[upstream.\"a.io\"]\ncredentials = hunter2\n",
        "[upstream.\"a.io\"]\ncredentials = [\"hunter2\"]\n",
        "[upstream.\"a.io\"]\ncredentials = { username = \"x\", password = [\"hunter2\"] }\n",
        "[upstream.\"a.io\"]\ncredentials = { username = \"x\", password = { a = \"hunter2\" } }\n",
        "[upstream.\"a.io\"]\ncredentials = { username = \"x\", password = hunter2 }\n",
        "[upstream.\"a.io\"]\ncredentials = { username = \"x\", password = \"hunter2 }\n",
        "[upstream.\"a.io\"]\ncredentials = { username = \"x\", pasword = \"hunter2\" }\n",
        "[upstream.\"a.io\"]\ncredentials = { username = \"x\", password = \"hunter2\", password_file = \"/x\" }\n",
        "[upstream.\"a.io\"]\npassword = \"hunter2\"\n",
        "[upstream.\"a.io\"]\nurl = \"https://x:hunter2@a\"\n",
        "[upstream.\"a.io\"]\nurl = \"https://x:hunter2@a b\"\n",
        "[upstream.\"a.io\"]\nhosts = \"x:hunter2@a\"\n",
        "[upstream]\n\"a.io\" = \"hunter2\"\n",
    ] {
        let error = wrong(text);
        assert!(error.starts_with("t.toml:2:"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for number in ["12345", "123.5", "[12345]"] {
        let error = wrong(&format!("[upstream.\"a.io\"]\ncredentials = {{ username = \"x\", password = {number} }}\n"));
        assert!(!error.contains("123"), "{error}");
    }
    let config = good("[upstream.\"a.io\"]\ncredentials = { username = \"x\", password = \"hunter2\" }\n");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn an_unreadable_file_is_named() {
    let error = Config::load(Some("/nonexistent/roadstead.toml".as_ref())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the configuration file /nonexistent/roadstead.toml: No such file or directory (os error 2)"
    );
}

proptest::proptest! {
    /// Whatever the text is, there is an answer, and every place named is in the text.
    #[test]
    fn no_text_confuses_the_loader(text in "(\\[?\\[?(server|cache|upstream|fill)?(\\.\"a\\.b\"|\\.x)?\\]?\n|(listen|max_size|url|é) ?=? ?(\"5%\"|5|\\[|\\{|é|\"|\n|'')\n?){0,8}") {
        if let Err(ConfigError::Invalid(problems)) = Config::parse_with(&text, "t.toml", &environment) {
            proptest::prop_assert!(!problems.is_empty());
            for problem in problems {
                let line = text.split('\n').nth(problem.line - 1);
                proptest::prop_assert!(line.is_some_and(|line| problem.column <= line.chars().count() + 1), "{}", problem);
            }
        }
    }
}
