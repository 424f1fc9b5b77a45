//! `roadstead check --online`: every upstream is walked, all at one time, and told in the order of their names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use crate::cli::print;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::oci::{Reference, Repository, UpstreamName};
use crate::upstream::{Step, Upstream};

/// Something that a registry gives a token for even if it does not exist.
const SOME_REPOSITORY: &str = "library/hello-world";

pub(super) fn run(config: &Config, images: &[String]) -> anyhow::Result<ExitCode> {
    let mut wanted: BTreeMap<UpstreamName, Vec<(Repository, Reference)>> = BTreeMap::new();
    for image in images {
        let (upstream, repository, reference) = parse(config, image).with_context(|| format!("{image:?} is no image"))?;
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

/// `upstream/repository:tag`; without an upstream it is the default one's, as docker writes images.
pub(super) fn parse(config: &Config, image: &str) -> anyhow::Result<(UpstreamName, Repository, Reference)> {
    let upstream = image.split_once('/').and_then(|(first, rest)| Some((first.parse::<UpstreamName>().ok()?, rest)));
    let (upstream, rest) = upstream
        .filter(|(name, _)| config.upstreams.contains_key(name))
        .unwrap_or_else(|| (config.server.default_upstream.clone(), image));
    let (repository, reference) = match (rest.split_once('@'), rest.rsplit_once(':')) {
        (Some((repository, digest)), _) => (repository, Reference::Digest(digest.parse()?)),
        (None, Some((repository, tag))) if !tag.contains('/') => (repository, Reference::Tag(tag.parse()?)),
        _ => (rest, Reference::Tag("latest".parse()?)),
    };
    let hub = upstream.as_str() == "docker.io" && !repository.contains('/');
    let repository = if hub { format!("library/{repository}") } else { repository.to_owned() };
    Ok((upstream, repository.parse()?, reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (image, expected) in [
            ("alpine", "docker.io library/alpine latest".to_owned()),
            ("alpine:3", "docker.io library/alpine 3".to_owned()),
            ("team/app:1", "docker.io team/app 1".to_owned()),
            ("ghcr.io/owner/app:1", "ghcr.io owner/app 1".to_owned()),
            ("ghcr.io/app", "ghcr.io app latest".to_owned()),
            (&format!("quay.io/a/b@{digest}"), format!("quay.io a/b {digest}")),
        ] {
            let (upstream, repository, reference) = parse(&Config::default(), image).unwrap();
            assert_eq!(format!("{upstream} {repository} {reference}"), expected);
        }
        for bad in ["", "UPPER", "a:b c", "a@sha256:1"] {
            assert!(parse(&Config::default(), bad).is_err(), "{bad}");
        }
    }
}
