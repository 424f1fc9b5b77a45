//! Status line and headers of an answer.

/// An answer's head, headers in the order and spelling in which they came.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Name and value of each header.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Parses a head at the start of `bytes`; also returns its length. `None` while its end has not come.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = match status_line.split(' ').collect::<Vec<_>>()[..] {
            ["HTTP/1.1" | "HTTP/1.0", code, ..] => code.parse().ok(),
            _ => None,
        };
        let status = status.unwrap_or_else(|| panic!("no status line of HTTP/1: {status_line:?}"));
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        };
        Some((Self { status, headers: lines.map(header).collect() }, end + 4))
    }

    /// A header's value; fails the test if the header is there twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} is there {} times: {values:?}", values.len());
        values.first().copied()
    }

    /// Every value of a header that may be repeated.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The stated length of the body.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length").map(|value| value.parse().unwrap_or_else(|_| panic!("Content-Length: {value}")))
    }
}
