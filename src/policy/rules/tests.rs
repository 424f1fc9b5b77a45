use super::*;
use crate::config::Config;

/// Rules over users and certificates, with what those need.
fn access(rules: &str) -> Access {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "").unwrap();
    without_users(&format!("[access]\nhtpasswd = {users:?}\n{rules}"))
}

/// The same where nobody has a password.
fn without_users(rules: &str) -> Access {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca");
    std::fs::write(&ca, rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()).unwrap();
    let tls = format!("[server.tls]\ncert = \"a\"\nkey = \"b\"\nclient_ca = {ca:?}\n");
    Config::parse(&format!("{tls}{rules}"), "test").unwrap().access
}

fn user(name: &str) -> Identity {
    Identity { user: Some(name.into()), ..Identity::default() }
}

fn from(address: &str) -> Identity {
    Identity { address: Some(address.parse().unwrap()), ..Identity::default() }
}

fn certificate(names: &[&str]) -> Identity {
    Identity { certificate: names.iter().map(|name| (*name).to_owned()).collect(), ..Identity::default() }
}

fn nobody() -> Identity {
    Identity::default()
}

const RULES: &str = r#"
[[access.rule]]
who = "user:eve"
deny = true
[[access.rule]]
who = ["user:ci-*", "cert:build-*", "address:10.0.0.0/8", "address:fd00::/8"]
pull = ["docker.io", "ghcr.io/acme/**"]
[[access.rule]]
who = "signed-in"
pull = ["ghcr.io/acme/public/*"]
[[access.rule]]
who = "anyone"
pull = "quay.io/**"
"#;

#[test]
fn the_first_match_decides() {
    let access = access(RULES);
    let cases = [
        (user("eve"), "quay.io/a/b", false, Some(0)),
        (user("ci-1"), "docker.io/library/alpine", true, Some(1)),
        (user("ci-1"), "ghcr.io/acme/secret/x", true, Some(1)),
        (user("ci-1"), "ghcr.io/acmee/x", false, None),
        (user("alice"), "docker.io/library/alpine", false, None),
        (user("alice"), "ghcr.io/acme/public/x", true, Some(2)),
        (user("alice"), "ghcr.io/acme/public/x/y", false, None),
        (certificate(&["node", "build-7"]), "docker.io/library/alpine", true, Some(1)),
        (certificate(&["node"]), "docker.io/library/alpine", false, None),
        (certificate(&["node"]), "ghcr.io/acme/public/x", true, Some(2)),
        (from("10.255.0.1"), "docker.io/library/alpine", true, Some(1)),
        (from("11.0.0.1"), "docker.io/library/alpine", false, None),
        (from("fdff::1"), "docker.io/library/alpine", true, Some(1)),
        (from("fe00::1"), "docker.io/library/alpine", false, None),
        (nobody(), "docker.io/library/alpine", false, None),
        (nobody(), "quay.io/a/b", true, Some(3)),
    ];
    for (identity, name, allowed, rule) in cases {
        assert_eq!(decide(&access, &identity, name), Verdict { allowed, rule }, "{identity} {name}");
    }
    let open = Access::default();
    assert!(decide(&open, &nobody(), "docker.io/x").allowed && leaves_something(&open, &nobody()));
}

#[test]
fn a_mapped_address_is_the_address_it_maps() {
    let access = access(RULES);
    let peer = super::super::Peer::new(Some("[::ffff:10.1.1.1]:7".parse().unwrap()));
    assert!(decide(&access, &Identity::of(&peer), "docker.io/library/alpine").allowed);
}

#[test]
fn who_could_do_better_by_signing_in_is_asked_to() {
    let access = access(RULES);
    for (identity, name, could) in [
        (nobody(), "docker.io/library/alpine", true),
        (nobody(), "ghcr.io/acme/public/x", true),
        (nobody(), "mcr.microsoft.com/x", false),
        (from("11.0.0.1"), "docker.io/library/alpine", true),
        // Who has signed in already hears a plain no.
        (user("alice"), "docker.io/library/alpine", false),
        // A certificate is no user: a user may have more.
        (certificate(&["node"]), "docker.io/library/alpine", true),
    ] {
        assert_eq!(could_sign_in(&access, &identity, name), could, "{identity} {name}");
    }
    let nobodys = without_users(&RULES.replace("\"user:eve\"", "\"anyone\"").replace("\"user:ci-*\", ", ""));
    assert!(!could_sign_in(&nobodys, &nobody(), "docker.io/library/alpine"));
    let closed = self::access(
        "[[access.rule]]\nwho = \"anyone\"\npull = \"docker.io\"\ndeny = true\n[[access.rule]]\nwho = \"signed-in\"\n",
    );
    assert!(!could_sign_in(&closed, &nobody(), "docker.io/x"), "a denial of all comes first");
    assert!(could_sign_in(&closed, &nobody(), "quay.io/x"));
    let banned = self::access(
        "[[access.rule]]\nwho = \"signed-in\"\npull = \"docker.io\"\ndeny = true\n[[access.rule]]\nwho = \"user:a\"\n",
    );
    assert!(!could_sign_in(&banned, &nobody(), "docker.io/x"));
}

#[test]
fn something_is_left_or_nothing() {
    let access = access(RULES);
    assert!(leaves_something(&access, &nobody()));
    assert!(!leaves_something(&access, &user("eve")));
    let private = self::access("[[access.rule]]\nwho = [\"signed-in\", \"address:10.0.0.0/8\"]\n");
    for (identity, left) in [(nobody(), false), (from("10.0.0.1"), true), (user("a"), true), (certificate(&["n"]), true)] {
        assert_eq!(leaves_something(&private, &identity), left, "{identity}");
    }
    let all_but =
        self::access("[[access.rule]]\nwho = \"anyone\"\npull = \"docker.io\"\ndeny = true\n[[access.rule]]\nwho = \"anyone\"\n");
    assert!(leaves_something(&all_but, &nobody()));
}
