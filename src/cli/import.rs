//! `roadstead import`: bundles into a mirror that may never see an upstream.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use super::endpoint::Endpoint;
use super::site::{Site, SiteArgs, block_on, size};
use super::{print, progress};
use crate::oci::{ImageRef, Platforms};
use crate::transfer::import::{self, Options, Report, Turn};
use crate::transfer::input;
use crate::transfer::sign::Verifier;

/// Take bundles into the cache of a mirror, running or stopped
///
/// Reads what `roadstead export` writes, `docker save` archives, and OCI layouts in a tar, plain or .zst. Every byte is
/// verified before anything of it can be pulled. A bundle is imported whole, or not at all. Importing it again does no
/// harm, and goes on where an interrupted import stopped. Name the parts of a split bundle together, in order.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roadstead import site.tar
  roadstead import site.tar.*                      the parts of one bundle
  roadstead import --verify-key site.pub site.tar.zst
  docker save alpine:3.20 | roadstead import -
Exit codes:
  0  everything was imported
  1  a bundle was refused, and nothing of it is in the cache; or the disk failed: no tag has
     changed, or the error names the tags that could not be written down")]
pub(super) struct Import {
    #[command(flatten)]
    site: SiteArgs,

    /// The bundles; - for standard input
    #[arg(value_name = "BUNDLE", required = true)]
    bundles: Vec<PathBuf>,

    /// Refuse bundles that are not signed with the private key of this public key, a PEM file. A running mirror checks
    /// its own import.verify_key as well
    #[arg(long, value_name = "PUB")]
    verify_key: Option<PathBuf>,

    /// Refuse images that are not for these platforms
    #[arg(long, value_name = "PLATFORMS")]
    platform: Option<Platforms>,

    /// The full name of the image, if the archive has only one and does not name it
    #[arg(long, value_name = "IMAGE")]
    name: Option<ImageRef>,
}

impl Import {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.site.config()?;
        block_on(async move {
            let offline = config.cache.offline;
            let key = self.verify_key.clone().or(config.import.verify_key.clone());
            let verifier = key.as_deref().map(Verifier::from_file).transpose()?;
            let bundles = group(&self.bundles);
            match self.site.open(config).await? {
                Site::Stopped(workshop) => {
                    let upstreams = (!offline).then(|| workshop.config.upstreams.keys().cloned().collect());
                    let options = Options {
                        verifier,
                        platforms: self.platform.clone().unwrap_or_default(),
                        name: self.name.clone(),
                        upstreams,
                    };
                    let maintain = tokio::spawn(workshop.cache.clone().maintain());
                    let mut failed = Ok(());
                    for files in &bundles {
                        let opened = progress::open(files).with_context(|| label(files));
                        let imported = match opened {
                            Ok(opened) => import::import(workshop.cache.clone(), opened, options.clone(), &Turn::default())
                                .await
                                .with_context(|| label(files)),
                            Err(error) => Err(error),
                        };
                        match imported {
                            Ok(report) => show(files, &report)?,
                            Err(error) => {
                                failed = Err(error);
                                break;
                            }
                        }
                    }
                    maintain.abort();
                    workshop.close().await;
                    failed?;
                }
                Site::Running(remote) => {
                    for files in &bundles {
                        // The mirror checks with its own key; this one is checked here, before anything is sent.
                        if let Some(verifier) = &verifier {
                            check_signature(files, verifier).with_context(|| label(files))?;
                        }
                        let report = self.send(&remote, files).await.with_context(|| label(files))?;
                        show(files, &report)?;
                    }
                }
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    async fn send(&self, remote: &Endpoint, files: &[PathBuf]) -> anyhow::Result<Report> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.platform.as_ref().map(|platforms| ("platform", platforms.to_string())));
        query.extend_pairs(self.name.as_ref().map(|name| ("name", name.to_string())));
        let mut opened = progress::open(files)?;
        let (sender, receiver) = mpsc::channel(8);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut chunk = vec![0; 256 << 10];
                let read = match opened.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(read) => {
                        chunk.truncate(read);
                        Ok(Bytes::from(chunk))
                    }
                    Err(error) => Err(error),
                };
                let broken = read.is_err();
                if sender.blocking_send(read).is_err() || broken {
                    return;
                }
            }
        });
        let path = format!("/api/v1/import?{}", query.finish());
        let answer = remote.send(Method::POST, &path, Chunks(receiver).boxed_unsync()).await?;
        Ok(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)
    }
}

/// Reads the index and its signature, which a signed bundle begins with.
fn check_signature(files: &[PathBuf], verifier: &Verifier) -> anyhow::Result<()> {
    use crate::transfer::bundle::{INDEX, MAX_INDEX, SIGNATURE};
    if files == [PathBuf::from("-")] {
        // It cannot be read twice; the mirror's own key has to do.
        anyhow::bail!("--verify-key needs a file when the mirror runs; set import.verify_key in its configuration instead");
    }
    let mut archive = crate::transfer::tar::Reader::new(input::open(files)?);
    let mut index = None;
    while let Some(entry) = archive.next_entry()? {
        match entry.name.as_str() {
            INDEX => index = Some(archive.whole(INDEX, MAX_INDEX)?),
            SIGNATURE => {
                let signature = archive.whole(SIGNATURE, 4096)?;
                return Ok(verifier.verify(&index.unwrap_or_default(), Some(&signature))?);
            }
            name if name.starts_with("blobs") => break,
            _ => {}
        }
    }
    Ok(verifier.verify(b"", None)?)
}

/// Parts that follow each other belong to one bundle.
fn group(files: &[PathBuf]) -> Vec<Vec<PathBuf>> {
    let mut bundles: Vec<Vec<PathBuf>> = Vec::new();
    for file in files {
        let stem = |file: &Path| input::part(file).map(|(stem, _)| stem);
        match bundles.last_mut() {
            Some(bundle) if stem(file).is_some() && stem(&bundle[0]) == stem(file) => bundle.push(file.clone()),
            _ => bundles.push(vec![file.clone()]),
        }
    }
    bundles
}

fn label(files: &[PathBuf]) -> String {
    match files {
        [one] => one.display().to_string(),
        [first, .., last] => format!("{} … {}", first.display(), last.display()),
        [] => String::new(),
    }
}

fn show(files: &[PathBuf], report: &Report) -> anyhow::Result<()> {
    let mut text = String::new();
    let width = report.images.iter().map(|image| image.image.len()).max().unwrap_or_default();
    for image in &report.images {
        let note = if image.unchanged { "  unchanged" } else { "" };
        text += &format!("{:width$}  {}  {}{note}\n", image.image, image.digest, image.platforms);
    }
    let referrers = if report.referrers > 0 { format!(", {} lists of referrers", report.referrers) } else { String::new() };
    text += &format!(
        "{}: {} images{referrers}; {} new objects ({}), {} were here\n",
        label(files),
        report.images.len(),
        report.new_blobs,
        size(report.new_bytes),
        report.known_blobs
    );
    Ok(print(&text)?)
}

/// A request's body, as a thread reads it.
struct Chunks(mpsc::Receiver<std::io::Result<Bytes>>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}
