//! From the content that was taken in to images that can be pulled.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::super::bundle;
use super::super::document::{Descriptor, Document, MAX_MANIFESTS, platform_of_config};
use super::archive::{Bundle, full, no_room};
use super::custody::Kept;
use super::staged::{MAX_DEPTH, Staged, small};
use super::{ImportError, Imported, Options, Report, Turn, docker};
use crate::cache::Cache;
use crate::cache::records::{ManifestRecord, ReferrersRecord, TagRecord};
use crate::oci::{Digest, ImageRef, MediaType, Platform, Platforms, Reference, Scope, UpstreamName};

/// An image that a bundle names.
struct Root {
    image: ImageRef,
    digest: Digest,
    /// What the exporter chose; `None` for layouts of others.
    platforms: Option<Platforms>,
}

/// What a bundle brings, all of it looked through.
pub(super) struct Plan {
    built: docker::Built,
    images: Vec<(Root, Manifests, Platforms)>,
    lists: Vec<List>,
    /// What looks like a manifest, and is only a blob of one.
    blobs: Vec<Digest>,
    /// Everything that its images need: nothing of that may be taken back.
    pub kept: Kept,
}

impl Plan {
    /// Every manifest of every repository, children first.
    pub fn manifests(&self) -> impl Iterator<Item = (&Scope, &(Digest, MediaType))> {
        let images = self.images.iter().map(|(root, manifests, _)| (&root.image.scope, manifests));
        let all = images.chain(self.lists.iter().map(|list| (&list.scope, &list.manifests)));
        all.flat_map(|(scope, manifests)| manifests.iter().map(move |manifest| (scope, manifest)))
    }
}

/// What refers to a manifest, and the manifests of that.
struct List {
    scope: Scope,
    subject: Digest,
    entries: Vec<Descriptor>,
    manifests: Manifests,
}

