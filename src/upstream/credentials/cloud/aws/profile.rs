//! Profiles of `~/.aws/credentials` and `~/.aws/config`: keys, `credential_process`, and roles to assume.
//!
//! Read at each renewal, so that a changed file is taken up. Of the two files the credentials file wins, key by key, as
//! in the SDKs. SSO profiles need a browser: they are an error that says what to do instead.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::super::{Ground, failed};
use super::Keys;
use super::chain::{self, Place, Temporary};
use crate::config::Secret;
use crate::upstream::credentials::CredentialError;

const PROFILE: &str = "AWS profile";
/// How many roles may be assumed one after the other.
const MAX_DEPTH: usize = 5;
const PROCESS_LIMIT: Duration = Duration::from_secs(30);
const MAX_OUTPUT: u64 = 256 * 1024;

type Profiles = BTreeMap<String, BTreeMap<String, String>>;

/// The keys of `AWS_PROFILE`, or of the default profile; `None` if there is none or it says nothing of credentials.
pub(super) async fn keys(ground: &Ground, place: Place<'_>) -> Result<Option<Keys>, CredentialError> {
    let named = ground.env.get("AWS_PROFILE").or_else(|| ground.env.get("AWS_DEFAULT_PROFILE"));
    let mut profiles = Profiles::new();
    for (variable, file, is_config) in
        [("AWS_CONFIG_FILE", "config", true), ("AWS_SHARED_CREDENTIALS_FILE", "credentials", false)]
    {
        let home = || Some(PathBuf::from(ground.env.get("HOME")?).join(".aws").join(file));
        let Some(path) = ground.env.get(variable).map(PathBuf::from).or_else(home) else { continue };
        match tokio::fs::read_to_string(&path).await {
            Ok(text) => merge(&mut profiles, &text, is_config),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(PROFILE, format!("cannot read {}: {}", path.display(), error.kind()))),
        }
    }
    let name = named.clone().unwrap_or_else(|| "default".to_owned());
    if !profiles.contains_key(&name) {
        return match named {
            Some(name) => Err(failed(PROFILE, format!("there is no profile {name:?} (AWS_PROFILE) in ~/.aws"))),
            None => Ok(None),
        };
    }
    resolve(ground, place, &profiles, &name, 0).await
}

fn resolve<'a>(
    ground: &'a Ground,
    place: Place<'a>,
    profiles: &'a Profiles,
    name: &'a str,
    depth: usize,
) -> Pin<Box<dyn Future<Output = Result<Option<Keys>, CredentialError>> + Send + 'a>> {
    Box::pin(async move {
        let problem = |text: &str| failed(PROFILE, format!("profile {name:?} {text}"));
        if depth >= MAX_DEPTH {
            return Err(problem("is at the end of a chain of roles that is too long, or a ring"));
        }
        let profile = profiles.get(name).ok_or_else(|| problem("does not exist"))?;
        let key = |key: &str| profile.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let own = match (key("aws_access_key_id"), key("aws_secret_access_key")) {
            (Some(id), Some(secret)) => {
                let token = key("aws_session_token").map(Secret::new);
                Some(Keys { id: id.to_owned(), secret: Secret::new(secret), token })
            }
            _ => None,
        };
        if let Some(role) = key("role_arn") {
            let session = key("role_session_name");
            if let Some(file) = key("web_identity_token_file") {
                return chain::web_identity(ground, place, file, role, session.map(ToOwned::to_owned)).await.map(Some);
            }
            let base = match (key("source_profile"), key("credential_source")) {
                // A profile that names itself means its own keys.
                (Some(source), None) if source == name => own,
                (Some(source), None) => resolve(ground, place, profiles, source, depth + 1).await?,
                (None, Some("Environment")) => chain::from_environment(ground)?,
                (None, Some("EcsContainer")) => chain::container(ground).await?,
                (None, Some("Ec2InstanceMetadata")) => Some(chain::instance(ground).await?),
                _ => {
                    return Err(problem(
                        "has a role_arn and needs one of source_profile, credential_source and web_identity_token_file",
                    ));
                }
            };
            let base = base.ok_or_else(|| problem("assumes a role by a source that has no keys"))?;
            return chain::assume_role(ground, place, &base, role, key("external_id"), session).await.map(Some);
        }
        if own.is_some() {
            return Ok(own);
        }
        if let Some(command) = key("credential_process") {
            return process(command).await.map(|keys| Some(keys.into())).map_err(|text| problem(&text));
        }
        if key("sso_session").or(key("sso_start_url")).is_some() {
            return Err(problem(
                "signs in by SSO, which needs a browser; write credential_process = aws configure export-credentials --profile NAME",
            ));
        }
        Ok(None)
    })
}

