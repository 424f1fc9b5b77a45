//! Which tags there are, by name, by pattern and by what they stand for. For the commands that list and change what is kept.

use std::collections::HashSet;
use std::ops::Bound;

use super::{CHUNK, Catalog, Tagged};
use crate::cache::records::TagRecord;
use crate::cache::selector::Selector;
use crate::clock::Moment;
use crate::oci::{Digest, ImageRef, Reference, Scope, Tag};

impl Catalog {
    /// The tags that a selector names, in order; of a digest, those that stand for it. At most `limit`. A pattern is
    /// tried on every tag: not for the reactor.
    pub fn tags(&self, selector: Option<&Selector>, limit: usize) -> Vec<Tagged> {
        match selector {
            Some(Selector::Digest(digest)) => self.inner.lock().tags_of(digest).take(limit).collect(),
            Some(Selector::Image(ImageRef { scope, reference })) => match reference {
                Reference::Digest(digest) => {
                    self.inner.lock().tags_of(digest).filter(|tagged| tagged.scope == *scope).take(limit).collect()
                }
                Reference::Tag(tag) => {
                    let found = self.resolve(scope, reference).and_then(|(_, record)| record);
                    let tagged = found.map(|record| Tagged { scope: scope.clone(), tag: tag.clone(), record });
                    tagged.into_iter().take(limit).collect()
                }
            },
            // As an image is written in full.
            Some(Selector::Glob(globs)) => self.walk_tags(limit, |repo, tag, _| globs.is_match(&format!("{repo}:{tag}"))),
            None => self.walk_tags(limit, |_, _, _| true),
        }
    }

    fn walk_tags(&self, limit: usize, wanted: impl Fn(&str, &Tag, &TagRecord) -> bool) -> Vec<Tagged> {
        let mut found = Vec::new();
        let mut last: Option<(String, Tag)> = None;
        while found.len() < limit {
            let inner = self.inner.lock();
            let from = last.as_ref().map_or(Bound::Unbounded, |(repo, _)| Bound::Included(repo.as_str()));
            let tags = inner.repos.range::<str, _>((from, Bound::Unbounded)).flat_map(|(name, repo)| {
                let after = last.as_ref().filter(|(repo, _)| repo == name).map(|(_, tag)| tag);
                let tags = repo.tags.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
                tags.map(move |(tag, record)| (name, repo, tag, record))
            });
            let mut next = None;
            for (tried, (name, repo, tag, record)) in tags.enumerate() {
                if wanted(name, tag, record) {
                    found.push(Tagged { scope: repo.scope.clone(), tag: tag.clone(), record: record.clone() });
                }
                if found.len() == limit {
                    return found;
                }
                if tried + 1 == CHUNK {
                    next = Some((name.clone(), tag.clone()));
                    break;
                }
            }
            drop(inner);
            last = match next {
                Some(next) => Some(next),
                None => return found,
            };
        }
        found
    }

    /// The tags that this process was told of, from `start` on. Tried on every tag: not for the reactor.
    pub fn checked_since(&self, start: Moment) -> Vec<Tagged> {
        self.walk_tags(usize::MAX, |_, _, record| record.checked_at >= start)
    }

    /// Whether a tag stands for a digest that is none of `but`.
    pub fn is_tagged(&self, digest: &Digest, but: &HashSet<(Scope, Tag)>) -> bool {
        self.inner.lock().tags_of(digest).any(|tagged| !but.contains(&(tagged.scope, tagged.tag)))
    }
}
