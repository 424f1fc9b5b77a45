//! SIGHUP with other rules and users, in a running process.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::task::spawn_blocking;

use super::{CLOSED, PUBLIC, RULES, SHARED, TEAM, Users, login, upstream, with_access};
use crate::support::client::{self, Connection, End};
use crate::support::mirror::Process;
use crate::support::{until, within};

async fn status(process: &Process, path: &str, who: Option<&str>) -> u16 {
    let login = who.map(login);
    let headers: Vec<_> = login.iter().map(|login| ("Authorization", login.as_str())).collect();
    client::get(process.address(), path, &headers).await.status()
}

/// How often the log says something.
pub(super) fn said(process: &Process, what: &str) -> usize {
    process.log().matches(what).count()
}

#[tokio::test]
async fn sighup_takes_rules_and_users() {
    let (up, _) = upstream().await;
    let users = Users::new(&["alice", "bob", "eve"]);
    let mut process = Process::with(&up, |settings| with_access(settings, &up, &users, RULES)).await;
    assert_eq!(status(&process, TEAM, Some("alice")).await, 200);
    assert_eq!(status(&process, TEAM, Some("bob")).await, 403);
    assert_eq!(status(&process, PUBLIC, None).await, 200);
    // A download that has begun under the old rules, and is held up.
    let large = crate::support::image::Blob::random(77, 3 << 20);
    up.push_blob("library/alpine", &large);
    let path = crate::support::upstream::blob_path("library/alpine", &large);
    let gate = up.gate(&format!("GET {path}"));
    let mut download = client::open(process.address(), &path, &[]).await;
    gate.pass(1 << 20);
    assert_eq!(download.read(1000).await, &large.bytes[..1000]);
    let mut idle = Connection::open(process.address()).await;
    idle.send_raw(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n").await;

    // Other rules, and another file with other users.
    let others = Users::new(&["bob", "dave"]);
    process.configure(|settings| {
        with_access(settings, &up, &others, "rule = [{ who = \"user:bob\", pull = \"docker.io/team/**\" }]");
    });
    process.hang_up();
    until("the new rules", || said(&process, "the configuration was read again") == 1).await;
    assert_eq!(status(&process, TEAM, Some("bob")).await, 200);
    assert_eq!(status(&process, SHARED, Some("dave")).await, 403, "a user now, with no rule");
    assert_eq!(status(&process, TEAM, Some("alice")).await, 401, "no user any more");
    assert_eq!(status(&process, PUBLIC, None).await, 403, "signing in would not help: bob alone has anything");
    assert!(!process.log().contains("take effect after a restart"), "{}", process.log());
    // Open connections live: the download ends well, and the request that was begun is answered by the new rules.
    gate.open();
    let rest = download.rest().await;
    assert_eq!(rest.end, End::Complete);
    assert!(rest.body == large.bytes[1000..], "{} bytes", rest.body.len());
    idle.send_raw(b"\r\n").await;
    assert_eq!(idle.answer("GET").await.expect("the connection is open").rest().await.status(), 401);

    // What is wrong keeps all of the old, and is told with place and remedy.
    let bad_file = Users::new(&["alice"]);
    bad_file.write("alice:plain text\n");
    let told = [
        (toml::toml! { rule = [{ who = "group:x" }] }, None, "is not \"anyone\""),
        (toml::toml! { rule = [{ who = "cert:ci" }] }, None, "client_ca"),
        (toml::toml! { rule = [{ who = "anyone" }] }, Some(&bad_file), "is not hashed by bcrypt"),
    ];
    for (round, (rules, file, what)) in told.into_iter().enumerate() {
        process.configure(|settings| with_access(settings, &up, file.unwrap_or(&others), &rules.to_string()));
        process.hang_up();
        until("a refusal", || said(&process, "the new configuration is wrong; the old one holds") == round + 1).await;
        assert!(process.log().contains(what), "{what}: {}", process.log());
        assert_eq!(status(&process, TEAM, Some("bob")).await, 200, "{what}");
        assert_eq!(status(&process, TEAM, Some("dave")).await, 403, "{what}");
        assert_eq!(status(&process, TEAM, None).await, 401, "{what}");
    }
    // And it can be mended.
    process.configure(|settings| with_access(settings, &up, &users, CLOSED));
    process.hang_up();
    until("the mended rules", || said(&process, "the configuration was read again") == 2).await;
    assert_eq!(status(&process, TEAM, Some("alice")).await, 200);
    assert_eq!(status(&process, TEAM, Some("bob")).await, 403);
}

/// What the reload under way has read may be older than the file.
#[tokio::test]
async fn a_sighup_during_a_reload_is_not_lost() {
    let (up, _) = upstream().await;
    let users = Users::new(&["alice", "bob"]);
    let mut process = Process::with(&up, |settings| with_access(settings, &up, &users, RULES)).await;
    let folder = tempfile::tempdir().unwrap();
    let roots = Roots::new(folder.path());
    process.configure(|settings| {
        settings.upstream("slow.example", "ca", roots.path.to_str().unwrap());
    });
    process.hang_up();
    // It was found to be right; now it is read once more, to be used.
    roots.read().await;
    let reader = roots.opened().await;
    process.configure(|settings| {
        with_access(settings, &up, &users, CLOSED);
        settings.forget("slow.example");
    });
    process.hang_up();
    assert_eq!(status(&process, PUBLIC, None).await, 200, "nobody waits for it");
    roots.finish(reader);
    until("both", || said(&process, "the configuration was read again") == 2).await;
    assert_eq!(status(&process, PUBLIC, None).await, 401);
}

/// A file of certificates that its readers wait for.
struct Roots {
    path: PathBuf,
    content: String,
}

impl Roots {
    fn new(folder: &Path) -> Self {
        let path = folder.join("roots.pem");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Self { path, content: rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert.pem() }
    }

    /// Waits for a reader.
    async fn opened(&self) -> std::fs::File {
        let path = self.path.clone();
        let opened = spawn_blocking(move || std::fs::File::options().write(true).open(path));
        within("a reader", opened).await.unwrap().unwrap()
    }

    /// One reader gets all of it.
    async fn read(&self) {
        self.opened().await.write_all(self.content.as_bytes()).unwrap();
    }

    /// This reader gets all of it, and those after it do not wait.
    fn finish(&self, mut reader: std::fs::File) {
        let regular = self.path.with_extension("new");
        std::fs::write(&regular, &self.content).unwrap();
        std::fs::rename(regular, &self.path).unwrap();
        reader.write_all(self.content.as_bytes()).unwrap();
    }
}

/// Who a request for a token turned out to be from stands in its line of the log, as for a pull.
#[tokio::test]
async fn a_token_is_logged_with_whose_it_is() {
    let (up, _) = upstream().await;
    let users = Users::new(&["alice"]);
    let process = Process::with(&up, |settings| with_access(settings, &up, &users, RULES)).await;
    assert_eq!(status(&process, "/token?service=roadstead", Some("alice")).await, 200);
    assert_eq!(status(&process, "/token?service=roadstead", None).await, 200);
    assert_eq!(status(&process, "/token?service=roadstead", Some("mallory")).await, 401);
    until("three lines", || said(&process, " kind=\"other\" ") == 3).await;
    let log = process.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(" kind=\"other\" ")).collect();
    assert!(lines[0].contains(" identity=\"alice\"") && lines[0].contains(" status=200 "), "{}", lines[0]);
    for nobody in &lines[1..] {
        assert!(!nobody.contains(" identity="), "{nobody}");
    }
    assert!(!log.contains("secret of"), "{log}");
}
