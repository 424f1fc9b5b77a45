//! A registry of a few lines that does what a closure says, good or bad, down to the raw bytes.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::Url;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// The request line's target: path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Counts connections from 0.
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// All values of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Vec<String> {
        let url = Url::parse("http://x").unwrap().join(&self.target).unwrap();
        url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Send only so many bytes of the body.
    cut: Option<usize>,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    KeepAlive,
    Close,
    Hang,
    /// Close without having answered.
    Vanish,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None, then: Then::KeepAlive }
    }

    pub fn challenge(challenge: &str) -> Self {
        Self::new(401).header("www-authenticate", challenge)
    }

    pub fn token(token: &str) -> Self {
        Self::new(200).body(format!(r#"{{"token":"{token}","expires_in":300}}"#))
    }

    pub fn redirect(location: &str) -> Self {
        Self::new(307).header("location", location)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends `bytes` of the body, then closes.
    pub fn truncated(self, bytes: usize) -> Self {
        Self { cut: Some(bytes), then: Then::Close, ..self }
    }

    /// Sends `bytes` of the body, then nothing for ever.
    pub fn stalled(self, bytes: usize) -> Self {
        Self { cut: Some(bytes), then: Then::Hang, ..self }
    }

    /// Answers, promises to keep the connection, and closes it.
    pub fn closing(self) -> Self {
        Self { then: Then::Close, ..self }
    }

    /// Closes without an answer.
    pub fn vanish() -> Self {
        Self { then: Then::Vanish, ..Self::new(200) }
    }

    /// Never answers.
    pub fn silence() -> Self {
        Self { then: Then::Hang, cut: Some(0), status: 0, ..Self::new(200) }
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

/// A running server; its tasks end with the test's runtime.
pub struct Server {
    pub url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, handler): (_, Arc<Handler>) = (Arc::clone(&seen), Arc::new(handler));
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, connection, Arc::clone(&log), Arc::clone(&handler)));
            }
        });
        Self { url, seen }
    }

    /// Everything that arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `GET /path` of everything that arrived so far.
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path())).collect()
    }

    /// How many requests to this path arrived.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path() == path).count()
    }

    /// Host and port.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.url.port().unwrap())
    }
}

/// Serves one connection, encrypted or not.
pub async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    log: Arc<Mutex<Vec<Seen>>>,
    handler: Arc<Handler>,
) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer, connection).await {
        log.lock().unwrap().push(seen.clone());
        let reply = handler(&seen);
        if reply.then == Then::Vanish {
            return;
        }
        if reply.status != 0 {
            let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
            for (name, value) in &reply.headers {
                head += &format!("{name}: {value}\r\n");
            }
            if !reply.headers.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding") {
                head += &format!("content-length: {}\r\n", reply.body.len());
            }
            let _ = stream.write_all(format!("{head}\r\n").as_bytes()).await;
            if seen.method != "HEAD" {
                let _ = stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())]).await;
            }
            let _ = stream.flush().await;
        }
        match reply.then {
            Then::KeepAlive => {}
            Then::Hang => std::future::pending().await,
            Then::Close | Then::Vanish => return,
        }
    }
}

/// Reads one request's head and body; `None` at the end of the connection.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, connection: usize) -> Option<Seen> {
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..head_end).collect()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut request_line = lines.next().unwrap().split(' ');
    let (method, target) = (request_line.next().unwrap().to_owned(), request_line.next().unwrap().to_owned());
    let headers: Vec<_> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(buffer.drain(..length).collect()).unwrap();
    Some(Seen { method, target, headers, body, connection })
}
