//! From the content that was taken in to images that can be pulled.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::archive::{Bundle, full, no_room};
use super::custody::Kept;
use super::named::{self, List, Root};
use super::staged::Staged;
use super::walk::{Manifests, Needed, Walk};
use super::{ImportError, Imported, Options, Report, Turn, docker};
use crate::cache::Cache;
use crate::cache::records::{ManifestRecord, ReferrersRecord, TagRecord};
use crate::oci::{Digest, ImageRef, MediaType, Reference, Repository, Scope, UpstreamName};

/// What a bundle brings, all of it looked through.
pub(super) struct Plan {
    built: docker::Built,
    /// Each with the platforms that it has.
    images: Vec<(Root, Arc<str>)>,
    lists: Vec<List>,
    manifests: Vec<(Scope, Manifests)>,
    /// What looks like a manifest, and is only a blob of one.
    blobs: BTreeSet<Digest>,
    /// Everything that its images need: nothing of that may be taken back.
    pub kept: Kept,
}

impl Plan {
    /// Every manifest of every repository, children first.
    pub fn manifests(&self) -> impl Iterator<Item = (&Scope, &(Digest, MediaType))> {
        self.manifests.iter().flat_map(|(scope, manifests)| manifests.iter().map(move |manifest| (scope, manifest)))
    }
}

/// Looks through every image, before the first one becomes visible. Blocks.
pub(super) fn plan(cache: &Cache, staged: &Staged, bundle: &Bundle, options: &Options) -> Result<Plan, ImportError> {
    let built = docker::manifests(cache, staged, bundle)?;
    let (roots, lists) = named::all(bundle, &built, options)?;
    let mut walk = Walk::new(cache, staged, &built, options);
    // Those of one repository together; told is in the order of the bundle.
    let mut items: Vec<Item<'_>> = roots.iter().enumerate().map(|(at, root)| Item::Image(at, root)).collect();
    items.extend(lists.iter().enumerate().map(|(at, list)| Item::List(at, list)));
    items.sort_by(|a, b| a.place().cmp(&b.place()));
    let (mut platforms, mut problems) = (vec![Arc::default(); roots.len()], Vec::new());
    for item in items {
        let looked = match item {
            Item::Image(at, root) => walk.image(root).map(|told| platforms[at] = told),
            Item::List(_, list) => walk.list(list),
        };
        match looked {
            Ok(()) => {}
            Err(ImportError::Bad(problem)) if !walk.is_spent() => problems.push((item.at(), item.told(&problem))),
            Err(error) => return Err(error),
        }
    }
    if !problems.is_empty() {
        problems.sort();
        let problems: Vec<String> = problems.into_iter().map(|(_, problem)| problem).collect();
        return Err(ImportError::Bad(problems.join("\n")));
    }
    let Needed { manifests, blobs, kept } = walk.end();
    Ok(Plan { built, images: roots.into_iter().zip(platforms).collect(), lists, manifests, blobs, kept })
}

/// What is looked through, and its place in the bundle.
#[derive(Clone, Copy)]
enum Item<'a> {
    Image(usize, &'a Root),
    List(usize, &'a List),
}

impl Item<'_> {
    fn place(&self) -> (&UpstreamName, &Repository) {
        let (Item::Image(_, Root { image: ImageRef { scope, .. }, .. }) | Item::List(_, List { scope, .. })) = self;
        (&scope.upstream, &scope.repository)
    }

    fn at(&self) -> (bool, usize) {
        match self {
            Item::Image(at, _) => (false, *at),
            Item::List(at, _) => (true, *at),
        }
    }

    fn told(&self, problem: &str) -> String {
        match self {
            Item::Image(_, root) => format!("{}: {problem}", root.image),
            Item::List(_, List { scope, subject, .. }) => format!("what refers to {}: {problem}", scope.image(*subject)),
        }
    }
}

