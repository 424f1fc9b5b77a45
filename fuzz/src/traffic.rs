//! The whole mirror, between a client and an upstream that may say anything.
//!
//! A real one, on loopback, with its cache in a folder of its own: what a client or an upstream sends is the input, and it
//! must be answered or cut off, without a panic, in time, and without a file where none belongs.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use roadstead::app::{Mirror, Running};
use roadstead::config::Config;
use tokio::runtime::Runtime;

use super::bundles::stays_inside;

/// Far beyond every time-out of the mirror below.
const PATIENCE: Duration = Duration::from_secs(20);

struct Site {
    _runtime: Runtime,
    _running: Running,
    address: SocketAddr,
    around: PathBuf,
    /// What the upstream says to whatever it is asked.
    says: Arc<Mutex<Vec<u8>>>,
}

fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let says = Arc::new(Mutex::new(Vec::new()));
        let upstream = upstream(says.clone());
        let around = tempfile::tempdir().unwrap().keep();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nheader_timeout = \"300ms\"\nwrite_timeout = \"1s\"\n\
             [admin]\nlisten = \"off\"\n\
             [cache]\ndir = {:?}\nmax_size = \"16MiB\"\nmin_free = \"0\"\nmemory = \"1MiB\"\n\
             [freshness]\nfresh_for = \"0s\"\nnegative = \"0s\"\n\
             [upstream.\"docker.io\"]\nurl = \"http://{upstream}\"\nresponse_timeout = \"200ms\"\nstall_timeout = \"200ms\"\n\
             breaker = {{ failures = 1000000, window = \"1s\", probe_every = \"1s\" }}\n",
            around.join("cache").display()
        );
        let config = Config::parse(&text, "fuzz").unwrap_or_else(|error| panic!("{error}"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let running = runtime.block_on(Mirror::start(config)).unwrap();
        let address = running.addresses()[0];
        Site { _runtime: runtime, _running: running, address, around, says }
    })
}

/// An upstream that reads a request's head and says what it was told to.
fn upstream(says: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let says = says.clone();
            std::thread::spawn(move || {
                let mut stream = stream;
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
                        _ => return,
                    }
                }
                let answer = says.lock().unwrap().clone();
                let _ = stream.write_all(&answer);
                let _ = stream.shutdown(Shutdown::Write);
                // To the end, so that what was said is not lost in a reset.
                while matches!(stream.read(&mut buffer), Ok(read) if read > 0) {}
            });
        }
    });
    address
}

/// Sends bytes to the mirror and reads to the end of what it says. Fails if that does not come.
fn exchange(site: &Site, bytes: &[u8]) -> Vec<u8> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(site.address).expect("the mirror accepts");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // It may be refused before it is read to its end.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("no end of the answer within {PATIENCE:?}; so far {:?}", String::from_utf8_lossy(&answer));
            }
            Err(_) => break,
        }
        assert!(started.elapsed() < 2 * PATIENCE, "an answer without end");
    }
    answer
}

/// What a client sends, on one connection. An upstream that has everything stands behind the mirror.
pub fn request(data: &[u8]) {
    let site = site();
    *site.says.lock().unwrap() =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: 2\r\n\r\n{}".to_vec();
    let mut bytes = data.to_vec();
    // Whatever came before: this ends the connection, as a request or as part of something that is none.
    bytes.extend_from_slice(b"\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = exchange(site, &bytes);
    let http2 = data.starts_with(b"PRI * HTTP/2");
    assert!(answer.is_empty() || http2 || answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer));
    stays_inside(&site.around);
}

/// What an upstream says: the first byte chooses what is asked for, the second how the answer begins; the rest is the answer.
pub fn answer(data: &[u8]) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let Some((&[what, begin], rest)) = data.split_first_chunk::<2>() else { return };
    let site = site();
    let begin = match begin % 8 {
        0 => "",
        1 => "HTTP/1.1 ",
        2 => "HTTP/1.1 200 OK\r\n",
        3 => "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n",
        4 => "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: ",
        5 => "HTTP/1.1 307 Temporary Redirect\r\nLocation: ",
        6 => "HTTP/1.1 206 Partial Content\r\nContent-Range: ",
        _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
    };
    let mut says = begin.as_bytes().to_vec();
    says.extend_from_slice(rest);
    *site.says.lock().unwrap() = says;
    // Another repository and digest each time: nothing is remembered.
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let digest = format!("sha256:{number:064x}");
    let path = match what % 6 {
        0 => format!("fuzz/r{number}/manifests/latest"),
        1 => format!("fuzz/r{number}/manifests/{digest}"),
        2 => format!("fuzz/r{number}/blobs/{digest}"),
        3 => format!("fuzz/r{number}/tags/list"),
        4 => format!("fuzz/r{number}/referrers/{digest}"),
        _ => format!("fuzz/r{number}/blobs/{digest}\r\nRange: bytes=1-2"),
    };
    let (path, range) = path.split_once("\r\n").unwrap_or((&path, "X: y"));
    let answer = exchange(site, format!("GET /v2/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{range}\r\n\r\n").as_bytes());
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 ") || answer.is_empty(), "{text:?}");
    assert!(!text.starts_with("HTTP/1.1 500"), "the mirror failed by itself: {text}");
    assert!(!text.starts_with("HTTP/1.1 401"), "the upstream's challenge is not the client's: {text}");
    if what % 6 == 2 && text.starts_with("HTTP/1.1 200") {
        // No digest made of a counter fits anything: a body that looks whole would be a wrong one (I5).
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|text| text.parse::<usize>().ok());
        let whole = length.map_or_else(|| body.ends_with("0\r\n\r\n"), |length| length == answer.len() - head.len() - 4);
        assert!(!whole, "a whole wrong body: {text}");
    }
    stays_inside(&site.around);
}
