//! What an upstream was asked and what it sent: the tests' evidence.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// One request as it arrived, and what became of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD` or `POST`.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query without `?`.
    pub query: Option<String>,
    /// Headers in the order and spelling in which they came.
    pub headers: Vec<(String, String)>,
    /// The body, of a `POST`.
    pub body: Vec<u8>,
    /// The status it was answered with; `None` while, or because, it had no answer.
    pub status: Option<u16>,
    /// Body bytes handed to the socket.
    pub sent: u64,
    /// Whether the answer, whole or broken as scripted, is over.
    pub over: bool,
}

impl Request {
    /// The value of a header; several of one name are joined as HTTP allows.
    pub fn header(&self, name: &str) -> Option<String> {
        let named = self.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        let values: Vec<&str> = named.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Where a single `Range` begins; 0 without one.
    pub fn from(&self) -> u64 {
        self.range().map_or(0, |(from, _)| from)
    }

    /// A single `Range`: its first byte, and its last unless it is open-ended. `None` without one.
    pub fn range(&self) -> Option<(u64, Option<u64>)> {
        let range = self.header("range")?;
        let ends = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let parsed =
            ends.and_then(|(from, to)| Some((from.parse().ok()?, if to.is_empty() { None } else { Some(to.parse().ok()?) })));
        Some(parsed.unwrap_or_else(|| panic!("not a single range: {range}")))
    }

    /// A value from the query, percent-decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let query = self.query.as_deref()?;
        url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// The record of one upstream, shared by its connections.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    requests: Vec<Request>,
    running: HashMap<String, usize>,
    peak: HashMap<String, usize>,
    running_in_all: usize,
    peak_in_all: usize,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().expect("no test thread died with it")
    }

    /// Enters a request; it runs until the returned entry is dropped.
    pub fn begin(&self, request: Request) -> Entry {
        let mut record = self.lock();
        let path = request.path.clone();
        let running = record.running.entry(path.clone()).or_default();
        *running += 1;
        let running = *running;
        let peak = record.peak.entry(path.clone()).or_default();
        *peak = running.max(*peak);
        record.running_in_all += 1;
        record.peak_in_all = record.running_in_all.max(record.peak_in_all);
        record.requests.push(request);
        Entry { journal: self.clone(), number: record.requests.len() - 1, path }
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    /// How many requests pass `filter`.
    pub fn count(&self, filter: impl Fn(&Request) -> bool) -> usize {
        self.lock().requests.iter().filter(|request| filter(request)).count()
    }

    /// The body bytes sent in answer to requests that pass `filter`.
    pub fn sent(&self, filter: impl Fn(&Request) -> bool) -> u64 {
        self.lock().requests.iter().filter(|request| filter(request)).map(|request| request.sent).sum()
    }

    /// The most requests for one path at one time.
    pub fn peak(&self, path: &str) -> usize {
        self.lock().peak.get(path).copied().unwrap_or_default()
    }

    /// The most requests at one time.
    pub fn peak_in_all(&self) -> usize {
        self.lock().peak_in_all
    }

    /// Requests that are being answered now.
    pub fn running(&self) -> usize {
        self.lock().running_in_all
    }

    /// Forgets everything but what is running.
    pub fn clear(&self) {
        let mut record = self.lock();
        assert_eq!(record.running_in_all, 0, "the journal is cleared between requests only");
        *record = Record::default();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Entry {
    journal: Journal,
    number: usize,
    path: String,
}

impl Entry {
    /// Notes the status it is answered with.
    pub fn status(&self, status: u16) {
        self.journal.lock().requests[self.number].status = Some(status);
    }

    /// Notes body bytes that the socket took.
    pub fn sent(&self, bytes: u64) {
        self.journal.lock().requests[self.number].sent += bytes;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut record = self.journal.lock();
        record.requests[self.number].over = true;
        record.running_in_all -= 1;
        if let Some(running) = record.running.get_mut(&self.path) {
            *running -= 1;
        }
    }
}
