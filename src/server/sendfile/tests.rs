use super::*;
use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::cache::Content;
use crate::oci::{Algorithm, Digest};
use crate::pull::body::{Body, Piece, Segment};
use http::{Request, Response};
use http_body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What the server's body does, without its account.
struct Plain(Body, Option<Lane>);

impl http_body::Body for Plain {
    type Data = Chunk;
    type Error = crate::pull::body::BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, Self::Error>>> {
        let Self(body, lane) = &mut *self;
        let piece = ready!(body.poll_piece(cx, lane.is_some()));
        Poll::Ready(piece.map(|piece| {
            Ok(Frame::data(match (piece?, lane) {
                (Piece::Bytes(bytes), _) => Chunk::Bytes(bytes),
                (Piece::Span(span), lane) => lane.as_ref().unwrap().take(span),
            }))
        }))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.remaining().map_or_else(Default::default, http_body::SizeHint::with_exact)
    }
}

fn file(len: usize) -> (Arc<File>, Vec<u8>) {
    // Not the marker's byte anywhere in a row.
    let bytes: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    (Arc::new(file), bytes)
}

/// Serves the file in three segments, a text between them, to one connection.
async fn serve(listener: TcpListener, file: Arc<File>, len: u64) {
    let (tcp, _) = listener.accept().await.unwrap();
    // Small, so that every write is a partial one.
    rustix::net::sockopt::set_socket_send_buffer_size(&tcp, 32 << 10).unwrap();
    let socket = Socket::new(tcp);
    let lane = socket.lane();
    let service = service_fn(|_: Request<hyper::body::Incoming>| {
        let source = Content::File(Arc::new(file.clone().into())).into();
        let middle = Segment::Literal(Bytes::from_static(b"<middle>"));
        let body = Body::new(source, [Segment::Span(0..len / 3), middle, Segment::Span(len / 3..len)]);
        let lane = lane.clone();
        async move { Ok::<_, Infallible>(Response::new(Plain(body, Some(lane)))) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

async fn connect(len: usize) -> (tokio::net::TcpStream, Vec<u8>) {
    let (file, bytes) = file(len);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, file, len as u64));
    let expected = [&bytes[..len / 3], b"<middle>", &bytes[len / 3..]].concat();
    (tokio::net::TcpStream::connect(address).await.unwrap(), expected)
}

async fn read_answer(client: &mut tokio::net::TcpStream, expected: &[u8]) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    assert!(String::from_utf8_lossy(&head).to_lowercase().contains(&format!("content-length: {}", expected.len())));
    let mut body = vec![0; expected.len()];
    // In odd pieces, with pauses: the socket fills up and drains again.
    for part in body.chunks_mut(77_777) {
        client.read_exact(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    let digest = |bytes| Digest::of(Algorithm::Sha256, bytes);
    assert_eq!(digest(&body), digest(expected));
}

#[tokio::test]
async fn files_and_bytes_leave_in_order_on_a_kept_connection() {
    let (mut client, expected) = connect(5 * (1 << 20) + 123).await;
    // Two requests at once, then one more.
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_answer(&mut client, &expected).await;
    read_answer(&mut client, &expected).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_answer(&mut client, &expected).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_is_no_ones_trouble() {
    let (mut client, _) = connect(8 << 20).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut some = [0; 1000];
    client.read_exact(&mut some).await.unwrap();
}

#[tokio::test]
async fn a_marker_without_a_file_is_an_error_and_never_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut socket = Socket::new(listener.accept().await.unwrap().0);
    assert!(socket.write_all(&MARKER[..100]).await.is_err());
    drop(socket);
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert!(received.is_empty());
}
