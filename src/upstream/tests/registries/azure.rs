//! Azure Container Registry: every identity, the exchange, and the token of a repository.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

const ACR: &str = "https://team.azurecr.io";
const HOST: &str = "team.azurecr.io";

fn form(seen: &Seen) -> HashMap<String, String> {
    url::form_urlencoded::parse(seen.body.as_bytes()).into_owned().collect()
}

/// A token that lives from `iat` to `exp`, as ACR makes them.
fn jwt(life: u64) -> String {
    let claims = format!(r#"{{"iat":1700000000,"exp":{}}}"#, 1_700_000_000 + life);
    format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

async fn registry() -> Internet {
    Internet::start(|host, seen| match (host, seen.method.as_str(), seen.path(), authorization(seen)) {
        (HOST, "POST", "/oauth2/exchange", None) => {
            let form = form(seen);
            assert_eq!((form["grant_type"].as_str(), form["service"].as_str()), ("access_token", HOST));
            match form["access_token"].as_str() {
                "entra" => Reply::new(200).body(format!(r#"{{"refresh_token":"{}"}}"#, jwt(10_800))),
                _ => Reply::new(401).body(format!(r#"{{"errors":[{{"code":"UNAUTHORIZED","message":"{CANARY}"}}]}}"#)),
            }
        }
        (HOST, "POST", "/oauth2/token", None) => {
            let form = form(seen);
            assert_eq!(form["grant_type"], "refresh_token", "a password would be 400");
            assert_eq!((form["service"].as_str(), form["refresh_token"].as_str()), (HOST, jwt(10_800).as_str()));
            // Without expires_in, and for what was asked only.
            let life = if form["scope"].ends_with(":metadata_read") { 4501 } else { 4500 };
            Reply::new(200).body(format!(r#"{{"access_token":"{}"}}"#, jwt(life)))
        }
        (HOST, "GET", "/oauth2/token", Some(sent)) if sent == basic("team") => {
            Reply::new(200).body(format!(r#"{{"access_token":"{}"}}"#, jwt(4500)))
        }
        (HOST, _, path, Some(sent))
            if sent == format!("Bearer {}", jwt(if path.ends_with("/tags/list") { 4501 } else { 4500 })) =>
        {
            if path.contains("/blobs/") {
                return Reply::redirect("https://weumanaged1.blob.core.windows.net/data?sig=presigned&se=2026");
            }
            if path.ends_with("/tags/list") { Reply::new(200).body(r#"{"name":"app","tags":[]}"#) } else { manifest_reply() }
        }
        (HOST, _, path, _) if path.starts_with("/v2/") => {
            let name = path.split('/').nth(2).unwrap();
            let right = if path.ends_with("/tags/list") { "metadata_read" } else { "pull" };
            Reply::challenge(&format!(
                r#"Bearer realm="https://{HOST}/oauth2/token",service="{HOST}",scope="repository:{name}:{right}""#
            ))
        }
        (_, "GET", _, None) => blob_reply(),
        other => panic!("{other:?}"),
    })
    .await
}

async fn check(variables: &[(&str, &str)]) -> (Internet, Result<(), UpstreamError>) {
    let internet = registry().await;
    let upstream = internet.upstream(ACR, config::Credentials::Acr, variables);
    let mut outcome = pull(&upstream, "app").await;
    if outcome.is_ok() {
        // Once with a token that is there, once as the first question about a repository.
        for name in ["app", "other"] {
            outcome = outcome.and(upstream.tags(&repository(name), "").await.map(|_| ()));
        }
    }
    assert_silent(&upstream, outcome.as_ref().err());
    internet.assert_heard_only_at(&["entra", "eyJ", "Bearer", CANARY], &[HOST]);
    (internet, outcome)
}

const CLIENT: [(&str, &str); 2] = [("AZURE_TENANT_ID", "tenant-1"), ("AZURE_CLIENT_ID", "client-1")];

#[tokio::test]
async fn i9_service_principal_and_workload_identity() {
    let entra = Server::start(|seen| {
        let form = form(seen);
        assert_eq!(seen.target, "/tenant-1/oauth2/v2.0/token");
        assert_eq!((form["grant_type"].as_str(), form["client_id"].as_str()), ("client_credentials", "client-1"));
        assert_eq!(form["scope"], "https://containerregistry.azure.net/.default");
        let secret = form.get("client_secret").is_some_and(|secret| secret == CANARY);
        let assertion = form.get("client_assertion").is_some_and(|assertion| assertion == &format!("{CANARY}-jwt"))
            && form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        assert!(secret != assertion);
        Reply::new(200).body(r#"{"token_type":"Bearer","expires_in":3599,"access_token":"entra"}"#)
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{CANARY}-jwt\n")).unwrap();
    let authority = ("AZURE_AUTHORITY_HOST", entra.url.as_str());
    for proof in [("AZURE_CLIENT_SECRET", CANARY), ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap())] {
        let (internet, outcome) = check(&[CLIENT[0], CLIENT[1], authority, proof]).await;
        outcome.unwrap_or_else(|error| panic!("{}: {error}", proof.0));
        let exchanges: Vec<_> = internet.at(HOST).into_iter().filter(|seen| seen.path() == "/oauth2/exchange").collect();
        assert_eq!(exchanges.len(), 1);
        assert_eq!(form(&exchanges[0])["tenant"], "tenant-1");
        let scopes: Vec<_> = internet
            .at(HOST)
            .iter()
            .filter(|seen| seen.path() == "/oauth2/token")
            .map(|seen| form(seen)["scope"].clone())
            .collect();
        assert!(
            scopes.contains(&"repository:app:pull".into()) && scopes.contains(&"repository:app:metadata_read".into()),
            "{scopes:?}"
        );
    }
    assert_eq!(entra.seen().len(), 2);
}

#[tokio::test]
async fn managed_identities() {
    let host = Server::start(|seen| {
        let (resource, client) = (seen.query("resource"), seen.query("client_id"));
        assert_eq!(resource, ["https://containerregistry.azure.net"]);
        match seen.path() {
            "/metadata/identity/oauth2/token" => {
                assert_eq!((seen.header("metadata"), seen.query("api-version")), (Some("true"), vec!["2018-02-01".to_owned()]));
            }
            "/msi/token" => {
                assert_eq!(
                    (seen.header("x-identity-header"), seen.query("api-version")),
                    (Some("app"), vec!["2019-08-01".to_owned()])
                );
                assert_eq!(client, ["client-1"], "a user-assigned one");
            }
            other => panic!("{other}"),
        }
        Reply::new(200).body(r#"{"access_token":"entra","expires_in":"86399"}"#)
    })
    .await;
    check(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", host.url.as_str())]).await.1.unwrap();
    let endpoint = format!("{}msi/token", host.url);
    check(&[("IDENTITY_ENDPOINT", &endpoint), ("IDENTITY_HEADER", "app"), CLIENT[1]]).await.1.unwrap();
    assert_eq!(host.seen().len(), 2);
}

#[tokio::test]
async fn i9_an_admin_user_and_what_goes_wrong() {
    let internet = registry().await;
    pull(&internet.signed_in(ACR, "team"), "app").await.unwrap();
    internet.assert_heard_only_at(&[CANARY, &basic("team")[6..]], &[HOST]);

    for (status, body, text) in [
        (
            401,
            format!(r#"{{"error":"invalid_client","error_description":"AADSTS7000222: {CANARY}"}}"#),
            "the secret or federated token is wrong",
        ),
        (200, r#"{"access_token":"of nobody"}"#.to_owned(), "give it the role AcrPull"),
        (200, "<html>".to_owned(), "not the JSON"),
    ] {
        let entra = Server::start(move |_| Reply::new(status).body(body.clone())).await;
        let (_, outcome) =
            check(&[CLIENT[0], CLIENT[1], ("AZURE_AUTHORITY_HOST", entra.url.as_str()), ("AZURE_CLIENT_SECRET", "x")]).await;
        let error = outcome.unwrap_err();
        assert!(error.class() == Class::Unavailable && error.to_string().contains(text), "{error}");
    }
    let (_, outcome) = check(&[("AZURE_CLIENT_SECRET", CANARY)]).await;
    assert!(outcome.unwrap_err().to_string().contains("needs AZURE_TENANT_ID"));
}
