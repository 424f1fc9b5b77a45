//! `roadstead check`: what it says of a configuration, and of what that names.

use super::{run, write};
use crate::tls::authority::{Authority, Folder};

#[test]
fn check_says_ok_and_what_it_amounts_to() {
    let (code, out, error) = run(&["check"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("ok"));
    for expected in [
        "listen               127.0.0.1:5000",
        "  on disk            at most 50.0 GiB, 5% of the file system stay free",
        "  docker.io          https://registry-1.docker.io/, anonymous, 64 downloads at once, tags fresh for 1m",
    ] {
        assert!(out.lines().any(|line| line == expected), "{expected:?} is not in\n{out}");
    }
}

#[test]
fn check_says_for_ever_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "[upstream.\"docker.io\".freshness]\nfresh_for = \"forever\"\n");
    let (code, out, error) = run(&["check", "--config", &file]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.lines().any(|line| line.contains("  docker.io  ") && line.ends_with(", tags fresh for ever")), "{out}");
}

#[test]
fn check_takes_the_example() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    let (code, out, error) = run(&["check", "--config", example]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert_eq!(out, run(&["check"]).1);
}

#[test]
fn check_shows_who_may_pull_what() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let hash = bcrypt::hash("secret", 4).unwrap();
    std::fs::write(&users, format!("alice:{hash}\nbob:{hash}\n")).unwrap();
    let rules = "[[access.rule]]\nwho = \"user:bob\"\ndeny = true\n[[access.rule]]\nwho = [\"signed-in\", \"address:10.0.0.0/8\"]\n\
        pull = [\"docker.io\", \"ghcr.io/acme/**\"]\n[upstream.\"ghcr.io\"]\ndeny = \"acme/secret\"\n";
    let file = write(folder.path(), &format!("server.listen = \"0.0.0.0:5000\"\n[access]\nhtpasswd = {users:?}\n{rules}"));
    let (code, out, error) = run(&["check", "--config", &file]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    for expected in [
        "access  the first rule that matches decides".to_owned(),
        "  1  user:bob may not pull **".to_owned(),
        "  2  signed-in, address:10.0.0.0/8 may pull docker.io/** ghcr.io/acme/**".to_owned(),
        "  else  nobody may pull anything".to_owned(),
        format!("  users  2 of {}, tokens good for 5m", users.display()),
    ] {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            expected.split_whitespace().all(|word| words.next() == Some(word)) && words.next().is_none()
        };
        assert!(out.lines().any(line), "{expected:?} is not in\n{out}");
    }
    assert!(!out.contains(&hash[7..]));
    for (who, image, code, told) in [
        ("user:alice", "alpine:3", 0, "user:alice may pull docker.io/library/alpine, by rule 2\n"),
        ("user:bob", "alpine", 1, "user:bob may not pull docker.io/library/alpine, by rule 1\n"),
        ("address:10.1.2.3", "ghcr.io/acme/app:1", 0, "address:10.1.2.3 may pull ghcr.io/acme/app, by rule 2\n"),
        (
            "user:alice",
            "ghcr.io/acme/secret",
            1,
            "user:alice may not pull ghcr.io/acme/secret, by allow and deny under [upstream.\"ghcr.io\"]\n",
        ),
        ("anyone", "alpine", 1, "anyone may not pull docker.io/library/alpine, since no rule matches\n"),
    ] {
        let (found, out, error) = run(&["check", "--config", &file, "--as", who, image]);
        assert_eq!((found, out.as_str(), error.as_str()), (Some(code), told, ""), "{who} {image}");
    }
    let (code, _, error) = run(&["check", "--config", &file, "--as", "alice", "alpine"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("user:NAME, cert:NAME, address:IP or anyone"), "{error}");
}

#[test]
fn check_shows_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "[upstream.\"ghcr.io\"]\ncredentials = { username = \"me\", password = \"hunter2\" }\n");
    let (code, out, _) = run(&["check", "-c", &file]);
    assert_eq!(code, Some(0));
    assert!(out.contains("user and password"));
    assert!(!out.contains("hunter2"));
}

