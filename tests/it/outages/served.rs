//! For any sequence of upstream answers and clock steps: the tag served is one that was confirmed within the rules, and
//! never an older one than was served before, unless the upstream itself moved back.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::time::Instant;

use super::simulated::{Sim, pass, still, ticking};
use crate::support::image::Image;
use crate::support::upstream::{Act, Upstream};

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
    Pull,
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
        6 => Just(Step::Pull),
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

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let _still = still();
    let images: Vec<Image> = (0..4).map(Image::small).collect();
    let up = Upstream::start().await;
    up.on("GET *").clear();
    up.push_image(REPOSITORY, "latest", &images[0]);
    let mirror = Sim::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "10s").set("freshness", "stale_if_error", "120s");
    })
    .await;
    // What the tag was, and from when to when.
    let mut history: Vec<(usize, Instant, Option<Instant>)> = vec![(0, Instant::now(), None)];
    // The earliest place in the history that the last answer can have been.
    let mut served = 0;
    for step in steps {
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
            Step::Pull => {
                let asked = Instant::now();
                let (answer, _) = ticking(mirror.tag(REPOSITORY)).await;
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
                } else {
                    Duration::ZERO
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
