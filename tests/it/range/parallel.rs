//! containerd's parallel mode: open-ended ranges on many connections, each closed when its chunk is read.

use super::{REPOSITORY, mirror_with};
use crate::support::client;
use crate::support::image::Blob;
use crate::support::upstream::blob_path;

const SIZE: u64 = 8 << 20;
const CHUNK: u64 = 1 << 20;

/// T6: first `bytes=0-`; as that is 206, one open-ended range for each chunk, of which only the chunk is read.
async fn pull_in_chunks(address: std::net::SocketAddr, path: &str) -> Vec<u8> {
    let mut first = client::open(address, path, &[("Range", "bytes=0-")]).await;
    assert_eq!((first.status(), first.head.content_length()), (206, Some(SIZE)));
    let others = (1..SIZE / CHUNK).map(|number| {
        let (path, range) = (path.to_owned(), format!("bytes={}-", number * CHUNK));
        tokio::spawn(async move {
            let mut download = client::open(address, &path, &[("Range", &range)]).await;
            assert_eq!(download.status(), 206, "{range}: a 200 here would corrupt the layer");
            download.read(CHUNK as usize).await
        })
    });
    let others: Vec<_> = others.collect();
    let mut bytes = first.read(CHUNK as usize).await;
    drop(first);
    for other in others {
        bytes.extend(other.await.unwrap());
    }
    bytes
}

/// T6, I6: on a cold blob, behind a gate so that every chunk is asked for before it is here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t6_parallel_ranges_of_a_cold_blob_are_one_download() {
    let blob = Blob::random(1, SIZE as usize);
    let (up, mirror) = mirror_with(std::slice::from_ref(&blob)).await;
    let path = blob_path(REPOSITORY, &blob);
    let gate = up.gate(&path);
    let pulling = tokio::spawn({
        let (address, path) = (mirror.address(), path.clone());
        async move { pull_in_chunks(address, &path).await }
    });
    gate.arrived(1).await;
    gate.open();
    assert!(pulling.await.unwrap() == blob.bytes);
    mirror.files().get(&blob).await;
    assert_eq!((up.count(&path), up.sent(&path)), (1, SIZE), "one download, although every client left early");
    assert!(pull_in_chunks(mirror.address(), &path).await == blob.bytes, "and the same from the cache");
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!(up.count(&path), 1);
}

/// Four such pulls at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_parallel_pulls_are_one_download() {
    let blob = Blob::random(2, SIZE as usize);
    let (up, mirror) = mirror_with(std::slice::from_ref(&blob)).await;
    let path = blob_path(REPOSITORY, &blob);
    let pulls: Vec<_> = (0..4)
        .map(|_| {
            let (address, path) = (mirror.address(), path.clone());
            tokio::spawn(async move { pull_in_chunks(address, &path).await })
        })
        .collect();
    for pull in pulls {
        assert!(pull.await.unwrap() == blob.bytes);
    }
    mirror.files().get(&blob).await;
    assert_eq!((up.count(&path), up.sent(&path)), (1, SIZE));
}

/// The first request of a cold blob begins far ahead: what it asks for comes when the one download gets there.
#[tokio::test]
async fn a_fill_that_begins_with_a_far_range_is_still_whole() {
    let blob = Blob::random(3, SIZE as usize);
    let (up, mirror) = mirror_with(std::slice::from_ref(&blob)).await;
    let path = blob_path(REPOSITORY, &blob);
    let range = format!("bytes={}-", SIZE - CHUNK);
    let answer = mirror.get_with(&path, &[("Range", &range)]).await;
    assert_eq!(answer.status(), 206);
    assert!(answer.body == blob.bytes[(SIZE - CHUNK) as usize..]);
    mirror.pull_blob(REPOSITORY, &blob).await;
    mirror.files().get(&blob).await;
    assert_eq!(up.sent(&path), SIZE, "each byte once");
}