/// Makes the bundle's images visible: first everything is stored, and it is said whose it is; then what each repository
/// has; the tags and the lists of referrers, which are what is seen of it, last. An error before that leaves every tag as it was.
/// `private`: the upstreams that were not everybody's when the import began.
pub(super) async fn publish(
    cache: &Arc<Cache>,
    staged: &Arc<Staged>,
    plan: Arc<Plan>,
    private: &BTreeSet<UpstreamName>,
    turn: &Turn,
) -> Result<Report, ImportError> {
    for digest in plan.blobs.iter().chain(plan.manifests().map(|(_, (digest, _))| digest)) {
        store_manifest(cache, staged, &plan, *digest).await?;
    }
    let (this, all) = (cache.clone(), plan.clone());
    spawn_blocking(move || all.kept.settle(&this)).await.map_err(io::Error::other).flatten().map_err(full)?;
    for (scope, (digest, media_type)) in plan.manifests() {
        cache.learn_manifest(scope, digest, media_type).await;
        cache.keep_manifest_record(scope, digest, &ManifestRecord { media_type: media_type.clone() }).await.map_err(full)?;
    }
    cache.confine_since(private).await;
    let clock = cache.clock();
    let mut report = Report { known_blobs: staged.known, ..Report::default() };
    turn.publish()?;
    // From here on there is no way back: the rest is done whatever fails, and told.
    let mut unwritten = Unwritten::default();
    for (root, platforms) in &plan.images {
        let scope = &root.image.scope;
        let mut unchanged = false;
        if let Reference::Tag(tag) = &root.image.reference {
            unchanged = cache.tag(scope, tag).await.is_some_and(|record| record.digest == root.digest);
            let record = TagRecord { digest: root.digest, checked_at: clock.now(), imported: true };
            unwritten.note(cache.set_tag(scope, tag, record).await, || root.image.to_string());
        }
        report.images.push(Imported {
            image: root.image.to_string(),
            digest: root.digest,
            platforms: platforms.to_string(),
            unchanged,
        });
    }
    for List { scope, subject, entries } in &plan.lists {
        let body = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries }).to_string();
        let record = ReferrersRecord { body, filters_applied: None, checked_at: clock.now() };
        unwritten
            .note(cache.keep_referrers_record(scope, subject, &record).await, || format!("what refers to {scope}@{subject}"));
        report.referrers += 1;
    }
    (report.new_blobs, report.new_bytes) = (staged.published().len(), staged.bytes());
    unwritten.or(report)
}

/// Names that the disk did not take.
#[derive(Default)]
struct Unwritten {
    names: Vec<String>,
    first: Option<io::Error>,
}

impl Unwritten {
    fn note(&mut self, written: io::Result<()>, name: impl FnOnce() -> String) {
        if let Err(error) = written {
            self.names.push(name());
            self.first.get_or_insert(error);
        }
    }

    fn or(self, report: Report) -> Result<Report, ImportError> {
        match self.first {
            Some(source) => Err(ImportError::Unwritten { names: self.names.join(", "), source }),
            None => Ok(report),
        }
    }
}

/// Gives a manifest its name, if it does not have it yet.
async fn store_manifest(cache: &Arc<Cache>, staged: &Arc<Staged>, plan: &Plan, digest: Digest) -> Result<(), ImportError> {
    let (this, waiting, built) = (cache.clone(), staged.clone(), plan.built.manifests.get(&digest).cloned());
    let lacking = move || match (waiting.keeps(&this, &digest), built) {
        (Some(_), _) => Ok(None),
        (None, Some(bytes)) => Ok(Some(bytes)),
        (None, None) => Ok(waiting.spooled(&digest)?.map(Bytes::from)),
    };
    if let Some(bytes) = spawn_blocking(lacking).await.map_err(io::Error::other).flatten()? {
        // Before it is there: what does not get to the disk is in memory all the same.
        staged.note(digest, bytes.len() as u64);
        match plan.kept.holder(&digest) {
            Some(upstream) => cache.put_from(upstream.clone(), digest, bytes).await,
            None => cache.put(digest, bytes).await,
        }
        .map_err(no_room)?;
    }
    Ok(())
}
