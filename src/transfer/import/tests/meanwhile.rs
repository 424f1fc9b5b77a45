//! What others do with the cache while a bundle comes.

use std::io::Read;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::cache::records::TagRecord;
use crate::clock::{Moment, Timestamp};
use crate::oci::MediaType;

/// A bundle of which the rest comes later.
struct Halting {
    bundle: io::Cursor<Vec<u8>>,
    at: u64,
    goes_on: Option<mpsc::Receiver<()>>,
}

impl Read for Halting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bundle.position() == self.at
            && let Some(goes_on) = self.goes_on.take()
        {
            let _ = goes_on.recv();
        }
        let left = (self.at - self.bundle.position().min(self.at)) as usize;
        let len = if left > 0 { left.min(buffer.len()) } else { buffer.len() };
        self.bundle.read(&mut buffer[..len])
    }
}

/// Layers that came with a bundle, and that an image needs which was pulled, or pinned, before the bundle was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_bundle_takes_nothing_from_others() {
    for pinned in [false, true] {
        let site = site(1 << 20);
        let mut files = good();
        files.insert(4, (path(b"stray"), b"stray".to_vec()));
        let at = archive(&files).len() as u64 - 1024;
        // What is not what its name says.
        files.push((path(b"last"), b"tsal".to_vec()));
        let (go, goes_on) = mpsc::channel();
        let halting = Halting { bundle: io::Cursor::new(archive(&files)), at, goes_on: Some(goes_on) };
        let cache = site.cache.clone();
        let running = tokio::spawn(async move {
            let input = spawn_blocking(move || super::super::super::input::detect(halting).unwrap()).await.unwrap();
            import(cache, input, Options::default(), &Turn::default()).await
        });
        while site.files().len() < 3 || ![CONFIG, LAYER, b"stray"].iter().all(|blob| site.files().contains(&digest(blob).hex())) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        let (manifest, scope) =
            (manifest(), Scope { upstream: "docker.io".parse().unwrap(), repository: "library/app".parse().unwrap() });
        let named = digest(&manifest);
        if pinned {
            let stray = scope.image(digest(b"stray"));
            site.cache.pin(vec![stray], &Platforms::default(), Timestamp(0)).unwrap();
        }
        site.cache.put(named, Bytes::from(manifest)).await.unwrap();
        site.cache.learn_manifest(&scope, &named, &MediaType::OCI_MANIFEST).await;
        let record = TagRecord { digest: named, checked_at: Moment(1), imported: false };
        site.cache.set_tag(&scope, &"1".parse().unwrap(), record).await.unwrap();

        go.send(()).unwrap();
        let error = running.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
        let left = site.files();
        for blob in [CONFIG, LAYER] {
            assert!(left.contains(&digest(blob).hex()), "of an image that was pulled meanwhile");
        }
        assert_eq!(left.len(), 3 + usize::from(pinned), "{left:?}");
    }
}

/// The middle of a bundle, which comes when it may.
struct Pause(mpsc::Receiver<()>);

impl Read for Pause {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(0)
    }
}

/// Also what was read, and what was said of all of it, before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_upstream_s_bundle_brings_is_private_once_the_upstream_is() {
    let site = site(1 << 20);
    let files = good();
    let part = |files: &[(String, Vec<u8>)]| {
        let mut part = archive(files);
        part.truncate(part.len() - 1024);
        io::Cursor::new(part)
    };
    let ((first, first_pause), (second, second_pause)) = (mpsc::channel(), mpsc::channel());
    let bundle = part(&files[..3]).chain(Pause(first_pause)).chain(part(&files[3..4])).chain(Pause(second_pause));
    let bundle = bundle.chain(io::Cursor::new(archive(&files[4..])));
    let cache = site.cache.clone();
    let running = tokio::spawn(async move {
        let input = spawn_blocking(move || super::super::super::input::detect(bundle).unwrap()).await.unwrap();
        import(cache, input, Options::default(), &Turn::default()).await
    });
    let comes = async |blob: &[u8]| {
        while !site.has(blob) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    comes(CONFIG).await;
    site.cache.confined.set_private(["docker.io".parse().unwrap()]);
    site.cache.confine_known();
    first.send(()).unwrap();
    comes(LAYER).await;
    assert_eq!((site.of(CONFIG), site.of(LAYER)), (None, Some(vec![])), "what its index told is not believed any more");
    second.send(()).unwrap();
    running.await.unwrap().unwrap();
    for blob in [CONFIG, LAYER, &manifest()] {
        assert_eq!(site.of(blob), Some(vec!["docker.io".parse().unwrap()]));
    }
}
