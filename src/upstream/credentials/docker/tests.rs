//! T41: the shapes of `config.json`, and when it is read.

use super::*;

fn credential(json: &str, registry: &str) -> Result<Option<Credential>, String> {
    let keys = keys(&registry.parse().unwrap());
    let file = File::parse(json.as_bytes())?;
    Ok(file.entry(&keys).map(Entry::credential).transpose()?.flatten())
}

fn password(username: &str, password: &str) -> Option<Credential> {
    Some(Credential::Password { username: username.into(), password: Secret::new(password) })
}

#[test]
fn t41_forms_of_an_entry() {
    for (entry, expected) in [
        (r#"{"auth":"dTpwOnE="}"#, password("u", "p:q")),
        (r#"{"auth":"dTpwOnE"}"#, password("u", "p:q")),
        (r#"{"auth":"dTpwAAA="}"#, password("u", "p")),
        (r#"{"auth":"dTpw","username":"x","password":"y"}"#, password("u", "p")),
        (r#"{"username":"x","password":"y","email":"z"}"#, password("x", "y")),
        (
            r#"{"auth":"MDAwMDo=","identitytoken":"refresh"}"#,
            Some(Credential::Identity { username: Some("0000".into()), token: Secret::new("refresh") }),
        ),
        (r#"{"identitytoken":"refresh"}"#, Some(Credential::Identity { username: None, token: Secret::new("refresh") })),
        ("{}", None),
        (r#"{"auth":""}"#, None),
    ] {
        let json = format!(r#"{{"auths":{{"r.example":{entry}}}}}"#);
        assert_eq!(credential(&json, "https://r.example"), Ok(expected), "{entry}");
    }
}

#[test]
fn i9_a_broken_file_is_named_without_its_contents() {
    for entry in
        [r#"{"auth":"hunter2!"}"#, r#"{"auth":"aHVudGVyMg=="}"#, r#"{"password":"hunter2"}"#, r#"{"auth":{"hunter2":1}}"#]
    {
        let error = credential(&format!(r#"{{"auths":{{"r.example":{entry}}}}}"#), "https://r.example").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert_eq!(credential("{", "https://r.example"), Err("line 1, column 1".into()));
}

/// `.dockercfg`, and what an entry may be that is of no use.
#[test]
fn t41_the_older_form_and_tokens_that_end() {
    let bare = r#"{"r.example":{"auth":"dTpw"},"other.example":{"auth":"eDp5"}}"#;
    assert_eq!(credential(bare, "https://r.example"), Ok(password("u", "p")));
    assert_eq!(credential(r#"{"credsStore":"x","r.example":{"auth":"dTpw"}}"#, "https://r.example"), Ok(None));
    for nothing in ["{}", r#"{"detachKeys":"ctrl-e","HttpHeaders":{"a":"b"}}"#] {
        assert_eq!(credential(nothing, "https://r.example"), Ok(None), "{nothing}");
    }
    let error = credential(r#"{"auths":{"r.example":{"registrytoken":"hunter2"}}}"#, "https://r.example").unwrap_err();
    assert!(error.contains("registrytoken") && !error.contains("hunter2"), "{error}");
}

#[test]
fn t41_keys_of_a_host() {
    let json = |key: &str| format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#);
    let known = password("u", "p");
    for (key, registry) in [
        ("r.example", "https://r.example/artifactory"),
        ("https://r.example/v1/", "https://r.example"),
        ("https://r.example/v2", "https://r.example"),
        ("http://r.example/", "https://r.example"),
        ("r.example:443", "https://r.example"),
        ("r.example:5000", "https://r.example:5000"),
        ("https://index.docker.io/v1/", "https://registry-1.docker.io"),
        ("https://index.docker.io/v1", "https://registry-1.docker.io"),
        ("index.docker.io", "https://registry-1.docker.io"),
        ("docker.io", "https://registry-1.docker.io"),
        ("registry-1.docker.io", "https://registry-1.docker.io"),
        ("docker.io", "https://index.docker.io"),
    ] {
        assert_eq!(credential(&json(key), registry), Ok(known.clone()), "{key} {registry}");
    }
    for (key, registry) in [
        ("r.example", "https://r.example:5000"),
        ("r.example:5000", "https://r.example"),
        ("r.example/team", "https://r.example"),
        ("https://r.example/team/v1/", "https://r.example"),
        ("evil-r.example", "https://r.example"),
        ("example", "https://r.example"),
        ("docker.io", "https://registry-1.docker.io:444"),
    ] {
        assert_eq!(credential(&json(key), registry), Ok(None), "{key} {registry}");
    }
}

#[test]
fn t41_precedence_of_helpers() {
    let helper = |json: &str, registry: &str| {
        File::parse(json.as_bytes()).unwrap().helper(&keys(&registry.parse().unwrap())).map(ToOwned::to_owned)
    };
    let both = r#"{"credsStore":"store","credHelpers":{"r.example":"own","docker.io":"hub","off.example":""}}"#;
    assert_eq!(helper(both, "https://r.example").as_deref(), Some("own"));
    assert_eq!(helper(both, "https://registry-1.docker.io").as_deref(), Some("hub"));
    assert_eq!(helper(both, "https://other.example").as_deref(), Some("store"));
    assert_eq!(helper(both, "https://off.example"), None);
    assert_eq!(helper("{}", "https://r.example"), None);
}

#[tokio::test]
async fn t41_the_file_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let config = DockerConfig::new(&path, &"https://r.example".parse().unwrap());
    assert!(matches!(config.get().await, Err(CredentialError::Read { .. })));
    std::fs::write(&path, r#"{"auths":{"r.example":{"auth":"dTpw"}}}"#).unwrap();
    tokio::time::sleep(LOOK).await;
    assert_eq!(config.get().await.unwrap().as_deref(), password("u", "p").as_ref());
    std::fs::write(&path, r#"{"auths":{"r.example":{"auth":"dTpxcQ=="}}}"#).unwrap();
    assert_eq!(config.get().await.unwrap().as_deref(), password("u", "p").as_ref(), "not looked at within a second");
    tokio::time::sleep(LOOK).await;
    assert_eq!(config.get().await.unwrap().as_deref(), password("u", "qq").as_ref());
}
