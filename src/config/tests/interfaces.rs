//! Where the mirror listens, what it speaks there, and the keys to it.

use super::*;

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
