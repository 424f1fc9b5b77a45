//! HTTP/2 frames by hand (RFC 9113, 4): for what no library would send.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::within;

pub const RST_STREAM: u8 = 3;
pub const GOAWAY: u8 = 7;

/// One frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame's bytes.
    pub fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The error code of RST_STREAM and GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A header block for `GET path` (RFC 7541): indexed fields, and literals that are not indexed.
pub fn get(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(0x04, path), (0x01, "a.example")] {
        // A length of one byte: below 127.
        block.extend_from_slice(&[name, u8::try_from(value.len()).unwrap()]);
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// HEADERS that are all of a request.
pub fn request(stream: u32, path: &str) -> Vec<u8> {
    Frame::bytes(1, 0x5, stream, &get(path))
}

/// RST_STREAM with CANCEL.
pub fn reset(stream: u32) -> Vec<u8> {
    Frame::bytes(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// A connection that has begun. Settings are answered; nothing else is.
pub struct Raw(TcpStream);

impl Raw {
    /// Connects; `settings` are pairs of identifier and value.
    pub async fn open(address: std::net::SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&Frame::bytes(4, 0, 0, &payload)).await.unwrap();
        Self(stream)
    }

    /// Sends; `false` once the other side has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        within("frames to be taken", self.0.write_all(bytes)).await.is_ok()
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within("a frame", self.0.read_exact(&mut head)).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        within("a frame", self.0.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if frame.kind == 4 && frame.flags == 0 {
            let _ = self.0.write_all(&Frame::bytes(4, 1, 0, &[])).await;
        }
        if frame.kind == 6 && frame.flags == 0 {
            let _ = self.0.write_all(&Frame::bytes(6, 1, 0, &frame.payload)).await;
        }
        Some(frame)
    }

    /// Reads to the end of the connection; the code of the GOAWAY that came before it.
    pub async fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}
