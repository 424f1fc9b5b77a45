//! The forms of `credentials`, and where secrets come from.

use super::*;

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
        let error = wrong(&format!("[upstream.\"a.io\"]\ncredentials = [{{ prefix = \"x\", source = \"{kind}\" }}]\n"));
        assert!(error.contains("a token of your cloud"), "{error}");
    }
}

#[test]
fn several_credentials() {
    let config = good(
        "[upstream.\"a.io\"]\ncredentials = [{ prefix = \"team/\", helper = \"x\" }, { username = \"u\", password = \"hunter2\" }]\n",
    );
    let Credentials::ByRepository(list) = &config.upstreams[&"a.io".parse().unwrap()].credentials else { panic!() };
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
        let error = wrong(&format!("[upstream.\"a.io\"]\ncredentials = {text}\n"));
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
