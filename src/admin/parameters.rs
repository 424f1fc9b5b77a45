//! The parameters of the API: which each path takes, and what is said of any other.
//!
//! One table for every path, so that none of them can pass over what it does not know: a purge that was to be a trial, and says
//! so by a word that means nothing here, must not purge. Called by [`super::Admin`] before anything looks at a query.

use std::collections::BTreeSet;

use http::Method;

use crate::config::near;

/// What a path, which begins after `/api/v1/`, takes; `None` if there is no such path.
fn known(method: &Method, path: &str) -> Option<&'static [&'static str]> {
    let changes = *method == Method::POST;
    Some(match path {
        "images" => &["ref", "limit"],
        "explain" | "unpin" => &["ref"],
        "purge" => &["ref", "dry_run"],
        "pin" => &["ref", "platform"],
        "gc" if changes => &["free", "dry_run"],
        "gc" => &["free"],
        "verify" if changes => &["rate"],
        "import" => &["platform", "name"],
        "stats" | "cache" | "pins" | "verify" | "upstreams" | "offline" | "served" | "prefetch" => &[],
        _ => return None,
    })
}

/// Fails if a query has a parameter that the path does not take, or one of them twice. A path that there is not, or a method
/// that it does not know, is another's to refuse.
pub(super) fn check(method: &Method, path: &str, query: &str) -> Result<(), String> {
    let Some(known) = known(method, path) else { return Ok(()) };
    let mut seen = BTreeSet::new();
    for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
        if !known.contains(&name.as_ref()) {
            return Err(unknown(&name, known));
        }
        if seen.contains(&name) {
            return Err(format!("{name} is given twice; give it once"));
        }
        seen.insert(name);
    }
    Ok(())
}

fn unknown(name: &str, known: &[&str]) -> String {
    let shown: String = name.chars().take(100).collect();
    let guess = near(name, known.iter().copied()).map_or(String::new(), |near| format!("; did you mean {near:?}?"));
    match known {
        [] => format!("there is no parameter {shown:?} here: this takes none"),
        known if guess.is_empty() => format!("there is no parameter {shown:?} here; there are {}", known.join(", ")),
        known => format!("there is no parameter {shown:?} here{guess} There are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_takes_is_taken_once() {
        let check = |query: &str| check(&Method::POST, "purge", query);
        for good in ["", "ref=alpine", "ref=alpine&dry_run=true", "dry_run&ref=a%20b", "ref="] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let there = "here; did you mean \"dry_run\"? There are ref, dry_run";
        for (bad, told) in [
            ("ref=a&dry-run=true", format!("there is no parameter \"dry-run\" {there}")),
            ("ref=a&dry%2Drun", format!("there is no parameter \"dry-run\" {there}")),
            ("ref=a&limit=1", "there is no parameter \"limit\" here; there are ref, dry_run".to_owned()),
            ("ref=a&", String::new()),
            ("ref=a&ref=b", "ref is given twice; give it once".to_owned()),
            ("=x", "there is no parameter \"\" here; there are ref, dry_run".to_owned()),
        ] {
            assert_eq!(check(bad).err().unwrap_or_default(), told, "{bad}");
        }
    }

    #[test]
    fn what_reads_takes_less_than_what_changes() {
        assert!(check(&Method::POST, "gc", "free=1&dry_run=true").is_ok());
        assert!(check(&Method::GET, "gc", "free=1&dry_run=false").is_err());
        assert!(check(&Method::GET, "verify", "rate=1").unwrap_err().ends_with("this takes none"));
        assert!(check(&Method::GET, "none", "x=1").is_ok());
    }
}
