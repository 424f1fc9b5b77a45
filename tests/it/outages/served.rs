//! For any sequence of upstream answers and clock steps: the tag served is one that was confirmed within the rules, and
//! never an older one than was served before, unless the upstream itself moved back.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::time::Instant;

use super::simulated::{Sim, pass, still, ticking};
use crate::support::image::Image;
use crate::support::upstream::{Act, Upstream, manifest_path};

const FRESH_FOR: Duration = Duration::from_secs(10);
const STALE_IF_ERROR: Duration = Duration::from_secs(120);
const REPOSITORY: &str = "team/a";

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The upstream's tag names this image from now on.
    Push(usize),
    /// What the upstream does with requests.
    Mood(Mood),
    Pass(u64),
    /// Whether with `no-cache`.
    Pull(bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Well,
    Limited,
    Failing,
    Refusing,
    /// HEADs are answered, and no manifest.
    HeadsOnly,
    Cut,
    Silent,
}

fn step() -> impl Strategy<Value = Step> {
    use Mood::{Cut, Failing, HeadsOnly, Limited, Refusing, Silent, Well};
    let mood = prop_oneof![
        4 => Just(Well), 1 => Just(Limited), 1 => Just(Failing), 1 => Just(Refusing), 2 => Just(HeadsOnly), 1 => Just(Cut), 1 => Just(Silent),
    ];
    prop_oneof![
        2 => (0usize..4).prop_map(Step::Push),
        2 => mood.prop_map(Step::Mood),
        3 => prop_oneof![1u64..8, 1u64..8, 9u64..140].prop_map(Step::Pass),
        6 => prop::bool::weighted(0.2).prop_map(Step::Pull),
    ]
}

fn set(up: &Upstream, mood: Mood) {
    up.on("GET *").clear();
    up.on("*").clear();
    match mood {
        Mood::Well => {}
        Mood::Limited => drop(up.on("*").always(Act::status(429))),
        Mood::Failing => drop(up.on("*").always(Act::status(503))),
        Mood::Refusing => drop(up.on("*").always(Act::status(403))),
        Mood::HeadsOnly => drop(up.on("GET *").always(Act::status(500))),
        Mood::Cut => drop(up.on("*").always(Act::raw(""))),
        Mood::Silent => drop(up.on("*").always(Act::hang())),
    }
}

fn no_cache() -> HeaderMap {
    HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))])
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let _still = still();
    let images: Vec<Image> = (0..4).map(Image::small).collect();
    let up = Upstream::start().await;
    up.on("GET *").clear();
    up.push_image(REPOSITORY, "latest", &images[0]);
    let mirror = Sim::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "10s").set("freshness", "stale_if_error", "120s");
        settings.set("freshness", "no_cache", true);
    })
    .await;
    // What the tag was, and from when to when.
    let mut history: Vec<(usize, Instant, Option<Instant>)> = vec![(0, Instant::now(), None)];
    // The earliest place in the history that the last answer can have been.
    let mut served = 0;
    // The last time that the upstream owed no answer: a check that waits for one has asked since.
    let mut quiet = Instant::now();
    for step in steps {
        if mirror.upstream.crowd().running == 0 {
            quiet = Instant::now();
        }
        match step {
            Step::Push(number) => {
                let now = Instant::now();
                if let Some(last) = history.last_mut() {
                    last.2 = Some(now);
                }
                history.push((number, now, None));
                up.push_image(REPOSITORY, "latest", &images[number]);
            }
            Step::Mood(mood) => set(&up, mood),
            Step::Pass(seconds) => pass(Duration::from_secs(seconds)).await,
            Step::Pull(check) => {
                let asked = Instant::now();
                let headers = if check { no_cache() } else { HeaderMap::new() };
                let (answer, _) = ticking(mirror.tag_with(REPOSITORY, &headers)).await;
                if answer.status != 200 {
                    continue;
                }
                let status = answer.header("cache-status").unwrap().to_owned();
                let image = images.iter().position(|image| image.manifest.bytes == answer.body);
                prop_assert!(image.is_some(), "unknown bytes, {status}");
                // Never an older one than before: some later or equal place names it.
                let place = (served..history.len()).find(|place| Some(history[*place].0) == image);
                prop_assert!(place.is_some(), "older than what was served before: {status}");
                served = place.unwrap();
                // Within the rules: it was still the tag within the time that the answer's kind allows. A client's own
                // waiting is part of a stale answer's age.
                let bound = if status.contains("detail=stale") {
                    FRESH_FOR + STALE_IF_ERROR
                } else if status.contains("hit") {
                    FRESH_FOR
                } else if check || status.contains("stored") {
                    Duration::ZERO
                } else {
                    // It may have joined a check: one that was fresh, or one that waited for the upstream.
                    FRESH_FOR.max(asked - quiet)
                };
                let recent = (served..history.len())
                    .filter(|place| Some(history[*place].0) == image)
                    .any(|place| history[place].2.is_none_or(|until| until + bound >= asked));
                prop_assert!(recent, "confirmed too long ago: {status}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_newest_confirmed_tag_is_served() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 40, ..Config::default() });
    let strategy = proptest::collection::vec(step(), 1..60);
    let outcome = runner.run(&strategy, |steps| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(steps))
    });
    outcome.unwrap();
}

/// A check whose question was answered before a request came is for that request what a record is: good for `fresh_for`
/// from when it asked, and nothing to `no-cache`.
#[tokio::test(start_paused = true)]
async fn a_joined_check_is_no_fresher_than_its_record() {
    let _still = still();
    let (none, second) = (HeaderMap::new(), Duration::from_secs(1));
    let cases = [(FRESH_FOR - second, none.clone(), true), (FRESH_FOR, none, false), (second, no_cache(), false)];
    for (later, headers, shared) in cases {
        let images: Vec<Image> = (0..3).map(Image::small).collect();
        let up = Upstream::start().await;
        up.push_image(REPOSITORY, "latest", &images[0]);
        let mirror = Sim::with(&up, |settings| {
            settings.set("freshness", "fresh_for", "10s").set("freshness", "revalidate_within", "1h");
            settings.set("freshness", "no_cache", true);
        })
        .await;
        assert!(mirror.tag(REPOSITORY).await.is(&images[0]));
        pass(FRESH_FOR).await;
        up.push_image(REPOSITORY, "latest", &images[1]);
        let gate = up.gate_head(&format!("GET {}", manifest_path(REPOSITORY, images[1].manifest.digest)));
        let joining = async {
            // The tag is known by then, and moves.
            gate.arrived(1).await;
            up.push_image(REPOSITORY, "latest", &images[2]);
            pass(later).await;
            let mut joining = pin!(mirror.tag_with(REPOSITORY, &headers));
            assert!(poll_fn(|context| Poll::Ready(joining.as_mut().poll(context).is_pending())).await, "it waits");
            gate.open();
            joining.await
        };
        let (began, joined) = tokio::join!(mirror.tag(REPOSITORY), joining);
        assert!(began.is(&images[1]), "{began:?}");
        assert!(joined.is(&images[if shared { 1 } else { 2 }]), "{later:?} {headers:?}: {joined:?}");
        assert_eq!(up.count("HEAD *"), if shared { 2 } else { 3 }, "{later:?} {headers:?}");
        pass(FRESH_FOR - later).await;
        assert!(mirror.tag(REPOSITORY).await.is(&images[2]), "a push shows within `fresh_for`");
    }
}
