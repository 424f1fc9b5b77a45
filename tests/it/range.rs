//! Ranges (RFC 9110 §14): the same answer for every ranged GET of a blob, whether it is cached, filling or cold.

mod parallel;

use crate::support::client::{self, End, Response};
use crate::support::image::{Blob, Image, random};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Upstream, blob_path, manifest_path};

const REPOSITORY: &str = "library/alpine";

/// What a `Range` gets of a blob of [`SIZE`] bytes.
enum Expected {
    /// 206 with these bytes.
    Part(u64, u64),
    /// 200 with everything.
    Whole,
    /// 416.
    Unsatisfiable,
}

const SIZE: u64 = 1_000_000;

/// The table of single ranges.
fn table() -> Vec<(String, Expected)> {
    use Expected::{Part, Unsatisfiable, Whole};
    let last = SIZE - 1;
    let rows = [
        ("bytes=0-".to_owned(), Part(0, last)),
        ("bytes=0-0".to_owned(), Part(0, 0)),
        (format!("bytes=0-{last}"), Part(0, last)),
        ("bytes=10-19".to_owned(), Part(10, 19)),
        ("bytes=700000-".to_owned(), Part(700_000, last)),
        (format!("bytes=999990-{}", SIZE * 2), Part(999_990, last)),
        ("bytes=5-99999999999999999999".to_owned(), Part(5, last)),
        (format!("bytes={last}-"), Part(last, last)),
        ("bytes=-1".to_owned(), Part(last, last)),
        ("bytes=-500".to_owned(), Part(SIZE - 500, last)),
        (format!("bytes=-{}", SIZE * 2), Part(0, last)),
        (format!("bytes={SIZE}-"), Unsatisfiable),
        (format!("bytes={}-{}", SIZE + 5, SIZE + 9), Unsatisfiable),
        ("bytes=500-0".to_owned(), Unsatisfiable),
        ("bytes=-0".to_owned(), Unsatisfiable),
        ("items=0-5".to_owned(), Whole),
        ("bytes=abc".to_owned(), Whole),
        ("bytes=".to_owned(), Whole),
        ("bytes=--5".to_owned(), Whole),
        ("bytes=1-2-3".to_owned(), Whole),
        ("bytes 0-5".to_owned(), Whole),
    ];
    rows.into()
}

/// Checks the head that a range has.
fn check_head(head: &client::Head, range: &str, expected: &Expected, digest: &str) {
    let (status, content_range, length) = match expected {
        Expected::Part(first, last) => (206, Some(format!("bytes {first}-{last}/{SIZE}")), Some(last - first + 1)),
        Expected::Whole => (200, None, Some(SIZE)),
        Expected::Unsatisfiable => (416, Some(format!("bytes */{SIZE}")), None),
    };
    assert_eq!((head.status, head.header("content-range")), (status, content_range.as_deref()), "{range}");
    if let Some(length) = length {
        assert_eq!(head.content_length(), Some(length), "{range}");
        assert_eq!(head.header("docker-content-digest"), Some(digest), "{range}");
        assert_eq!(head.header("etag"), Some(&*format!("\"{digest}\"")), "{range}");
        assert_eq!(head.header("accept-ranges"), Some("bytes"), "{range}");
    }
}

/// Checks a whole answer.
fn check(answer: &Response, range: &str, expected: &Expected, blob: &Blob) {
    check_head(&answer.head, range, expected, &blob.digest.to_string());
    assert_eq!(answer.end, End::Complete, "{range}");
    match expected {
        Expected::Part(first, last) => assert!(answer.body == blob.bytes[*first as usize..=*last as usize], "{range}"),
        Expected::Whole => assert!(answer.body == blob.bytes, "{range}"),
        Expected::Unsatisfiable => assert_eq!(answer.error_code(), "RANGE_INVALID", "{range}"),
    }
}

async fn mirror_with(blobs: &[Blob]) -> (Upstream, Mirror) {
    let up = Upstream::start().await;
    blobs.iter().for_each(|blob| up.push_blob(REPOSITORY, blob));
    let mirror = Mirror::of(&up).await;
    (up, mirror)
}