/// `check` loads what the mirror would show: certificates and keys of both interfaces.
#[test]
fn check_reads_certificates_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let pair = |name: &str, ends: i32| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(ends, 1, 1);
        std::fs::write(file(&format!("{name}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    };
    pair("a", 4096);
    pair("b", 4096);
    pair("old", 2001);
    let check = |server: (&str, &str), admin: (&str, &str)| {
        let table = |section: &str, (cert, key): (&str, &str)| {
            format!("[{section}.tls]\ncert = {:?}\nkey = {:?}\n", file(cert), file(key))
        };
        let text = format!("{}{}", table("server", server), table("admin", admin));
        run(&["check", "--config", &write(folder.path(), &text)])
    };
    let good = ("a.crt", "a.key");
    let (code, out, error) = check(good, ("b.crt", "b.key"));
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with("ok\n") && out.contains(&file("b.crt")), "{out}");
    let (code, out, error) = check(("a.crt", "b.key"), ("none.crt", "b.key"));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    for what in [
        format!("server.tls.key: the key {} does not belong to the certificate {}", file("b.key"), file("a.crt")),
        format!("admin.tls.cert: {}: No such file", file("none.crt")),
    ] {
        assert!(error.contains(&what), "{what}: {error}");
    }
    let (code, _, error) = check(good, ("a.key", "a.key"));
    assert!(code == Some(1) && error.contains("admin.tls.cert") && error.contains("no certificate in PEM form"), "{error}");
    assert!(!error.contains("PRIVATE"), "{error}");
    let (code, _, error) = check(good, ("b.crt", "b.crt"));
    assert!(code == Some(1) && error.contains("admin.tls.key") && error.contains("no private key"), "{error}");
    // It starts with these, and no client is content.
    let (code, out, error) = check(("old.crt", "old.key"), good);
    assert!(code == Some(0) && out.starts_with("ok\n"), "{out}{error}");
    assert!(error.contains(&format!("warning: server.tls.cert: {}: the certificate has expired", file("old.crt"))), "{error}");
}

/// Whoever puts one thing right is not told of the next: everything is said at once, with its place.
#[test]
fn check_tells_all_that_is_wrong_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
[server]
listen = "0.0.0.0:5000"
[server.tls]
cert = "/none/1"
key = "/none/2"
[[server.tls.certificates]]
cert = "/none/3"
key = "/none/4"
[admin]
tls = { cert = "/none/5", key = "/none/6", client_ca = "/none/7" }
[cache]
max_size = 0
[import]
verify_key = "/none/8"
[upstream."r.example"]
client_cert = "/none/9"
client_key = "/none/10"
deny = ["team/app:1"]
"#;
    let file = write(folder.path(), text);
    let missing = "No such file or directory (os error 2)";
    let expected = [
        ("3:10: server.listen: other machines reach 0.0.0.0:5000, and nothing says who may pull", ""),
        ("5:8: server.tls.cert: /none/1: ", missing),
        ("6:7: server.tls.key: /none/2: ", missing),
        ("8:8: server.tls.certificates.cert: /none/3: ", missing),
        ("9:7: server.tls.certificates.key: /none/4: ", missing),
        ("11:16: admin.tls.cert: /none/5: ", missing),
        ("11:33: admin.tls.key: /none/6: ", missing),
        ("11:56: admin.tls.client_ca: cannot read /none/7: ", missing),
        ("13:12: cache.max_size: a cache without room", ""),
        ("15:14: import.verify_key: /none/8: cannot be read as a public key", ""),
        ("17:15: upstream.\"r.example\".client_cert: /none/9: ", missing),
        ("18:14: upstream.\"r.example\".client_key: /none/10: ", missing),
        ("19:9: upstream.\"r.example\".deny: \"team/app:1\" can match nothing", ""),
    ];
    let (code, out, error) = run(&["check", "--config", &file]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let lines: Vec<_> = error.lines().collect();
    for (line, (begin, end)) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("{file}:{begin}")) && line.ends_with(end), "{line}\nis not {begin}{end}");
    }
    assert_eq!(lines.len(), expected.len(), "{error}");
    // All upstreams that are somebody's, and not the first one alone.
    let open = "[server]\nlisten = \"0.0.0.0:5000\"\n[access]\nopen = true\n";
    let of = |name: &str| format!("[upstream.{name:?}]\ncredentials = {{ username = \"a\", password = \"b\" }}\n");
    let file = write(folder.path(), &format!("{open}{}{}", of("ghcr.io"), of("quay.io")));
    let (code, _, error) = run(&["check", "--config", &file]);
    assert_eq!((code, error.lines().count()), (Some(1), 2), "{error}");
    for (line, place) in error.lines().zip(["5:11: upstream.\"ghcr.io\": ", "7:11: upstream.\"quay.io\": "]) {
        assert!(line.starts_with(&format!("{file}:{place}other machines reach 0.0.0.0:5000")), "{line}");
    }
}

/// `check` reads the key that bundles must be signed with: without it every import would fail.
#[test]
fn check_reads_the_key_of_bundles() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("site.pub");
    let check = || run(&["check", "--config", &write(folder.path(), &format!("[import]\nverify_key = {key:?}\n"))]);
    let wrong = |(code, out, error): (Option<i32>, String, String)| {
        assert_eq!((code, out.as_str()), (Some(1), ""), "{error}");
        assert!(error.contains(":2:14: import.verify_key: ") && error.contains("site.pub"), "{error}");
    };
    wrong(check());
    std::fs::write(&key, "no key").unwrap();
    wrong(check());
    let public = "MCowBQYDK2VwAyEAz53RbjOCHSU5FdDGUT8+YyhoRXgfD2EdVqsRr5Ra+pU=";
    std::fs::write(&key, format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n")).unwrap();
    let (code, _, error) = check();
    assert_eq!((code, error.as_str()), (Some(0), ""));
}

