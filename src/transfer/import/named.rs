//! What a bundle names: its images, and what refers to which manifest. Pure, but for what [`super::docker`] made. Used by
//! [`super::images`], and by [`super::custody`] before there is anything else.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::bundle;
use super::super::document::Descriptor;
use super::archive::Bundle;
use super::{ImportError, Options, docker};
use crate::oci::{Digest, ImageRef, Platforms, Reference, Scope, UpstreamName};

/// The longest choice of platforms that is read, in characters: each manifest of the image is compared with all of it.
const LONGEST_CHOICE: usize = 4096;

/// An image that a bundle names.
pub(super) struct Root {
    pub image: ImageRef,
    pub digest: Digest,
    /// What the exporter chose; `None` for layouts of others.
    pub platforms: Option<Platforms>,
}

/// What refers to a manifest.
pub(super) struct List {
    pub scope: Scope,
    pub subject: Digest,
    pub entries: Vec<Descriptor>,
}

/// The upstreams of everything that the index of a bundle names.
pub(super) fn upstreams(bundle: &Bundle, options: &Options) -> Result<BTreeSet<UpstreamName>, ImportError> {
    // Manifests are made for archives without an index alone.
    let (roots, lists) = all(bundle, &docker::Built::default(), options)?;
    let subjects = lists.into_iter().map(|list| list.scope.upstream);
    Ok(roots.into_iter().map(|root| root.image.scope.upstream).chain(subjects).collect())
}

/// All of it, in the index's order. An index can name 10^5 images.
pub(super) fn all(bundle: &Bundle, built: &docker::Built, options: &Options) -> Result<(Vec<Root>, Vec<List>), ImportError> {
    let mut roots: Vec<Root> = Vec::new();
    let mut lists: Vec<List> = Vec::new();
    let mut known: HashMap<(Scope, Digest), usize> = HashMap::new();
    let descriptors = bundle.index.iter().flat_map(|index| &index.manifests);
    let mut unnamed = Vec::new();
    for descriptor in descriptors {
        if let Some(subject) = descriptor.annotations.get(bundle::SUBJECT) {
            let about: ImageRef = subject.parse().map_err(|error| ImportError::Bad(format!("{error}")))?;
            let Reference::Digest(digest) = about.reference else { continue };
            let mut entry = descriptor.clone();
            entry.annotations.remove(bundle::SUBJECT);
            let at = *known.entry((about.scope.clone(), digest)).or_insert(lists.len());
            match lists.get_mut(at) {
                Some(list) => list.entries.push(entry),
                None => lists.push(List { scope: about.scope, subject: digest, entries: vec![entry] }),
            }
            continue;
        }
        let name = [bundle::IMAGE_NAME, bundle::REF_NAME].into_iter().filter_map(|key| descriptor.annotations.get(key));
        // A bare word is a tag to skopeo and a repository to Docker: it names nothing for sure.
        let image = name.filter(|name| name.contains(['/', ':', '@'])).find_map(|name| name.parse::<ImageRef>().ok());
        let choice = descriptor.annotations.get(bundle::PLATFORMS).filter(|text| text.len() <= LONGEST_CHOICE);
        let platforms = choice.and_then(|text| text.parse().ok());
        match image {
            Some(image) => roots.push(Root { image, digest: descriptor.digest, platforms }),
            None => unnamed.push((descriptor.digest, platforms)),
        }
    }
    if roots.is_empty() && unnamed.is_empty() {
        roots.extend(built.images.iter().map(|(image, digest)| Root { image: image.clone(), digest: *digest, platforms: None }));
        unnamed.extend(built.unnamed.iter().map(|digest| (*digest, None)));
    }
    let named: HashSet<Digest> = roots.iter().map(|root| root.digest).collect();
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
        (None, ..) if unnamed.iter().all(|(digest, _)| named.contains(digest)) => {}
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
    Ok((roots, lists))
}
