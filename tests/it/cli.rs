//! The command line: what it prints, and the exit codes that `--help` promises.

mod check;
mod export;
mod folder;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("roadstead"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = command(arguments).current_dir(&folder).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn write(folder: &Path, text: &str) -> String {
    let path = folder.join("config.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn help_is_enough_to_get_going() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for word in ["serve", "check", "clients", "127.0.0.1:5000", "/etc/docker/daemon.json", "Exit codes"] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
    let (code, help, _) = run(&["serve", "--help"]);
    assert_eq!(code, Some(0));
    for word in ["--config", "--listen", "--admin-listen", "--cache-dir", "docker.io", "SIGTERM", "RUST_LOG"] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    for arguments in
        [&["sail"][..], &[], &["serve", "--listen", "localhost"], &["serve", "--admin-listen", "on"], &["check", "x"]]
    {
        let (code, out, error) = run(arguments);
        assert_eq!((code, out.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(!error.is_empty());
    }
}

/// A list that says when something was asked for by no clock there is.
#[test]
fn wanted_reads_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    std::fs::create_dir_all(cache.join("blobs/sha256")).unwrap();
    std::fs::write(cache.join("VERSION"), "1\n").unwrap();
    for last in [1 << 40, u64::MAX] {
        let list = serde_json::json!([{ "image": "docker.io/library/alpine:3", "times": 2, "last": last }]);
        std::fs::write(cache.join("wanted.json"), list.to_string()).unwrap();
        let (code, out, error) = run(&["wanted", "--cache-dir", cache.to_str().unwrap()]);
        assert_eq!((code, error.as_str()), (Some(0), ""), "{last}");
        assert!(out.starts_with("docker.io/library/alpine:3  # asked for 2 times"), "{out}");
    }
}

/// What reads the folder alone does not pretend to ask a mirror.
#[test]
fn commands_of_the_folder_take_no_address() {
    for command in [&["wanted"][..], &["export", "-o", "-", "--all"]] {
        for option in [["--server", "http://127.0.0.1:1"], ["--token-file", "token"], ["--admin-ca", "ca.pem"]] {
            let (code, out, error) = run(&[command, &option].concat());
            assert_eq!((code, out.as_str()), (Some(64), ""), "{command:?} {option:?}");
            assert!(error.contains(option[0]), "{error}");
        }
        let (_, help, _) = run(&[command[0], "--help"]);
        assert!(help.contains("--cache-dir") && help.contains("--config") && !help.contains("--admin"), "{help}");
    }
}

#[test]
fn a_mirror_does_not_become_an_open_proxy_by_accident() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "server.listen = \"0.0.0.0:0\"\nadmin.listen = \"off\"\n");
    for arguments in [
        &["check", "--config", &file][..],
        &["serve", "--config", &file],
        &["serve", "--listen", "[::]:0", "--admin-listen", "off"],
    ] {
        let (code, _, error) = run(arguments);
        assert_eq!(code, Some(if arguments[0] == "check" { 1 } else { 78 }), "{arguments:?}: {error}");
        for word in ["server.listen", "[[access.rule]]", "open = true", "serve --open"] {
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
    let rules = write(folder.path(), "[[access.rule]]\nwho = \"anyone\"\n");
    let (code, _, error) = run(&["serve", "--config", &rules, "--open"]);
    assert_eq!(code, Some(78));
    assert!(error.contains("--open"), "{error}");
}

#[test]
fn a_wrong_configuration_is_1_for_check_and_78_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "[cache]\nmax_sise = \"1GiB\"\n\n[log]\nlevel = \"loud\"\n");
    let errors = format!(
        "{file}:2:1: cache.max_sise: unknown key; did you mean \"max_size\"?\n\
         {file}:5:9: log.level: \"loud\" is not a level (off, error, warn, info, debug, trace) or directives such as \"info,hyper=debug\"\n"
    );
    assert_eq!(run(&["check", "--config", &file]), (Some(1), String::new(), errors.clone()));
    assert_eq!(run(&["serve", "--config", &file]), (Some(78), String::new(), errors.clone()));
    assert_eq!(run(&["clients", "--config", &file]), (Some(78), String::new(), errors));
    let (code, _, error) = run(&["serve", "--config", "/nonexistent/config.toml"]);
    assert_eq!(code, Some(78));
    assert_eq!(error, "cannot read the configuration file /nonexistent/config.toml: No such file or directory (os error 2)\n");
}

#[test]
fn a_cause_is_told_once() {
    let (code, _, error) = run(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--cache-dir", "/proc/none"]);
    assert_eq!(code, Some(1));
    assert_eq!(error, "cache.dir /proc/none: cannot create the folder: No such file or directory (os error 2)\n");
}

#[test]
fn a_wrong_rust_log_is_a_wrong_configuration() {
    let Output { status, stderr, .. } =
        command(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]).env("RUST_LOG", "hyper=loud").output().unwrap();
    assert_eq!(status.code(), Some(78));
    assert!(String::from_utf8(stderr).unwrap().starts_with("RUST_LOG: \"hyper=loud\" is no log filter"));
}

#[test]
fn clients_prints_files_to_paste() {
    let (code, out, _) = run(&["clients", "docker"]);
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["registry-mirrors"][0], "http://127.0.0.1:5000");
    for client in ["podman", "crio", "buildkit"] {
        let (code, out, _) = run(&["clients", "--url", "http://mirror.internal:5000", client]);
        assert_eq!(code, Some(0));
        let table: toml::Table = out.parse().unwrap();
        assert!(table.contains_key("registry"), "{client}");
    }
    let (_, all, _) = run(&["clients"]);
    for word in ["daemon.json", "hosts.toml", "[[registry.mirror]]", "[registry.\"quay.io\"]"] {
        assert!(all.contains(word), "{word}");
    }
    assert_eq!(run(&["clients", "--url", "http://m/path"]).0, Some(1));
}

