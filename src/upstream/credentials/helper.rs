//! Docker's credential helpers: `docker-credential-NAME get`, server on stdin, JSON on stdout.
//!
//! No shell, a name that cannot be a path, a time limit after which the child is killed. Output is parsed and dropped:
//! it is never logged, not even when the helper fails (I9). The environment is handed on, because helpers read theirs
//! from it (`AWS_*`, `HOME`, `GNUPGHOME`).

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::Mutex;

use super::docker::{KEEP, KEEP_FAILURE};
use super::{Credential, CredentialError};
use crate::config::Secret;

const LIMIT: Duration = Duration::from_secs(30);
/// More output than any credential needs.
const MAX_OUTPUT: u64 = 256 * 1024;
/// What helpers print, with a non-zero exit, when they simply have nothing.
const NOTHING: [&str; 2] = ["credentials not found in native keychain", "no credentials server URL"];
/// The user name by which a helper says that its secret is an identity token.
const IDENTITY: &str = "<token>";

/// A configured helper (`credentials = { helper = "NAME" }`) and what it said last.
#[derive(Debug)]
pub(in crate::upstream) struct Helper {
    name: String,
    server: String,
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    outcome: Outcome,
    asked: Instant,
    until: Instant,
}

type Outcome = Result<Option<Arc<Credential>>, CredentialError>;

impl Helper {
    pub(in crate::upstream) fn new(name: &str, server: &str) -> Self {
        Self { name: name.to_owned(), server: server.to_owned(), held: Mutex::new(None) }
    }

    /// The helper's credential. Those who ask at one time share one run of it.
    pub(in crate::upstream) async fn get(&self) -> Outcome {
        let mut held = self.held.lock().await;
        if let Some(held) = held.as_ref().filter(|held| Instant::now() < held.until) {
            return held.outcome.clone();
        }
        let outcome = get(&self.name, &self.server).await.map(|credential| credential.map(Arc::new));
        let asked = Instant::now();
        let until = asked + if outcome.is_ok() { KEEP } else { KEEP_FAILURE };
        *held = Some(Held { outcome: outcome.clone(), asked, until });
        outcome
    }

    /// Ask again next time, unless it was asked a moment ago.
    pub(in crate::upstream) async fn forget(&self) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|held| held.asked.elapsed() >= KEEP_FAILURE) {
            *held = None;
        }
    }
}

/// Asks helper `name` for `server`'s credential; `None` if it has none. Cancel-safe: the child dies with the future.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Credential>, CredentialError> {
    let valid = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(valid) || name.starts_with(['.', '-']) {
        return Err(CredentialError::HelperName(name.to_owned()));
    }
    run(&format!("docker-credential-{name}"), server, LIMIT).await
}

async fn run(program: &str, server: &str, limit: Duration) -> Result<Option<Credential>, CredentialError> {
    let start = |error: std::io::Error| CredentialError::HelperStart { program: program.to_owned(), cause: error.to_string() };
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    // Forking copies page tables and exec reads a file: both off the reactor (I11).
    let mut child = spawn(command).await.map_err(start)?;
    let exchange = async {
        if let Some(mut input) = child.stdin.take() {
            // A helper may exit without reading; what it printed then says why.
            let _ = input.write_all(server.as_bytes()).await;
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_OUTPUT).read_to_end(&mut output).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, output))
    };
    let Ok(finished) = tokio::time::timeout(limit, exchange).await else {
        return Err(CredentialError::HelperTimeout { program: program.to_owned(), limit });
    };
    let (status, output) = finished.map_err(start)?;
    if status.success() {
        return parse(&output).map_err(|NotTheProtocol| CredentialError::HelperOutput(program.to_owned()));
    }
    let text = String::from_utf8_lossy(&output);
    if NOTHING.iter().any(|nothing| text.trim().contains(nothing)) {
        return Ok(None);
    }
    let (program, status, server) = (program.to_owned(), status.to_string(), server.to_owned());
    Err(CredentialError::HelperFailed { program, status, server })
}

pub(super) async fn spawn(mut command: Command) -> std::io::Result<tokio::process::Child> {
    // The child is registered with the runtime of the handle that is entered.
    let runtime = tokio::runtime::Handle::current();
    let spawned = tokio::task::spawn_blocking(move || {
        let _entered = runtime.enter();
        command.spawn()
    });
    spawned.await.map_err(std::io::Error::other)?
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What a helper printed is no answer of one.
struct NotTheProtocol;

/// Reads a helper's answer. An empty secret is "nothing"; a secret without a user is no credential.
fn parse(output: &[u8]) -> Result<Option<Credential>, NotTheProtocol> {
    let Output { username, secret } = serde_json::from_slice(output).map_err(|_| NotTheProtocol)?;
    match (username.as_str(), secret.is_empty()) {
        (_, true) => Ok(None),
        (IDENTITY, false) => Ok(Some(Credential::Identity { username: None, token: Secret::new(secret) })),
        ("", false) => Err(NotTheProtocol),
        (_, false) => Ok(Some(Credential::Password { username, password: Secret::new(secret) })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    async fn helper(script: &str, limit: Duration) -> Result<Option<Credential>, CredentialError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker-credential-test");
        // Renamed into place: a file that is still open for writing in a child of another test cannot be run.
        std::fs::write(folder.path().join("new"), format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(folder.path().join("new"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        for _ in 0..50 {
            match run(path.to_str().unwrap(), "r.example", limit).await {
                Err(CredentialError::HelperStart { cause, .. }) if cause.contains("Text file busy") => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other => return other,
            }
        }
        panic!("the helper stays busy");
    }

    #[tokio::test]
    async fn t41_helper_answers() {
        let second = Duration::from_secs(10);
        // The server arrives on stdin, `get` as the only argument.
        let echo = r#"read -r server; echo "{\"ServerURL\":\"x\",\"Username\":\"$server-$1-$#\",\"Secret\":\"s\"}""#;
        assert_eq!(
            helper(echo, second).await,
            Ok(Some(Credential::Password { username: "r.example-get-1".into(), password: Secret::new("s") }))
        );
        assert_eq!(
            helper(r#"echo '{"Username":"<token>","Secret":"refresh"}'"#, second).await,
            Ok(Some(Credential::Identity { username: None, token: Secret::new("refresh") }))
        );
        assert_eq!(helper("echo credentials not found in native keychain; exit 1", second).await, Ok(None));
        assert_eq!(helper(r#"echo '{"Username":"","Secret":""}'"#, second).await, Ok(None));
        assert!(matches!(helper("echo hello", second).await, Err(CredentialError::HelperOutput(_))));
    }

    #[tokio::test]
    async fn i9_a_failing_helper_is_not_quoted() {
        let error = helper("echo hunter2; echo hunter2 >&2; exit 3", Duration::from_secs(10)).await.unwrap_err();
        assert!(matches!(error, CredentialError::HelperFailed { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2") && error.to_string().contains('3'), "{error}");
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_killed() {
        let started = std::time::Instant::now();
        let error = helper("exec sleep 60", Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(error, CredentialError::HelperTimeout { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn names_that_are_no_names() {
        for name in ["", "../evil", "a/b", "-h", "a b", "a;b", "$(x)", ".hidden"] {
            assert_eq!(get(name, "r.example").await, Err(CredentialError::HelperName(name.into())), "{name}");
        }
        assert!(matches!(get("roadstead-does-not-exist", "r.example").await, Err(CredentialError::HelperStart { .. })));
    }
}
