//! `roadstead verify`: hashing all content again, by the running mirror or without one.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Args;
use http::Method;

use super::table::{show, size};
use crate::cache::Cache;
use crate::cache::verify::{Progress, Verification};
use crate::cli::remote::Remote;
use crate::cli::site::of_another;
use crate::metrics::Metrics;

/// Hash all content again, and set apart what is damaged
///
/// Asks the running mirror, which downloads damaged content again. If none runs, and --admin names none, the command
/// verifies the folder of the configuration itself; damaged content is then downloaded at its next pull.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all content is right, 1 some was damaged, or could not be verified.")]
pub(in crate::cli) struct Verify {
    /// Read at most so many bytes a second, such as 50MiB; 0 for no limit
    #[arg(long, value_name = "SIZE", default_value = "0B")]
    rate: ByteSize,
    #[command(flatten)]
    remote: Remote,
}

impl Verify {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let rate = self.rate.as_u64().to_string();
        let progress = match self.remote.ask(Method::POST, "verify", &[("rate", &rate)]) {
            Ok(begun) => self.follow(serde_json::from_value::<Progress>(begun)?.pass)?,
            Err(error) if !self.remote.is_down(&error) => return Err(error),
            Err(error) => match self.alone()? {
                Some(progress) => progress,
                None => return Err(error),
            },
        };
        let document = serde_json::to_value(progress)?;
        show(&self.remote, &document, |document| {
            let unread = match progress.unread {
                0 => String::new(),
                unread => format!(", {unread} could not be looked at; the log says why"),
            };
            format!(
                "{} objects, {} verified, {} damaged{unread}\n",
                document["objects"],
                size(&document["bytes"]),
                document["damaged"]
            )
        })?;
        Ok(if progress.damaged + progress.unread == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Waits until the mirror has done this pass.
    fn follow(&self, pass: u64) -> anyhow::Result<Progress> {
        loop {
            let document = self.remote.ask(Method::GET, "verify", &[])?;
            let progress: Progress = serde_json::from_value(document.clone())?;
            bar(&progress, document["of_bytes"].as_u64().unwrap_or_default());
            if !progress.running || progress.pass != pass {
                clear_bar();
                anyhow::ensure!(progress.pass == pass, "not everything was verified: the mirror was started again meanwhile");
                anyhow::ensure!(progress.whole, "not everything was verified; the mirror's log says why");
                return Ok(progress);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Verifies the folder itself; `None` if it is not there or a mirror has it.
    fn alone(&self) -> anyhow::Result<Option<Progress>> {
        let config = self.remote.file().load()?;
        if !config.cache.dir.join("VERSION").exists() {
            return Ok(None);
        }
        let dir = config.cache.dir.display();
        anyhow::ensure!(
            !of_another(&config.cache.dir),
            "the cache in {dir} is another user's; start its mirror, or run this as that user"
        );
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let progress = runtime.block_on(async {
            let cache = Cache::open(&config.cache, Arc::new(Metrics::new()))?;
            let maintenance = tokio::spawn(cache.clone().maintain());
            let verification = Arc::new(Verification::default());
            let begun = verification.begin().context("a verification that is new runs already")?;
            let (whole, rate) = (cache.clone(), self.rate.as_u64());
            let run = tokio::spawn(async move { whole.verify(begun, rate).await });
            while !run.is_finished() {
                bar(&verification.progress(), cache.disk_totals().0);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            clear_bar();
            maintenance.abort();
            anyhow::ensure!(run.await?, "the cache folder {dir} cannot be read; the log says why");
            anyhow::Ok(verification.progress())
        })?;
        Ok(Some(progress))
    }
}

fn bar(progress: &Progress, of: u64) {
    if std::io::stderr().is_terminal() {
        let share = if of > 0 { (progress.bytes as f64 / of as f64).min(1.0) } else { 0.0 };
        let done = "#".repeat((share * 30.0) as usize);
        let bytes = ByteSize(progress.bytes).display().iec();
        let _ = write!(std::io::stderr(), "\r[{done:30}] {:3.0} %  {} objects, {bytes}  ", share * 100.0, progress.objects);
    }
}

fn clear_bar() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}
