//! The two long runs, with the tables that they print (`cargo test --test it outages::hour -- --nocapture`).

use std::time::{Duration, Instant as RealInstant};

use tokio::time::Instant;

use super::images;
use super::simulated::{Sim, pass, still, ticking};
use crate::support::upstream::{Act, Upstream};

/// 1,000 pulls of 50 tags in an hour: what that costs the upstream.
#[tokio::test(start_paused = true)]
async fn an_hour_of_pulls() {
    const FRESH_FOR: u64 = 300;
    let _still = still();
    let images = images(50);
    let up = Upstream::start().await;
    for (repository, image) in &images {
        up.push_image(repository, "latest", image);
    }
    up.on("/v2/*/manifests/*")
        .always(Act::honest().header("RateLimit-Limit", "100;w=21600").header("RateLimit-Remaining", "63;w=21600"));
    let mirror = Sim::with(&up, |settings| {
        settings.set("freshness", "fresh_for", format!("{FRESH_FOR}s"));
    })
    .await;
    let mut results = std::collections::BTreeMap::<String, usize>::new();
    for pull in 0..1000 {
        let (repository, image) = &images[pull % images.len()];
        let answer = mirror.tag(repository).await;
        assert!(answer.is(image), "{answer:?}");
        *results.entry(answer.header("cache-status").unwrap().to_owned()).or_default() += 1;
        pass(Duration::from_millis(3600)).await;
    }
    let (heads, gets) = (up.count("HEAD *"), up.count("GET *"));
    let most = images.len() * 3600 / FRESH_FOR as usize;
    println!("\n1,000 tag pulls of 50 images in an hour, fresh_for = {FRESH_FOR} s");
    println!("  upstream HEADs {heads:5}   (at most {most})");
    println!("  upstream GETs  {gets:5}   (at most {})", images.len());
    for (result, count) in &results {
        println!("  {count:5} × {result}");
    }
    assert!(heads <= most, "{heads} HEADs");
    assert_eq!(gets, images.len(), "each manifest once");
    for (metric, told) in [("limit", 100.0), ("remaining", 63.0)] {
        assert_eq!(mirror.metric(&format!("roadstead_upstream_ratelimit_{metric}{{")), told);
    }
}

#[derive(Default)]
struct Phase {
    pulls: usize,
    failed: usize,
    stale: usize,
    asked: usize,
    simulated: Vec<Duration>,
    real: Vec<Duration>,
    reasons: std::collections::BTreeMap<String, usize>,
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1)]
}

/// 2,000 pulls of cached tags, while the upstream says 429, then says nothing at all, then is back.
#[tokio::test(start_paused = true)]
async fn a_bad_day() {
    const STEP: Duration = Duration::from_millis(200);
    const PROBE: Duration = Duration::from_secs(5);
    let _still = still();
    let images = images(20);
    let (up, mirror) = Sim::warm(&images, |settings| {
        settings.set("freshness", "fresh_for", "1s");
    })
    .await;
    let phases: [(&str, usize, Act); 4] = [
        ("well", 300, Act::honest()),
        ("429, Retry-After: 5", 500, Act::status(429).header("Retry-After", "5")),
        ("black hole", 700, Act::hang()),
        ("back", 500, Act::honest()),
    ];
    let mut table = Vec::new();
    let mut pull = 0;
    let mut recovered = None;
    for (name, pulls, act) in phases {
        up.on("*").always(act);
        let (began, before) = (Instant::now(), up.count("*"));
        let mut phase = Phase { pulls, ..Phase::default() };
        for _ in 0..pulls {
            let (repository, image) = &images[pull % images.len()];
            pull += 1;
            let real = RealInstant::now();
            let (answer, simulated) = ticking(mirror.tag(repository)).await;
            phase.real.push(real.elapsed());
            phase.simulated.push(simulated);
            let right = answer.is(image);
            phase.failed += usize::from(!right);
            match answer.reason() {
                Some(reason) => {
                    phase.stale += 1;
                    *phase.reasons.entry(reason.to_owned()).or_default() += 1;
                }
                None if name == "back" && recovered.is_none() => recovered = Some(began.elapsed()),
                None => {}
            }
            pass(STEP).await;
        }
        phase.asked = up.count("*") - before;
        table.push((name, began.elapsed(), phase));
    }
    println!("\n2,000 pulls of 20 cached tags, one each 200 ms; fresh_for = 1 s, probe_every = 5 s");
    println!(
        "  {:20} {:>8} {:>6} {:>6} {:>6} {:>6} {:>9} {:>9} {:>9}",
        "upstream", "time", "pulls", "failed", "stale", "asked", "p50", "p99", "max wait"
    );
    for (name, time, phase) in &table {
        println!(
            "  {name:20} {:>7.0}s {:>6} {:>6} {:>6} {:>6} {:>7.1}ms {:>7.1}ms {:>8.0}s   {:?}",
            time.as_secs_f64(),
            phase.pulls,
            phase.failed,
            phase.stale,
            phase.asked,
            percentile(&phase.real, 50).as_secs_f64() * 1e3,
            percentile(&phase.real, 99).as_secs_f64() * 1e3,
            percentile(&phase.simulated, 100).as_secs_f64(),
            phase.reasons,
        );
    }
    let recovered = recovered.expect("it recovers");
    println!("  back after {:.1} s", recovered.as_secs_f64());
    for (name, time, phase) in &table {
        assert_eq!(phase.failed, 0, "{name}");
        // No timer had to pass for an answer, hence no client waited for the upstream.
        assert_eq!(percentile(&phase.simulated, 99), Duration::ZERO, "{name}");
        if !["well", "back"].contains(name) {
            let intervals = time.as_secs_f64() / PROBE.as_secs_f64();
            assert!((phase.asked as f64) < intervals + 4.0, "{name}: {} requests in {intervals} intervals", phase.asked);
        }
    }
    assert!(recovered <= PROBE + Duration::from_secs(1), "{recovered:?}");
    assert!(mirror.tag(&images[0].0).await.header("warning").is_none());
}
