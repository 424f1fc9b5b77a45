//! Unix sockets, addresses that stay plain, and sockets that are passed.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use http::Method;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;

use super::client::{Client, Requests};
use super::{everything, pull};
use crate::support::mirror::{Mirror, Settings};
use crate::support::{client, within};

#[tokio::test]
async fn an_image_by_a_unix_socket_and_by_a_plain_address() {
    let (up, image, authority, folder) = everything().await;
    let path = folder.path("pull.sock");
    let mirror = Mirror::with(&up, |settings| {
        let listen = vec![format!("unix:{}", path.display()), "plain:127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()];
        settings.set("server", "listen", listen).set("server", "tls", folder.table("a"));
    })
    .await;
    pull(&mut Requests::http1(UnixStream::connect(&path).await.unwrap()).await, &image).await;
    pull(&mut Requests::http2(UnixStream::connect(&path).await.unwrap()).await, &image).await;
    let (plain, secure) = (mirror.addresses()[0], mirror.addresses()[1]);
    pull(&mut Requests::http1(TcpStream::connect(plain).await.unwrap()).await, &image).await;
    pull(&mut Requests::http1(Client::of(&authority).dial(secure).await.unwrap()).await, &image).await;
    mirror.stop().await;
    assert!(!path.exists(), "a stopped mirror takes its socket away");
}

#[tokio::test]
async fn the_admin_interface_by_a_unix_socket() {
    let (up, _, _, folder) = everything().await;
    let path = folder.path("admin.sock");
    let _mirror = Mirror::with(&up, |settings| {
        settings.set("admin", "listen", format!("unix:{}", path.display()));
    })
    .await;
    let mut requests = Requests::http1(UnixStream::connect(&path).await.unwrap()).await;
    assert_eq!(requests.send(Method::GET, "/healthz", &[]).await.status().as_u16(), 200);
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("roadstead"));
    command.args(["stats", "--json", "--admin", &format!("unix:{}", path.display())]).kill_on_drop(true);
    let output = within("the command", command.output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a service manager does, by hand: descriptors from 3 on, and their names.
#[tokio::test]
async fn sockets_that_are_passed() {
    let (up, _, _, folder) = everything().await;
    let cache = TempDir::new().unwrap();
    let (pull, admin) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(folder.path("admin.sock")).unwrap());
    let address = pull.local_addr().unwrap();
    let mut settings = Settings::new(&up, cache.path().to_str().unwrap());
    settings.set("server", "listen", "systemd").set("admin", "listen", "systemd:admin");
    let config = folder.path("config.toml");
    std::fs::write(&config, settings.text()).unwrap();
    let serve = |names: &str| {
        let mut command = Command::new("sh");
        let script = format!("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={names} exec \"$@\" 3<&0 4<&1 </dev/null >&2");
        command
            .args(["-c", &script, "sh"])
            .arg(assert_cmd::cargo::cargo_bin!("roadstead"))
            .arg("serve")
            .arg("--config")
            .arg(&config);
        let own = |socket: std::os::fd::OwnedFd| Stdio::from(socket);
        command.stdin(own(pull.try_clone().unwrap().into())).stdout(own(admin.try_clone().unwrap().into()));
        command.stderr(Stdio::piped()).kill_on_drop(true);
        command
    };
    let mut child = serve("pull:admin").spawn().unwrap();
    // The listener is ours, too: the connection waits until the mirror accepts it.
    let answer = client::get(address, "/v2/", &[]).await;
    assert_eq!(answer.status(), 200);
    let mut requests = Requests::http1(UnixStream::connect(folder.path("admin.sock")).await.unwrap()).await;
    assert_eq!(requests.send(Method::GET, "/readyz", &[]).await.status().as_u16(), 200);
    child.kill().await.unwrap();

    let output = within("the refusal", serve("pull:other").spawn().unwrap().wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("no socket of the name \"admin\""), "{said}");
}
