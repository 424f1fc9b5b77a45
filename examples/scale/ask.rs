//! A client of one connection that waits for each answer.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

pub struct Connection {
    socket: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket: BufReader::new(socket), host: address }
    }

    /// The status and the body.
    pub fn ask(&mut self, method: &str, path: &str) -> (u16, Vec<u8>) {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", self.host);
        self.socket.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut status, mut length, mut line) = (0, 0, String::new());
        loop {
            line.clear();
            self.socket.read_line(&mut line).unwrap();
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if status == 0 {
                status = text.split(' ').nth(1).unwrap().parse().unwrap();
            } else if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body).unwrap();
        (status, body)
    }

    /// The body of an answer that must be 200 or 202.
    pub fn get(&mut self, method: &str, path: &str) -> Vec<u8> {
        let (status, body) = self.ask(method, path);
        assert!(matches!(status, 200 | 202), "{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        body
    }
}