/// A short name is Docker Hub's, whatever requests without an upstream mean; an upstream that is not configured is said to be none.
#[test]
fn check_reads_images_as_docker_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "server.default_upstream = \"ghcr.io\"\n");
    for (image, code, told) in [
        ("alpine:3", 0, "anyone may pull docker.io/library/alpine, as everybody may\n"),
        ("index.docker.io/team/app", 0, "anyone may pull docker.io/team/app, as everybody may\n"),
        ("ghcr.io/team/app", 0, "anyone may pull ghcr.io/team/app, as everybody may\n"),
        ("r.example/app", 1, "anyone may not pull r.example/app, since there is no [upstream.\"r.example\"]\n"),
    ] {
        let (found, out, error) = run(&["check", "--config", &file, "--as", "anyone", image]);
        assert_eq!((found, out.as_str(), error.as_str()), (Some(code), told, ""), "{image}");
    }
    let (code, _, error) = run(&["check", "--config", &file, "--online", "r.example/app:1"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("there is no upstream r.example: add [upstream.\"r.example\"]"), "{error}");
    for arguments in [&["check", "--online", "Alpine"][..], &["check", "--as", "anyone", "a:b:c"], &["prefetch", "a@sha256:1"]] {
        let (code, out, error) = run(arguments);
        assert_eq!((code, out.as_str()), (Some(64), ""), "{error}");
        assert!(error.contains(" is no image: ") && error.contains("write one as alpine:3.20"), "{error}");
    }
}

/// What an entry of `[[prefetch]]` cannot mean is wrong before the mirror runs.
#[test]
fn check_reads_what_is_to_be_kept_warm() {
    let folder = tempfile::tempdir().unwrap();
    let check = |entry: &str| run(&["check", "--config", &write(folder.path(), &format!("[[prefetch]]\n{entry}\n"))]);
    assert_eq!(check("images = [\"alpine\", \"registry.k8s.io/pause:3.*\"]\nplatforms = \"linux/arm64/v8\"").0, Some(0));
    for (entry, place) in [
        ("images = [\"alpine\", \"Alpine\"]", ":2:21: prefetch.images: \"Alpine\" is not an image such as"),
        ("images = \"pause:3.[\"", ":2:10: prefetch.images: \"pause:3.[\" is not an image such as"),
        ("images = \"alpine\"\nplatforms = [\"linux\"]", ":3:14: prefetch.platforms: \"linux\" is not a platform such as"),
    ] {
        let (code, out, error) = check(entry);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{error}");
        assert!(error.contains(place), "{place}: {error}");
    }
}

#[test]
fn check_reads_client_certificates() {
    let (clients, folder) = (Authority::new("clients"), Folder::new());
    for name in ["a", "b"] {
        folder.write(name, &clients.client(name));
    }
    let check = |lines: &str| {
        let place = tempfile::tempdir().unwrap();
        run(&["check", "--config", &write(place.path(), &format!("[upstream.\"r.example\"]\n{lines}"))])
    };
    let (cert, key, other) = (folder.path("a.crt"), folder.path("a.key"), folder.path("b.key"));
    let (code, out, error) = check(&format!("client_cert = {cert:?}\nclient_key = {key:?}"));
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.contains(&format!("shows the certificate {}", cert.display())), "{out}");
    for (lines, told) in [
        (
            format!("client_cert = {cert:?}\nclient_key = {other:?}"),
            vec![":3:14: upstream.\"r.example\".client_key: ", "does not belong to", "b.key"],
        ),
        (
            format!("client_cert = {key:?}\nclient_key = {key:?}"),
            vec![":2:15: upstream.\"r.example\".client_cert: ", "a.key", "no PEM certificate"],
        ),
        (
            format!("client_cert = {cert:?}\nclient_key = \"/nonexistent\""),
            vec![":3:14: upstream.\"r.example\".client_key: ", "/nonexistent"],
        ),
        (format!("client_cert = {cert:?}"), vec!["upstream.\"r.example\".client_cert", "client_key is missing"]),
        (format!("client_key = {key:?}"), vec!["upstream.\"r.example\".client_key", "client_cert is missing"]),
    ] {
        let (code, _, error) = check(&lines);
        assert_eq!(code, Some(1), "{lines}");
        assert!(told.iter().all(|told| error.contains(told)), "{lines}: {error}");
    }
}

/// A registry may hold images under its own name; it seldom does, and a rule that denies them alone lets the others through.
#[test]
fn check_warns_of_what_is_seldom_meant() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "[upstream.\"r.example\"]\ndeny = [\"r.example/team/**\"]\n");
    let (code, out, error) = run(&["check", "--config", &file]);
    assert!(code == Some(0) && out.starts_with("ok\n"), "{out}{error}");
    assert!(error.starts_with("warning: upstream.\"r.example\".deny: \"r.example/team/**\" matches only"), "{error}");
    assert!(error.ends_with("to mean the others, write \"team/**\"\n"), "{error}");
}
