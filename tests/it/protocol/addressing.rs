//! Which upstream a request means: `ns`, prefix, first component, Host, default.

use tokio::net::TcpStream;

use super::REPOSITORY;
use crate::support::client;
use crate::support::image::Image;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Upstream, blob_path, manifest_path};
use crate::support::within;

/// Two upstreams that hold different images under the same name.
async fn two() -> ([Upstream; 2], [Image; 2]) {
    let upstreams = [Upstream::start().await, Upstream::start().await];
    let images = [Image::small(1), Image::small(2)];
    for (upstream, image) in upstreams.iter().zip(&images) {
        upstream.push_image(REPOSITORY, "latest", image);
    }
    (upstreams, images)
}

/// T4
#[tokio::test]
async fn t4_ns_selects_a_configured_upstream_and_no_other() {
    let ([hub, other], [hub_image, other_image]) = two().await;
    let mirror = Mirror::with(&hub, |settings| {
        settings.add("quay.io", &other).add("registry.example:5000", &other);
    })
    .await;
    for (ns, echoed, image) in [
        ("docker.io", "docker.io", &hub_image),
        ("quay.io", "quay.io", &other_image),
        ("registry.example:5000", "registry.example:5000", &other_image),
        ("registry.example%3A5000", "registry.example:5000", &other_image),
    ] {
        let answer = mirror.get(&format!("/v2/library/alpine/manifests/latest?ns={ns}")).await;
        assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes), "{ns}");
        assert_eq!(answer.header("oci-namespace"), Some(echoed));
        let blob = mirror.get(&format!("{}?ns={ns}", blob_path(REPOSITORY, &image.layers[0]))).await;
        blob.assert_is(&image.layers[0]);
        assert_eq!(blob.header("oci-namespace"), Some(echoed));
    }
    let before = (hub.count("*"), other.count("*"));
    let own = other.address().to_string();
    for ns in ["evil.example", "169.254.169.254", &own, "docker.io.evil.example", "quay.io@evil.example", "..%2f"] {
        let answer = mirror.get(&format!("/v2/library/alpine/manifests/latest?ns={ns}")).await;
        assert!([400, 404].contains(&answer.status()), "{ns}: {}", answer.status());
        answer.error_code();
    }
    let answer = mirror.get("/v2/library/alpine/manifests/latest?ns=evil.example").await;
    assert_eq!((answer.status(), &*answer.error_code()), (404, "NAME_UNKNOWN"));
    assert_eq!((hub.count("*"), other.count("*")), before, "nobody was asked");
}

/// T4: both say something, and not the same.
#[tokio::test]
async fn t4_ns_and_prefix_must_agree() {
    let ([hub, other], [_, other_image]) = two().await;
    let mirror = Mirror::with(&hub, |settings| {
        settings.add("quay.io", &other);
    })
    .await;
    for path in ["/docker.io/v2/library/alpine/manifests/latest", "/v2/docker.io/library/alpine/manifests/latest"] {
        let answer = mirror.get(&format!("{path}?ns=quay.io")).await;
        assert!([400, 404].contains(&answer.status()), "{path}: {}", answer.status());
        let agreeing = path.replace("docker.io", "quay.io");
        let answer = mirror.get(&format!("{agreeing}?ns=quay.io")).await;
        assert_eq!((answer.status(), &*answer.body), (200, &*other_image.manifest.bytes), "{agreeing}");
    }
    assert_eq!(hub.count("*"), 0);
}

/// T5
#[tokio::test]
async fn t5_every_address_of_one_image_gives_the_same_bytes() {
    let ([hub, other], [hub_image, other_image]) = two().await;
    let mirror = Mirror::with(&hub, |settings| {
        settings.add("quay.io", &other).upstream("quay.io", "hosts", vec!["quay.mirror.example"]);
    })
    .await;
    let digest = &hub_image.layers[0].digest;
    let forms = [
        "/v2/library/alpine",
        "/docker.io/v2/library/alpine",
        "/v2/docker.io/library/alpine",
        "/v2/alpine",
        "/v2/docker.io/alpine",
    ];
    for form in forms {
        let manifest = mirror.get(&format!("{form}/manifests/latest")).await;
        assert_eq!((manifest.status(), &*manifest.body), (200, &*hub_image.manifest.bytes), "{form}");
        mirror.get(&format!("{form}/blobs/{digest}")).await.assert_is(&hub_image.layers[0]);
    }
    assert_eq!(hub.sent("/v2/*/blobs/*"), hub_image.layers[0].size(), "one download for all forms");
    let path = manifest_path(REPOSITORY, "latest");
    for (host, image) in [
        ("quay.mirror.example", &other_image),
        ("quay.mirror.example:5000", &other_image),
        ("QUAY.mirror.example", &other_image),
        ("unknown.example", &hub_image),
    ] {
        let answer = mirror.get_with(&path, &[("Host", host)]).await;
        assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes), "{host}");
    }
    let explicit = mirror.get_with(&format!("{path}?ns=docker.io"), &[("Host", "quay.mirror.example")]).await;
    assert_eq!(explicit.body, hub_image.manifest.bytes, "ns comes before Host");
}

/// The port belongs to what a mirror is called: in HTTP/2, which has no Host, and in a target that says it itself, too.
#[tokio::test]
async fn the_host_of_a_request_has_its_port_however_it_is_said() {
    let ([hub, other], [hub_image, other_image]) = two().await;
    let mirror = Mirror::with(&hub, |settings| {
        settings.add("quay.io", &other).upstream("quay.io", "hosts", vec!["quay.mirror.example:5000"]);
    })
    .await;
    let path = manifest_path(REPOSITORY, "latest");
    for (host, image) in [("quay.mirror.example:5000", &other_image), ("quay.mirror.example:6000", &hub_image)] {
        let stream = TcpStream::connect(mirror.address()).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://{host}{path}")).body(()).unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        let mut body = within("the answer", answer).await.unwrap().into_body();
        assert!(within("a body", body.data()).await.unwrap().unwrap() == image.manifest.bytes, "{host}");
        let absolute = format!("GET http://{host}{path} HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n");
        let answer = client::raw(mirror.address(), absolute.as_bytes()).await;
        assert!(answer.ends_with(&image.manifest.bytes), "{host}: {}", String::from_utf8_lossy(&answer));
    }
}

/// RFC 9112, 3.2: a request that two servers could take for two hosts' is nobody's.
#[tokio::test]
async fn a_request_names_its_host_once() {
    let ([hub, _], [image, _]) = two().await;
    let mirror = Mirror::of(&hub).await;
    let path = manifest_path(REPOSITORY, "latest");
    for (version, hosts, status) in [
        ("1.1", "", "400"),
        ("1.1", "Host: a.example\r\nHost: b.example\r\n", "400"),
        ("1.0", "Host: a.example\r\nHost: b.example\r\n", "400"),
        ("1.1", "Host: a.example\r\n", "200"),
        ("1.0", "", "200"),
    ] {
        let request = format!("GET {path} HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n");
        let answer = client::raw(mirror.address(), request.as_bytes()).await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(text.split(' ').nth(1), Some(status), "{request}: {text}");
        assert_eq!(answer.ends_with(&image.manifest.bytes), status == "200");
    }
}

/// The same name means a repository, not an upstream, where no upstream is called so.
#[tokio::test]
async fn a_first_component_that_is_no_upstream_is_part_of_the_name() {
    let ([hub, _], [image, _]) = two().await;
    hub.push_image("example.com/tool", "1", &image);
    let mirror = Mirror::of(&hub).await;
    let answer = mirror.get("/v2/example.com/tool/manifests/1").await;
    assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes));
}