/// T6 on a blob that is here.
#[tokio::test]
async fn t6_the_range_table_on_a_cached_blob() {
    let blob = Blob::random(1, SIZE as usize);
    let (up, mirror) = mirror_with(std::slice::from_ref(&blob)).await;
    mirror.pull_blob(REPOSITORY, &blob).await;
    let path = blob_path(REPOSITORY, &blob);
    for (range, expected) in table() {
        check(&mirror.get_with(&path, &[("Range", &range)]).await, &range, &expected, &blob);
    }
    for (seed, pair) in random(99, 400).chunks_exact(8).enumerate() {
        let number = |bytes: &[u8]| u64::from(u32::from_le_bytes(bytes.try_into().unwrap())) % SIZE;
        let (one, other) = (number(&pair[..4]), number(&pair[4..]));
        let (first, last) = (one.min(other), one.max(other));
        let range = format!("bytes={first}-{last}");
        let answer = mirror.get_with(&path, &[("Range", &range)]).await;
        check(&answer, &format!("{seed}: {range}"), &Expected::Part(first, last), &blob);
    }
    assert_eq!(up.sent(&path), SIZE);
}

/// T6 on a blob that nobody has asked for: each row meets one of its own.
#[tokio::test]
async fn t6_the_range_table_on_a_cold_blob() {
    let blobs: Vec<Blob> = (0..table().len() as u64).map(|seed| Blob::random(seed, SIZE as usize)).collect();
    let (up, mirror) = mirror_with(&blobs).await;
    for ((range, expected), blob) in table().into_iter().zip(&blobs) {
        let path = blob_path(REPOSITORY, blob);
        check(&mirror.get_with(&path, &[("Range", &range)]).await, &range, &expected, blob);
        if !matches!(expected, Expected::Unsatisfiable) {
            mirror.files().get(blob).await;
            assert_eq!(up.sent(&path), SIZE, "{range}: one download of everything");
        }
    }
    assert_eq!(up.count("HEAD /v2/*/blobs/*"), 0);
}

/// T6 while the blob is filling: heads come at once, bodies as far as the fill has come, the rest when it comes.
#[tokio::test]
async fn t6_the_range_table_on_a_filling_blob() {
    let blob = Blob::random(1, SIZE as usize);
    let (up, mirror) = mirror_with(std::slice::from_ref(&blob)).await;
    let path = blob_path(REPOSITORY, &blob);
    let gate = up.gate(&path);
    gate.pass(300_000);
    let mut first = mirror.open(&path).await;
    assert!(first.read(300_000).await == blob.bytes[..300_000], "what is here is served");
    let mut open = Vec::new();
    for (range, expected) in table() {
        let mut download = client::open(mirror.address(), &path, &[("Range", &range)]).await;
        check_head(&download.head, &range, &expected, &blob.digest.to_string());
        // Bytes before the gate come now; the part beyond it comes later.
        let begin = match expected {
            Expected::Part(first, last) if first < 300_000 => Some((first, (last + 1).min(300_000))),
            Expected::Whole => Some((0, 300_000)),
            _ => None,
        };
        if let Some((first, end)) = begin {
            let got = download.read((end - first) as usize).await;
            assert!(got == blob.bytes[first as usize..end as usize], "{range}");
        }
        open.push((range, expected, begin, download));
    }
    gate.open();
    for (range, expected, begin, download) in open {
        let rest = download.rest().await;
        assert_eq!(rest.end, End::Complete, "{range}");
        let (from, to) = match expected {
            Expected::Part(first, last) => (begin.map_or(first, |(_, end)| end), last + 1),
            Expected::Whole => (300_000, SIZE),
            Expected::Unsatisfiable => continue,
        };
        assert!(rest.body == blob.bytes[from as usize..to as usize], "{range}");
    }
    assert!(first.rest().await.body == blob.bytes[300_000..]);
    assert_eq!((up.count(&path), up.sent(&path)), (1, SIZE));
}

