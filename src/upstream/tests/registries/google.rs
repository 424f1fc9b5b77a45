//! Artifact Registry and gcr.io: metadata server, key file, `_json_key`.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::*;

const GAR: &str = "https://europe-west1-docker.pkg.dev";
const HOST: &str = "europe-west1-docker.pkg.dev";

/// A registry of Google's that gives a token to the user and password of `account`.
async fn registry(account: String) -> Internet {
    Internet::start(move |host, seen| match (host, seen.path(), authorization(seen)) {
        ("storage.googleapis.com", _, None) => blob_reply(),
        (_, "/v2/token", Some(sent)) if seen.method == "GET" && sent == account => Reply::token("gar"),
        (_, "/v2/token", _) if seen.method == "POST" => Reply::new(404),
        (_, "/v2/token", _) => Reply::new(401),
        (_, _, Some("Bearer gar")) if seen.path().contains("/blobs/") => {
            Reply::new(302).header("location", "https://storage.googleapis.com/artifacts/data?X-Goog-Signature=presigned")
        }
        (_, _, Some("Bearer gar")) => manifest_reply(),
        (host, ..) => Reply::challenge(&format!(
            r#"Bearer realm="https://{host}/v2/token",service="{host}",scope="repository:project/repo/app:pull""#
        )),
    })
    .await
}

fn access_token() -> String {
    format!("Basic {}", STANDARD.encode("oauth2accesstoken:ya29.google"))
}

