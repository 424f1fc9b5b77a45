//! A raw HTTP/1.1 client that tells exactly what arrived and how it ended.
//!
//! Written on a bare socket, because the difference between a whole body, a body cut short and a connection reset is
//! what the mirror's promises are about (I4, I5), and client libraries blur it. It follows no redirect, retries
//! nothing and decodes no content coding.

mod body;
mod head;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub use body::{Download, End};
pub use head::Head;

use super::image::Blob;
use super::within;

/// A whole answer: the head, whatever came of the body, and how it ended.
#[derive(Debug)]
pub struct Response {
    /// Status line and headers.
    pub head: Head,
    /// The body bytes that arrived, chunk framing removed.
    pub body: Vec<u8>,
    /// How the body ended.
    pub end: End,
    /// From the request's last byte to the first body byte; `None` where there was no body byte.
    pub first_byte: Option<Duration>,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// A header's value; the header must not be there twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// Fails unless this is the whole of `blob`, ended cleanly.
    pub fn assert_is(&self, blob: &Blob) {
        let (status, length, end) = (self.status(), self.body.len() as u64, self.end);
        assert_eq!((status, length, end), (200, blob.size(), End::Complete), "{}: {:?}", blob.digest, self.head);
        assert!(self.body == blob.bytes, "{}: right length, wrong bytes", blob.digest);
    }

    /// Fails if a client would take this for `blob` and be wrong: a success that ends cleanly with other bytes.
    pub fn assert_not_wrong(&self, blob: &Blob) {
        let success = self.status() < 300 && !self.end.is_broken();
        assert!(!success || self.body == blob.bytes, "a whole wrong body: {:?}, {} bytes", self.head, self.body.len());
    }

    /// Fails unless a client can tell that this is not the content: an error with an OCI body, or a broken one.
    pub fn assert_refused(&self) {
        if self.status() < 300 {
            assert!(self.end.is_broken(), "ended as {:?} after {} bytes: {:?}", self.end, self.body.len(), self.head);
        } else {
            assert_eq!(self.end, End::Complete, "{:?}", self.head);
            self.error_code();
        }
    }

    /// The code of the first error of an OCI error body.
    pub fn error_code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_else(|| panic!("no OCI error: {}", self.text())).to_owned()
    }
}

/// `GET path`: the whole answer.
pub async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    open(address, path, headers).await.rest().await
}

/// `HEAD path`. The connection is read to its end: a body that should not be there is in `body`.
pub async fn head(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut headers = headers.to_vec();
    headers.push(("Connection", "close"));
    let mut connection = Connection::open(address).await;
    connection.send("HEAD", path, &headers).await;
    let mut response = connection.answer("HEAD").await.expect("an answer").unframed().rest().await;
    if response.end == End::Closed && response.body.is_empty() {
        response.end = End::Complete;
    }
    response
}

/// Any method, without a request body.
pub async fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut connection = Connection::open(address).await;
    connection.send(method, path, headers).await;
    connection.answer(method).await.expect("an answer").rest().await
}

/// `GET path`, the head read and the body not yet: for reading a part, holding, or leaving.
pub async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Download {
    match try_open(address, path, headers).await {
        Ok(download) => download,
        Err(end) => panic!("no answer to GET {path}: {end:?}"),
    }
}

/// As [`open`], where the answer may be none at all: `Err` says how the connection ended.
pub async fn try_open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Download, End> {
    let mut connection = Connection::open(address).await;
    connection.send("GET", path, headers).await;
    connection.answer("GET").await
}

/// Sends `bytes` as they are and returns everything that comes back until the server closes.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut connection = Connection::open(address).await;
    connection.send_raw(bytes).await;
    let mut answer = Vec::new();
    // A server may reset after its answer because it left some of ours unread.
    let _ = within("the server to close", connection.stream.read_to_end(&mut answer)).await;
    answer
}

/// One connection; requests follow one another on it.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    buffer: BytesMut,
    sent: Instant,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.expect("the server accepts");
        stream.set_nodelay(true).expect("nodelay");
        Self { stream, address, buffer: BytesMut::new(), sent: Instant::now() }
    }

    /// Sends a request without a body. `Host` is the address unless `headers` has one.
    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        self.send_raw(text.as_bytes()).await;
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        within("the request to be taken", self.stream.write_all(bytes)).await.expect("the server takes the request");
        self.sent = Instant::now();
    }

    /// Reads the head of the answer to a request of `method`.
    pub async fn answer(mut self, method: &str) -> Result<Download, End> {
        loop {
            if let Some((head, length)) = Head::parse(&self.buffer) {
                let _ = self.buffer.split_to(length);
                if head.status == 100 {
                    continue;
                }
                return Ok(Download::new(self, head, method));
            }
            self.more().await?;
        }
    }

    /// Reads what comes next into the buffer; `Err` where nothing comes any more.
    async fn more(&mut self) -> Result<(), End> {
        self.buffer.reserve(64 * 1024);
        match within("the next byte of an answer", self.stream.read_buf(&mut self.buffer)).await {
            Ok(0) => Err(End::NoAnswer),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(End::Reset),
            Err(error) => panic!("reading from {}: {error}", self.address),
        }
    }
}
