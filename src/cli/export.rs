//! `roadstead export`: images of the cache in a file that can be carried.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use clap::Args;

use super::site::{FolderArgs, size};
use super::{progress, tell};
use crate::cache::pins::{Pin, Pins};
use crate::cache::tree::Tree;
use crate::config::{Visibility, Wish};
use crate::oci::Platforms;
use crate::transfer::bundle::{read_since, write_lock};
use crate::transfer::export::{self, Wanted};
use crate::transfer::output::Output;
use crate::transfer::sign::Signer;

/// Write images of the cache into a bundle: an OCI image layout
///
/// skopeo, `ctr images import` and `podman load` read it, too. The same images give the same bytes. Writes a lock
/// beside the bundle (BUNDLE.lock), which says what the bundle contains, for a later --since. The mirror may be running
/// or stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roadstead export -o site.tar --all
  roadstead export -o site.tar --pinned
  roadstead export -o new.tar.zst --since old.tar.zst.lock --sign site.key 'ghcr.io/acme/app:*'
  roadstead export -o site.tar --split 4GiB --all          site.tar.000, site.tar.001, …
  roadstead export -o - --all | ssh gapped roadstead import -
Keys:
  openssl genpkey -algorithm ed25519 -out site.key
  openssl pkey -in site.key -pubout -out site.pub")]
pub(super) struct Export {
    #[command(flatten)]
    folder: FolderArgs,

    /// Where to write: a file (compressed if its name ends in .zst), a folder (one that exists, or a name with a / at
    /// the end), or - for standard output
    #[arg(short, long, value_name = "FILE|DIR|-")]
    output: PathBuf,

    /// Images, or patterns of tags such as registry.k8s.io/pause:3.*
    #[arg(value_name = "IMAGE", required_unless_present_any = ["all", "pinned"])]
    images: Vec<Wish>,

    /// Every tag of the cache
    #[arg(long, conflicts_with = "images")]
    all: bool,

    /// Every image that is pinned (roadstead pin), of the platforms that it is pinned for
    #[arg(long, conflicts_with_all = ["images", "all"])]
    pinned: bool,

    /// Only these platforms (linux/amd64,linux/arm64), which every image must have, whatever it is pinned for; "all": all
    /// that an index names. By default, those that an image is pinned for, or that are complete in the cache
    #[arg(long, value_name = "PLATFORMS")]
    platform: Option<Platforms>,

    /// Leave out what this earlier bundle, or its lock, contains: the other side has it
    #[arg(long, value_name = "BUNDLE|LOCK")]
    since: Option<PathBuf>,

    /// Write parts of at most this size: BUNDLE.000, BUNDLE.001 …
    #[arg(long, value_name = "SIZE")]
    split: Option<ByteSize>,

    /// Sign with this ed25519 private key, a PEM file
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,

    /// Where to write the lock; by default beside the bundle
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
}

impl Export {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.folder.config()?;
        let mut wanted: Vec<Wanted> = match self.pinned {
            true => pinned(&config.cache.dir)?,
            false => self.images.into_iter().map(Wanted::from).collect(),
        };
        if self.platform.is_some() {
            wanted.iter_mut().for_each(|wanted| wanted.platforms = None);
        }
        let signer = self.sign.as_deref().map(Signer::from_file).transpose()?;
        let since = self.since.as_deref().map(read_since).transpose().map_err(anyhow::Error::msg)?.unwrap_or_default();
        let tree = Tree::open(&config.cache.dir).with_context(|| format!("{} is no cache", config.cache.dir.display()))?;
        let private = config.upstreams.iter().filter(|(_, upstream)| upstream.visibility != Visibility::Public);
        let private = private.map(|(name, _)| name.clone()).collect();
        let plan = export::plan(&tree, &wanted, self.platform.as_ref(), &since, &private)?;

        let to_pipe = self.output == Path::new("-");
        let to_folder = self.output.is_dir() || self.output.as_os_str().as_encoded_bytes().ends_with(b"/");
        if self.split.is_some() && (to_pipe || to_folder) {
            bail!("--split is for files; {} is none", self.output.display());
        }
        if self.split.is_some_and(|split| split.as_u64() < 1 << 20) {
            bail!("--split: parts of less than 1MiB are no use");
        }
        let bar = progress::bar(Some(plan.bytes));
        let mut links = 0;
        let written = if to_folder {
            links = plan.write_folder(&tree, signer.as_ref(), &self.output, |bytes| bar.inc(bytes))?;
            vec![self.output.clone()]
        } else {
            let out = match to_pipe {
                true => Output::pipe(std::io::stdout())?,
                false => Output::file(&self.output, self.split.map(|split| split.as_u64()))?,
            };
            plan.write(&tree, signer.as_ref(), out, |bytes| bar.inc(bytes))?.finish().context("cannot write the bundle")?
        };
        bar.finish_and_clear();
        let beside = || PathBuf::from(format!("{}.lock", self.output.display().to_string().trim_end_matches('/')));
        let lock = match &self.lock {
            Some(lock) => Some(lock.clone()),
            None => (!to_pipe).then(beside),
        };
        if let Some(lock) = &lock {
            export::replace(lock, write_lock(&plan.lock).as_bytes())
                .with_context(|| format!("cannot write {}", lock.display()))?;
        }
        for locked in &plan.lock {
            tell(format_args!("{}  {}  {}", locked.image, locked.digest, locked.platforms));
        }
        let names: Vec<_> = written.iter().map(|path| path.display().to_string()).collect();
        let spared = if plan.spared > 0 { format!(", {} the other side has", size(plan.spared)) } else { String::new() };
        let linked = if links > 0 { format!(", {links} of them as hard links") } else { String::new() };
        tell(format_args!(
            "{} images, {} blobs, {}{spared}{linked}{}{}",
            plan.lock.len(),
            plan.blobs(),
            size(plan.bytes),
            if names.is_empty() { "" } else { " → " },
            names.join(" ")
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// The pinned images of a cache, each with the platforms that its pin is for.
fn pinned(dir: &Path) -> anyhow::Result<Vec<Wanted>> {
    let path = dir.join(Pins::FILE);
    let pins = Pins::open(path.clone()).with_context(|| format!("cannot read {}", path.display()))?.all();
    if pins.is_empty() {
        bail!("no image is pinned in {}; pin some with roadstead pin IMAGE", dir.display());
    }
    let wanted = |pin: &Pin| Wanted {
        wish: Wish::One(pin.image.clone()),
        platforms: Some(pin.platforms.clone()).filter(|platforms| !platforms.is_all()),
    };
    Ok(pins.iter().map(wanted).collect())
}
