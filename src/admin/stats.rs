//! The figures of `/api/v1/stats`, computed from the metrics: one source, so that they cannot disagree.

use prometheus::proto::Metric;
use serde_json::{Value, json};

use crate::metrics::{Kind, Metrics, Outcome};

/// The outcomes that cost the upstream no content.
const HITS: [Outcome; 6] =
    [Outcome::Memory, Outcome::Disk, Outcome::Joined, Outcome::Revalidated, Outcome::Stale, Outcome::Negative];

/// Requests, bytes and rates since the start of the process.
pub fn stats(metrics: &Metrics) -> Value {
    let families = metrics.gather();
    let sum = |name: &str, keep: &dyn Fn(&Metric) -> bool| -> f64 {
        let family = families.iter().find(|family| family.name().strip_prefix("roadstead_") == Some(name));
        let samples = family.into_iter().flat_map(|family| family.get_metric());
        let values =
            samples.filter(|sample| keep(sample)).map(|sample| sample.get_counter().get_value() + sample.get_gauge().get_value());
        // The sum of nothing is −0.
        values.sum::<f64>() + 0.0
    };
    let pulls = |sample: &Metric| label(sample, "kind") != Kind::Other.label();
    let requests = sum("requests_total", &pulls);
    let hits = sum("requests_total", &|sample| pulls(sample) && HITS.iter().any(|hit| hit.label() == label(sample, "result")));
    let sent = sum("response_bytes_total", &pulls);
    let received = sum("upstream_bytes_total", &|_| true);
    let tier = |name: &str, tier: &str| sum(name, &|sample| label(sample, "tier") == tier);
    let rate = |part: f64, whole: f64| if whole > 0.0 { json!(part / whole) } else { Value::Null };
    let tier_stats = |name: &str| {
        json!({
            "bytes": tier("cache_bytes", name),
            "limit_bytes": tier("cache_limit_bytes", name),
            "objects": tier("cache_objects", name),
        })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "requests": requests,
        "hits": hits,
        "hit_rate": rate(hits, requests),
        "response_bytes": sent,
        "upstream_bytes": received,
        "byte_hit_rate": if sent > 0.0 { json!(1.0 - received / sent) } else { Value::Null },
        "pulls_saved": sum("pulls_saved_total", &|_| true),
        "fills_in_flight": sum("fills_in_flight", &|_| true),
        "connections": sum("connections", &|_| true),
        "cache": { "memory": tier_stats("memory"), "disk": tier_stats("disk") },
    })
}

fn label<'a>(sample: &'a Metric, name: &str) -> &'a str {
    sample.get_label().iter().find(|pair| pair.name() == name).map_or("", |pair| pair.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_pulls() {
        let metrics = Metrics::new();
        let count = |kind: Kind, outcome: Outcome, times, bytes| {
            let labels = ["docker.io", kind.label(), outcome.label()];
            metrics.requests_total.with_label_values(&labels).inc_by(times);
            metrics.response_bytes_total.with_label_values(&labels).inc_by(bytes);
        };
        assert_eq!(stats(&metrics)["hit_rate"], Value::Null);
        assert_eq!(stats(&metrics)["requests"].to_string(), "0.0");
        count(Kind::Other, Outcome::Local, 100, 200);
        count(Kind::Blob, Outcome::Memory, 6, 60);
        count(Kind::Blob, Outcome::Joined, 1, 20);
        count(Kind::Manifest, Outcome::Fill, 1, 20);
        metrics.upstream_bytes_total.with_label_values(&["docker.io"]).inc_by(25);
        let stats = stats(&metrics);
        assert_eq!((&stats["requests"], &stats["hit_rate"], &stats["byte_hit_rate"]), (&json!(8.0), &json!(0.875), &json!(0.75)));
    }
}
