//! The password file while the mirror runs: a change takes effect without a reload.
//!
//! Looks at the file, never at who asks. One that cannot be used changes nothing. Run by `app` as a task of its own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::{Policy, Rules};
use crate::config::Htpasswd;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

impl Policy {
    /// Reads the password file again whenever it changes; one that is wrong is told and not used. Runs until dropped.
    pub async fn watch(self: Arc<Self>) {
        let mut seen: Option<(PathBuf, _)> = None;
        let mut every = tokio::time::interval(LOOK);
        loop {
            every.tick().await;
            let Some(path) = self.rules.load().access.htpasswd.as_ref().map(|file| file.path.clone()) else { continue };
            let before = seen.take();
            // What changes between the look and the reading is seen by the next look.
            let look = move || {
                let now = (path.clone(), stamp(&path));
                let read = (before.as_ref() != Some(&now)).then(|| Htpasswd::read(&path));
                (now, read)
            };
            let Ok((now, read)) = spawn_blocking(look).await else { return };
            seen = Some(now);
            match read {
                None => {}
                Some(Ok(file)) => self.passwords_changed(file),
                Some(Err(error)) => {
                    tracing::error!(%error, "the password file cannot be used; the one read before stays in force")
                }
            }
        }
    }

    fn passwords_changed(&self, file: Htpasswd) {
        let now = self.rules.load();
        if now.access.htpasswd.as_ref().is_none_or(|held| held.path != file.path || *held == file) {
            return;
        }
        tracing::info!(file = %file.path.display(), users = file.len(), "the password file was read again");
        // Rules that a reload has put in between stay: only the file is exchanged.
        self.rules.rcu(|rules| {
            let mut rules = Rules::clone(rules);
            if rules.access.htpasswd.as_ref().is_some_and(|held| held.path == file.path) {
                rules.access.htpasswd = Some(file.clone());
            }
            rules
        });
    }
}

/// What changes when a file does.
fn stamp(path: &Path) -> Option<(u64, u64, i64, i64)> {
    fs::metadata(path).ok().map(|file| (file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
}
