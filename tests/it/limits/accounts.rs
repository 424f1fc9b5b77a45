//! What is counted and logged of answers that their clients take slowly, or not to the end.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::REPOSITORY;
use super::frames::{self, Raw};
use crate::support::client::{self, Connection};
use crate::support::image::Blob;
use crate::support::mirror::{Process, Settings};
use crate::support::upstream::{Act, Upstream, blob_path};
use crate::support::{until, within};

/// One piece for the server, and more than the sockets hold for a client that has read nothing yet.
const SIZE: usize = 1 << 20;

/// A mirror that has this blob.
async fn mirror_of(blob: &Blob) -> (Upstream, Process) {
    mirror_with(blob, |_| {}).await
}

/// The same, configured further.
async fn mirror_with(blob: &Blob, change: impl FnOnce(&mut Settings)) -> (Upstream, Process) {
    let up = Upstream::start().await;
    up.push_blob(REPOSITORY, blob);
    let mirror = Process::with(&up, change).await;
    client::get(mirror.address(), &blob_path(REPOSITORY, blob), &[("X-Request-Id", "first")]).await.assert_is(blob);
    line(&mirror, "first").await;
    // Until then, who asks joins it.
    within("the download to end", async {
        while !mirror.admin("/metrics").await.text().contains("\nroadstead_fills_in_flight 0\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    (up, mirror)
}

/// A request's line in the log, once it is there.
async fn line(mirror: &Process, id: &str) -> String {
    within("the line in the log", async {
        loop {
            if let Some(line) = mirror.log().lines().find(|line| line.contains(&format!(" request_id={id} "))) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// One of its fields.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name}: {line}")).trim_matches('"')
}

/// Body bytes that the mirror says it has sent of blobs.
async fn counted(mirror: &Process) -> u64 {
    let text = mirror.admin("/metrics").await.text();
    let blobs = text.lines().filter(|line| line.starts_with("roadstead_response_bytes_total{") && line.contains("kind=\"blob\""));
    blobs.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

/// What the client did not take was not sent, also of an answer that is one piece for the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_early_got_no_whole_answer() {
    let blob = Blob::random(1, SIZE);
    let (_up, mirror) = mirror_of(&blob).await;
    let before = counted(&mirror).await;
    let mut client = TcpStream::connect(mirror.address()).await.unwrap();
    let path = blob_path(REPOSITORY, &blob);
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: left\r\n\r\n").as_bytes()).await.unwrap();
    within("the answer to begin", client.readable()).await.unwrap();
    drop(client);
    let left = line(&mirror, "left").await;
    assert_eq!(["result", "complete", "status"].map(|name| field(&left, name)), ["disk", "false", "200"]);
    let sent: u64 = field(&left, "bytes").parse().unwrap();
    assert!((1..SIZE as u64).contains(&sent), "{sent}");
    assert_eq!(counted(&mirror).await - before, sent);
}

/// The same by HTTP/2: what the client's window had no room for was not sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_taken_back_was_sent_no_more_than_its_window() {
    const WINDOW: u64 = 65_535;
    let blob = Blob::random(2, SIZE);
    let (_up, mirror) = mirror_of(&blob).await;
    let before = counted(&mirror).await;
    let mut raw = Raw::open(mirror.address(), &[]).await;
    assert!(raw.send(&frames::request(1, &blob_path(REPOSITORY, &blob))).await);
    let mut received = 0;
    while received < WINDOW {
        let frame = raw.next().await.expect("a frame");
        received += if frame.kind == 0 { frame.payload.len() as u64 } else { 0 };
    }
    assert_eq!(counted(&mirror).await, before, "it has not ended");
    assert!(raw.send(&frames::reset(1)).await);
    within("the request to be counted", async {
        while counted(&mirror).await == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!((received, counted(&mirror).await - before), (WINDOW, WINDOW));
}

/// A request lasts as long as its client takes, also where the answer is one piece for the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_makes_a_long_request() {
    const PAUSE: Duration = Duration::from_millis(300);
    let blob = Blob::random(3, SIZE);
    let (_up, mirror) = mirror_of(&blob).await;
    let mut client = TcpStream::connect(mirror.address()).await.unwrap();
    let path = blob_path(REPOSITORY, &blob);
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: slow\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    // The pause begins after the request.
    within("the answer to begin", client.readable()).await.unwrap();
    tokio::time::sleep(PAUSE).await;
    assert!(!mirror.log().contains("request_id=slow"), "it has not ended");
    let mut answer = Vec::new();
    within("the rest", client.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.ends_with(&blob.bytes));
    let slow = line(&mirror, "slow").await;
    assert_eq!((field(&slow, "bytes"), field(&slow, "complete")), (&*SIZE.to_string(), "true"));
    let [first, all] = ["first_byte_ms", "duration_ms"].map(|name| field(&slow, name).parse::<f64>().unwrap());
    assert!(first < all && all >= PAUSE.as_secs_f64() * 1e3, "{first} {all}");
}

/// I12: what is cut off at the end of the mirror is accounted for, and only that is said to be cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_an_answer_that_is_cut_off_at_the_end_is_accounted_for() {
    // More than the sockets hold.
    let blob = Blob::random(4, 40 << 20);
    let (up, mirror) = mirror_with(&blob, |settings| {
        settings.set("server", "shutdown_timeout", "2s").hub("response_timeout", "10m");
    })
    .await;
    let path = blob_path(REPOSITORY, &blob);
    // Three that have been answered and wait.
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut client = Connection::open(mirror.address()).await;
        client.send("GET", "/v2/", &[]).await;
        idle.push(client.answer("GET").await.expect("an answer").rest_and_connection().await.1);
    }
    // One that reads nothing, one that does not by HTTP/2, and one whose upstream is silent.
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: unread\r\n\r\n");
    let mut unread = TcpStream::connect(mirror.address()).await.unwrap();
    unread.write_all(request.as_bytes()).await.unwrap();
    within("the answer to begin", unread.readable()).await.unwrap();
    let mut raw = Raw::open(mirror.address(), &[]).await;
    assert!(raw.send(&frames::request(1, &path)).await);
    while raw.next().await.expect("a frame").kind != 0 {}
    let other = blob_path(REPOSITORY, &Blob::random(5, 10));
    up.on(&other).always(Act::hang());
    let mut unanswered = Connection::open(mirror.address()).await;
    unanswered.send("GET", &other, &[("X-Request-Id", "unanswered")]).await;
    up.asked(&other, 1).await;

    let log = mirror.stop().await;
    let of_blob = |line: &&str| line.contains("request_id=") && line.contains(&blob.digest.to_string());
    let lines: Vec<_> = log.lines().filter(of_blob).filter(|line| field(line, "complete") == "false").collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines.iter().any(|line| field(line, "request_id") == "unread"), "{log}");
    for line in lines {
        assert_eq!((field(line, "result"), field(line, "status")), ("disk", "200"));
        assert!((1..blob.size()).contains(&field(line, "bytes").parse().unwrap()), "{line}");
    }
    let unanswered = log.lines().find(|line| line.contains("request_id=unanswered")).expect("its line");
    assert_eq!(["result", "complete"].map(|name| field(unanswered, name)), ["error", "false"], "{unanswered}");
    let told: Vec<_> = log.lines().filter(|line| line.contains("answers were cut off at shutdown")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert_eq!(field(told[0], "connections"), "3", "{log}");
    drop(idle);
}

/// The same where a second signal leaves no time at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_an_end_at_once_is_accounted_for() {
    let blob = Blob::random(6, 40 << 20);
    let (_up, mut mirror) = mirror_with(&blob, |settings| {
        settings.set("server", "shutdown_timeout", "10m");
    })
    .await;
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\nX-Request-Id: unread\r\n\r\n", blob_path(REPOSITORY, &blob));
    let mut unread = TcpStream::connect(mirror.address()).await.unwrap();
    unread.write_all(request.as_bytes()).await.unwrap();
    within("the answer to begin", unread.readable()).await.unwrap();
    mirror.signal(Signal::TERM);
    until("the first signal to be seen", || mirror.log().contains("stopping")).await;
    mirror.signal(Signal::TERM);
    assert_eq!(mirror.ended().await.code(), Some(143));
    let line = line(&mirror, "unread").await;
    assert_eq!((field(&line, "result"), field(&line, "complete")), ("disk", "false"));
}
