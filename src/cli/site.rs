//! A mirror as commands reach it: its folder if it is stopped, its admin interface if it runs.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::ConfigFile;
use super::admin::AdminAt;
use crate::app::{StartError, Workshop};
use crate::cache::store::StoreError;
use crate::config::Config;
use crate::metrics::Metrics;

/// Which mirror.
#[derive(Debug, Args)]
pub(super) struct SiteArgs {
    #[command(flatten)]
    file: ConfigFile,

    /// The folder of the cache. Overrides cache.dir
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// The admin interface of a running mirror. Without it the cache folder is opened, and where a mirror has that open,
    /// its admin.listen is asked
    #[arg(long, value_name = "http://HOST:PORT")]
    server: Option<String>,
}

/// A mirror.
pub(super) enum Site {
    /// Its folder is ours.
    Stopped(Box<Workshop>),
    /// It runs.
    Running(Remote),
}

impl SiteArgs {
    /// The configuration, with the flags over it.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config = self.file.load()?;
        if let Some(dir) = &self.cache_dir {
            config.cache.dir.clone_from(dir);
        }
        Ok(config)
    }

    /// Finds out which it is.
    pub async fn open(&self, config: Config) -> anyhow::Result<Site> {
        if let Some(url) = &self.server {
            return Ok(Site::Running(Remote::new(url)?));
        }
        let admin = config.admin.listen.clone();
        match Workshop::open(config, &Arc::new(Metrics::new())).await {
            Ok(workshop) => Ok(Site::Stopped(Box::new(workshop))),
            Err(StartError::Store(StoreError::Locked(dir))) => match admin.as_ref().and_then(AdminAt::of) {
                Some(place) => Ok(Site::Running(Remote(place))),
                None => bail!(
                    "a mirror has {} open, and its admin interface is off; stop it, or name it with --server",
                    dir.display()
                ),
            },
            Err(error) => Err(error.into()),
        }
    }
}

/// The admin interface of a running mirror.
#[derive(Clone, Debug)]
pub(super) struct Remote(AdminAt);

impl Remote {
    /// At a base address.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let host = url.strip_prefix("http://").with_context(|| format!("--server {url}: expected http://HOST:PORT"))?;
        let host = host.trim_end_matches('/');
        if host.is_empty() || host.contains('/') {
            bail!("--server {url}: expected http://HOST:PORT, without a path");
        }
        Ok(Self(AdminAt::Tcp(if host.contains(':') { host.to_owned() } else { format!("{host}:80") })))
    }

    /// Sends one request; the answer's status is 2xx.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: UnsyncBoxBody<Bytes, std::io::Error>,
    ) -> anyhow::Result<Response<Incoming>> {
        let context = || format!("the mirror's admin interface at {} cannot be asked", self.0);
        let socket = self.0.connect().await.with_context(context)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.with_context(context)?;
        let running = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(header::HOST, self.0.host()).body(body)?;
        let answer = match sender.send_request(request).await {
            Ok(answer) => answer,
            Err(error) => {
                // What the connection says is nearer to the cause.
                let cause = running.await.ok().and_then(Result::err).unwrap_or(error);
                return Err(anyhow::Error::new(cause).context(context()));
            }
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        match told["error"].as_str() {
            Some(why) => bail!("{why}"),
            None => bail!("the mirror at {} answers {status}", self.0),
        }
    }

    /// Sends one request and reads the whole answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        let empty = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
        Ok(self.send(Method::GET, path, empty).await?.into_body().collect().await?.to_bytes())
    }
}

/// Runs a command's work.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}
