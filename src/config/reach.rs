//! Whether a pattern of repositories can match anything, and what to write instead.
//!
//! A rule that denies what there cannot be lets everything through, without a word. Pure; what is said here gets its place from
//! `build`.

use std::collections::{BTreeMap, BTreeSet};

use globset::GlobBuilder;

use super::near::near;
use crate::oci::name::{NameError, Repository, UpstreamName};

/// So many alternatives of a pattern are looked at.
const MOST: usize = 200;

/// One mistake may hide another: so many are put right in what is proposed.
const CURES: usize = 8;

/// An upstream whose repositories a pattern is about, and the hosts that mean it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of<'a> {
    pub name: &'a UpstreamName,
    pub hosts: &'a [String],
}

/// The upstreams that there may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Those that are configured, be it that they are switched off.
    names: BTreeSet<UpstreamName>,
    /// The hosts that mean them.
    hosts: BTreeMap<String, UpstreamName>,
    /// There may be others: in the folder of a mirror that is offline.
    others: bool,
}

/// Why a pattern matches nothing, and a pattern that might be meant.
#[derive(Debug)]
struct Fault {
    why: String,
    cure: Option<String>,
}

impl Fault {
    fn new(why: impl Into<String>, cure: impl Into<Option<String>>) -> Option<Self> {
        Some(Self { why: why.into(), cure: cure.into() })
    }
}

impl Known {
    /// Adds an upstream.
    pub fn add<'h>(&mut self, name: &UpstreamName, hosts: impl IntoIterator<Item = &'h str>) {
        self.names.insert(name.clone());
        self.hosts.extend(hosts.into_iter().map(|host| (host.to_owned(), name.clone())));
    }

    /// The same, where content of others may be.
    pub fn with_others(&self) -> Self {
        Self { others: true, ..self.clone() }
    }

    /// Why there is no upstream of this name; `None` if there may be one.
    pub fn missing(&self, name: &str) -> Option<String> {
        if self.others || self.names.iter().any(|known| known.as_str() == name) {
            return None;
        }
        let meant = self.hosts.get(name).map(UpstreamName::as_str);
        let told = match meant.or_else(|| near(name, self.names.iter().map(UpstreamName::as_str))) {
            Some(meant) => format!("did you mean {meant:?}? If not, add [upstream.{name:?}]"),
            None => format!("{}; add [upstream.{name:?}]", self.list()),
        };
        Some(format!("there is no upstream {name:?}: {told}"))
    }

    fn list(&self) -> String {
        let names: Vec<_> = self.names.iter().map(UpstreamName::as_str).collect();
        format!("the upstreams are {}", names.join(", "))
    }
}

/// What is wrong with a pattern over the repositories of an upstream, or of any where none is given.
pub(super) fn of_repositories(pattern: &str, of: Option<Of<'_>>) -> Option<String> {
    alternatives(pattern).iter().find_map(|one| told(one, |one| repositories(one, of)))
}

/// What is wrong with a pattern over `UPSTREAM/REPOSITORY`. One without a slash is an upstream, and means all of it.
pub(super) fn of_scopes(pattern: &str, known: &Known) -> Option<String> {
    let alone = !pattern.contains('/');
    alternatives(pattern).iter().find_map(|one| {
        // What is proposed for an upstream alone is a whole pattern.
        let mut alone = alone;
        told(one, |one| scopes(one, known, std::mem::take(&mut alone)))
    })
}

/// The part before the first slash, if that is the upstream's own name, and what follows.
pub(super) fn own_name<'p>(pattern: &'p str, of: Of<'_>) -> Option<&'p str> {
    let (first, rest) = pattern.split_once('/').unwrap_or((pattern, "**"));
    let is_own = first == of.name.as_str() || of.hosts.iter().any(|host| host == first);
    is_own.then_some(rest)
}

/// The first thing that is wrong, and what would be right once that and all else is put right.
fn told(pattern: &str, mut fault: impl FnMut(&str) -> Option<Fault>) -> Option<String> {
    let Fault { why, mut cure } = fault(pattern)?;
    for _ in 0..CURES {
        let Some(text) = &cure else { break };
        match fault(text) {
            Some(further) => cure = further.cure,
            None => break,
        }
    }
    Some(match cure {
        Some(cure) if cure == "**" || cure.strip_suffix("/**").is_some_and(|name| name.parse::<UpstreamName>().is_ok()) => {
            format!("{why}: write {cure:?} for all of them")
        }
        Some(cure) => format!("{why}: write {cure:?}"),
        None => why,
    })
}

