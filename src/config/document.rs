//! The text with its tree: reads it into [`Raw`], and gives every problem its place and its key path.
//!
//! serde stops at the first error. Here the value that it refused is taken out and the rest read again, so that one
//! run shows everything that is wrong.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};
use super::finding::Finding;
use super::near::{distance, near};
use super::raw::{Raw, known_keys};

/// So many problems are enough for one reading.
const MAX_PROBLEMS: usize = 50;

pub(super) struct Document<'a> {
    origin: &'a str,
    text: &'a str,
    tree: Spanned<DeTable<'a>>,
    problems: Vec<Problem>,
}

impl<'a> Document<'a> {
    /// Reads `text`, which came from `origin`. The errors name every unknown key and every bad value.
    pub fn read(text: &'a str, origin: &'a str) -> Result<(Self, Raw), ConfigError> {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let mut document = Self { origin, text, tree, problems: Vec::new() };
        if !errors.is_empty() {
            for error in &errors {
                let span = error.span().unwrap_or_default();
                let path = find(document.tree.get_ref(), &span).unwrap_or_default();
                let message = syntax_message(error.message(), text.get(span.clone()).unwrap_or_default());
                document.report(span.start, &path, message);
            }
            document.finish(())?;
        }
        let mut sound = document.tree.clone();
        document.refuse_unknown_keys(sound.get_mut(), &mut Vec::new());
        let raw = loop {
            let error = match Raw::deserialize(toml::de::Deserializer::from(sound.clone())) {
                Ok(raw) => break raw,
                Err(error) => error,
            };
            let span = error.span().unwrap_or_default();
            let path = find(sound.get_ref(), &span).unwrap_or_default();
            document.report(span.start, &path, error.message().to_owned());
            // Each turn takes something out, so this ends; where nothing can be taken out, it ends here.
            if !remove(sound.get_mut(), &path, &span) || document.problems.len() >= MAX_PROBLEMS {
                break Raw::default();
            }
        };
        document.finish(())?;
        Ok((document, raw))
    }

    /// Notes that something is wrong at `path`; if there is no such key, at the deepest table on the way to it.
    pub fn problem(&mut self, path: &[&str], message: impl Into<String>) {
        self.problem_among(&[path], message);
    }

    /// Notes that a text is wrong at `path`, wherever it stands there: alone or in a list, in each table of a list of tables. If
    /// nowhere, as [`Self::problem`].
    pub fn problem_of(&mut self, path: &[&str], is_it: impl Fn(&str) -> bool, message: impl Into<String>) {
        let message = message.into();
        let places = places(self.tree.get_ref(), path, &is_it);
        if places.is_empty() {
            return self.problem(path, message);
        }
        let path: Vec<_> = path.iter().map(|key| (*key).to_owned()).collect();
        places.into_iter().for_each(|offset| self.report(offset, &path, message.clone()));
    }

    /// Notes that keys do not go together. Told at the first of them that is in the text; the others are defaults.
    pub fn problem_among(&mut self, paths: &[&[&str]], message: impl Into<String>) {
        let places = paths.iter().map(|path| (*path, place(self.tree.get_ref(), path)));
        let best = places.clone().find(|(path, (depth, _))| *depth == path.len()).or_else(|| places.clone().next());
        let Some((path, (_, offset))) = best else { return };
        let path: Vec<_> = path.iter().map(|key| (*key).to_owned()).collect();
        self.report(offset, &path, message.into());
    }

    /// Notes what was found of a key, at its place. What is known to be wrong with that key already explains it.
    pub fn find_place(&mut self, finding: Finding) {
        let Finding { keys, text, message } = finding;
        let paths: Vec<Vec<&str>> = keys.iter().map(|key| key.iter().map(String::as_str).collect()).collect();
        let is_it = |found: &str| text.as_deref() == Some(found);
        let named = paths.iter().find(|path| !places(self.tree.get_ref(), path, &is_it).is_empty());
        let Some(path) = named.or_else(|| paths.first()) else { return };
        let owned: Vec<_> = path.iter().map(|key| (*key).to_owned()).collect();
        if self.problems.iter().all(|problem| problem.key != written(&owned)) {
            self.problem_of(path, is_it, message);
        }
    }

    /// Gives `value` if nothing was wrong.
    pub fn finish<T>(&mut self, value: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            return Ok(value);
        }
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems.dedup();
        Err(ConfigError::Invalid(problems))
    }

    fn report(&mut self, offset: usize, path: &[String], message: String) {
        let (line, column) = position(self.text, offset);
        self.problems.push(Problem { origin: self.origin.to_owned(), line, column, key: written(path), message });
    }

    fn refuse_unknown_keys(&mut self, table: &mut DeTable<'a>, path: &mut Vec<String>) {
        if let Some(known) = known_keys(path) {
            let unknown: Vec<_> = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())).cloned().collect();
            for key in unknown {
                let name = key.get_ref().as_ref();
                let value = table.remove(name).map(Spanned::into_inner);
                let hint = hint(path, name, value.as_ref().and_then(DeValue::as_table), known);
                path.push(name.to_owned());
                self.report(key.span().start, path, format!("unknown key; {hint}"));
                path.pop();
            }
        }
        let mut misplaced = Vec::new();
        for (key, value) in table.iter_mut() {
            path.push(key.get_ref().to_string());
            let span = value.span();
            match value.get_mut() {
                DeValue::Table(inner) => self.refuse_unknown_keys(inner, path),
                // serde would take a list for a table without names.
                other if is_table(path) => {
                    let message = format!("invalid type: {}, expected a table: [{}]", other.type_str(), written(path));
                    self.report(span.start, path, message);
                    misplaced.push(key.get_ref().to_string());
                }
                _ => {}
            }
            path.pop();
        }
        for key in misplaced {
            table.remove(key.as_str());
        }
    }
}

