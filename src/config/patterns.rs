//! Patterns an operator writes: regular expressions over tags, globs over repositories.
//!
//! Both remember their text, so that two configurations can be compared and shown.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// Regular expressions over tags. A tag is ASCII (OCI distribution-spec), so they are, too: `\d` is `[0-9]`.
#[derive(Clone, Debug, Default)]
pub struct TagPatterns(RegexSet);

impl TagPatterns {
    /// Compiles `patterns`. An error is the compiler's, and names no pattern: check them one by one first.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, String> {
        RegexSetBuilder::new(patterns).unicode(false).build().map(Self).map_err(|error| reason(&error))
    }

    /// Whether one of them matches `tag`, anywhere in it unless the pattern says `^…$`.
    pub fn is_match(&self, tag: &str) -> bool {
        self.0.is_match(tag.as_bytes())
    }

    /// The patterns as written.
    pub fn patterns(&self) -> &[String] {
        self.0.patterns()
    }

    /// Compiles one pattern, to say what is wrong with it.
    pub(super) fn check(pattern: &str) -> Result<Regex, String> {
        RegexBuilder::new(pattern).unicode(false).build().map_err(|error| reason(&error))
    }
}

impl PartialEq for TagPatterns {
    fn eq(&self, other: &Self) -> bool {
        self.patterns() == other.patterns()
    }
}

/// The regex compiler draws a picture over several lines; its last line says what is wrong.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Globs over repository names; `*` and `?` stay within one component, `**` does not.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    patterns: Vec<String>,
    set: GlobSet,
    /// One of them is `**`, as it is by default: no request needs to be matched.
    all: bool,
}

impl Globs {
    /// Compiles `patterns`; the error names the one that is wrong.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let patterns: Vec<_> = patterns.into_iter().map(|pattern| pattern.as_ref().to_owned()).collect();
        let mut set = GlobSetBuilder::new();
        for pattern in &patterns {
            set.add(Self::check(pattern).map_err(|reason| format!("{pattern:?}: {reason}"))?);
        }
        let set = set.build().map_err(|error| error.kind().to_string())?;
        let all = patterns.iter().any(|pattern| pattern == "**");
        Ok(Self { patterns, set, all })
    }

    /// Whether one of them matches the whole of `repository`.
    pub fn is_match(&self, repository: &str) -> bool {
        self.all || (!self.set.is_empty() && self.set.is_match(repository))
    }

    /// The globs as written.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Compiles one glob, to say what is wrong with it.
    pub(super) fn check(pattern: &str) -> Result<Glob, String> {
        GlobBuilder::new(pattern).literal_separator(true).build().map_err(|error| error.kind().to_string())
    }
}

impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_a_component() {
        let globs = Globs::new(["library/*", "grafana/**", "exact"]).unwrap();
        for (repository, matches) in [
            ("library/alpine", true),
            ("library/a/b", false),
            ("grafana/loki", true),
            ("grafana/a/b", true),
            ("grafanax/loki", false),
            ("exact", true),
            ("exact/not", false),
            ("not/exact", false),
        ] {
            assert_eq!(globs.is_match(repository), matches, "{repository}");
        }
        assert!(Globs::new(["**"]).unwrap().is_match("a/b/c"));
        assert!(!Globs::default().is_match("a"));
        assert!(Globs::new(["a[", "b"]).unwrap_err().starts_with("\"a[\": "));
    }

    #[test]
    fn tag_patterns_match_anywhere_and_know_only_ascii() {
        let patterns = TagPatterns::new([r"^v\d+\.\d+\.\d+$", "(?i)-final"]).unwrap();
        for (tag, matches) in [("v1.2.3", true), ("v1.2", false), ("xv1.2.3", false), ("2-FINAL-3", true), ("latest", false)] {
            assert_eq!(patterns.is_match(tag), matches, "{tag}");
        }
        assert!(!TagPatterns::default().is_match("latest"));
        assert_eq!(TagPatterns::check("(").unwrap_err(), "unclosed group");
    }
}
