use super::*;

/// `secret` at cost 4.
const HASH: &str = "$2y$04$abcdefghijklmnopqrstuuNZt1Eh1SxVFUNKpAkEFzUqUmSBpjkBS";

fn parse(text: &str) -> Result<Htpasswd, String> {
    Htpasswd::parse(Path::new("/etc/users"), text)
}

#[test]
fn a_password_file() {
    let file = parse(&format!("# who\n\nalice:{HASH}\nbob:{}\r\ncarol:{}\n", HASH.replace("2y", "2a"), HASH.replace("2y", "2b")))
        .unwrap();
    assert_eq!((file.len(), file.cost()), (3, 4));
    assert_eq!(file.hash("alice").map(Secret::expose), Some(HASH));
    assert_eq!(file.hash("bob").map(|hash| hash.expose().len()), Some(60), "without the end of its line");
    assert!(file.hash("dave").is_none() && file.hash("").is_none());
    assert!(!format!("{file:?}").contains(&HASH[10..]), "{file:?}");
    assert!(parse("").unwrap().is_empty());
}

#[test]
fn a_bad_line_is_named_and_not_repeated() {
    for (line, what) in [
        ("alice", "expected USER:HASH"),
        (":$2y$", "this is no user name"),
        ("a\u{7}b:x", "this is no user name"),
        ("alice:hunter2", "the password of \"alice\" is not hashed by bcrypt; write it with: htpasswd -B /etc/users alice"),
        ("alice:$apr1$x$hunter2", "is not hashed by bcrypt"),
        ("alice:{SHA}hunter2", "is not hashed by bcrypt"),
        (&format!("alice:{}", HASH.replace("2y", "2x")), "is not hashed by bcrypt"),
        (&format!("alice:{}", &HASH[..59]), "is not hashed by bcrypt"),
        (&format!("alice:{}", HASH.replace("$04$", "$31$")), "cost 31 takes minutes"),
        (&format!("bob:{HASH}"), "\"bob\" is here twice"),
    ] {
        let error = parse(&format!("bob:{HASH}\n{line}\n")).unwrap_err();
        assert!(error.starts_with("/etc/users:2: ") && error.contains(what), "{line}: {error}");
        assert!(!error.contains("hunter2") && !error.contains(&HASH[10..]), "{error}");
    }
    assert!(Htpasswd::read(Path::new("/nowhere/users")).unwrap_err().starts_with("cannot read /nowhere/users: "));
}

#[test]
fn who() {
    for (text, shown) in [
        ("anyone", "anyone"),
        ("signed-in", "signed-in"),
        ("user:alice", "user:alice"),
        ("user:ci-*", "user:ci-*"),
        ("cert:spiffe://site/**", "cert:spiffe://site/**"),
        ("address:10.0.0.0/8", "address:10.0.0.0/8"),
        ("address:10.1.2.3/8", "address:10.0.0.0/8"),
        ("address:192.0.2.7", "address:192.0.2.7/32"),
        ("address:fd00::/8", "address:fd00::/8"),
        ("address:fd00::1", "address:fd00::1/128"),
    ] {
        assert_eq!(Who::text(text).unwrap().to_string(), shown);
    }
    for bad in
        ["", "Anyone", "alice", "user:", "cert:", "user:[", "address:", "address:10.0.0.0/33", "address:host", "group:x", "*"]
    {
        assert!(Who::text(bad).is_err(), "{bad}");
    }
}