/// A running `roadstead serve`. Killed when dropped.
struct Serve {
    child: Child,
    out: BufReader<ChildStdout>,
    _folder: tempfile::TempDir,
}

impl Serve {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = command(&["serve"])
            .args(arguments)
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, _folder: folder }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serve_says_where_it_listens_and_stops_on_sigterm_and_sigint() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut serve = Serve::start(&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        let url = serve.line().strip_prefix("roadstead listens on ").unwrap().to_owned();
        let address = url.strip_prefix("http://").unwrap().to_owned();
        let admin = serve.line().strip_prefix("health, metrics and status on http://").unwrap().to_owned();
        assert_eq!(
            serve.line(),
            format!("to point Docker at it, in /etc/docker/daemon.json: {{ \"registry-mirrors\": [\"{url}\"] }}")
        );
        for address in [address, admin] {
            assert!(!address.ends_with(":0"), "{address}");
            std::net::TcpStream::connect(&address).unwrap();
        }
        serve.signal(signal);
        assert_eq!(serve.wait().code(), Some(0));
    }
}

/// As a shell starts it whose limit of open files is low: softly, and hard.
#[test]
fn serve_raises_the_limit_of_open_files_and_warns_where_it_is_too_low() {
    for (ulimit, warns) in [("ulimit -S -n 300", false), ("ulimit -n 900", true)] {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let text = "[server]\nlisten = \"127.0.0.1:0\"\nmax_connections = 200\n[admin]\nlisten = \"127.0.0.1:0\"\n";
        // The hard limit of the machine that runs the test may be low.
        if !warns && open_files("self").1 < 200 + 1024 {
            continue;
        }
        let mut child = Command::new("sh")
            .args(["-c", &format!("{ulimit}; exec \"$0\" serve --config \"$1\"")])
            .args([assert_cmd::cargo::cargo_bin!("roadstead"), Path::new(&write(folder.path(), text))])
            .current_dir(folder.path())
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut serve = Serve { child, out, _folder: folder };
        assert!(serve.line().starts_with("roadstead listens on "));
        let (soft, hard) = open_files(&serve.child.id().to_string());
        assert_eq!(soft, hard, "{ulimit}");
        serve.signal(Signal::TERM);
        assert_eq!(serve.wait().code(), Some(0));
        let log = std::fs::read_to_string(log).unwrap();
        assert_eq!(log.contains("server.max_connections") && log.contains("LimitNOFILE"), warns, "{ulimit}:\n{log}");
    }
}

