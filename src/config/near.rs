//! What somebody meant who wrote a name that there is not.

/// The one of `known` that is nearly what was `written`.
pub fn near<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) = known.into_iter().map(|name| (distance(name, written), name)).min()?;
    (distance <= 1 + written.chars().count() / 4).then_some(name)
}

/// Levenshtein's distance, where '-' for '_' and upper for lower case cost nothing.
pub(super) fn distance(known: &str, written: &str) -> usize {
    let fold = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
    let written: Vec<char> = written.chars().map(fold).collect();
    let mut row: Vec<usize> = (0..=written.len()).collect();
    for (i, a) in known.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in written.iter().enumerate() {
            let substituted = diagonal + usize::from(fold(a) != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[written.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_near_and_another_word_is_not() {
        let known = ["ref", "dry_run", "platform"];
        for (written, meant) in [
            ("dry-run", Some("dry_run")),
            ("DRY_RUN", Some("dry_run")),
            ("dryrun", Some("dry_run")),
            ("platfrom", Some("platform")),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(near(written, known), meant, "{written}");
        }
        assert_eq!(near("ref", []), None);
    }
}