/// Adds one file's profiles. The configuration file calls them `[profile NAME]`.
fn merge(profiles: &mut Profiles, text: &str, is_config: bool) {
    let mut current = None;
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = bare.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let section = section.trim();
            let name = match section.strip_prefix("profile").filter(|rest| is_config && rest.starts_with([' ', '\t'])) {
                Some(name) => Some(name.trim()),
                None => (!is_config || section == "default").then_some(section),
            };
            current = name.map(|name| name.trim_matches('"').to_owned());
            continue;
        }
        // Indented lines are sub-settings of the one above (`s3 =`).
        if line.starts_with([' ', '\t']) {
            continue;
        }
        if let (Some(profile), Some((key, value))) = (&current, bare.split_once('=')) {
            let value = value.split(" #").next().unwrap_or_default().trim();
            profiles.entry(profile.clone()).or_default().insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
}

/// Runs a `credential_process`, without a shell: words are split at spaces outside of double quotes.
async fn process(command: &str) -> Result<Temporary, String> {
    let mut words = words(command).into_iter();
    let program = words.next().ok_or("has an empty credential_process")?;
    let start = |error: std::io::Error| format!("has a credential_process that does not run: {}", error.kind());
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = crate::upstream::credentials::helper::spawn(command).await.map_err(start)?;
    let run = async {
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_OUTPUT).read_to_end(&mut output).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, output))
    };
    let finished = tokio::time::timeout(PROCESS_LIMIT, run).await;
    let (status, output) = finished.map_err(|_| "has a credential_process that gives no answer within 30s")?.map_err(start)?;
    if !status.success() {
        return Err(format!("has a credential_process that fails ({status})"));
    }
    serde_json::from_slice(&output).map_err(|_| "has a credential_process that prints no credentials".to_owned())
}

fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for character in command.chars() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' | '\t' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_sdks_do() {
        let mut profiles = Profiles::new();
        let config = "[default]\nregion=eu-west-1\naws_access_key_id = config\n[profile team a]\nrole_arn = arn:x # why\ns3 =\n  x = 1\n\
                      [sso-session x]\nsso_region = y\n[services z]\n";
        merge(&mut profiles, config, true);
        merge(&mut profiles, "# x\n[default]\naws_access_key_id=credentials\n; y\n[ other ]\nA = b=c\n", false);
        assert_eq!(profiles["default"]["aws_access_key_id"], "credentials");
        assert_eq!(profiles["default"]["region"], "eu-west-1");
        assert_eq!(profiles["team a"]["role_arn"], "arn:x");
        assert!(!profiles["team a"].contains_key("x"));
        assert_eq!(profiles["other"]["a"], "b=c");
        assert_eq!(profiles.len(), 3);
    }

    #[tokio::test]
    async fn processes_run_without_a_shell() {
        assert_eq!(words(r#"  /bin/a "b c"d  "" $(e);f "#), ["/bin/a", "b cd", "", "$(e);f"]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file; $(exit 1)");
        std::fs::write(&file, r#"{"Version":1,"AccessKeyId":"i","SecretAccessKey":"s","SessionToken":"t"}"#).unwrap();
        let keys: Keys =
            process(&format!("/bin/cat \"{}\"", file.display())).await.map(Into::into).unwrap_or_else(|text| panic!("{text}"));
        assert_eq!((keys.id.as_str(), keys.secret.expose(), keys.token.unwrap().expose()), ("i", "s", "t"));
        std::fs::write(&file, "hunter2").unwrap();
        let problem = |result: Result<Temporary, String>| result.err().unwrap();
        assert!(problem(process(&format!("/bin/cat \"{}\"", file.display())).await).contains("prints no credentials"));
        assert!(problem(process("/bin/false").await).contains("fails"));
        assert!(problem(process("/does/not/exist").await).contains("does not run"));
    }
}