/// The soft and the hard limit of open files of a process.
fn open_files(process: &str) -> (u64, u64) {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut fields = line.split_whitespace().map(|field| field.parse().unwrap_or(u64::MAX));
    (fields.next().unwrap(), fields.next().unwrap())
}

/// As a unit of `Type=notify` is started: who is told "ready" can pull, after a start as after a reload.
#[test]
fn serve_tells_the_service_manager_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let told = || {
        let mut state = [0; 256];
        let length = manager.recv(&mut state).unwrap();
        String::from_utf8(state[..length].to_vec()).unwrap().trim_end().to_owned()
    };
    let file = write(folder.path(), "admin.listen = \"off\"\n");
    let mut child = command(&["serve", "--config", &file, "--listen", "127.0.0.1:0"])
        .current_dir(folder.path())
        .env("NOTIFY_SOCKET", &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut serve = Serve { child, out, _folder: folder };
    assert_eq!(told(), "READY=1");
    let address = serve.line().strip_prefix("roadstead listens on http://").unwrap().to_owned();
    std::net::TcpStream::connect(address).unwrap();
    // A file that is wrong is read to its end, too: the mirror serves as before.
    for text in ["admin.listen = \"off\"\n[freshness]\nfresh_for = \"5m\"\n", "wrong"] {
        std::fs::write(&file, text).unwrap();
        serve.signal(Signal::HUP);
        let reloading = told();
        let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(since.parse::<u64>().unwrap() > 0, "{reloading}");
        assert_eq!(told(), "READY=1");
    }
    serve.signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(serve.wait().code(), Some(0));
}

/// `serve >> log` on a full disk.
#[test]
fn serve_starts_where_nothing_can_be_printed() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(&["serve", "--admin-listen", "off", "--listen", &address.to_string()])
        .current_dir(&folder)
        .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let warning = log.find(|line| line.contains("cannot print where the mirror listens")).unwrap();
    assert!(warning.contains("No space left"), "{warning}");
    std::net::TcpStream::connect(address).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(log.filter(|line| line.contains("ERROR")).count(), 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn serve_survives_sighup() {
    let mut serve = Serve::start(&["--listen", "127.0.0.1:0", "--admin-listen", "off"]);
    let address = serve.line().strip_prefix("roadstead listens on http://").unwrap().to_owned();
    serve.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(200));
    std::net::TcpStream::connect(address).unwrap();
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait().code(), Some(0));
    let mut rest = String::new();
    serve.out.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("health"), "the admin interface is off");
}

#[test]
fn flags_override_the_file() {
    let folder = tempfile::tempdir().unwrap();
    // The file's addresses are taken; only the flags' can be bound.
    let taken = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let [listen, admin] = taken.each_ref().map(|listener| listener.local_addr().unwrap());
    let file = write(folder.path(), &format!("[server]\nlisten = \"{listen}\"\n[admin]\nlisten = \"{admin}\"\n"));
    let (code, out, error) = run(&["serve", "--config", &file]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.contains(&listen.to_string()), "{error}");

    let mut serve = Serve::start(&["-c", &file, "-l", "127.0.0.1:0", "-l", "127.0.0.1:0", "--admin-listen", "off"]);
    let lines = [serve.line(), serve.line()];
    assert!(lines.iter().all(|line| line.starts_with("roadstead listens on http://127.0.0.1:")), "{lines:?}");
    assert_ne!(lines[0], lines[1]);
}

/// Another try cannot cure a wrong certificate: the unit does not start the mirror again.
#[test]
fn wrong_certificates_are_a_wrong_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none.pem");
    std::fs::write(&none, "nothing").unwrap();
    for (text, told) in [
        (format!("[server.tls]\ncert = {none:?}\nkey = {none:?}\n"), "server.tls.cert: "),
        (format!("[admin.tls]\ncert = {none:?}\nkey = {none:?}\n"), "admin.tls.cert: "),
    ] {
        let file = write(folder.path(), &format!("server.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n{text}"));
        for (command, expected) in [("serve", 78), ("check", 1)] {
            let (code, out, error) = run(&[command, "--config", &file]);
            assert_eq!((code, out.as_str()), (Some(expected), ""), "{command}: {error}");
            assert!(error.contains(told) && error.contains("none.pem"), "{command}: {error}");
        }
    }
}
