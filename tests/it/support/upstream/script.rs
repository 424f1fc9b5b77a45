//! Which path does what: queues of [`Act`]s and gates, by method and path.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::act::Act;
use crate::support::{until, within};

/// A path, or a method and a path, where `*` stands for anything: `/v2/*/blobs/*`, `HEAD /v2/library/alpine/manifests/latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern.
    pub fn new(text: &str) -> Self {
        Self(if text.contains(' ') { text.to_owned() } else { format!("* {text}") })
    }

    /// Whether a request is meant.
    pub fn matches(&self, method: &str, path: &str) -> bool {
        let subject = format!("{method} {path}");
        let mut pieces = self.0.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| subject.strip_prefix(first)) else { return false };
        let mut pieces: Vec<&str> = pieces.collect();
        let Some(last) = pieces.pop() else { return rest.is_empty() };
        for piece in pieces {
            match rest.find(piece) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[derive(Debug)]
struct Rule {
    pattern: Pattern,
    next: VecDeque<Act>,
    always: Option<Act>,
}

/// The scripts and gates of one upstream.
#[derive(Clone, Debug, Default)]
pub struct Scripts(Arc<Mutex<(Vec<Rule>, Vec<Gate>)>>);

impl Scripts {
    /// What a request is to be answered with; takes the step from its queue. Rules made first come first.
    pub fn take(&self, method: &str, path: &str) -> Act {
        let mut scripts = self.0.lock().expect("no test thread died with it");
        let mut rules = scripts.0.iter_mut().filter(|rule| rule.pattern.matches(method, path));
        rules.find_map(|rule| rule.next.pop_front().or_else(|| rule.always.clone())).unwrap_or_else(Act::honest)
    }

    /// The gate on a request, the newest if there are several.
    pub fn gate(&self, method: &str, path: &str) -> Option<Gate> {
        let scripts = self.0.lock().expect("no test thread died with it");
        scripts.1.iter().rev().find(|gate| gate.pattern.matches(method, path)).cloned()
    }

    pub(super) fn add_gate(&self, gate: Gate) {
        self.0.lock().expect("no test thread died with it").1.push(gate);
    }

    fn rule<T>(&self, pattern: &Pattern, change: impl FnOnce(&mut Rule) -> T) -> T {
        let rules = &mut self.0.lock().expect("no test thread died with it").0;
        let position = rules.iter().position(|rule| rule.pattern == *pattern).unwrap_or_else(|| {
            rules.push(Rule { pattern: pattern.clone(), next: VecDeque::new(), always: None });
            rules.len() - 1
        });
        change(&mut rules[position])
    }
}

/// The script of one pattern; see [`super::Upstream::on`].
#[derive(Debug)]
pub struct On {
    pub(super) scripts: Scripts,
    pub(super) pattern: Pattern,
}

impl On {
    /// The next request that no earlier step has taken is answered so.
    pub fn then(self, act: Act) -> Self {
        self.scripts.rule(&self.pattern, |rule| rule.next.push_back(act));
        self
    }

    /// As [`On::then`], `count` times.
    pub fn times(self, count: usize, act: Act) -> Self {
        (0..count).fold(self, |on, _| on.then(act.clone()))
    }

    /// Every request that no step is left for is answered so.
    pub fn always(self, act: Act) -> Self {
        self.scripts.rule(&self.pattern, |rule| rule.always = Some(act));
        self
    }

    /// Honest again.
    pub fn clear(self) {
        self.scripts.rule(&self.pattern, |rule| {
            rule.next.clear();
            rule.always = None;
        });
    }

    /// Steps that no request has taken yet.
    pub fn left(&self) -> usize {
        self.scripts.rule(&self.pattern, |rule| rule.next.len())
    }

    /// Waits until each step was taken by a request.
    pub async fn used_up(&self) {
        until(&format!("requests for every step of {:?}", self.pattern), || self.left() == 0).await;
    }
}

/// How far answers may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opening {
    head: bool,
    /// Bytes of the object, from its beginning, whatever Range was asked for.
    position: u64,
}

/// Holds answers back until the test lets them pass. Bytes are counted from the beginning of the object, so that the
/// answer to a resumed request is held at the same place.
#[derive(Clone, Debug)]
pub struct Gate {
    pattern: Pattern,
    opening: Arc<watch::Sender<Opening>>,
    arrived: Arc<watch::Sender<usize>>,
}

impl Gate {
    pub(super) fn new(pattern: Pattern, head: bool) -> Self {
        let opening = Arc::new(watch::Sender::new(Opening { head, position: 0 }));
        Self { pattern, opening, arrived: Arc::new(watch::Sender::new(0)) }
    }

    /// Lets the head pass, and the object's bytes up to `position`.
    pub fn pass(&self, position: u64) {
        self.opening.send_modify(|opening| *opening = Opening { head: true, position: position.max(opening.position) });
    }

    /// Lets everything pass from now on.
    pub fn open(&self) {
        self.pass(u64::MAX);
    }

    /// Waits until `count` requests in all have come to the gate.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        let what = format!("{count} requests at the gate {:?}", self.pattern);
        within(&what, arrived.wait_for(|now| *now >= count)).await.expect("the gate is here");
    }

    /// How many requests have come to the gate.
    pub fn arrivals(&self) -> usize {
        *self.arrived.borrow()
    }

    pub(super) fn enter(&self) {
        self.arrived.send_modify(|count| *count += 1);
    }

    pub(super) async fn head(&self) {
        let _ = self.opening.subscribe().wait_for(|opening| opening.head).await;
    }

    /// Waits until something beyond `position` may pass; returns how far.
    pub(super) async fn beyond(&self, position: u64) -> u64 {
        match self.opening.subscribe().wait_for(|opening| opening.position > position).await {
            Ok(opening) => opening.position,
            Err(_) => u64::MAX,
        }
    }
}
