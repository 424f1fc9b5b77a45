//! Certificates that change while the mirror runs.

use http::Method;

use super::authority::Folder;
use super::client::{Client, Requests};
use super::{everything, mirror};
use crate::support::mirror::process::Process;
use crate::support::{until, within};

/// Waits until the server shows another certificate than `old`.
async fn replaced(client: &Client, address: std::net::SocketAddr, old: &[u8]) {
    within("another certificate", async {
        while client.shown(address).await.as_ref() == old {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn files_that_change_are_taken_and_open_connections_go_on() {
    let (up, _, authority, folder) = everything().await;
    let mirror = mirror(&up, &folder, |_| {}).await;
    let client = Client::of(&authority);
    let mut open = Requests::http1(client.dial(mirror.address()).await.unwrap()).await;
    let first = client.shown(mirror.address()).await;

    // Half of a change: the old one stays.
    let next = authority.server(&["a.example"]);
    std::fs::write(folder.path("a.crt"), &next.cert).unwrap();
    mirror.metric_becomes("roadstead_tls_reload_failures_total", &[], 1.0).await;
    assert_eq!(client.shown(mirror.address()).await, first);

    folder.write("a", &next);
    replaced(&client, mirror.address(), &first).await;
    assert_eq!(open.send(Method::GET, "/v2/", &[]).await.status().as_u16(), 200);
    assert_eq!(client.ping(mirror.address()).await, Ok(200));
}

/// As the kubelet does it: `tls.crt` → `..data/tls.crt`, and `..data` is moved.
#[tokio::test]
async fn a_symlink_that_is_swapped_is_seen() {
    let (up, _, authority, _) = everything().await;
    let folder = Folder::new();
    let link = |from: &str, to: &str| std::os::unix::fs::symlink(from, folder.path(to)).unwrap();
    folder.write("..1/a", &authority.server(&["a.example"]));
    link("..1", "..data");
    link("..data/a.crt", "a.crt");
    link("..data/a.key", "a.key");
    let mirror = mirror(&up, &folder, |_| {}).await;
    let client = Client::of(&authority);
    let first = client.shown(mirror.address()).await;
    folder.write("..2/a", &authority.server(&["a.example"]));
    link("..2", "..next");
    std::fs::rename(folder.path("..next"), folder.path("..data")).unwrap();
    std::fs::remove_dir_all(folder.path("..1")).unwrap();
    replaced(&client, mirror.address(), &first).await;
    assert_eq!(mirror.metric("roadstead_tls_reload_failures_total", &[]).await, 0.0);
}

#[tokio::test]
async fn another_configuration_takes_other_files_and_demands() {
    let (up, _, authority, folder) = everything().await;
    folder.write("b", &authority.server(&["b.example"]));
    let mut mirror = mirror(&up, &folder, |_| {}).await;
    let old = Client::with(&authority, None, &[&rustls::version::TLS12]).named("b.example");
    let mut tls = folder.table("b");
    mirror
        .reload(|settings| {
            settings.set("server", "tls", tls.clone());
        })
        .await
        .unwrap();
    assert_eq!(old.ping(mirror.address()).await, Ok(200));
    tls.insert("min_version".to_owned(), "1.3".into());
    mirror
        .reload(|settings| {
            settings.set("server", "tls", tls.clone());
        })
        .await
        .unwrap();
    assert!(old.ping(mirror.address()).await.is_err());
    tls.insert("key".to_owned(), folder.path("a.key").to_str().unwrap().into());
    let error = mirror
        .reload(|settings| {
            settings.set("server", "tls", tls.clone());
        })
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("a.key") && error.contains("does not belong to the certificate"), "{error}");
    assert_eq!(Client::of(&authority).named("b.example").ping(mirror.address()).await, Ok(200));
}

#[tokio::test]
async fn sighup_reads_the_configuration_again() {
    let (up, _, authority, folder) = everything().await;
    folder.write("b", &authority.server(&["b.example"]));
    let mut process = Process::with(&up, |settings| {
        settings.set("server", "tls", folder.table("a"));
    })
    .await;
    let (a, b) = (Client::of(&authority), Client::of(&authority).named("b.example"));
    let mut open = Requests::http1(a.dial(process.address()).await.unwrap()).await;
    let said = async |process: &Process, what: &str| until(what, || process.log().contains(what)).await;

    process.configure_badly("[server]\nlisten = 7\n");
    process.hang_up();
    said(&process, "the new configuration is wrong; the old one holds").await;
    assert_eq!(a.ping(process.address()).await, Ok(200));

    process.configure(|settings| {
        settings.set("server", "tls", folder.table("b")).set("server", "max_connections", 77);
    });
    process.hang_up();
    said(&process, "the configuration was read again").await;
    said(&process, "take effect after a restart").await;
    assert_eq!(b.ping(process.address()).await, Ok(200));
    assert!(a.ping(process.address()).await.is_err());
    assert_eq!(open.send(Method::GET, "/v2/", &[]).await.status().as_u16(), 200, "an open connection goes on");
}
