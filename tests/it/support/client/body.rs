//! The body of an answer: read to its end, in parts, or left.

use std::time::Duration;

use super::{Connection, Head, Response};

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything came: `Content-Length` bytes, or the last chunk.
    Complete,
    /// The connection was closed before `Content-Length` bytes had come.
    Truncated {
        /// Bytes that came.
        got: u64,
        /// Bytes that the head promised.
        expected: u64,
    },
    /// The connection was closed before the last chunk.
    Cut {
        /// Bytes that came.
        got: u64,
    },
    /// The connection was reset.
    Reset,
    /// The body has no length and ended with the connection: nobody can tell whether it is whole.
    Closed,
    /// The connection was closed before a head came.
    NoAnswer,
}

impl End {
    /// Whether a client can tell that this is not everything.
    pub fn is_broken(self) -> bool {
        matches!(self, Self::Truncated { .. } | Self::Cut { .. } | Self::Reset | Self::NoAnswer)
    }
}

/// How the end of a body is known, and what is still to come.
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// So many bytes of the present chunk are left; `None` before a chunk's size line.
    Chunked(Option<u64>),
    /// Until the connection is closed.
    Unframed,
}

/// An answer whose body is read as the test wants. Dropping it closes the connection.
#[derive(Debug)]
pub struct Download {
    /// Status line and headers.
    pub head: Head,
    connection: Connection,
    framing: Framing,
    got: u64,
    end: Option<End>,
    first_byte: Option<Duration>,
}

impl Download {
    pub(super) fn new(connection: Connection, head: Head, method: &str) -> Self {
        let chunked = head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let framing = match head.content_length() {
            _ if method == "HEAD" || head.status == 204 || head.status == 304 => Framing::Length(0),
            Some(length) => {
                assert!(!chunked, "both Content-Length and Transfer-Encoding: {head:?}");
                Framing::Length(length)
            }
            None if chunked => Framing::Chunked(None),
            None => Framing::Unframed,
        };
        let mut download = Self { head, connection, framing, got: 0, end: None, first_byte: None };
        if matches!(framing, Framing::Length(0)) {
            download.end = Some(End::Complete);
        }
        download
    }

    /// Reads until the connection ends, whatever the head says of a length.
    pub(super) fn unframed(mut self) -> Self {
        self.framing = Framing::Unframed;
        self.end = None;
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// Body bytes read so far.
    pub fn got(&self) -> u64 {
        self.got
    }

    /// How the answer ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The next `count` bytes; fewer only at the end.
    pub async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count.min(1 << 20));
        while bytes.len() < count && self.end.is_none() {
            self.step(&mut bytes, count).await;
        }
        bytes
    }

    /// Everything that still comes.
    pub async fn rest(mut self) -> Response {
        let body = self.read(usize::MAX).await;
        self.response(body)
    }

    /// Everything that still comes, and the connection for the next request. The body must be complete.
    pub async fn rest_and_connection(mut self) -> (Response, Connection) {
        let body = self.read(usize::MAX).await;
        assert_eq!(self.end, Some(End::Complete));
        let Self { head, connection, end, first_byte, .. } = self;
        (Response { head, body, end: end.unwrap_or(End::NoAnswer), first_byte }, connection)
    }

    fn response(self, body: Vec<u8>) -> Response {
        let end = self.end.unwrap_or(End::NoAnswer);
        Response { head: self.head, body, end, first_byte: self.first_byte }
    }

    /// Moves some of the buffer into `bytes`, reads more if it is empty, or notes the end.
    async fn step(&mut self, bytes: &mut Vec<u8>, count: usize) {
        if let Framing::Chunked(None) = self.framing {
            return self.chunk_size().await;
        }
        if self.connection.buffer.is_empty() && !self.more().await {
            return;
        }
        let left = match self.framing {
            Framing::Length(left) | Framing::Chunked(Some(left)) => left,
            Framing::Chunked(None) | Framing::Unframed => u64::MAX,
        };
        let take = (self.connection.buffer.len() as u64).min(left).min((count - bytes.len()) as u64);
        bytes.extend_from_slice(&self.connection.buffer.split_to(take as usize));
        self.got += take;
        self.first_byte.get_or_insert_with(|| self.connection.sent.elapsed());
        match &mut self.framing {
            Framing::Length(left) => {
                *left -= take;
                if *left == 0 {
                    self.end = Some(End::Complete);
                }
            }
            Framing::Chunked(Some(left)) => {
                *left -= take;
                if *left == 0 {
                    self.line().await;
                    self.framing = Framing::Chunked(None);
                }
            }
            Framing::Chunked(None) | Framing::Unframed => {}
        }
    }

    /// Reads the size line of the next chunk; after the last one the trailers too.
    async fn chunk_size(&mut self) {
        let Some(line) = self.line().await else { return };
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
        if size > 0 {
            self.framing = Framing::Chunked(Some(size));
            return;
        }
        while let Some(line) = self.line().await {
            if line.is_empty() {
                self.end = Some(End::Complete);
                return;
            }
        }
    }

    /// The next line of chunk framing, without its end.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.connection.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = self.connection.buffer.split_to(end + 2);
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads more into the buffer; `false`, and the end noted, where nothing comes any more.
    async fn more(&mut self) -> bool {
        let Err(end) = self.connection.more().await else { return true };
        self.end = Some(match (end, self.framing) {
            (End::Reset, _) => End::Reset,
            (_, Framing::Length(left)) => End::Truncated { got: self.got, expected: self.got + left },
            (_, Framing::Chunked(_)) => End::Cut { got: self.got },
            (_, Framing::Unframed) => End::Closed,
        });
        false
    }
}
