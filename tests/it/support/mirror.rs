//! The mirror under test, in this process, on free ports, with a cache folder of its own.

mod files;
pub mod process;

use std::net::SocketAddr;
use std::sync::Arc;

use roadstead::app::{self, Running};
use roadstead::config::Config;
use tempfile::TempDir;

pub use files::Files;
pub use process::Process;

use super::client::{self, Download, Response};
use super::image::{Blob, Image};
use super::upstream::{Upstream, blob_path, manifest_path};
use super::within;

/// The configuration of a test's mirror, as TOML that grows.
#[derive(Clone, Debug)]
pub struct Settings(toml::Table);

impl Settings {
    /// Loopback, free ports, `dir`, and `upstream` as `docker.io`. Its time-outs are far off: what must time out says so.
    pub fn new(upstream: &Upstream, dir: &str) -> Self {
        let mut settings = Self(toml::Table::new());
        settings.set("server", "listen", "127.0.0.1:0").set("server", "shutdown_timeout", "1s");
        settings.set("admin", "listen", "127.0.0.1:0");
        settings.set("cache", "dir", dir).set("cache", "max_size", "1GiB").set("cache", "min_free", "1MiB");
        settings.add("docker.io", upstream);
        settings
    }

    /// Sets a key of a section: `set("cache", "max_size", "10MiB")`.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        table(&mut self.0, section).insert(key.to_owned(), value.into());
        self
    }

    /// Sets a key of the upstream `docker.io`.
    pub fn hub(&mut self, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        self.upstream("docker.io", key, value)
    }

    /// Sets a key of an upstream.
    pub fn upstream(&mut self, name: &str, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        table(table(&mut self.0, "upstream"), name).insert(key.to_owned(), value.into());
        self
    }

    /// Adds an upstream by this name, or replaces the one there is.
    pub fn add(&mut self, name: &str, upstream: &Upstream) -> &mut Self {
        self.upstream(name, "url", upstream.url())
    }

    /// Adds a `[[prefetch]]` of these images.
    pub fn prefetch(&mut self, images: &[&str]) -> &mut Self {
        let images = images.iter().map(|image| toml::Value::from(*image)).collect::<Vec<_>>();
        let entry = toml::Table::from_iter([("images".to_owned(), images.into())]);
        let entries = self.0.entry("prefetch").or_insert_with(|| toml::Value::Array(Vec::new()));
        entries.as_array_mut().expect("an array").push(entry.into());
        self
    }

    /// Leaves an upstream out.
    pub fn forget(&mut self, name: &str) -> &mut Self {
        table(&mut self.0, "upstream").remove(name);
        self
    }

    /// The text of a configuration file.
    pub fn text(&self) -> String {
        self.0.to_string()
    }
}

fn table<'a>(table: &'a mut toml::Table, key: &str) -> &'a mut toml::Table {
    let entry = table.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    entry.as_table_mut().expect("a table")
}

/// A mirror that runs in this process.
pub struct Mirror {
    running: Running,
    settings: Settings,
    folder: Arc<TempDir>,
}

impl Mirror {
    /// A mirror of `upstream`, which is its `docker.io`.
    pub async fn of(upstream: &Upstream) -> Self {
        Self::with(upstream, |_| {}).await
    }

    /// A mirror of `upstream`, configured further by `change`.
    pub async fn with(upstream: &Upstream, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = Arc::new(TempDir::new().expect("a folder"));
        let mut settings = Settings::new(upstream, folder.path().to_str().expect("a path in UTF-8"));
        change(&mut settings);
        Self::start(settings, folder).await
    }

    async fn start(settings: Settings, folder: Arc<TempDir>) -> Self {
        let config = Config::parse(&settings.text(), "test").unwrap_or_else(|error| panic!("{error}\n{}", settings.text()));
        let running = within("the mirror to start", Box::pin(app::Mirror::start(config))).await.expect("the mirror starts");
        Self { running, settings, folder }
    }

    /// Stops it in an orderly way and starts another one on the same cache folder, on other ports.
    pub async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// As [`Mirror::restart`], with a changed configuration.
    pub async fn restart_with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let Self { running, mut settings, folder } = self;
        within("the mirror to stop", running.shutdown()).await;
        change(&mut settings);
        Self::start(settings, folder).await
    }

    /// Stops it in an orderly way. The cache folder stays as long as what is returned.
    pub async fn stop(self) -> Files {
        let files = self.files();
        within("the mirror to stop", self.running.shutdown()).await;
        files
    }

    /// Hands it a changed configuration, as SIGHUP does.
    pub async fn reload(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), app::ReloadError> {
        change(&mut self.settings);
        let config = Config::parse(&self.settings.text(), "test").expect("a configuration");
        within("the configuration to be taken", self.running.reload(config)).await
    }

    /// Where clients pull.
    pub fn address(&self) -> SocketAddr {
        self.running.addresses()[0]
    }

    /// All addresses at which clients pull.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.running.addresses()
    }

    /// Where health, metrics and the switches are.
    pub fn admin_address(&self) -> SocketAddr {
        self.running.admin_address().expect("an admin address")
    }

    /// Its cache folder.
    pub fn files(&self) -> Files {
        Files::new(self.folder.clone())
    }

    /// `GET`: the whole answer.
    pub async fn get(&self, path: &str) -> Response {
        client::get(self.address(), path, &[]).await
    }

    /// `GET` with headers: the whole answer.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        client::get(self.address(), path, headers).await
    }

    /// `HEAD`.
    pub async fn head(&self, path: &str) -> Response {
        client::head(self.address(), path, &[]).await
    }

    /// `GET`, the head read and the body not yet.
    pub async fn open(&self, path: &str) -> Download {
        client::open(self.address(), path, &[]).await
    }

    /// Pulls an image by tag as a client does, and fails unless every byte is right.
    pub async fn pull(&self, repository: &str, tag: &str, image: &Image) {
        let manifest = self.get(&manifest_path(repository, tag)).await;
        assert_eq!((manifest.status(), &*manifest.body), (200, &*image.manifest.bytes), "{repository}:{tag}");
        for blob in image.blobs() {
            self.pull_blob(repository, blob).await;
        }
    }

    /// Pulls a blob, and fails unless every byte is right.
    pub async fn pull_blob(&self, repository: &str, blob: &Blob) {
        let answer = self.get(&blob_path(repository, blob)).await;
        answer.assert_is(blob);
    }

    /// Whether `/metrics` and the other admin pages answer 200 at `path`, and with what.
    pub async fn admin(&self, path: &str) -> Response {
        client::get(self.running.admin_address().expect("an admin address"), path, &[]).await
    }

    /// The sum of a metric's series whose labels include `labels`; 0 where there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.admin("/metrics").await.text();
        let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let series = text.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(series, _)| {
            let (metric, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
            metric == name && wanted.iter().all(|label| labels.contains(&label.as_str()))
        });
        series.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
    }

    /// Waits until a metric has this value: requests are counted at the end of their bodies, which a client may see first.
    pub async fn metric_becomes(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} to become {value}");
        within(&what, async {
            while self.metric(name, labels).await < value {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        let now = self.metric(name, labels).await;
        assert!((now - value).abs() < f64::EPSILON, "{name}{labels:?} is {now}, not {value}");
    }
}
