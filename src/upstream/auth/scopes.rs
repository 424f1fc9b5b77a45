//! What the challenges of one token service have taught of its scopes, so that the next token can be asked for before the next
//! challenge. Pure; called by [`super`].

use std::collections::HashMap;

use moka::sync::Cache;

use super::asked::pull_scope;
use crate::metrics::Kind;
use crate::oci::Repository;

/// Stands for the repository in a remembered scope. No repository holds it.
const NAME: &str = "{}";

/// Repositories remembered that have scopes of their own.
const OWN: u64 = 10_000;

/// Scopes by what was asked for.
type ByKind = HashMap<Kind, Vec<String>>;

/// The scopes that a token is asked for with.
#[derive(Clone, Debug)]
pub(super) struct Scopes {
    /// Of all repositories, with [`NAME`] in the place of theirs.
    common: ByKind,
    /// Of repositories that go by another name there, as behind a proxy that writes names anew. What one is called says nothing
    /// of the others.
    own: Cache<Repository, ByKind>,
}

impl Default for Scopes {
    fn default() -> Self {
        Self { common: HashMap::new(), own: Cache::new(OWN) }
    }
}

impl Scopes {
    /// Those that a request for `repository` needs, by all that is known; `None` where only its challenge can tell.
    pub fn of(&self, kind: Kind, repository: &Repository) -> Option<Vec<String>> {
        if let Some(own) = self.own.get(repository) {
            // What one kind taught will do for the others; if not, there is a challenge again.
            return own.get(&kind).or_else(|| own.values().next()).cloned();
        }
        // Some have one scope for everything.
        let general = || self.common.values().find(|scopes| !scopes.iter().any(|scope| scope.contains(NAME)));
        match self.common.get(&kind).or_else(general) {
            Some(scopes) => Some(scopes.iter().map(|scope| scope.replace(NAME, repository.as_str())).collect()),
            None if self.common.is_empty() => None,
            None => Some(vec![pull_scope(repository.as_str())]),
        }
    }

    /// A token for `repository` was asked for with `scopes`, as a challenge wanted it.
    pub fn learn(&mut self, kind: Kind, repository: &Repository, scopes: &[String]) {
        let asked = format!(":{repository}:");
        if scopes.iter().any(|scope| scope.starts_with("repository") && !scope.contains(&asked)) {
            let mut own = self.own.get(repository).unwrap_or_default();
            own.insert(kind, scopes.to_vec());
            self.own.insert(repository.clone(), own);
            return;
        }
        self.own.invalidate(repository);
        self.common.insert(kind, scopes.iter().map(|scope| scope.replace(&asked, &format!(":{NAME}:"))).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    #[test]
    fn a_scope_is_common_unless_it_names_another_repository() {
        let mut scopes = Scopes::default();
        let of = |scopes: &Scopes, kind, name: &str| scopes.of(kind, &repository(name)).map(|scopes| scopes.join(" "));
        assert_eq!(of(&scopes, Kind::Manifest, "a/b"), None);
        scopes.learn(Kind::Manifest, &repository("a/b"), &["repository:hub/a/b:pull".to_owned()]);
        assert_eq!(of(&scopes, Kind::Blob, "a/b").as_deref(), Some("repository:hub/a/b:pull"));
        assert_eq!(of(&scopes, Kind::Manifest, "c"), None, "its challenge tells");
        scopes.learn(Kind::Manifest, &repository("c"), &["repository:c:pull,push".to_owned()]);
        assert_eq!(of(&scopes, Kind::Manifest, "d").as_deref(), Some("repository:d:pull,push"));
        assert_eq!(of(&scopes, Kind::Tags, "d").as_deref(), Some("repository:d:pull"));
        assert_eq!(of(&scopes, Kind::Manifest, "a/b").as_deref(), Some("repository:hub/a/b:pull"));
        scopes.learn(Kind::Manifest, &repository("a/b"), &["repository:a/b:pull,push".to_owned()]);
        assert_eq!(of(&scopes, Kind::Manifest, "a/b").as_deref(), Some("repository:a/b:pull,push"), "it has changed its ways");
        scopes.learn(Kind::Blob, &repository("x"), &["aws".to_owned()]);
        assert_eq!(of(&scopes, Kind::Tags, "d").as_deref(), Some("aws"), "one for everything");
    }
}
