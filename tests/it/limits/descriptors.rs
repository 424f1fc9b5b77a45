//! Without file descriptors nobody can be let in. That is told, where and how often is reasonable, and it passes.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::client::Connection;
use crate::support::mirror::Process;
use crate::support::upstream::Upstream;
use crate::support::{until, within};

/// Sets how many file descriptors a process may have; how many it might before.
fn allow(process: &Process, current: Option<u64>) -> Option<u64> {
    let id = Pid::from_raw(i32::try_from(process.id()).unwrap());
    let maximum = prlimit(id, Resource::Nofile, Rlimit { current, maximum: None }).or_else(|_| {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        prlimit(id, Resource::Nofile, Rlimit { current, maximum })
    });
    maximum.unwrap().current
}

#[tokio::test]
async fn a_lack_of_descriptors_is_told_once_a_minute_with_its_place() {
    let up = Upstream::start().await;
    let mirror = Process::with(&up, |_| {}).await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", mirror.id())).unwrap().count() as u64;
    let before = allow(&mirror, Some(open));
    let mut waiting = Vec::new();
    for _ in 0..8 {
        for (address, path) in [(mirror.address(), "/v2/"), (mirror.admin_address(), "/healthz")] {
            let mut connection = Connection::open(address).await;
            connection.send("GET", path, &[]).await;
            waiting.push(connection);
        }
    }
    let places = [mirror.address(), mirror.admin_address()].map(|address| format!("at={address}"));
    let told = |place: &str| {
        let log = mirror.log();
        log.lines().filter(|line| line.contains("cannot accept") && line.contains(place)).count()
    };
    until("the lack to be told", || places.iter().all(|place| told(place) > 0)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(places.each_ref().map(|place| told(place)), [1, 1], "{}", mirror.log());
    allow(&mirror, before);
    for connection in waiting {
        let answer = within("a connection that has waited", connection.answer("GET")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
}
