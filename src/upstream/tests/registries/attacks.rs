//! I9: each attack is played, and the canary is looked for in everything that reached the attacker.

use super::*;

const VICTIM: &str = "https://victim.azurecr.io";

/// Realms of somebody else's, as a hostile or overtaken registry names them (CVE-2026-33540).
#[tokio::test]
async fn i9_t31_realms() {
    for (registry, realm) in [
        (VICTIM, "https://evil.azurecr.io/oauth2/token"),
        (VICTIM, "https://victim.azurecr.io:8443/oauth2/token"),
        (VICTIM, "https://victim.azurecr.io.evil.example/oauth2/token"),
        ("https://registry-1.docker.io", "https://evil.docker.io/token"),
        ("https://registry-1.docker.io", "https://auth.docker.io:8443/token"),
        ("https://team.github.io", "https://evil.github.io/token"),
        ("https://123456789012.dkr.ecr.eu-west-1.amazonaws.com", "https://evil.s3.amazonaws.com/token"),
        ("https://ghcr.io", "https://auth.docker.io/token"),
    ] {
        let challenge = format!(r#"Bearer realm="{realm}",service="x",scope="repository:a/b:pull""#);
        let target: url::Url = realm.parse().unwrap();
        let evil = crate::upstream::client::authority(&target);
        let attacker = evil.clone();
        let internet = Internet::start(move |host, seen| match host {
            _ if host == attacker => Reply::token("from-the-attacker"),
            _ if authorization(seen).is_some() => Reply::new(403),
            _ => Reply::challenge(&challenge),
        })
        .await;
        let upstream = internet.signed_in(registry, "mirror");
        let error = pull(&upstream, "a/b").await.unwrap_err();
        assert_eq!(error.class(), Class::Denied, "{registry} {realm}: {error}");
        assert_eq!(internet.at(&evil).len(), 1, "{realm}: asked, anonymously");
        internet.assert_heard_only_at(&[CANARY, &basic("mirror")[6..], "Basic", "account="], &[]);
        assert_silent(&upstream, Some(&error));
    }
}

/// The identity of a cloud machine is worth more than a password.
#[tokio::test]
async fn i9_t31_a_cloud_credential_meets_a_foreign_realm() {
    let entra = Server::start(|_| Reply::new(200).body(format!(r#"{{"access_token":"{CANARY}"}}"#))).await;
    let internet = Internet::start(|host, seen| match (host, seen.path()) {
        ("victim.azurecr.io", "/oauth2/exchange") => Reply::new(200).body(format!(r#"{{"refresh_token":"{CANARY}-refresh"}}"#)),
        ("victim.azurecr.io", _) => {
            Reply::challenge(r#"Bearer realm="https://evil.azurecr.io/oauth2/token",service="victim.azurecr.io""#)
        }
        _ => Reply::token("from-the-attacker"),
    })
    .await;
    let variables = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", entra.url.as_str())];
    let upstream = internet.upstream(VICTIM, config::Credentials::Acr, &variables);
    pull(&upstream, "a/b").await.unwrap_err();
    assert_eq!(internet.at("evil.azurecr.io").len(), 1);
    internet.assert_heard_only_at(&[CANARY], &["victim.azurecr.io"]);
    assert!(entra.seen().is_empty(), "not even asked for");
}

/// A host that is no registry of the cloud gets nothing, whatever the configuration came to say.
#[tokio::test]
async fn i9_cloud_credentials_are_for_the_clouds_own_registries() {
    let cloud =
        Server::start(|_| Reply::new(200).header("metadata-flavor", "Google").body(format!(r#"{{"access_token":"{CANARY}"}}"#)))
            .await;
    let host = cloud.authority();
    let variables = [
        ("GCE_METADATA_HOST", host.as_str()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.url.as_str()),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", cloud.url.as_str()),
    ];
    for credentials in [config::Credentials::Ecr, config::Credentials::Gcp { key_file: None }, config::Credentials::Acr] {
        let internet = Internet::start(|_, _| Reply::challenge("Basic realm=\"x\"")).await;
        let error = pull(&internet.upstream("https://evil.example", credentials, &variables), "a/b").await.unwrap_err();
        assert!(error.to_string().contains("the `url` of this upstream is no "), "{error}");
        internet.assert_heard_only_at(&[CANARY, "Basic"], &[]);
        assert_eq!(internet.lines("evil.example").len(), 1);
    }
    assert!(cloud.seen().is_empty(), "no identity endpoint was reached");
}

/// No source but the cloud's own reaches an identity endpoint.
#[tokio::test]
async fn i9_identity_endpoints_are_left_alone_by_everybody_else() {
    let cloud = Server::start(|_| Reply::new(200).body(CANARY)).await;
    let host = cloud.authority();
    let variables = [
        ("GCE_METADATA_HOST", host.as_str()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.url.as_str()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", cloud.url.as_str()),
        ("AWS_ENDPOINT_URL", cloud.url.as_str()),
        ("IDENTITY_ENDPOINT", cloud.url.as_str()),
        ("IDENTITY_HEADER", "x"),
    ];
    for credentials in [config::Credentials::Anonymous, canary()] {
        for registry in ["https://123456789012.dkr.ecr.eu-west-1.amazonaws.com", "https://gcr.io", VICTIM] {
            let internet = Internet::start(|host, seen| match authorization(seen) {
                Some(_) => Reply::new(403),
                None => Reply::challenge(&format!("Bearer realm=\"https://{host}/token\"")),
            })
            .await;
            pull(&internet.upstream(registry, credentials.clone(), &variables), "a/b").await.unwrap_err();
        }
    }
    assert!(cloud.seen().is_empty());
}

/// Redirects to another scheme, host or port, of a manifest and of a blob.
#[tokio::test]
async fn i9_t34_redirects() {
    for target in [
        "https://evil.example/x",
        "https://r.example:8443/x",
        "https://sub.r.example/x",
        "http://r.example/x",
        "http://r.example:443/x",
    ] {
        let internet = Internet::start(move |host, seen| match (host, authorization(seen)) {
            ("r.example", Some(sent)) if sent == basic("mirror") => Reply::redirect(target),
            ("r.example", _) => Reply::challenge("Basic realm=\"r\""),
            // The attacker asks for what it wants.
            _ => Reply::challenge("Basic realm=\"r\"").header("www-authenticate", "Bearer realm=\"https://r.example/token\""),
        })
        .await;
        let upstream = internet.signed_in("https://r.example", "mirror");
        let error = upstream.blob(&repository("a/b"), &digest_of(b""), 0).await.map(|_| ()).unwrap_err();
        assert_silent(&upstream, Some(&error));
        resolve(&upstream).await.unwrap_err();
        internet.assert_heard_only_at(&[CANARY, &basic("mirror")[6..], "mirror"], &["r.example"]);
        if target.starts_with("http:") {
            assert_eq!(error.class(), Class::Invalid, "{error}");
            assert_eq!(internet.hosts(), ["r.example"]);
        }
    }
}

/// A public registry leads into the network that the mirror stands in.
#[tokio::test]
async fn i9_t37_private_and_metadata_addresses() {
    for target in [
        "https://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "https://10.0.0.1/x",
        "https://127.0.0.1:2375/containers/json",
        "https://[::1]/x",
        "https://[::ffff:169.254.169.254]/x",
        "https://[fd00:ec2::254]/x",
        "https://0x7f000001/x",
        "https://2130706433/x",
        "https://100.100.100.200/x",
    ] {
        // By a redirect, and as a realm.
        for challenge in [false, true] {
            let internet = Internet::start(move |_, _| {
                if challenge { Reply::challenge(&format!("Bearer realm=\"{target}\"")) } else { Reply::redirect(target) }
            })
            .await;
            let upstream = internet.signed_in("https://r.example", "mirror");
            let error = resolve(&upstream).await.unwrap_err();
            assert!(matches!(error.reason(), Reason::Forbidden(_)), "{target}: {error}");
            assert_eq!(internet.hosts(), ["r.example"], "{target}: no connection was made");
        }
    }
}

/// A name that resolves to this machine: the address is judged, not the name.
#[tokio::test]
async fn i9_t37_names_that_resolve_to_private_addresses() {
    let inside = Server::start(|_| Reply::new(200).body(CANARY)).await;
    let port = inside.url.port().unwrap();
    // As for a registry that lies in the Internet: the emulation's own registries are reached by a proxy, which resolves names.
    let guard = connect::Guard::new(&"https://r.example".parse().unwrap(), &[]);
    let online = tokio::sync::watch::Sender::new(false);
    let client_of = |guard| {
        let none = Arc::new(Matcher::builder().build());
        let connector = Connector::new(guard, Arc::clone(&none), Tls::anonymous().unwrap(), Duration::from_secs(5));
        let name = "r.example".parse().unwrap();
        let patience = client::Timeouts { response: Duration::from_secs(5), stall: Duration::from_secs(5) };
        Client::new(name, Arc::new(Metrics::new()), connector, none, patience, online.subscribe())
    };
    let url = format!("http://localhost:{port}/secret").parse().unwrap();
    let exchange = |url| client::Exchange {
        kind: Kind::Other,
        method: http::Method::GET,
        url,
        headers: http::HeaderMap::new(),
        body: bytes::Bytes::new(),
    };
    let error = client_of(guard).send(exchange(&url)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error.reason(), Reason::Forbidden(_)), "{error}");
    assert!(inside.seen().is_empty());
}

/// Foreign layers: `urls` of a descriptor are somebody's wish, and no request.
#[tokio::test]
async fn i9_descriptor_urls_are_never_fetched() {
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"urls":["https://evil.example/layer"]}]}"#;
    let internet = Internet::start(move |host, seen| match (host, authorization(seen)) {
        ("evil.example", _) => Reply::challenge("Basic realm=\"x\""),
        (_, None) => Reply::challenge("Basic realm=\"r\""),
        _ if seen.path().contains("/blobs/") => Reply::new(404),
        _ => Reply::new(200).header("content-type", OCI).body(manifest),
    })
    .await;
    let upstream = internet.signed_in("https://r.example", "mirror");
    let fetched = upstream.manifest(&repository("a/b"), &tag("latest")).await.unwrap();
    assert_eq!(fetched.bytes, manifest);
    let error = upstream.blob(&repository("a/b"), &digest_of(b""), 0).await.map(|_| ()).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    assert_eq!(internet.hosts(), ["r.example"]);
}

/// Token services that misbehave: 10 MB, a redirect, rubbish.
#[tokio::test]
async fn i9_token_services_that_misbehave() {
    let huge = format!(r#"{{"token":"{}"}}"#, "x".repeat(10 << 20));
    for (reply, text) in [
        (Reply::new(200).body(huge), "larger than"),
        (Reply::redirect("https://evil.example/token"), "credentials to another host"),
        (Reply::redirect("http://r.example/token"), "https to http"),
        (Reply::new(200).body("not json"), "not the JSON of a token"),
    ] {
        let internet = Internet::start(move |host, seen| match (host, seen.path()) {
            ("r.example", "/token") => reply.clone(),
            ("r.example", _) => Reply::challenge("Bearer realm=\"https://r.example/token\""),
            _ => Reply::token("x"),
        })
        .await;
        let upstream = internet.signed_in("https://r.example", "mirror");
        let error = resolve(&upstream).await.unwrap_err();
        assert!(error.to_string().contains(text) && error.to_string().contains("registry.example"), "{error}");
        internet.assert_heard_only_at(&[CANARY, &basic("mirror")[6..]], &["r.example"]);
        assert_silent(&upstream, Some(&error));
    }
}
