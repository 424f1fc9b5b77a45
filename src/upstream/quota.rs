//! What an upstream says about its limits: `ratelimit-*` headers and when to come back after a 429.
//!
//! Docker Hub counts manifest GETs and tells the rest in `ratelimit-remaining: 76;w=21600`; GHCR hides the time to wait
//! in its error text. Both are parsed here, leniently: a limit that cannot be read is no limit, never an error.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

/// The longest time that a `Retry-After` is believed at once: some say a day and mean a burst, and a limit may be lifted. One
/// request then shows whether it is still so.
const LONGEST: Duration = Duration::from_secs(60);

/// A pull quota as an upstream last told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Pulls in one window.
    pub limit: Option<u64>,
    /// Pulls left.
    pub remaining: u64,
    /// The length of the window.
    pub window: Option<Duration>,
    /// Whose quota it is: `docker-ratelimit-source`, an address or the id of an account.
    pub source: Option<String>,
}

/// Reads `ratelimit-limit` and `ratelimit-remaining`; `None` where nothing is said, which means no limit.
pub(super) fn quota(headers: &HeaderMap) -> Option<Quota> {
    let read = |name: &str| -> Option<(u64, Option<Duration>)> {
        let mut parts = headers.get(name)?.to_str().ok()?.split(';').map(str::trim);
        let count = parts.next()?.parse().ok()?;
        let window = parts.find_map(|part| part.strip_prefix("w=")).and_then(|seconds| seconds.parse().ok());
        Some((count, window.map(Duration::from_secs)))
    };
    let limit = read("ratelimit-limit");
    let (remaining, window) = read("ratelimit-remaining")?;
    let source = headers.get("docker-ratelimit-source").and_then(|source| source.to_str().ok()).map(|source| {
        // It is shown to people and in JSON; what is no word is not worth it.
        source.chars().filter(|c| c.is_ascii_graphic()).take(100).collect()
    });
    let window = window.or(limit.and_then(|(_, window)| window));
    Some(Quota { limit: limit.map(|(count, _)| count), remaining, window, source })
}

/// When a 429 wants the next request, at most a minute from now: from `Retry-After` (seconds, also fractional, or
/// a date), else from a `retry-after: 880.092µs` inside the body.
pub(super) fn retry_after(headers: &HeaderMap, body: &[u8]) -> Option<Duration> {
    let header = headers.get(header::RETRY_AFTER).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let pause = header.and_then(|text| seconds(text).or_else(|| until(text))).or_else(|| in_text(&String::from_utf8_lossy(body)));
    pause.map(|pause| pause.min(LONGEST))
}

/// For how long a "not found" may be believed: `Cache-Control` of the answer. `None` where nothing is said.
pub(super) fn believe(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives = values.flat_map(|value| value.split(',')).map(|directive| directive.trim().to_ascii_lowercase());
    let age = |directive: String| match directive.split_once('=') {
        None => matches!(&*directive, "no-store" | "no-cache").then_some(Duration::ZERO),
        Some(("s-maxage" | "max-age", seconds)) => seconds.trim_matches('"').parse().ok().map(Duration::from_secs),
        Some(_) => None,
    };
    directives.filter_map(age).min()
}

fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    text.parse().ok().and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok()).or_else(|| go_duration(text))
}

fn until(text: &str) -> Option<Duration> {
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

fn in_text(body: &str) -> Option<Duration> {
    const MARK: &str = "retry-after:";
    let start = body.to_ascii_lowercase().find(MARK)?;
    let text = body.get(start + MARK.len()..)?.trim_start();
    seconds(text.split([',', ' ', '"', '\n', '<', '}']).next()?)
}

/// A duration as Go prints it: `1m0.5s`, `880.092µs`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let factor = match &tail[..unit_end] {
            "ns" => 1e-9,
            "µs" | "μs" | "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = &tail[unit_end..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(total).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn t40_ratelimit_headers() {
        let hub = headers(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600")]);
        let window = Some(Duration::from_secs(21600));
        assert_eq!(quota(&hub), Some(Quota { limit: Some(100), remaining: 76, window, source: None }));
        let bare = headers(&[("ratelimit-remaining", " 0 ")]);
        assert_eq!(quota(&bare), Some(Quota { limit: None, remaining: 0, window: None, source: None }));
        for bad in ["", "-1", "many", "1e3;w=1"] {
            assert_eq!(quota(&headers(&[("ratelimit-remaining", bad)])), None, "{bad}");
        }
        assert_eq!(quota(&HeaderMap::new()), None);
    }

    #[test]
    fn t40_whose_quota() {
        let hub = headers(&[("ratelimit-remaining", "7"), ("docker-ratelimit-source", "203.0.113.7")]);
        assert_eq!(quota(&hub).unwrap().source.as_deref(), Some("203.0.113.7"));
    }

    #[test]
    fn how_long_a_not_found_is_believed() {
        let believed = |value: &str| believe(&headers(&[("cache-control", value)])).map(|time| time.as_secs());
        for (value, expected) in [
            ("max-age=3", Some(3)),
            ("public, max-age=\"30\", s-maxage=5", Some(5)),
            ("No-Store", Some(0)),
            ("private, no-cache", Some(0)),
            ("private", None),
            ("max-age=soon", None),
        ] {
            assert_eq!(believed(value), expected, "{value}");
        }
    }

    #[test]
    fn t40_when_to_come_back() {
        let after = |value: &str| retry_after(&headers(&[("retry-after", value)]), b"").map(|pause| pause.as_millis());
        assert_eq!(after("7"), Some(7000));
        assert_eq!(after("0"), Some(0));
        assert_eq!(after("2.5"), Some(2500));
        assert_eq!(after("60"), Some(60_000));
        assert_eq!(after("86400"), Some(60_000));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
        assert_eq!(after(&httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(7200))), Some(60_000));
        for bad in ["soon", "-1", "NaN", "inf", ""] {
            assert_eq!(after(bad), None, "{bad}");
        }
    }

    #[test]
    fn t40_when_the_body_says_it() {
        let body = |text: &str| retry_after(&HeaderMap::new(), text.as_bytes()).map(|pause| pause.as_micros());
        assert_eq!(body("toomanyrequests: retry-after: 880.092µs, allowed: 44000/minute"), Some(880));
        assert_eq!(body(r#"{"errors":[{"message":"Retry-After: 0m20.5s"}]}"#), Some(20_500_000));
        assert_eq!(body("retry-after: 3s"), Some(3_000_000));
        assert_eq!(body("<html>429 Too Many Requests</html>"), None);
        assert_eq!(body("retry-after: "), None);
        assert_eq!(body("retry-after: 5parsecs"), None);
    }
}
