//! The mirror as a process of its own, which can be killed.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Files, Settings};
use crate::support::client::{self, Response};
use crate::support::upstream::Upstream;
use crate::support::within;

/// `roadstead serve`, started by a test. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    settings: Settings,
    folder: Arc<TempDir>,
    cache: Arc<TempDir>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Process {
    /// Starts the program as a mirror of `upstream` and waits until it is ready.
    pub async fn with(upstream: &Upstream, change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_env(upstream, &[], change).await
    }

    /// The same, with these environment variables.
    pub async fn with_env(upstream: &Upstream, env: &[(&str, String)], change: impl FnOnce(&mut Settings)) -> Self {
        let (folder, cache) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        let mut settings = Settings::new(upstream, cache.path().to_str().expect("a path in UTF-8"));
        change(&mut settings);
        Self::start_in(settings, folder.into(), cache.into(), env).await
    }

    async fn start(settings: Settings, folder: Arc<TempDir>, cache: Arc<TempDir>) -> Self {
        Self::start_in(settings, folder, cache, &[]).await
    }

    async fn start_in(mut settings: Settings, folder: Arc<TempDir>, cache: Arc<TempDir>, env: &[(&str, String)]) -> Self {
        let [address, admin] = free_addresses();
        settings.set("server", "listen", address.to_string()).set("admin", "listen", admin.to_string());
        let (config, log) = (folder.path().join("config.toml"), folder.path().join("log"));
        std::fs::write(&config, settings.text()).expect("the configuration is written");
        let output = std::fs::File::create(&log).expect("a log");
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("roadstead"));
        command.arg("serve").arg("--config").arg(&config).env_remove("RUST_LOG").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a handle")).stderr(output);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let child = command.spawn().expect("the program starts");
        let mut process = Self { child, settings, folder, cache, address, admin };
        within("the program to be ready", process.ready()).await;
        process
    }

    async fn ready(&mut self) {
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                panic!("the program ended ({status}) before it was ready:\n{}", self.log());
            }
            // Where the admin interface speaks TLS, what is printed has to do.
            if self.log().contains("health, metrics and status on https://") {
                return;
            }
            if !self.settings.text().contains("[admin.tls]")
                && tokio::net::TcpStream::connect(self.admin).await.is_ok()
                && client::get(self.admin, "/readyz", &[]).await.status() == 200
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Ends it as the kernel would for lack of memory (SIGKILL), at once.
    pub async fn kill(mut self) -> Killed {
        self.child.kill().await.expect("our child");
        Killed { settings: self.settings, folder: self.folder, cache: self.cache }
    }

    /// Writes another configuration file; nobody is told.
    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        std::fs::write(self.folder.path().join("config.toml"), self.settings.text()).expect("the configuration is written");
    }

    /// Writes something as the configuration file.
    pub fn configure_badly(&self, text: &str) {
        std::fs::write(self.folder.path().join("config.toml"), text).expect("the configuration is written");
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    /// Any signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.id()).expect("a process id")).expect("a process id");
        rustix::process::kill_process(id, signal).expect("it runs");
    }

    /// SIGTERM; waits for the end, and gives what was logged. It must be a good end.
    pub async fn stop(mut self) -> String {
        self.signal(rustix::process::Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        within("the program to end", self.child.wait()).await.expect("our child")
    }

    /// Where clients pull.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its admin interface is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The file with its configuration.
    pub fn config(&self) -> std::path::PathBuf {
        self.folder.path().join("config.toml")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Its cache folder.
    pub fn files(&self) -> Files {
        Files::new(self.cache.clone())
    }

    /// A page of the admin interface.
    pub async fn admin(&self, path: &str) -> Response {
        client::get(self.admin, path, &[]).await
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// What is left of a killed mirror.
#[derive(Debug)]
pub struct Killed {
    settings: Settings,
    folder: Arc<TempDir>,
    cache: Arc<TempDir>,
}

impl Killed {
    /// Its cache folder.
    pub fn files(&self) -> Files {
        Files::new(self.cache.clone())
    }

    /// Starts it again on the same cache folder.
    pub async fn start(self) -> Process {
        self.start_with(|_| {}).await
    }

    /// Starts it again on the same cache folder, with a changed configuration.
    pub async fn start_with(mut self, change: impl FnOnce(&mut Settings)) -> Process {
        change(&mut self.settings);
        Process::start(self.settings, self.folder, self.cache).await
    }
}

/// Two addresses that were free a moment ago.
fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("bound"))
}
