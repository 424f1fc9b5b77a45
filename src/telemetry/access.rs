//! The access log: a line for each request, the most frequent thing a mirror says.
//!
//! Written straight into a buffer of the thread's, since collecting fourteen fields for a subscriber costs more than a
//! cached request does. The line is the one that `tracing` would write of the same event, and where it goes to people,
//! in colours, it is: a test holds one against the other.

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::writer::Writer;
use crate::config::LogFormat;

/// Where lines go, once there is a log that is not in colours. One a process, as the subscriber is.
static LOG: OnceLock<(LogFormat, Writer)> = OnceLock::new();

thread_local! {
    /// The line that is being written.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What is said of a request.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    /// The id. Nothing in it needs an escape; the same is true of every name here.
    pub request_id: &'a str,
    /// The other end of its connection.
    pub client: &'a dyn Display,
    /// Who signed in. Any text.
    pub identity: Option<&'a str>,
    /// The method, a token (RFC 9110 § 5.6.2).
    pub method: &'a str,
    /// The label it is counted under.
    pub kind: &'static str,
    /// The label it is counted under.
    pub upstream: &'a str,
    /// Empty where it has none.
    pub repository: &'a str,
    /// The tag or digest; empty where it has none.
    pub reference: &'a dyn Display,
    /// The status code.
    pub status: u16,
    /// The label it is counted under.
    pub result: &'static str,
    /// Body bytes that the connection took.
    pub bytes: u64,
    /// Until there was the first of them.
    pub first_byte: Option<Duration>,
    /// Until the last of them, or the end of it all.
    pub duration: Duration,
    /// Every byte of the answer was taken.
    pub complete: bool,
    /// What went wrong. Any text.
    pub error: Option<&'a str>,
}

/// From now on lines of this format go to `writer`.
pub(super) fn install(format: LogFormat, writer: Writer) {
    let _ = LOG.set((format, writer));
}

impl Line<'_> {
    /// Logs it, if the filter in force lets `access=info` through.
    pub fn log(&self) {
        let Some((format, writer)) = LOG.get() else { return self.event() };
        if !tracing::enabled!(target: "access", tracing::Level::INFO) {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            // A string takes everything.
            let _ = match format {
                LogFormat::Text => self.text(SystemTime::now(), line),
                LogFormat::Json => self.json(SystemTime::now(), line),
            };
            writer.take(line.as_bytes());
        });
    }

    /// The same by way of the subscriber.
    fn event(&self) {
        tracing::info!(
            target: "access",
            request_id = %self.request_id,
            client = %self.client,
            identity = self.identity,
            method = %self.method,
            kind = self.kind,
            upstream = %self.upstream,
            repository = %self.repository,
            reference = %self.reference,
            status = self.status,
            result = self.result,
            bytes = self.bytes,
            first_byte_ms = self.first_byte.map(|time| time.as_secs_f64() * 1000.0),
            duration_ms = self.duration.as_secs_f64() * 1000.0,
            complete = self.complete,
            error = self.error,
            "request"
        );
    }

    fn text(&self, now: SystemTime, line: &mut String) -> fmt::Result {
        let Self { request_id, client, method, kind, upstream, repository, reference, status, result, bytes, complete, .. } =
            self;
        timestamp(now, line)?;
        for part in ["  INFO access: request request_id=", request_id, " client="] {
            line.push_str(part);
        }
        write!(line, "{client}")?;
        if let Some(identity) = self.identity {
            write!(line, " identity={identity:?}")?;
        }
        for part in [" method=", method, " kind=\"", kind, "\" upstream=", upstream, " repository=", repository, " reference="] {
            line.push_str(part);
        }
        write!(line, "{reference}")?;
        let (mut code, mut count) = (itoa::Buffer::new(), itoa::Buffer::new());
        for part in [" status=", code.format(*status), " result=\"", result, "\" bytes=", count.format(*bytes)] {
            line.push_str(part);
        }
        if let Some(first_byte) = self.first_byte {
            line.push_str(" first_byte_ms=");
            milliseconds(first_byte, line);
        }
        line.push_str(" duration_ms=");
        milliseconds(self.duration, line);
        line.push_str(if *complete { " complete=true" } else { " complete=false" });
        if let Some(error) = self.error {
            write!(line, " error={error:?}")?;
        }
        line.push('\n');
        Ok(())
    }

    fn json(&self, now: SystemTime, line: &mut String) -> fmt::Result {
        let Self { request_id, client, method, kind, upstream, repository, reference, status, result, bytes, complete, .. } =
            self;
        line.push_str("{\"timestamp\":\"");
        timestamp(now, line)?;
        for part in ["\",\"level\":\"INFO\",\"message\":\"request\",\"request_id\":\"", request_id, "\",\"client\":\""] {
            line.push_str(part);
        }
        write!(line, "{client}\"")?;
        if let Some(identity) = self.identity {
            write!(line, ",\"identity\":{}", serde_json::Value::from(identity))?;
        }
        let names = [",\"method\":\"", "\",\"kind\":\"", "\",\"upstream\":\"", "\",\"repository\":\""];
        for (name, value) in names.into_iter().zip([method, *kind, upstream, repository]) {
            line.push_str(name);
            line.push_str(value);
        }
        write!(line, "\",\"reference\":\"{reference}\",\"status\":{status},\"result\":\"{result}\",\"bytes\":{bytes}")?;
        if let Some(first_byte) = self.first_byte {
            line.push_str(",\"first_byte_ms\":");
            milliseconds(first_byte, line);
        }
        line.push_str(",\"duration_ms\":");
        milliseconds(self.duration, line);
        line.push_str(if *complete { ",\"complete\":true" } else { ",\"complete\":false" });
        if let Some(error) = self.error {
            // The only text that can hold anything.
            write!(line, ",\"error\":{}", serde_json::Value::from(error))?;
        }
        line.push_str(",\"target\":\"access\"}\n");
        Ok(())
    }
}

