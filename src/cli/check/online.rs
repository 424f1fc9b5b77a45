//! `roadstead check --online`: every upstream is walked, all at one time, and told in the order of their names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::cli::print;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::oci::{ImageRef, Reference, Repository, Scope, UpstreamName};
use crate::upstream::{Step, Upstream};

/// Something that a registry gives a token for even if it does not exist.
const SOME_REPOSITORY: &str = "library/hello-world";

pub(super) fn run(config: &Config, images: Vec<ImageRef>) -> anyhow::Result<ExitCode> {
    let mut wanted: BTreeMap<UpstreamName, Vec<(Repository, Reference)>> = BTreeMap::new();
    for ImageRef { scope: Scope { upstream, repository }, reference } in images {
        if !config.upstreams.contains_key(&upstream) {
            bail!("there is no upstream {upstream}: add [upstream.\"{upstream}\"] to the configuration");
        }
        wanted.entry(upstream).or_default().push((repository, reference));
    }
    let some: Repository = SOME_REPOSITORY.parse()?;
    let metrics = Arc::new(Metrics::new());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut walks = Vec::new();
    for (name, upstream) in &config.upstreams {
        let upstream =
            Upstream::new(name.clone(), upstream, Arc::clone(&metrics)).with_context(|| format!("[upstream.{name}]"))?;
        let (images, some) = (wanted.remove(name).unwrap_or_default(), some.clone());
        walks.push((name, runtime.spawn(async move { upstream.examine(&images, &some).await })));
    }
    let mut failed = 0;
    for (name, walk) in walks {
        let steps = runtime.block_on(walk)?;
        failed += steps.iter().filter(|step| step.outcome.is_err()).count();
        print(&told(name, &steps))?;
    }
    runtime.shutdown_background();
    print(&match failed {
        0 => "\nall upstreams are well\n".to_owned(),
        1 => "\n1 step failed\n".to_owned(),
        more => format!("\n{more} steps failed\n"),
    })?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn told(name: &UpstreamName, steps: &[Step]) -> String {
    let mut text = format!("\n{name}\n");
    for Step { what, outcome } in steps {
        let _ = match outcome {
            Ok(found) => writeln!(text, "  ok      {what}: {found}"),
            Err(problem) => writeln!(text, "  FAILED  {what}: {problem}"),
        };
    }
    text
}