/// Whether only a table can stand at `path`. (`credentials` may also be a word.)
fn is_table(path: &[String]) -> bool {
    match path {
        [only] if only == "upstream" => true,
        [_, _, last] if last == "credentials" => false,
        _ => known_keys(path).is_some(),
    }
}

/// What to do about an unknown key.
fn hint(path: &[String], name: &str, table: Option<&DeTable<'_>>, known: &[&str]) -> String {
    if let [upstream, host] = path
        && upstream == "upstream"
    {
        let freshness = [path, &["freshness".to_owned()]].concat();
        if let Some(table) = table
            && !known.iter().any(|key| distance(key, name) <= 1)
        {
            let name = format!("{host}.{}", dotted(name, table));
            return format!("a name with dots needs quotes: [upstream.{name:?}]");
        }
        if known_keys(&freshness).is_some_and(|keys| keys.contains(&name)) {
            return format!("it belongs under [{}]", written(&freshness));
        }
    }
    match near(name, known.iter().copied()) {
        Some(key) => format!("did you mean {key:?}?"),
        _ if path.is_empty() => format!("the tables are {}", known.join(", ")),
        _ => format!("the keys of [{}] are {}", written(path), known.join(", ")),
    }
}

/// `name` with the names of the tables in it, while there is one table and nothing else.
fn dotted(name: &str, table: &DeTable<'_>) -> String {
    match table.iter().next() {
        Some((key, value)) if table.len() == 1 => {
            value.get_ref().as_table().map_or_else(|| name.to_owned(), |inner| format!("{name}.{}", dotted(key.get_ref(), inner)))
        }
        _ => name.to_owned(),
    }
}

/// The parser's words about what it found, and what they most often mean. `found` is shown only where it is a key (I9).
fn syntax_message(message: &str, found: &str) -> String {
    if message.contains("must be quoted") {
        format!("{message}; sizes and times are text, as in \"50GiB\" and \"30s\"")
    } else if message == "duplicate key" {
        format!("{found} is given twice")
    } else {
        message.to_owned()
    }
}

/// The key whose name or value stands at `span`.
fn find(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    fn walk(table: &DeTable<'_>, wanted: &dyn Fn(Range<usize>, Range<usize>, bool) -> bool) -> Option<Vec<String>> {
        table.iter().find_map(|(key, value)| {
            let name = key.get_ref().to_string();
            if let Some(mut path) = tables(value.get_ref()).find_map(|inner| walk(inner, wanted)) {
                path.insert(0, name);
                return Some(path);
            }
            wanted(key.span(), value.span(), value.get_ref().is_table()).then(|| vec![name])
        })
    }
    walk(table, &|key, _, _| key == *span)
        .or_else(|| walk(table, &|_, value, is_table| !is_table && value.start <= span.start && span.end <= value.end))
        .or_else(|| walk(table, &|_, value, is_table| is_table && value == *span))
}

/// The table that a value is, or the tables of a list.
fn tables<'v, 'a>(value: &'v DeValue<'a>) -> impl Iterator<Item = &'v DeTable<'a>> {
    let list = value.as_array().into_iter().flat_map(|list| list.iter()).filter_map(|one| one.get_ref().as_table());
    value.as_table().into_iter().chain(list)
}

/// Takes out the key at `path` whose name or value stands at `span`, and says whether there was one.
fn remove(table: &mut DeTable<'_>, path: &[String], span: &Range<usize>) -> bool {
    match path {
        [] => false,
        [last] => table.remove(last.as_str()).is_some(),
        [first, rest @ ..] => match table.get_mut(first.as_str()).map(Spanned::get_mut) {
            Some(DeValue::Table(inner)) => remove(inner, rest, span),
            Some(DeValue::Array(list)) => list.iter_mut().any(|one| match one.get_mut() {
                DeValue::Table(inner) if find(inner, span).is_some() => remove(inner, rest, span),
                _ => false,
            }),
            _ => false,
        },
    }
}

/// How much of `path` is in the text, and where: the value, or the name if it is a table.
fn place(table: &DeTable<'_>, path: &[&str]) -> (usize, usize) {
    let mut found = (0, 0);
    let mut table = Some(table);
    for name in path {
        let Some((key, value)) = table.and_then(|table| table.get_key_value(*name)) else { break };
        table = value.get_ref().as_table();
        found = (found.0 + 1, if table.is_some() { key.span().start } else { value.span().start });
    }
    found
}

/// Where the texts stand at `path` that are the one in question.
fn places(table: &DeTable<'_>, path: &[&str], is_it: &dyn Fn(&str) -> bool) -> Vec<usize> {
    let [name, rest @ ..] = path else { return Vec::new() };
    let Some(value) = table.get(*name) else { return Vec::new() };
    if !rest.is_empty() {
        return tables(value.get_ref()).flat_map(|inner| places(inner, rest, is_it)).collect();
    }
    let list = value.get_ref().as_array().into_iter().flat_map(|list| list.iter());
    let texts = std::iter::once(value).chain(list).filter(|one| one.get_ref().as_str().is_some_and(is_it));
    texts.map(|one| one.span().start).collect()
}

/// Line and column in characters, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let offset = (0..=offset.min(text.len())).rev().find(|index| text.is_char_boundary(*index)).unwrap_or_default();
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// A key path as TOML writes it.
pub(super) fn written(path: &[String]) -> String {
    let bare = |key: &str| !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'));
    let keys: Vec<_> = path.iter().map(|key| if bare(key) { key.clone() } else { format!("{key:?}") }).collect();
    keys.join(".")
}