/// T7
#[tokio::test]
async fn t7_several_ranges_are_parts_or_everything() {
    let blobs = [Blob::random(1, SIZE as usize), Blob::random(2, SIZE as usize)];
    let (up, mirror) = mirror_with(&blobs).await;
    let ranges = [(0_usize, 9_usize), (500_000, 500_099), (999_999, 999_999)];
    // The second time the blobs are cached.
    for blob in blobs.iter().chain(&blobs) {
        let header = [("Range", "bytes=0-9,500000-500099,-1")];
        let answer = mirror.get_with(&blob_path(REPOSITORY, blob), &header).await;
        assert_eq!(answer.end, End::Complete);
        if answer.status() == 200 {
            assert!(answer.body == blob.bytes);
            continue;
        }
        assert_eq!(answer.status(), 206);
        let content_type = answer.header("content-type").unwrap();
        let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").expect(content_type).trim_matches('"');
        let mut expected = Vec::new();
        for (first, last) in ranges {
            let lines = [
                "Content-Type: application/octet-stream\r\n".to_owned(),
                format!("Content-Range: bytes {first}-{last}/{SIZE}\r\n"),
            ];
            expected.push((lines, &blob.bytes[first..=last]));
        }
        let mut rest = &answer.body[..];
        for (lines, bytes) in expected {
            let head = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("a part's head");
            let text = String::from_utf8_lossy(&rest[..head + 2]).into_owned();
            assert!(text.trim_start().starts_with(&format!("--{boundary}\r\n")), "{text:?}");
            for line in lines {
                assert!(text.to_lowercase().contains(&line.to_lowercase()), "{line:?} in {text:?}");
            }
            rest = &rest[head + 4..];
            assert!(&rest[..bytes.len()] == bytes);
            rest = &rest[bytes.len()..];
        }
        assert_eq!(String::from_utf8_lossy(rest).trim(), format!("--{boundary}--"));
    }
    for blob in &blobs {
        assert_eq!(up.sent(&blob_path(REPOSITORY, blob)), SIZE);
    }
    let path = blob_path(REPOSITORY, &blobs[0]);
    let one = mirror.get_with(&path, &[("Range", "bytes=0-9,2000000-")]).await;
    assert!([200, 206].contains(&one.status()), "what can be satisfied is");
    let none = mirror.get_with(&path, &[("Range", "bytes=1000000-,2000000-")]).await;
    assert_eq!(none.status(), 416);
    let abuse = format!("bytes={}", vec!["0-"; 5_000].join(","));
    let abuse = mirror.get_with(&path, &[("Range", &abuse)]).await;
    assert!(abuse.body.len() as u64 <= 2 * SIZE, "{} bytes for one request", abuse.body.len());
}

/// T8
#[tokio::test]
async fn t8_a_head_ignores_ranges() {
    let blob = Blob::random(1, SIZE as usize);
    let (_up, mirror) = mirror_with(std::slice::from_ref(&blob)).await;
    let path = blob_path(REPOSITORY, &blob);
    for _ in 0..2 {
        for range in ["bytes=0-9", "bytes=5000000-", "bytes=500-0"] {
            let head = client::head(mirror.address(), &path, &[("Range", range)]).await;
            assert_eq!((head.status(), head.header("content-range")), (200, None), "{range}");
            assert_eq!((head.header("content-length"), head.body.len()), (Some("1000000"), 0), "{range}");
        }
        mirror.pull_blob(REPOSITORY, &blob).await;
    }
}

/// `If-Range` with the blob's own tag is honoured, anything else means everything.
#[tokio::test]
async fn if_range_is_compared() {
    let blob = Blob::random(1, SIZE as usize);
    let (_up, mirror) = mirror_with(std::slice::from_ref(&blob)).await;
    let path = blob_path(REPOSITORY, &blob);
    let right = format!("\"{}\"", blob.digest);
    let weak = format!("W/{right}");
    for (tag, status) in [(&*right, 206), ("\"other\"", 200), (&*weak, 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)] {
        let answer = mirror.get_with(&path, &[("Range", "bytes=5-9"), ("If-Range", tag)]).await;
        assert_eq!((answer.status(), answer.end), (status, End::Complete), "{tag}");
        assert!(answer.body == if status == 206 { &blob.bytes[5..10] } else { &blob.bytes[..] }, "{tag}");
    }
}

/// The smallest blobs: nothing, one byte.
#[tokio::test]
async fn blobs_without_and_with_one_byte() {
    let blobs = [Blob::random(1, 0), Blob::random(1, 1)];
    let (_up, mirror) = mirror_with(&blobs).await;
    for _ in 0..2 {
        for blob in &blobs {
            let path = blob_path(REPOSITORY, blob);
            mirror.get(&path).await.assert_is(blob);
            assert_eq!(mirror.head(&path).await.header("content-length"), Some(&*blob.size().to_string()));
        }
        let empty = mirror.get_with(&blob_path(REPOSITORY, &blobs[0]), &[("Range", "bytes=0-")]).await;
        assert!([200, 416].contains(&empty.status()), "{}", empty.status());
        let one = mirror.get_with(&blob_path(REPOSITORY, &blobs[1]), &[("Range", "bytes=0-")]).await;
        assert_eq!((one.status(), one.header("content-range")), (206, Some("bytes 0-0/1")));
    }
}

/// containerd's parallel mode sends `bytes=0-` with every request, manifests included.
#[tokio::test]
async fn a_range_on_a_manifest_is_ignored_or_honoured() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::of(&up).await;
    for _ in 0..2 {
        let answer = mirror.get_with(&manifest_path(REPOSITORY, "latest"), &[("Range", "bytes=0-")]).await;
        assert!([200, 206].contains(&answer.status()), "{}", answer.status());
        assert_eq!((answer.end, &*answer.body), (End::Complete, &*image.manifest.bytes));
    }
}
