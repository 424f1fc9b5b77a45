//! What the process says about itself as it runs: the log, and the id that ties its lines to one request.
//!
//! [`writer`] is the thread behind it, [`access`] the line of each request.
//! The log goes to standard error; standard output belongs to the commands. Called once by `cli::serve`; a request's
//! id is made by `server`. Metrics are elsewhere: [`crate::metrics`].

pub mod access;
pub mod writer;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io::{self, IsTerminal};

use http::{HeaderMap, HeaderName, HeaderValue};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};
use writer::{Guard, Writer};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is no filter.
    #[error(
        "{origin}: {filter:?} is no log filter ({reason}); write a level such as \"info\", or directives such as \"info,hyper=debug\""
    )]
    Filter {
        /// Where it came from: the key or the environment variable.
        origin: &'static str,
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: ParseError,
    },
    /// The thread that writes it could not be had.
    #[error("the log cannot start its thread: {0}")]
    Thread(io::Error),
    /// Another subscriber is installed in this process.
    #[error("the log is installed already")]
    Installed,
}

/// Installs the log for the whole process: `log.format`, and `log.level` unless the environment variable `RUST_LOG` is set.
///
/// Records of the `log` crate (rustls) are taken in, too. Lines are written by a thread of their own, so that a standard
/// error that nobody reads holds up no request (I11); when it has fallen some megabytes behind, further ones are dropped and
/// counted. What is still to be written when the returned guard is dropped is written then.
pub fn install(log: &Log) -> Result<Guard, TelemetryError> {
    let filter = filter(log, std::env::var("RUST_LOG").ok().as_deref())?;
    let (writer, guard) = Writer::start(io::stderr()).map_err(TelemetryError::Thread)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer.clone());
    // Colours only where they are seen and wanted (https://no-color.org).
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let installed = match log.format {
        LogFormat::Text => builder.compact().with_ansi(colours).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).finish().try_init(),
    };
    installed.map_err(|_| TelemetryError::Installed)?;
    if !(colours && log.format == LogFormat::Text) {
        access::install(log.format, writer);
    }
    Ok(guard)
}

/// The filter in force.
fn filter(log: &Log, environment: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let (origin, text) = match environment {
        Some(text) if !text.trim().is_empty() => ("RUST_LOG", text),
        _ => ("log.level", log.level.as_str()),
    };
    EnvFilter::builder().parse(text).map_err(|reason| TelemetryError::Filter { origin, filter: text.to_owned(), reason })
}

/// The id of one request: what the client sent, or 16 hexadecimal digits made here.
///
/// Kept as a header value, since every answer carries it.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The header, in requests and answers.
    pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

    /// The client's `X-Request-Id` if it is 1 to 128 characters of `[A-Za-z0-9._-]`, or a new id. Anything else could
    /// forge lines of a log. Of several headers the first counts.
    pub fn from_header_or_new(headers: &HeaderMap) -> Self {
        let good = |value: &&HeaderValue| {
            (1..=128).contains(&value.len())
                && value.as_bytes().iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
        };
        match headers.get(Self::HEADER).filter(good) {
            Some(value) => Self(value.clone()),
            None => Self::fresh(),
        }
    }

    /// A new id: 64 bits, unlike the others by chance, not a secret.
    ///
    /// The standard library draws a hasher's keys from the system once in a thread and counts on from there, so that
    /// an id costs one short hash and no system call.
    pub fn fresh() -> Self {
        let id = RandomState::new().hash_one(());
        let digits: [u8; 16] = std::array::from_fn(|place| b"0123456789abcdef"[(id >> (60 - 4 * place)) as usize & 15]);
        // Hexadecimal digits are always a header value.
        Self(HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static("0")))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The id as the value of [`RequestId::HEADER`].
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn from(values: &[&[u8]]) -> RequestId {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(RequestId::HEADER, HeaderValue::from_bytes(value).unwrap());
        }
        RequestId::from_header_or_new(&headers)
    }

    fn is_made_here(id: &RequestId) -> bool {
        let text = id.as_str();
        text.len() == 16 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
    }

    #[test]
    fn a_good_id_is_kept() {
        for good in ["x", "abc-DEF_1.2", &"z".repeat(128)] {
            let id = from(&[good.as_bytes()]);
            assert_eq!(id.as_str(), good);
            assert_eq!(id.header(), good);
        }
        assert_eq!(from(&[b"first", b"second"]).as_str(), "first");
    }

    #[test]
    fn any_other_is_replaced() {
        let long = "z".repeat(129);
        for bad in ["", " ", "a b", "a\tb", "a=b", "\"x\"", "{\"a\":1}", "é", "a/b", &long] {
            let id = from(&[bad.as_bytes()]);
            assert!(is_made_here(&id), "{bad}: {id}");
        }
        assert!(is_made_here(&from(&[b"\xff"])));
        assert!(is_made_here(&from(&[])));
    }

    #[test]
    fn no_two_ids_are_the_same() {
        let threads: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| (0..1000).map(|_| RequestId::fresh().to_string()).collect::<Vec<_>>()))
            .collect();
        let ids: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 8000);
    }

    #[test]
    fn the_environment_has_precedence_over_the_file() {
        let log = Log { level: "warn".into(), ..Log::default() };
        assert_eq!(filter(&log, None).unwrap().to_string(), "warn");
        assert_eq!(filter(&log, Some("")).unwrap().to_string(), "warn");
        assert_eq!(filter(&log, Some("hyper=debug")).unwrap().to_string(), "hyper=debug");
        let error = filter(&log, Some("hyper=loud")).unwrap_err().to_string();
        assert!(error.starts_with("RUST_LOG: \"hyper=loud\" is no log filter ("), "{error}");
    }
}
