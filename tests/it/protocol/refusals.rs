//! What is refused, and how: before any I/O, with an OCI error body, the connection kept in order.

use super::{REPOSITORY, with_image};
use crate::support::client::{self, End};
use crate::support::image::Blob;
use crate::support::upstream::blob_path;

/// T17
#[tokio::test]
async fn t17_other_methods_are_405() {
    let (up, image, mirror) = with_image().await;
    let blob = blob_path(REPOSITORY, &image.layers[0]);
    let paths = ["/v2/", "/v2/library/alpine/manifests/latest", &blob, "/v2/library/alpine/blobs/uploads/"];
    for path in paths {
        for method in ["PUT", "POST", "PATCH", "DELETE"] {
            let answer = client::request(mirror.address(), method, path, &[("Content-Length", "0")]).await;
            assert_eq!((answer.status(), &*answer.error_code()), (405, "UNSUPPORTED"), "{method} {path}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
            assert_eq!(answer.header("content-type").map(|value| value.starts_with("application/json")), Some(true));
        }
    }
    let catalog = mirror.get("/v2/_catalog").await;
    assert!([404, 405].contains(&catalog.status()));
    catalog.error_code();
    assert_eq!(up.count("*"), 0);
}

/// T18
#[tokio::test]
async fn t18_names_that_are_none_are_refused_before_any_io() {
    let (up, _, mirror) = with_image().await;
    let hex = "0123456789abcdef".repeat(4);
    let long = "a".repeat(256);
    let cases = [
        ("/v2/UPPER/case/manifests/latest".to_owned(), "NAME_INVALID"),
        (format!("/v2/{long}/manifests/latest"), "NAME_INVALID"),
        ("/v2/a..b/manifests/latest".to_owned(), "NAME_INVALID"),
        ("/v2/-a/manifests/latest".to_owned(), "NAME_INVALID"),
        ("/v2/a/b_/manifests/latest".to_owned(), "NAME_INVALID"),
        (format!("/v2/library/alpine/blobs/sha256:{}", &hex[1..]), "DIGEST_INVALID"),
        (format!("/v2/library/alpine/blobs/sha256:{hex}0"), "DIGEST_INVALID"),
        (format!("/v2/library/alpine/blobs/sha256:{}", hex.to_uppercase()), "DIGEST_INVALID"),
        (format!("/v2/library/alpine/blobs/md5:{}", &hex[32..]), "DIGEST_INVALID"),
        (format!("/v2/library/alpine/blobs/sha512:{hex}"), "DIGEST_INVALID"),
        ("/v2/library/alpine/blobs/latest".to_owned(), "DIGEST_INVALID"),
        (format!("/v2/library/alpine/manifests/sha256:{}", &hex[1..]), "DIGEST_INVALID"),
        ("/v2/library/alpine/referrers/sha256:baddigeststring".to_owned(), "DIGEST_INVALID"),
    ];
    for (path, code) in cases {
        let answer = mirror.get(&path).await;
        assert_eq!((answer.status(), &*answer.error_code()), (400, code), "{path}");
        let head = mirror.head(&path).await;
        assert_eq!((head.status(), head.body.len()), (400, 0), "{path}");
    }
    assert_eq!(up.count("*"), 0);
}

/// T18: tricks with the path. Whatever they are called, they reach neither an upstream nor a file.
#[tokio::test]
async fn t18_paths_that_climb_are_refused() {
    let (up, _, mirror) = with_image().await;
    let tag = "t".repeat(129);
    for path in [
        "/v2/../../etc/passwd",
        "/v2/library/../alpine/manifests/latest",
        "/v2/library/%2e%2e/alpine/manifests/latest",
        "/v2/library%2Falpine/manifests/latest",
        "/v2//library/alpine/manifests/latest",
        "/v2/library//alpine/manifests/latest",
        "/v2/library/alpine/manifests/..",
        "/v2/library/alpine/manifests/%2e%2e%2f%2e%2e",
        "/v2/library/alpine/manifests/a%00b",
        "/v2/library/alpine/manifests/a%0d%0ab",
        "/v2/library\\alpine/manifests/latest",
        "/v2/library/alpine/manifests/-dash",
        &format!("/v2/library/alpine/manifests/{tag}"),
        "/v2/library/alpine/manifests/",
        "/v2/library/alpine/blobs/",
        "/v2/manifests/latest",
        "/v2/library/alpine",
        "/v2/library/alpine/unknown/latest",
        "/v2/library/alpine/blobs/sha256:..%2f..%2f",
        "/v1/_ping",
        "/",
        "/v3/",
    ] {
        let answer = mirror.get(path).await;
        assert!([400, 404].contains(&answer.status()), "{path}: {}", answer.status());
        answer.error_code();
    }
    assert_eq!(up.count("*"), 0);
}

/// What is not there is 404 with the code that says which.
#[tokio::test]
async fn what_is_not_there_is_404() {
    let (up, _, mirror) = with_image().await;
    let missing = Blob::random(77, 10);
    for (path, codes) in [
        ("/v2/library/alpine/manifests/none".to_owned(), ["MANIFEST_UNKNOWN", "MANIFEST_UNKNOWN"]),
        (format!("/v2/library/alpine/manifests/{}", missing.digest), ["MANIFEST_UNKNOWN", "MANIFEST_UNKNOWN"]),
        (blob_path(REPOSITORY, &missing), ["BLOB_UNKNOWN", "BLOB_UNKNOWN"]),
        ("/v2/library/none/manifests/latest".to_owned(), ["NAME_UNKNOWN", "MANIFEST_UNKNOWN"]),
        ("/v2/library/none/tags/list".to_owned(), ["NAME_UNKNOWN", "NAME_UNKNOWN"]),
    ] {
        let answer = mirror.get(&path).await;
        assert_eq!((answer.status(), answer.end), (404, End::Complete), "{path}");
        assert!(codes.contains(&&*answer.error_code()), "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type").map(|value| value.starts_with("application/json")), Some(true));
        assert_eq!(answer.header("www-authenticate"), None);
    }
    assert_eq!(up.count("HEAD /v2/*/blobs/*"), 0);
    assert_eq!(mirror.files().blobs(), []);
}