/// Looks through every image, before the first one becomes visible. Blocks.
pub(super) fn plan(cache: &Cache, staged: &Staged, bundle: &Bundle, options: &Options) -> Result<Plan, ImportError> {
    let built = docker::manifests(cache, staged, bundle)?;
    let (roots, referrers) = roots(bundle, &built, options)?;
    let mut walk = Walk {
        cache,
        staged,
        built: &built,
        seen: HashSet::new(),
        sizes: HashMap::new(),
        manifests: Vec::new(),
        blobs: Vec::new(),
        private: None,
        kept: Kept::default(),
    };
    let (mut images, mut lists, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for root in roots {
        walk.enter(&root.image.scope);
        match walk.image(&root, options) {
            Ok((manifests, platforms)) => images.push((root, manifests, platforms)),
            Err(ImportError::Bad(problem)) => problems.push(format!("{}: {problem}", root.image)),
            Err(error) => return Err(error),
        }
    }
    for ((scope, subject), entries) in referrers {
        walk.enter(&scope);
        match entries.iter().try_for_each(|entry| walk.below(&entry.digest, 1)) {
            Ok(()) => lists.push(List { scope, subject, entries, manifests: walk.taken() }),
            Err(ImportError::Bad(problem)) => problems.push(format!("what refers to {}: {problem}", scope.image(subject))),
            Err(error) => return Err(error),
        }
    }
    if !problems.is_empty() {
        return Err(ImportError::Bad(problems.join("\n")));
    }
    let Walk { blobs, kept, .. } = walk;
    Ok(Plan { built, images, lists, blobs, kept })
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
    for (root, _, platforms) in &plan.images {
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
    for List { scope, subject, entries, .. } in &plan.lists {
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

/// The upstreams of everything that the index of a bundle names.
pub(super) fn upstreams(bundle: &Bundle, options: &Options) -> Result<BTreeSet<UpstreamName>, ImportError> {
    // Manifests are made for archives without an index alone.
    let (roots, referrers) = roots(bundle, &docker::Built::default(), options)?;
    let subjects = referrers.into_iter().map(|((scope, _), _)| scope.upstream);
    Ok(roots.into_iter().map(|root| root.image.scope.upstream).chain(subjects).collect())
}

/// What refers to which manifest of which repository.
type Referrers = Vec<((Scope, Digest), Vec<Descriptor>)>;

fn roots(bundle: &Bundle, built: &docker::Built, options: &Options) -> Result<(Vec<Root>, Referrers), ImportError> {
    let mut roots: Vec<Root> = Vec::new();
    let mut referrers: Referrers = Vec::new();
    let descriptors = bundle.index.iter().flat_map(|index| &index.manifests);
    let mut unnamed = Vec::new();
    for descriptor in descriptors {
        if let Some(subject) = descriptor.annotations.get(bundle::SUBJECT) {
            let about: ImageRef = subject.parse().map_err(|error| ImportError::Bad(format!("{error}")))?;
            let Reference::Digest(digest) = about.reference else { continue };
            let mut entry = descriptor.clone();
            entry.annotations.remove(bundle::SUBJECT);
            let key = (about.scope, digest);
            match referrers.iter_mut().find(|(known, _)| *known == key) {
                Some((_, list)) => list.push(entry),
                None => referrers.push((key, vec![entry])),
            }
            continue;
        }
        let name = [bundle::IMAGE_NAME, bundle::REF_NAME].into_iter().filter_map(|key| descriptor.annotations.get(key));
        // A bare word is a tag to skopeo and a repository to Docker: it names nothing for sure.
        let image = name.filter(|name| name.contains(['/', ':', '@'])).find_map(|name| name.parse::<ImageRef>().ok());
        let platforms = descriptor.annotations.get(bundle::PLATFORMS).and_then(|text| text.parse().ok());
        match image {
            Some(image) => roots.push(Root { image, digest: descriptor.digest, platforms }),
            None => unnamed.push((descriptor.digest, platforms)),
        }
    }
    if roots.is_empty() && unnamed.is_empty() {
        roots.extend(built.images.iter().map(|(image, digest)| Root { image: image.clone(), digest: *digest, platforms: None }));
        unnamed.extend(built.unnamed.iter().map(|digest| (*digest, None)));
    }
    match (&options.name, unnamed.len(), roots.len()) {
        (_, 0, 1..) if options.name.is_none() => {}
        (Some(name), 1, 0) => {
            let (digest, platforms) = unnamed.remove(0);
            roots.push(Root { image: name.clone(), digest, platforms });
        }
        (Some(name), 0, 1) => roots[0].image = name.clone(),
        (Some(_), ..) => return Err(ImportError::Bad("the archive has several images; only one can be given a name".into())),
        (None, 0, 0) => return Err(ImportError::Bad("the archive has no image".into())),
        // containerd and Docker write an image twice where it has several names.
        (None, ..) if unnamed.iter().all(|(digest, _)| roots.iter().any(|root| root.digest == *digest)) => {}
        (None, ..) => {
            return Err(ImportError::Bad(format!(
                "the archive does not say the full name of image {}; give it one with --name, as in --name docker.io/library/alpine:3.20",
                unnamed[0].0
            )));
        }
    }
    for root in &mut roots {
        if let Reference::Digest(digest) = root.image.reference
            && digest != root.digest
        {
            return Err(ImportError::Bad(format!("it names {} what is {}", root.image, root.digest)));
        }
        if let Some(known) = &options.upstreams
            && !known.contains(&root.image.scope.upstream)
        {
            return Err(ImportError::Bad(format!(
                "{} is of an upstream that this mirror does not have; add [upstream.\"{}\"] to its configuration",
                root.image, root.image.scope.upstream
            )));
        }
    }
    let mut names = HashMap::new();
    for root in &roots {
        if names.insert(root.image.to_string(), root.digest).is_some_and(|other| other != root.digest) {
            return Err(ImportError::Bad(format!("it names {} twice, and differently", root.image)));
        }
    }
    Ok((roots, referrers))
}

/// Manifests of one image, children first.
type Manifests = Vec<(Digest, MediaType)>;

struct Walk<'a> {
    cache: &'a Cache,
    staged: &'a Staged,
    built: &'a docker::Built,
    /// Manifests of the image, or list, at hand that were looked through, or are. An index may list one as often as it
    /// likes, and itself be listed so.
    seen: HashSet<Digest>,
    /// Of what the cache keeps, which looks at a file each time it is asked.
    sizes: HashMap<Digest, u64>,
    /// What that has, children first.
    manifests: Manifests,
    /// What waits to be stored with the manifests, and is none of them.
    blobs: Vec<Digest>,
    /// The upstream of what is walked through, if it is not everybody's.
    private: Option<UpstreamName>,
    /// Everything that an image needs.
    kept: Kept,
}

impl Walk<'_> {
    /// Begins another image, or list, of a repository.
    fn enter(&mut self, scope: &Scope) {
        self.seen.clear();
        self.manifests.clear();
        self.private = self.cache.confined.is_private(&scope.upstream).then(|| scope.upstream.clone());
    }

    fn image(&mut self, root: &Root, options: &Options) -> Result<(Manifests, Platforms), ImportError> {
        let platforms = self.tree(&root.digest, Some(root), 0)?;
        let has = |wish: &Platform| platforms.0.iter().any(|here| wish.takes(here));
        if let Some(lacking) = options.platforms.0.iter().find(|wish| !has(wish)) {
            return Err(ImportError::Bad(format!("it is not for {lacking}, only for {platforms}")));
        }
        Ok((self.taken(), platforms))
    }

    fn taken(&mut self) -> Manifests {
        std::mem::take(&mut self.manifests)
    }

    /// A manifest that another one lists, and all below it, if it was not looked through yet.
    fn below(&mut self, digest: &Digest, depth: u32) -> Result<(), ImportError> {
        if self.seen.contains(digest) {
            return Ok(());
        }
        self.tree(digest, None, depth).map(drop)
    }

    /// A manifest and all below it, checked to be here; the platforms that it has.
    fn tree(&mut self, digest: &Digest, root: Option<&Root>, depth: u32) -> Result<Platforms, ImportError> {
        let bad = |problem: String| Err(ImportError::Bad(problem));
        self.seen.insert(*digest);
        if self.seen.len() > MAX_MANIFESTS {
            return bad(format!("it has more than {MAX_MANIFESTS} manifests"));
        }
        if depth > MAX_DEPTH {
            return bad(format!("manifest {digest} is nested too deep"));
        }
        self.staged.hold(digest);
        let bytes = match self.built.manifests.get(digest) {
            Some(bytes) => Some(bytes.to_vec()),
            None => small(self.cache, self.staged, digest)?,
        };
        let Some(bytes) = bytes else {
            return bad(format!(
                "manifest {digest} is neither in the bundle nor in the cache; export it again without --since, or since an older lock"
            ));
        };
        let document = Document::parse(&bytes, None).map_err(|error| ImportError::Bad(format!("{digest}: {error}")))?;
        if document.manifests.is_empty() && document.blobs.is_empty() {
            return bad(format!(
                "{digest} is of the unknown media type {} and refers to nothing: it is no image",
                document.media_type
            ));
        }
        self.kept.insert(*digest, self.private.as_ref());
        let (mut here, mut told, mut is_empty) = (Vec::new(), BTreeSet::new(), true);
        let chosen = root.and_then(|root| root.platforms.clone());
        let wanted = document.wanted(&chosen.clone().unwrap_or_default());
        for child in wanted {
            if !child.media_type.is_manifest() {
                // One of a kind that is unknown here, if it waits.
                let waits = self.blob(child)?;
                if waits {
                    self.manifests.push((child.digest, child.media_type.clone()));
                }
                is_empty &= !waits;
                continue;
            }
            // Others leave out of an index what they did not copy; what they did copy must be whole.
            let absent = self.size(&child.digest).is_none();
            if absent && chosen.is_none() {
                continue;
            }
            self.below(&child.digest, depth + 1)?;
            is_empty = false;
            let platform = child.platform.clone().filter(|platform| !platform.is_unknown());
            here.extend(platform.filter(|platform| told.insert(platform.clone())));
        }
        if is_empty && !document.manifests.is_empty() {
            return bad(format!("of the index {digest} no image is in the bundle"));
        }
        for blob in &document.blobs {
            // An artifact may hold a manifest, which makes it none of the repository's.
            if self.blob(blob)? {
                self.blobs.push(blob.digest);
            }
        }
        if document.manifests.is_empty()
            && depth == 0
            && let Some(config) = document.blobs.first()
        {
            let config = small(self.cache, self.staged, &config.digest)?;
            here.extend(config.and_then(|config| platform_of_config(&config)));
        }
        self.manifests.push((*digest, document.media_type));
        Ok(Platforms(here))
    }

    /// Checks a blob to be here; whether it waits to be published, because it looks like a manifest.
    fn blob(&mut self, blob: &Descriptor) -> Result<bool, ImportError> {
        match self.size(&blob.digest) {
            Some(size) if size == blob.size => {
                self.kept.insert(blob.digest, self.private.as_ref());
                Ok(self.staged.spooled_size(&blob.digest).is_some())
            }
            Some(size) => {
                Err(ImportError::Bad(format!("blob {} has {size} bytes, its manifest says {}", blob.digest, blob.size)))
            }
            None => Err(ImportError::Bad(format!(
                "blob {} ({} bytes) is neither in the bundle nor in the cache; export it again without --since, or since an older lock",
                blob.digest, blob.size
            ))),
        }
    }

    fn size(&mut self, digest: &Digest) -> Option<u64> {
        let built = self.built.manifests.get(digest).map(|bytes| bytes.len() as u64);
        if let Some(size) = built.or_else(|| self.staged.spooled_size(digest)).or_else(|| self.sizes.get(digest).copied()) {
            return Some(size);
        }
        let kept = self.staged.keeps(self.cache, digest)?;
        self.sizes.insert(*digest, kept);
        Some(kept)
    }
}