#[tokio::test]
async fn i9_the_metadata_server() {
    for url in [GAR, "https://gcr.io", "https://eu.gcr.io"] {
        let internet = registry(access_token()).await;
        let metadata = Server::start(|seen| {
            assert_eq!(seen.target, "/computeMetadata/v1/instance/service-accounts/default/token");
            assert_eq!(seen.header("metadata-flavor"), Some("Google"));
            Reply::new(200)
                .header("metadata-flavor", "Google")
                .body(r#"{"access_token":"ya29.google","expires_in":3599,"token_type":"Bearer"}"#)
        })
        .await;
        let variables = [("GCE_METADATA_HOST", metadata.authority())];
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let upstream = internet.upstream(url, config::Credentials::Gcp { key_file: None }, &variables);
        pull(&upstream, "project/repo/app").await.unwrap();
        pull(&upstream, "project/repo/app").await.unwrap();
        assert_eq!(metadata.seen().len(), 1, "until half of its life is over");
        internet.assert_heard_only_at(&[&access_token()[6..], "ya29", "Bearer"], &[url.trim_start_matches("https://")]);
    }
}

#[tokio::test]
async fn what_is_no_metadata_server() {
    let internet = registry(access_token()).await;
    for (reply, text) in [
        (Reply::new(200).body(r#"{"access_token":"x"}"#), "not Google's"),
        (Reply::new(404).header("metadata-flavor", "Google"), "has this machine or pod a service account?"),
        (Reply::new(200).header("metadata-flavor", "Google").body("hello"), "not the JSON"),
        (Reply::redirect("http://169.254.169.254/").header("metadata-flavor", "Google"), "redirect"),
    ] {
        let metadata = Server::start(move |_| reply.clone()).await;
        let authority = metadata.authority();
        let upstream = internet.upstream(GAR, config::Credentials::Gcp { key_file: None }, &[("GCE_METADATA_HOST", &authority)]);
        let error = pull(&upstream, "project/repo/app").await.unwrap_err();
        assert!(error.class() == Class::Unavailable && error.to_string().contains(text), "{error}");
    }
}

/// A key file for `token_uri`, and the public key that belongs to it.
fn key_file(folder: &tempfile::TempDir, token_uri: &str) -> (std::path::PathBuf, Vec<u8>) {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = pair.as_der().unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
    let file = folder.path().join("key.json");
    let key = serde_json::json!({
        "type": "service_account", "project_id": "project", "private_key_id": "kid-1", "private_key": pem,
        "client_email": "puller@project.iam.gserviceaccount.com", "token_uri": token_uri,
    });
    std::fs::write(&file, key.to_string()).unwrap();
    (file, pair.public_key().as_ref().to_vec())
}

#[tokio::test]
async fn a_key_file_signs_an_assertion() {
    let folder = tempfile::tempdir().unwrap();
    let public = Arc::new(std::sync::OnceLock::new());
    let verifier = Arc::clone(&public);
    let tokens = Server::start(move |seen| {
        let form: HashMap<_, _> = url::form_urlencoded::parse(seen.body.as_bytes()).into_owned().collect();
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let (text, signature) = form["assertion"].rsplit_once('.').unwrap();
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, verifier.get().unwrap());
        key.verify(text.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).expect("signed by the key of the file");
        let part = |index| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.split('.').nth(index).unwrap()).unwrap()).unwrap()
        };
        let (head, claims) = (part(0), part(1));
        assert_eq!((head["alg"].as_str(), head["kid"].as_str()), (Some("RS256"), Some("kid-1")));
        assert_eq!(claims["iss"], "puller@project.iam.gserviceaccount.com");
        assert_eq!(claims["aud"], format!("http://{}/token", seen.header("host").unwrap()));
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
        assert!(claims["scope"].as_str().unwrap().contains("devstorage.read_only"));
        Reply::new(200).body(r#"{"access_token":"ya29.google","expires_in":3599,"token_type":"Bearer"}"#)
    })
    .await;
    let (file, key) = key_file(&folder, &format!("{}token", tokens.url));
    public.set(key).unwrap();
    // Named by the configuration, and by the variable of the SDKs.
    for (key_file, variables) in
        [(Some(file.clone()), vec![]), (None, vec![("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())])]
    {
        let internet = registry(access_token()).await;
        let upstream = internet.upstream(GAR, config::Credentials::Gcp { key_file }, &variables);
        pull(&upstream, "project/repo/app").await.unwrap();
    }
    assert_eq!(tokens.seen().len(), 2);
}

#[tokio::test]
async fn i9_key_files_that_are_wrong_or_expired() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = Server::start(|_| {
        Reply::new(400).body(format!(r#"{{"error":"invalid_grant","error_description":"Invalid JWT Signature. {CANARY}"}}"#))
    })
    .await;
    let (expired, _) = key_file(&folder, &format!("{}token", tokens.url));
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let internet = registry(access_token()).await;
    for (file, text) in [
        (expired, "invalid_grant): it may be deleted, disabled or expired"),
        (write("a", CANARY), "is not one (line 1"),
        (write("b", &format!(r#"{{"type":"service_account","client_email":"x","private_key":"{CANARY}"}}"#)), "no RSA key"),
        (write("c", r#"{"type":"external_account"}"#), "neither of a service account nor of a user"),
        (folder.path().join("missing"), "cannot read"),
    ] {
        let upstream = internet.upstream(GAR, config::Credentials::Gcp { key_file: Some(file) }, &[]);
        let error = pull(&upstream, "project/repo/app").await.unwrap_err();
        assert!(error.class() == Class::Unavailable && error.to_string().contains(text), "{error}");
        assert_silent(&upstream, Some(&error));
    }
    internet.assert_heard_only_at(&["Basic"], &[]);
}

#[tokio::test]
async fn i9_json_key_is_an_ordinary_password() {
    let key = format!("{{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN:{CANARY}\\n\"\n}}");
    let internet = registry(format!("Basic {}", STANDARD.encode(format!("_json_key:{key}")))).await;
    let credentials = config::Credentials::Password { username: "_json_key".into(), password: Secret::new(key) };
    let upstream = internet.upstream(GAR, credentials, &[]);
    pull(&upstream, "project/repo/app").await.unwrap();
    internet.assert_heard_only_at(&["Basic"], &[HOST]);
    assert_silent(&upstream, None);
}
