//! `roadstead wanted`: what clients asked for and did not get.

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;

use super::print;
use super::site::FolderArgs;
use crate::cache::tree::Tree;
use crate::oci::{ImageRef, Reference};
use crate::pull::wanted::read_list;

/// List what clients asked for and did not get
///
/// These are images of the last 30 days for which no upstream could be asked and that are still not in the cache, the
/// most wanted first. Carry the list to where there is a connection: roadstead prefetch --file wanted.txt
#[derive(Debug, Args)]
pub(super) struct Wanted {
    #[command(flatten)]
    folder: FolderArgs,
}

impl Wanted {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let dir = self.folder.config()?.cache.dir;
        let tree = Tree::open(&dir).with_context(|| format!("{} is no cache", dir.display()))?;
        let mut text = String::new();
        for want in read_list(&dir).with_context(|| format!("cannot read {}", dir.join("wanted.json").display()))? {
            let Ok(image) = want.image.parse::<ImageRef>() else { continue };
            let digest = match &image.reference {
                Reference::Tag(tag) => tree.tag(&image.scope, tag),
                Reference::Digest(digest) => Some(*digest),
            };
            if digest.is_some_and(|digest| tree.find(&digest).is_some()) {
                continue;
            }
            let last = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(want.last));
            text += &format!("{image}  # asked for {} times, last {last}\n", want.times);
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
