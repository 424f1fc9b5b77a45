//! A mirror as commands reach it: its folder if it is stopped, its admin interface if it runs.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use anyhow::{Context as _, bail};
use clap::Args;

use super::ConfigFile;
use super::endpoint::{Endpoint, Place, token_from};
use super::papers::Papers;
use crate::app::{StartError, Workshop};
use crate::cache::store::StoreError;
use crate::config::Config;
use crate::metrics::Metrics;

/// Which folder, for commands that read nothing else.
#[derive(Debug, Args)]
pub(super) struct FolderArgs {
    #[command(flatten)]
    file: ConfigFile,

    /// The cache folder. Overrides cache.dir
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

/// Which mirror.
#[derive(Debug, Args)]
pub(super) struct SiteArgs {
    #[command(flatten)]
    folder: FolderArgs,

    /// The admin interface of a running mirror: http://HOST:PORT, https://HOST:PORT or unix:PATH. By default the
    /// command opens the cache folder; if a mirror has it open, or it is another user's, the command asks
    /// that mirror by admin.listen
    #[arg(long, value_name = "ADDRESS")]
    server: Option<Place>,

    /// A file with the token of the admin interface; by default the token of the configuration
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    #[command(flatten)]
    pub papers: Papers,
}

/// A mirror.
pub(super) enum Site {
    /// Its folder is ours.
    Stopped(Box<Workshop>),
    /// It runs.
    Running(Endpoint),
}

impl FolderArgs {
    /// The configuration, with the flags over it.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config = self.file.load()?;
        if let Some(dir) = &self.cache_dir {
            config.cache.dir.clone_from(dir);
        }
        Ok(config)
    }
}

impl SiteArgs {
    /// The configuration, with the flags over it.
    pub fn config(&self) -> anyhow::Result<Config> {
        self.folder.config()
    }

    /// Finds out which it is.
    pub async fn open(&self, config: Config) -> anyhow::Result<Site> {
        let given = self.token_file.as_deref().map(token_from).transpose()?;
        let admin = config.admin.listen.as_ref().and_then(|listen| Place::of(listen, config.admin.tls.is_some()));
        let (token, papers) = (given.or_else(|| config.admin.token.clone()), self.papers.with(&config.admin));
        if let Some(place) = &self.server {
            return Ok(Site::Running(Endpoint::new(place.clone(), token, papers)));
        }
        let dir = config.cache.dir.clone();
        if of_another(&dir) {
            let told = || {
                format!(
                    "the cache in {} is another user's, so its mirror has to do this: start it (--server says where it is), or run this as that user",
                    dir.display()
                )
            };
            let endpoint = Endpoint::new(admin.with_context(told)?, token, papers);
            endpoint.get("/healthz").await.with_context(told)?;
            return Ok(Site::Running(endpoint));
        }
        match Workshop::open(config, &Arc::new(Metrics::new())).await {
            Ok(workshop) => Ok(Site::Stopped(Box::new(workshop))),
            Err(StartError::Store(StoreError::Locked(dir))) => match admin {
                Some(place) => Ok(Site::Running(Endpoint::new(place, token, papers))),
                None => bail!(
                    "a mirror has {} open, and its admin interface is off; stop it, or name it with --server",
                    dir.display()
                ),
            },
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a cache was written by another user, or is to be: root may make a folder for somebody's mirror. What this process
/// wrote there, as root could, that user's mirror could not change, and perhaps not read.
pub(super) fn of_another(dir: &Path) -> bool {
    let own = rustix::process::geteuid();
    let owner = match fs::metadata(dir.join("VERSION")) {
        Ok(version) => Some(version.uid()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return true,
        // Whose a new folder is says nothing where a group may write to it, as in a volume of Kubernetes.
        Err(_) if own.is_root() => fs::metadata(dir).ok().map(|folder| folder.uid()),
        Err(_) => None,
    };
    owner.is_some_and(|owner| owner != own.as_raw())
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