/// The time as RFC 3339 has it, to the microsecond. All but the last six digits is the same for a second.
fn timestamp(now: SystemTime, line: &mut String) -> fmt::Result {
    thread_local! {
        /// A second, and its text up to the point.
        static SECOND: RefCell<(Duration, String)> = const { RefCell::new((Duration::MAX, String::new())) };
    }
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = Duration::from_secs(since.as_secs());
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != second {
            text.clear();
            write!(text, "{}", humantime::format_rfc3339_seconds(UNIX_EPOCH + second))?;
            // The Z comes after the fraction.
            text.pop();
            *known = second;
        }
        line.push_str(text);
        Ok(())
    })?;
    line.push('.');
    padded(since.subsec_micros(), line);
    line.push('Z');
    Ok(())
}

/// Six digits.
fn padded(number: u32, line: &mut String) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number);
    line.push_str(&"000000"[digits.len().min(6)..]);
    line.push_str(digits);
}

/// A time in milliseconds, to the nanosecond where there are any.
fn milliseconds(time: Duration, line: &mut String) {
    let nanoseconds = time.as_nanos();
    line.push_str(itoa::Buffer::new().format(nanoseconds / 1_000_000));
    line.push('.');
    padded((nanoseconds % 1_000_000) as u32, line);
    // At least one digit stays.
    while line.ends_with('0') && !line.ends_with(".0") {
        line.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `tracing-subscriber` writes, with its time taken out.
    fn by_tracing(line: &Line<'_>, format: LogFormat) -> String {
        let written = Written::default();
        let make = written.clone();
        let builder = tracing_subscriber::fmt().with_writer(move || make.clone());
        let log = || line.event();
        match format {
            LogFormat::Text => tracing::subscriber::with_default(builder.compact().with_ansi(false).finish(), log),
            LogFormat::Json => {
                let builder = builder.json().flatten_event(true).with_current_span(false);
                tracing::subscriber::with_default(builder.finish(), log);
            }
        }
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    /// The time at its front, and the rest.
    fn undated(line: &str) -> (&str, String) {
        let at = line.find(|c: char| c.is_ascii_digit()).unwrap();
        let time = &line[at..=at + line[at..].find('Z').unwrap()];
        (time, line.replacen(time, "NOW", 1))
    }

    #[test]
    fn it_is_the_line_that_tracing_writes() {
        let whole = Line {
            request_id: "0123456789abcdef",
            client: &"127.0.0.1:40000",
            identity: None,
            method: "GET",
            kind: "manifest",
            upstream: "docker.io",
            repository: "library/alpine",
            reference: &"3.20",
            status: 200,
            result: "memory",
            bytes: 1234,
            first_byte: Some(Duration::from_micros(250)),
            duration: Duration::from_micros(1_500_500),
            complete: true,
            error: None,
        };
        let nothing = Line { repository: "", reference: &"", first_byte: None, complete: false, bytes: 0, ..whole };
        let long = Line { duration: Duration::from_secs(3), first_byte: Some(Duration::from_secs(100)), ..whole };
        let errors = ["a \"quoted\" \\ back\\slash", "line\nfeed\ttab \u{1b}[31m red \u{7f}", "ü 漢字", ""];
        let named = ["alice", "cert:a \"b\" ü"].map(|name| Line { identity: Some(name), ..whole });
        let failed = errors.map(|error| Line { error: Some(error), status: 502, result: "error", ..nothing });
        for line in [whole, nothing, long].iter().chain(&named).chain(&failed) {
            for format in [LogFormat::Text, LogFormat::Json] {
                let mut own = String::new();
                match format {
                    LogFormat::Text => line.text(SystemTime::now(), &mut own).unwrap(),
                    LogFormat::Json => line.json(SystemTime::now(), &mut own).unwrap(),
                }
                let theirs = by_tracing(line, format);
                let ((time, own), (their_time, theirs)) = (undated(&own), undated(&theirs));
                assert_eq!(own, theirs);
                assert_eq!((time.len(), &time[..10]), (their_time.len(), &their_time[..10]));
            }
        }
    }

    #[test]
    fn times() {
        let text = |nanoseconds| {
            let mut line = String::new();
            milliseconds(Duration::from_nanos(nanoseconds), &mut line);
            line
        };
        assert_eq!(text(0), "0.0");
        assert_eq!(text(1), "0.000001");
        assert_eq!(text(45_120), "0.04512");
        assert_eq!(text(10_000_000), "10.0");
        assert_eq!(text(123_456_789_012), "123456.789012");
        for (after, expected) in [
            (Duration::ZERO, "1970-01-01T00:00:00.000000Z"),
            (Duration::from_micros(999_999), "1970-01-01T00:00:00.999999Z"),
            (Duration::new(1_763_888_676, 42_000), "2025-11-23T09:04:36.000042Z"),
            (Duration::ZERO, "1970-01-01T00:00:00.000000Z"),
        ] {
            let mut line = String::new();
            timestamp(UNIX_EPOCH + after, &mut line).unwrap();
            assert_eq!(line, expected);
            assert_eq!(line, humantime::format_rfc3339_micros(UNIX_EPOCH + after).to_string());
        }
    }
}