/// A body on a GET is no second request.
#[tokio::test]
async fn nothing_is_smuggled_in_a_body() {
    let (up, _, mirror) = with_image().await;
    let hidden = "GET /v2/library/alpine/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = hidden.len();
    let heads = [
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"),
        format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\nContent-Length: 0\r\n\r\n"),
    ];
    for head in heads {
        let answer = client::raw(mirror.address(), format!("{head}{hidden}").as_bytes()).await;
        let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(up.count("*"), 0);
    let both = "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    client::raw(mirror.address(), format!("{both}{hidden}").as_bytes()).await;
    assert_eq!(up.count("*"), 0, "both lengths: whatever came behind is not believed");
    assert_eq!(mirror.get("/v2/").await.status(), 200);
}

/// More headers than anybody needs, and a head that never ends.
#[tokio::test]
async fn a_flood_of_headers_is_cut_off() {
    let (up, _, mirror) = with_image().await;
    let many: String = (0..10_000).map(|number| format!("X-Flood-{number}: {number}\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "x".repeat(4 << 20));
    for flood in [many, long] {
        let request = format!("GET /v2/library/alpine/manifests/latest HTTP/1.1\r\nHost: x\r\n{flood}\r\n");
        let answer = try_raw(mirror.address(), request.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{}", &answer[..answer.len().min(200)]);
    }
    assert_eq!(up.count("*"), 0);
    assert_eq!(mirror.get("/v2/").await.status(), 200, "and others are served");
}

/// Sends what the server may refuse to read to its end.
async fn try_raw(address: std::net::SocketAddr, bytes: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let _ = crate::support::within("the flood to end", stream.write_all(bytes)).await;
    let mut answer = Vec::new();
    let _ = crate::support::within("the server to close", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}