fn repositories(pattern: &str, of: Option<Of<'_>>) -> Option<Fault> {
    let hub = of.is_some_and(|of| of.name.is_docker_hub());
    // Elsewhere a repository may be called as a registry is, but for a port.
    if let Some(of) = of
        && let Some(rest) = own_name(pattern, of)
        && (hub || of.name.as_str().contains(':'))
    {
        return Fault::new(format!("patterns here are of repositories of {}", of.name), rest.to_owned());
    }
    let parts = parts(pattern);
    if let Some((name, _)) = pattern.split_once('@').filter(|_| parts.iter().any(|part| part.literal.contains('@'))) {
        return Fault::new("patterns are of repositories, which have no digest", name.to_owned());
    }
    let last = parts.last()?;
    if let Some((name, _)) = last.text.split_once(':').filter(|_| last.literal.contains(':')) {
        let before = &pattern[..pattern.len() - last.text.len()];
        return Fault::new("patterns are of repositories, which have no tag", format!("{before}{name}"));
    }
    if parts.iter().any(|part| part.literal.contains(|c: char| c.is_uppercase())) {
        return Fault::new("repositories are written in lower case", pattern.to_lowercase());
    }
    if pattern.is_empty() || pattern.starts_with('/') || pattern.ends_with('/') {
        let cure = match pattern.trim_matches('/') {
            "" => "**".to_owned(),
            name if pattern.ends_with('/') => format!("{name}/**"),
            name => name.to_owned(),
        };
        return Fault::new("a repository neither begins nor ends with '/'", cure);
    }
    if !parts.iter().all(Part::may_be_called_so) {
        return Fault::new(format!("no repository can be called so: {}", NameError::Repository), None);
    }
    match parts[..] {
        [Part { text: "**", .. }] => None,
        [Part { text, .. }] if hub => {
            let cure = if text == "*" { "**".to_owned() } else { format!("library/{text}") };
            Fault::new("every repository of docker.io has two parts or more", cure)
        }
        _ => None,
    }
}

/// `alone`: it is an upstream, without repositories.
fn scopes(pattern: &str, known: &Known, alone: bool) -> Option<Fault> {
    let parts = parts(pattern);
    let first = parts.first()?;
    let rest = (parts.len() > 1).then(|| &pattern[first.text.len() + 1..]);
    let behind = |fault: Fault, before: &str| Fault { cure: fault.cure.map(|cure| format!("{before}/{cure}")), ..fault };
    if first.text == "**" {
        // What follows may be an upstream still, with a port.
        let before = if parts.len() > 2 { format!("**/{}", parts[1].text) } else { "**".to_owned() };
        let rest = pattern.get(before.len() + 1..)?;
        return repositories(rest, None).map(|fault| behind(fault, &before));
    }
    if first.wild {
        let glob = GlobBuilder::new(first.text).literal_separator(true).build().ok()?.compile_matcher();
        if !known.others && !known.names.iter().any(|name| glob.is_match(name.as_str())) {
            return Fault::new(format!("no upstream is called like {:?}: {}", first.text, known.list()), None);
        }
    } else if let Err(fault) = upstream(first.text, pattern, known) {
        return Some(fault);
    }
    let Some(rest) = rest else {
        return if alone { None } else { Fault::new("it names no repository", format!("{pattern}/**")) };
    };
    let name = first.text.parse::<UpstreamName>().ok();
    let of = name.as_ref().map(|name| Of { name, hosts: &[] });
    repositories(rest, of).map(|fault| behind(fault, first.text))
}

/// Whether `first`, with which `pattern` begins, may be an upstream.
fn upstream(first: &str, pattern: &str, known: &Known) -> Result<(), Fault> {
    let fault = |why: String, cure: Option<String>| Err(Fault { why, cure });
    if first.parse::<UpstreamName>().is_ok() {
        return known.missing(first).map_or(Ok(()), |why| fault(why, None));
    }
    let lower = first.to_lowercase();
    if lower != first && lower.parse::<UpstreamName>().is_ok() {
        return fault("upstreams are written in lower case".to_owned(), Some(format!("{lower}{}", &pattern[first.len()..])));
    }
    let hub = UpstreamName::docker_hub();
    fault(format!("it begins with an upstream, and none can be called {first:?}"), Some(format!("{hub}/{pattern}")))
}

/// What stands between two slashes.
struct Part<'p> {
    text: &'p str,
    /// The characters of it that stand for themselves.
    literal: String,
    /// Others stand for something else.
    wild: bool,
}

impl Part<'_> {
    /// Whether a part of a repository's name may match it.
    fn may_be_called_so(&self) -> bool {
        let stands_in_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        if self.wild { self.literal.chars().all(stands_in_a_name) } else { self.literal.parse::<Repository>().is_ok() }
    }
}

