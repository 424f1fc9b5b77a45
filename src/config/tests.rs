use super::raw::known_keys;
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

const EXAMPLE: &str = include_str!("../../config.example.toml");

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
        "t.toml:1:20: upstream.registry.k8s: unknown key; a name with dots needs quotes: [upstream.\"registry.k8s.io\"]"
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
t.toml:12:11: upstream."Ghcr.io": an upstream is named by its host, with a port where it has one, as in registry.example:5000
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

#[test]
fn no_error_repeats_a_secret() {
    for text in [
        "[upstream.\"a\"]\ncredentials = \"hunter2\"\n",
        "[upstream.\"a\"]\ncredentials = hunter2\n",
        "[upstream.\"a\"]\ncredentials = [\"hunter2\"]\n",
        "[upstream.\"a\"]\ncredentials = { username = \"x\", password = [\"hunter2\"] }\n",
        "[upstream.\"a\"]\ncredentials = { username = \"x\", password = { a = \"hunter2\" } }\n",
        "[upstream.\"a\"]\ncredentials = { username = \"x\", password = hunter2 }\n",
        "[upstream.\"a\"]\ncredentials = { username = \"x\", password = \"hunter2 }\n",
        "[upstream.\"a\"]\ncredentials = { username = \"x\", pasword = \"hunter2\" }\n",
        "[upstream.\"a\"]\ncredentials = { username = \"x\", password = \"hunter2\", password_file = \"/x\" }\n",
        "[upstream.\"a\"]\npassword = \"hunter2\"\n",
        "[upstream.\"a\"]\nurl = \"https://x:hunter2@a\"\n",
        "[upstream.\"a\"]\nurl = \"https://x:hunter2@a b\"\n",
        "[upstream.\"a\"]\nhosts = \"x:hunter2@a\"\n",
        "[upstream]\na = \"hunter2\"\n",
    ] {
        let error = wrong(text);
        assert!(error.starts_with("t.toml:2:"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for number in ["12345", "123.5", "[12345]"] {
        let error = wrong(&format!("[upstream.\"a\"]\ncredentials = {{ username = \"x\", password = {number} }}\n"));
        assert!(!error.contains("123"), "{error}");
    }
    let config = good("[upstream.\"a\"]\ncredentials = { username = \"x\", password = \"hunter2\" }\n");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn i9_cloud_credentials_are_refused_for_other_hosts() {
    for (kind, right) in [
        ("ecr", "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com"),
        ("ecr", "https://public.ecr.aws"),
        ("gcp", "https://europe-west1-docker.pkg.dev"),
        ("acr", "https://team.azurecr.io"),
    ] {
        let config = |url: &str| format!("[upstream.\"a.example\"]\nurl = \"{url}\"\ncredentials = \"{kind}\"\n");
        good(&config(right));
        let plain = right.replace("https", "http");
        for url in ["https://evil.example", &plain, &format!("{right}:8443"), &format!("{right}.evil.example")] {
            let error = wrong(&config(url));
            assert!(
                error.starts_with("t.toml:3:15: upstream.\"a.example\".credentials: credentials = \"") && error.contains(url),
                "{error}"
            );
        }
        let error = wrong(&format!("[upstream.\"a\"]\ncredentials = [{{ prefix = \"x\", source = \"{kind}\" }}]\n"));
        assert!(error.contains("a token of your cloud"), "{error}");
    }
}

#[test]
fn several_credentials() {
    let config = good(
        "[upstream.\"a\"]\ncredentials = [{ prefix = \"team/\", helper = \"x\" }, { username = \"u\", password = \"hunter2\" }]\n",
    );
    let Credentials::ByRepository(list) = &config.upstreams[&"a".parse().unwrap()].credentials else { panic!() };
    assert_eq!((list[0].prefix.as_str(), list[1].prefix.as_str()), ("team", ""));
    assert_eq!(list[0].credentials, Credentials::Helper("x".into()));
    for (text, expected) in [
        ("[{ helper = \"x\" }, { helper = \"y\" }]", "two entries have no prefix"),
        ("{ prefix = \"x\", helper = \"x\" }", "prefix belongs into a list"),
        ("[{ prefix = \"UPPER\", helper = \"x\" }]", "the beginning of repository names"),
        ("{ helper = \"../x\" }", "the NAME of a program"),
        ("{ source = \"aws\" }", "\"ecr\", \"gcp\" or \"acr\""),
        ("{ source = \"ecr\", key_file = \"/x\" }", "needs either"),
        ("{ helper = \"x\", username = \"y\" }", "needs either"),
        ("[\"ecr\"]", "or a list of tables"),
        ("[{ pasword = \"hunter2\" }]", "pasword"),
    ] {
        let error = wrong(&format!("[upstream.\"a\"]\ncredentials = {text}\n"));
        assert!(error.contains(expected) && !error.contains("hunter2"), "{text}: {error}");
    }
}

#[test]
fn secrets_come_from_text_environment_or_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "from a file \r\n").unwrap();
    let credentials = |keys: &str| {
        let text = format!("[upstream.\"ghcr.io\"]\ncredentials = {{ username = \"someone\", {keys} }}\n");
        parse(&text).map(|config| upstream(&config, "ghcr.io").credentials.clone())
    };
    let password = |keys: &str| match credentials(keys) {
        Ok(Credentials::Password { username, password }) => {
            assert_eq!(username, "someone");
            password.expose().to_owned()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(password("password = \"plain\""), "plain");
    assert_eq!(password("password = \"env:HUB_TOKEN\""), "s3cret");
    assert_eq!(password(&format!("password_file = {file:?}")), "from a file ");
    let at = "t.toml:2:50: upstream.\"ghcr.io\".credentials";
    assert_eq!(
        credentials("password = \"env:NOWHERE\"").unwrap_err(),
        format!("{at}.password: the environment variable \"NOWHERE\" is not set, or not UTF-8")
    );
    assert_eq!(credentials("password = \"env:EMPTY\"").unwrap_err(), format!("{at}.password: it is empty"));
    assert_eq!(
        credentials("password_file = \"/nonexistent\"").unwrap_err(),
        "t.toml:2:55: upstream.\"ghcr.io\".credentials.password_file: \
         cannot read /nonexistent: No such file or directory (os error 2)"
    );
}

#[test]
fn docker_config_is_where_the_docker_client_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir_all(home.join(".docker")).unwrap();
    for file in [home.join(".docker/config.json"), folder.path().join("config.json")] {
        std::fs::write(file, "{}").unwrap();
    }
    let text = "[upstream.\"ghcr.io\"]\ncredentials = \"docker-config\"\n";
    let found = |variables: &[(&str, &std::path::Path)]| {
        let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.display().to_string());
        Config::parse_with(text, "t.toml", &env)
            .map(|config| upstream(&config, "ghcr.io").credentials.clone())
            .map_err(|error| error.to_string())
    };
    let path = |path: PathBuf| Ok(Credentials::DockerConfig(path));
    assert_eq!(found(&[("HOME", &home)]), path(home.join(".docker/config.json")));
    assert_eq!(found(&[("HOME", &home), ("DOCKER_CONFIG", folder.path())]), path(folder.path().join("config.json")));
    assert!(found(&[]).unwrap_err().contains("neither DOCKER_CONFIG nor HOME is set"));
    assert!(found(&[("HOME", folder.path())]).unwrap_err().contains("cannot read "));
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
fn every_kind_of_place_to_listen() {
    let text = r#"["0.0.0.0:1", "plain:[::1]:2", "unix:/run/x.sock", "systemd", "systemd:web"]"#;
    let config = good(&format!("[server]\nlisten = {text}\nsocket_mode = \"0600\"\n[admin]\nlisten = \"unix:/run/y.sock\"\n"));
    let expected = [
        Listen::Tcp("0.0.0.0:1".parse().unwrap()),
        Listen::Plain("[::1]:2".parse().unwrap()),
        Listen::Unix("/run/x.sock".into()),
        Listen::Systemd(None),
        Listen::Systemd(Some("web".to_owned())),
    ];
    assert_eq!(config.server.listen, expected);
    assert_eq!(config.server.socket_mode, 0o600);
    assert_eq!(config.admin.listen, Some(Listen::Unix("/run/y.sock".into())));
    for listen in expected {
        assert_eq!(listen.to_string().parse(), Ok(listen));
    }
    for (text, reason) in [
        ("unix:", "unix: is followed by a path"),
        ("systemd:", "systemd: is followed by the name of a socket"),
        ("plain:localhost:1", "write \"127.0.0.1:1\""),
        ("x", "is not an IP address"),
    ] {
        let error = wrong(&format!("[server]\nlisten = {text:?}\n"));
        assert!(error.contains(reason), "{error}");
    }
    let twice = wrong("[server]\nlisten = \"unix:/run/x.sock\"\n[admin]\nlisten = \"unix:/run/x.sock\"\n");
    assert!(twice.contains("is both in server.listen and admin.listen"), "{twice}");
    let plain = wrong("[server]\nlisten = [\"127.0.0.1:7\", \"plain:127.0.0.1:7\"]\n");
    assert!(plain.contains("plain:127.0.0.1:7 is named twice"), "{plain}");
    for mode in ["\"0999\"", "\"7777\"", "660"] {
        assert!(wrong(&format!("[server]\nsocket_mode = {mode}\n")).contains("the mode of a file"), "{mode}");
    }
}

#[test]
fn tls_needs_what_belongs_together() {
    let config = good("[server.tls]\ncertificates = [{ cert = \"a\", key = \"b\" }]\nmin_version = \"1.3\"\n");
    let pair = KeyPair { cert: "a".into(), key: "b".into() };
    assert_eq!(config.server.tls, Some(Tls { certificates: vec![pair], clients: None, min_version: TlsVersion::V1_3 }));
    for (text, reason) in [
        ("{}", "TLS needs a certificate"),
        ("{ cert = \"a\" }", "cert and key belong together"),
        ("{ cert = \"a\", key = \"b\", client_auth = \"optional\" }", "client_ca, which says of whom, is missing"),
        ("{ cert = \"a\", key = \"b\", client_auth = \"perhaps\" }", "is not \"required\" or \"optional\""),
        (
            "{ cert = \"a\", key = \"b\", client_ca = \"/nonexistent/ca.pem\" }",
            "server.tls.client_ca: cannot read /nonexistent/ca.pem",
        ),
        ("{ cert = \"a\", key = \"b\", min_version = \"1.1\" }", "is not \"1.2\" or \"1.3\""),
        ("{ cert = \"a\", kee = \"b\" }", "did you mean \"key\"?"),
        ("{ certificates = [{ cert = \"a\" }] }", "missing field `key`"),
        ("\"on\"", "expected a table: [server.tls]"),
    ] {
        let error = wrong(&format!("[server]\ntls = {text}\n"));
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn an_admin_interface_for_other_machines_has_a_token() {
    let beyond =
        "set admin.token_file = \"PATH\" (or admin.token = \"env:NAME\"), or admin.tls with a client_ca, or listen on 127.0.0.1";
    for address in ["0.0.0.0:5001", "[::]:5001", "10.0.0.1:5001", "[::ffff:10.0.0.1]:5001"] {
        let problem = wrong(&format!("[admin]\nlisten = \"{address}\"\n"));
        assert!(problem.starts_with(&format!("t.toml:2:10: admin.listen: {address} can be reached")), "{problem}");
        assert!(problem.ends_with(beyond), "{problem}");
        let config = good(&format!("[admin]\nlisten = \"{address}\"\ntoken = \"env:ROADSTEAD_ADMIN_TOKEN\"\n"));
        assert_eq!(config.admin.token, Some(Secret::new("0123456789abcdef")));
    }
    for address in ["127.0.0.1:0", "127.8.8.8:1", "[::1]:5001", "[::ffff:127.0.0.1]:5001", "off"] {
        good(&format!("[admin]\nlisten = \"{address}\"\n"));
    }
    let why = "a token has at least 16 visible ASCII characters and no space; make one with: openssl rand -hex 32";
    for token in ["0123456789abcde", "env:SHORT", "0123456789abcdef gh", "0123456789abcdefé"] {
        assert_eq!(wrong(&format!("[admin]\ntoken = \"{token}\"\n")), format!("t.toml:2:9: admin.token: {why}"));
    }
    assert_eq!(
        wrong("[admin]\ntoken = \"env:NONE\"\n"),
        "t.toml:2:9: admin.token: the environment variable \"NONE\" is not set, or not UTF-8"
    );
    let both = wrong("[admin]\ntoken = \"0123456789abcdef\"\ntoken_file = \"/x\"\n");
    assert_eq!(both, "t.toml:2:9: admin.token: token and token_file are both set; one is enough");
}

#[test]
fn an_admin_interface_may_have_certificates_for_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()).unwrap();
    let admin =
        |listen: &str, more: &str| format!("[admin]\nlisten = \"{listen}\"\ntls = {{ cert = \"a\", key = \"b\"{more} }}\n");
    let with_ca = format!(", client_ca = {ca:?}");
    let config = good(&admin("0.0.0.0:5001", &with_ca));
    assert!(config.admin.wants_certificates() && config.admin.tls.is_some_and(|tls| tls.clients.unwrap().required));
    good(&admin("0.0.0.0:5001", &format!("{with_ca}, client_auth = \"optional\"")));
    let open = wrong(&admin("0.0.0.0:5001", ""));
    assert!(open.contains("admin.listen: 0.0.0.0:5001 can be reached from other machines"), "TLS alone is no lock: {open}");
    for listen in ["unix:/run/x", "plain:127.0.0.1:5001"] {
        let nobody = wrong(&admin(listen, &with_ca));
        assert!(nobody.starts_with(&format!("t.toml:3:1: admin.tls: nobody would speak it at {listen}")), "{nobody}");
    }
    let missing = wrong(&admin("127.0.0.1:5001", ", client_ca = \"/nonexistent/ca.pem\""));
    assert!(missing.contains("admin.tls.client_ca: cannot read /nonexistent/ca.pem"), "{missing}");
}

#[test]
fn rules_for_certificates_need_somebody_who_asks_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()).unwrap();
    let rule = "[[access.rule]]\nwho = [\"address:10.0.0.0/8\", \"cert:ci-*\"]\n";
    for tls in ["", "[server.tls]\ncert = \"a\"\nkey = \"b\"\n"] {
        let error = wrong(&format!("{tls}{rule}"));
        assert!(error.contains("access.rule: a rule is for client certificates, and nobody is asked for one"), "{error}");
        assert!(error.contains("client_ca = \"FILE.pem\" in server.tls"), "{error}");
    }
    good(&format!("[server.tls]\ncert = \"a\"\nkey = \"b\"\nclient_ca = {ca:?}\n{rule}"));
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
