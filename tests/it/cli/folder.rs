//! Commands that work on the cache folder itself where no mirror runs: which folder, and whose.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{run, write};

/// The cache of a mirror that is stopped, the address of its admin interface, where nobody is, and its configuration.
fn stopped(folder: &Path) -> (PathBuf, String, String) {
    let cache = folder.join("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::write(cache.join("VERSION"), "1\n").unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = write(folder, &format!("cache.dir = {cache:?}\nadmin.listen = \"{nobody}\"\n"));
    (cache, nobody, config)
}

/// Of a mirror that is named and does not answer nothing is known, whatever the folder of some configuration holds.
#[test]
fn verify_does_not_take_another_folder_for_the_mirror_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (_, nobody, config) = stopped(folder.path());
    let (code, _, err) = run(&["verify", "--config", &config, "--admin", &nobody]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("cannot reach"), "{err}");
    // The mirror of the configuration, whose folder it is.
    let (code, out, err) = run(&["verify", "--config", &config]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("\"damaged\""), "{out}");
}

/// Root could write into any cache, and the mirror that has it could not change what root wrote: it would never see a tag move.
#[test]
fn nothing_is_written_into_the_cache_of_another_user() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, nobody, config) = stopped(folder.path());
    // Whoever is not root cannot make it another's, but can close it to himself, as another's mostly is.
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(cache.join("VERSION"), Some(65532), None).unwrap();
    } else {
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    for command in [&["prefetch", "alpine:3.20"][..], &["import", "/dev/null"]] {
        let (code, out, error) = run(&[command, &["--config", &config]].concat());
        assert_eq!((code, out.as_str()), (Some(1), ""), "{command:?}: {error}");
        assert!(error.contains("is another user's") && error.contains("start it") && error.contains(&nobody), "{error}");
    }
    if is_root {
        let (code, _, error) = run(&["verify", "--config", &config]);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("is another user's"), "{error}");
    }
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o755)).unwrap();
    let inside: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(inside, ["VERSION"]);
}

/// Root has made the folder for the mirror's user, and the mirror has not run yet.
#[test]
fn nothing_is_written_into_a_folder_that_is_made_for_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (cache, _, config) = stopped(folder.path());
    std::fs::remove_file(cache.join("VERSION")).unwrap();
    std::os::unix::fs::chown(&cache, Some(65532), None).unwrap();
    for command in [&["prefetch", "alpine:3.20"][..], &["import", "/dev/null"]] {
        let (code, _, error) = run(&[command, &["--config", &config]].concat());
        assert_eq!(code, Some(1), "{command:?}: {error}");
        assert!(error.contains("is another user's"), "{error}");
    }
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
}

/// A mirror that answers each request for `verify` with the next of these.
fn answering(documents: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for document in documents {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            let length = document.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            stream.write_all((head + &document).as_bytes()).unwrap();
        }
    });
    address
}

/// A mirror that was started again has nothing to say of the verification that it was asked for before.
#[test]
fn verify_is_not_ended_by_another_verification() {
    let progress = |pass: u64, running: bool, whole: bool| {
        format!(
            r#"{{"pass":{pass},"running":{running},"whole":{whole},"objects":2,"bytes":20,"damaged":0,"unread":0,"of_bytes":20}}"#
        )
    };
    let begun = [progress(7, true, false), progress(7, true, false)];
    for (last, error) in [
        (progress(0, false, false), Some("started again")),
        (progress(8, false, true), Some("started again")),
        (progress(7, false, false), Some("not everything was verified")),
        (progress(7, false, true), None),
    ] {
        let mirror = answering(begun.iter().cloned().chain([last]).collect());
        let (code, out, err) = run(&["verify", "--admin", &mirror]);
        assert_eq!(code, Some(i32::from(error.is_some())), "{out} {err}");
        assert!(err.contains(error.unwrap_or_default()), "{err}");
    }
}