/// The parts of a pattern without braces.
fn parts(pattern: &str) -> Vec<Part<'_>> {
    let (mut parts, mut begin, mut literal, mut wild) = (Vec::new(), 0, String::new(), false);
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let at = pattern.len() - rest.len();
        let mut len = c.len_utf8();
        match c {
            '/' => {
                let text = &pattern[begin..at];
                parts.push(Part { text, literal: std::mem::take(&mut literal), wild: std::mem::take(&mut wild) });
                begin = at + 1;
            }
            '*' | '?' => wild = true,
            '[' => (wild, len) = (true, class(rest)),
            '\\' => {
                let escaped = rest[1..].chars().next();
                literal.extend(escaped);
                len += escaped.map_or(0, char::len_utf8);
            }
            c => literal.push(c),
        }
        rest = &rest[len..];
    }
    parts.push(Part { text: &pattern[begin..], literal, wild });
    parts
}

/// How long the class of characters is that `text` begins with.
fn class(text: &str) -> usize {
    let inside = text[1..].trim_start_matches(['!', '^']);
    // A bracket that comes first is one of the characters.
    let first = text.len() - inside.len() + usize::from(inside.starts_with(']'));
    text[first..].find(']').map_or(text.len(), |end| first + end + 1)
}

/// A pattern with each of its alternatives, `{a,b}`, in the place of all of them.
fn alternatives(pattern: &str) -> Vec<String> {
    let Some((before, choices, after)) = braces(pattern) else { return vec![pattern.to_owned()] };
    // A choice that is empty is none to the matcher either.
    let choices = choices.into_iter().filter(|choice| !choice.is_empty());
    choices.flat_map(|choice| alternatives(&format!("{before}{choice}{after}"))).take(MOST).collect()
}

/// The first braces of a pattern: what stands before them, the choices, what stands behind.
fn braces(pattern: &str) -> Option<(&str, Vec<&str>, &str)> {
    let (mut open, mut depth, mut choices, mut begin) = (None, 0, Vec::new(), 0);
    let mut at = 0;
    while let Some(c) = pattern[at..].chars().next() {
        match c {
            '\\' => at += pattern[at + 1..].chars().next().map_or(0, char::len_utf8),
            '[' => {
                at += class(&pattern[at..]);
                continue;
            }
            '{' => {
                if depth == 0 {
                    (open, begin) = (Some(at), at + 1);
                }
                depth += 1;
            }
            ',' if depth == 1 => {
                choices.push(&pattern[begin..at]);
                begin = at + 1;
            }
            '}' if depth == 1 => {
                choices.push(&pattern[begin..at]);
                return Some((&pattern[..open?], choices, &pattern[at + 1..]));
            }
            '}' => depth -= i32::from(depth > 0),
            _ => {}
        }
        at += c.len_utf8();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_taken_apart() {
        for (pattern, expected) in [
            ("a/*", &["a/*"][..]),
            ("{a,b}/c", &["a/c", "b/c"]),
            ("{a,{b,c}/d}", &["a", "b/d", "c/d"]),
            ("{,a}/b", &["a/b"]),
            ("[{,}]/{a,b}", &["[{,}]/a", "[{,}]/b"]),
            ("\\{a,b\\}", &["\\{a,b\\}"]),
            ("{a", &["{a"]),
        ] {
            assert_eq!(alternatives(pattern), expected, "{pattern}");
        }
        assert!(alternatives(&"{a,b}".repeat(40)).len() <= MOST);
    }

    #[test]
    fn parts_know_what_stands_for_itself() {
        let seen = |pattern: &str| {
            let parts = parts(pattern);
            parts.iter().map(|part| format!("{}{}", part.literal, if part.wild { "+" } else { "" })).collect::<Vec<_>>()
        };
        for (pattern, expected) in [
            ("a/b", &["a", "b"][..]),
            ("**/a*", &["+", "a+"]),
            ("a[:/]b/c", &["ab+", "c"]),
            ("[]x]a", &["a+"]),
            ("[!]x]a", &["a+"]),
            ("\\*a/", &["*a", ""]),
            ("a\\", &["a"]),
            ("[a", &["+"]),
        ] {
            assert_eq!(seen(pattern), expected, "{pattern}");
        }
    }

    proptest::proptest! {
        /// A repository that a pattern matches proves that there may be one.
        #[test]
        fn what_matches_something_is_not_refused(
            pattern in "(\\*\\*|\\*|[a-c]|[a-c]\\?|\\[a-c\\]|\\{a,b\\}|\\{a/b,c\\*\\})(/(\\*\\*|\\*|[a-c]|\\{a,b\\}c?)){0,3}",
            repository in "[a-c]{1,2}(/[a-c]{1,2}){0,3}",
        ) {
            let matches = |pattern: &str| crate::config::Globs::new([pattern]).unwrap().is_match(&repository);
            if matches(&pattern) {
                proptest::prop_assert_eq!(of_repositories(&pattern, None), None);
            }
            // Nor is any text a trap.
            let _ = of_scopes(&repository.replace('a', "{").replace('b', "\\["), &Known::default());
        }
    }
}
