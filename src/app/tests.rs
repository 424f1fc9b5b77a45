//! What can go wrong at the start, in the cache folder.

use super::*;

/// As if it were empty, everybody would get 404 for what was imported.
#[test]
fn an_offline_mirror_whose_records_cannot_be_listed_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("VERSION"), "1").unwrap();
    let repos = folder.path().join("repos");
    std::os::unix::fs::symlink("repos", &repos).unwrap();
    let mut config = Config::default();
    (config.cache.dir, config.cache.offline) = (folder.path().into(), true);
    let error = found(&config).unwrap_err().to_string();
    assert!(error.contains(&format!("{}: cannot list", repos.display())), "{error}");
}
