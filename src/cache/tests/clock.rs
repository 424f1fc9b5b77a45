//! The wall clock jumps: at boot, by NTP, by hand.

use std::time::{Duration, SystemTime};

use super::upkeep::{config, publish, scope, start};
use super::*;
use crate::config::{Globs, Quota};

const DAY: i64 = 86_400;

fn tag_of(digest: Digest, cache: &Cache) -> TagRecord {
    TagRecord { digest, checked_at: cache.clock().now(), imported: false }
}

/// How far a tag's date on the disk is ahead of the time of day, in days.
fn days_ahead(cache: &Cache, tag: &crate::oci::Tag) -> i64 {
    let text = std::fs::read(cache.records.tag_path(&scope("team/app"), tag)).unwrap();
    let Timestamp(date) = serde_json::from_slice::<TagRecord<Timestamp>>(&text).unwrap().checked_at;
    let now = crate::clock::seconds(SystemTime::now());
    ((date / 1000) as i64 - now as i64 + DAY / 2).div_euclid(DAY)
}

fn modified(cache: &Cache, digest: &Digest) -> SystemTime {
    std::fs::metadata(cache.store.root().join("blobs/sha256").join(digest.hex())).unwrap().modified().unwrap()
}

fn touch(cache: &Cache, digest: &Digest, days: i64) {
    let path = cache.store.root().join("blobs/sha256").join(digest.hex());
    let by = Duration::from_secs((days * DAY).unsigned_abs());
    let time = if days < 0 { SystemTime::now() - by } else { SystemTime::now() + by };
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// What is written down has the time of day, whatever it was when the mirror began; and what was written down before the
/// clock was set is written again, so that the next process does not take it for old.
#[tokio::test]
async fn a_tags_record_has_the_time_of_day_after_the_clock_was_set() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    let (manifest, _) = publish(&cache, "team/app", 1).await;
    let (before, after) = ("before".parse().unwrap(), "after".parse().unwrap());
    cache.set_tag(&scope("team/app"), &before, tag_of(manifest, &cache)).await.unwrap();
    let known = cache.tag(&scope("team/app"), &before).await;
    cache.clock().set(40 * DAY);
    cache.set_tag(&scope("team/app"), &after, tag_of(manifest, &cache)).await.unwrap();
    assert_eq!([&before, &after].map(|tag| days_ahead(&cache, tag)), [0, 40]);
    cache.keep_time().await;
    assert_eq!([&before, &after].map(|tag| days_ahead(&cache, tag)), [40, 40]);
    assert_eq!(cache.tag(&scope("team/app"), &before).await, known, "no older in this process");
    cache.records.reread();
    let read = cache.tag(&scope("team/app"), &before).await.unwrap();
    assert_eq!(Some(read), known, "nor by what is read again");
    let shown = cache.images(None, 2)[0].checked as i64 - crate::clock::seconds(SystemTime::now()) as i64;
    assert!((shown - 40 * DAY).abs() < 60, "people see the time of day: {shown}");
}

/// What nobody in the team has used for a week goes.
fn of_a_week(dir: &std::path::Path) -> config::Cache {
    let quota = Quota {
        pattern: Globs::new(["docker.io/team/*"]).unwrap(),
        max_size: None,
        unused_for: Some(Duration::from_secs(7 * DAY as u64)),
    };
    config(dir, 1 << 30, vec![quota])
}

/// A quota's time is counted by a clock that does not jump; what the next process reads is the time of day.
#[tokio::test]
async fn a_jump_of_the_clock_expires_nothing_that_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let config = of_a_week(dir.path());
    let cache = start(&config);
    let images = [publish(&cache, "team/app", 1).await, publish(&cache, "team/app", 2).await];
    let here = |cache: &Cache| images.map(|(_, layer)| cache.known(&layer).is_some_and(|known| known.present));
    cache.clock().set(20 * DAY);
    cache.keep_house().await;
    assert_eq!(here(&cache), [true; 2]);
    cache.get(&images[0].1).await.unwrap();
    cache.keep_time().await;
    cache.flush().await;
    let ahead = modified(&cache, &images[1].1).duration_since(SystemTime::now()).unwrap();
    assert!(ahead.as_secs() > 19 * DAY as u64, "a use of before, too, has the time of day: {ahead:?}");
    drop(cache);

    // The clock was ahead, and is right again: what lies ahead counts from now, and is written down so.
    let cache = start(&config);
    cache.keep_house().await;
    assert_eq!(here(&cache), [true; 2]);
    cache.flush().await;
    assert!(images.iter().all(|(_, layer)| modified(&cache, layer) <= SystemTime::now()));
    // What an earlier process used last, and the clock jumps: neither at once nor later.
    touch(&cache, &images[0].1, -1);
    touch(&cache, &images[1].1, -8);
    drop(cache);
    let cache = start(&config);
    cache.clock().set(20 * DAY);
    cache.keep_house().await;
    assert_eq!(here(&cache), [true, false], "only what was unused for too long by the clock as it was");
    touch(&cache, &images[0].1, -8);
    drop(cache);
    // A start under a clock that is ahead, and is set before the first look.
    let cache = start(&config);
    cache.clock().set(-7 * DAY);
    cache.keep_house().await;
    assert_eq!(here(&cache), [true, false]);
    cache.clock().set(7 * DAY);
    cache.keep_house().await;
    assert_eq!(here(&cache), [false; 2]);
}

/// A machine without a clock of its own starts in 1970.
#[tokio::test]
async fn a_time_before_any_mirror_ran_is_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = of_a_week(dir.path());
    let cache = start(&config);
    let (_, layer) = publish(&cache, "team/app", 1).await;
    let path = dir.path().join("blobs/sha256").join(layer.hex());
    std::fs::File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(100)).unwrap();
    drop(cache);
    let cache = start(&config);
    cache.keep_house().await;
    assert!(cache.known(&layer).unwrap().present);
}