#[test]
fn only_loopback_is_local() {
    for (address, local) in [
        ("127.0.0.1:1", true),
        ("127.9.9.9:1", true),
        ("[::1]:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("0.0.0.0:1", false),
        ("[::]:1", false),
        ("10.0.0.1:1", false),
        ("[fe80::1]:1", false),
        ("169.254.1.1:1", false),
    ] {
        assert_eq!(is_local(address.parse().unwrap()), local, "{address}");
    }
}

#[test]
fn an_open_mirror_is_a_choice() {
    let exposed = |text: &str| Config::parse(text, "test").unwrap().check_exposure().map_err(|error| error.to_string());
    assert!(exposed("").is_ok());
    assert!(exposed("server.listen = [\"127.0.0.1:5000\", \"[::1]:5000\"]").is_ok());
    let error = exposed("server.listen = [\"127.0.0.1:5000\", \"0.0.0.0:5000\"]").unwrap_err();
    for word in ["server.listen", "0.0.0.0:5000", "[[access.rule]]", "open = true", "--open", "127.0.0.1"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(exposed("server.listen = \"0.0.0.0:5000\"\n[access]\ntoken_lifetime = \"5m\"").is_err());
    assert!(exposed("server.listen = \"0.0.0.0:5000\"\n[access]\nopen = true").is_ok());
    assert!(exposed("server.listen = \"0.0.0.0:5000\"\n[[access.rule]]\nwho = \"address:10.0.0.0/8\"").is_ok());
}

#[test]
fn what_credentials_can_read_is_not_opened_by_accident() {
    let exposed = |listen: &str, access: &str, visibility: &str| {
        let upstream = "[upstream.\"ghcr.io\"]\ncredentials = { username = \"u\", password = \"p\" }";
        let text = format!("server.listen = \"{listen}\"\n{access}\n{upstream}\n{visibility}");
        Config::parse(&text, "test").unwrap().check_exposure().map_err(|error| error.to_string())
    };
    let (open, rule) = ("[access]\nopen = true", "[[access.rule]]\nwho = \"anyone\"");
    let error = exposed("0.0.0.0:5000", open, "").unwrap_err();
    for word in ["upstream.\"ghcr.io\": ", "0.0.0.0:5000", "[[access.rule]]", "visibility = \"public\""] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(exposed("0.0.0.0:5000", open, "visibility = \"operator\"").is_err());
    for visibility in ["visibility = \"public\"", "visibility = \"caller\""] {
        assert_eq!(exposed("0.0.0.0:5000", open, visibility), Ok(()));
    }
    assert_eq!(exposed("127.0.0.1:5000", open, ""), Ok(()), "only this machine");
    assert_eq!(exposed("0.0.0.0:5000", rule, ""), Ok(()), "rules say who");
}

#[test]
fn what_does_not_go_together_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let users = file("users", &format!("alice:{HASH}\n"));
    let (bad, key, short) = (file("bad", "alice:plain\n"), file("key", &"k".repeat(32)), file("short", "k"));
    let rule = "[[access.rule]]\nwho = [\"user:alice\", \"signed-in\"]\npull = [\"docker.io\", \"ghcr.io/acme/**\"]\n";
    let good = format!("[access]\nhtpasswd = {users:?}\ntoken_key_file = {key:?}\nrequests_per_second = 5\n{rule}");
    let access = Config::parse(&good, "test").unwrap().access;
    assert_eq!(access.rules[0].pull.patterns(), ["docker.io/**", "ghcr.io/acme/**"]);
    assert_eq!(access.pace, Some(Pace { per_second: 5, burst: 200 }));
    for (text, expected) in [
        (
            format!("[access]\nopen = true\n{}", rule.replace("\"user:alice\", ", "")),
            "test:2:8: access.open: everybody may pull everything",
        ),
        (format!("[access]\nhtpasswd = {users:?}"), "access.htpasswd: passwords alone refuse nobody"),
        (format!("[access]\nhtpasswd = {bad:?}\n{rule}"), "bad:1: the password of \"alice\" is not hashed by bcrypt"),
        (rule.to_owned(), "access.rule: a rule is for users, and there are none"),
        ("[[access.rule]]\npull = \"**\"".to_owned(), "a rule needs `who`"),
        (
            "[[access.rule]]\nwho = \"alice\"".to_owned(),
            "test:2:7: access.rule.who: \"alice\" is not \"anyone\", \"signed-in\", \"user:NAME\"",
        ),
        ("[[access.rule]]\nwho = \"anyone\"\npull = []".to_owned(), "`pull` names nothing"),
        ("[[access.rule]]\nwho = \"anyone\"\nallow = true".to_owned(), "unknown field `allow`"),
        ("[access]\nburst = 5".to_owned(), "access.burst: it bounds nothing without requests_per_second"),
        ("[access]\ntoken_lifetime = \"10s\"".to_owned(), "\"1m\" at least"),
        (format!("[access]\ntoken_key_file = {short:?}"), "holds less than 32 characters"),
        ("[access]\ntoken_url = \"mirror/token\"".to_owned(), "it begins with https:// or http://"),
        ("[access]\nhtpaswd = \"x\"".to_owned(), "did you mean \"htpasswd\"?"),
    ] {
        let error = Config::parse(&text, "test").unwrap_err().to_string();
        assert!(error.contains(expected), "{text}\n{error}");
    }
}
