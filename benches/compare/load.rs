//! Many clients at once, cold and slow and idle: raw HTTP/1.1 over std sockets, so that they cost little beside what they measure.
//!
//! Compiled by `run` with `rustc -O`; it has no dependency and is no target of Cargo. Every body is compared with a
//! reference file as it arrives: a comparison of memory costs a tenth of a hash, and the reference's sha256 is checked
//! before. Limits: `get` has one thread and 256 KiB of buffer a client, which is for tens of clients; `slow` and `idle`
//! serve all their connections from one thread. It understands answers with a Content-Length only.
//!
//!     load get  ADDRESS PATH REFERENCE CLIENTS KILLED AFTER   KILLED of the clients leave after AFTER bytes
//!     load slow ADDRESS PATH REFERENCE CLIENTS RATE           RATE bytes a second each, until standard input ends
//!     load idle ADDRESS PATH CLIENTS                          one request each, then open until standard input ends

use std::env;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const BUFFER: usize = 256 << 10;
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// A running answer: how long the body is, and the part of it that came with the head.
struct Answer {
    length: usize,
    begun: Vec<u8>,
}

fn bad(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn ask(stream: &mut TcpStream, address: &str, path: &str) -> io::Result<Answer> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {ACCEPT}\r\n\r\n").as_bytes())?;
    let mut received = Vec::new();
    let mut part = [0; 8 << 10];
    let end = loop {
        if let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut part)? {
            0 => return Err(bad("the connection was closed before the head's end".to_owned())),
            count => received.extend_from_slice(&part[..count]),
        }
    };
    let begun = received.split_off(end);
    let head = String::from_utf8_lossy(&received).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(bad(format!("answered {}", head.lines().next().unwrap_or(""))));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    Ok(Answer { length: length.ok_or_else(|| bad("no Content-Length".to_owned()))?, begun })
}

/// One client's pull: seconds to the first byte of the body and to the last, and the bytes.
fn pull(
    address: &str,
    path: &str,
    reference: &[u8],
    stop_after: Option<usize>,
    start: &Barrier,
) -> io::Result<(f64, f64, usize)> {
    let mut buffer = vec![0; BUFFER];
    start.wait();
    let began = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    let answer = ask(&mut stream, address, path)?;
    if answer.length != reference.len() {
        return Err(bad(format!("{} bytes instead of {}", answer.length, reference.len())));
    }
    let mut first = None;
    let mut received = answer.begun.len();
    if received > 0 {
        first = Some(began.elapsed());
        check(&answer.begun, reference, 0)?;
    }
    while received < answer.length && stop_after.is_none_or(|limit| received < limit) {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(bad(format!("the body ended after {received} bytes")));
        }
        first.get_or_insert_with(|| began.elapsed());
        check(&buffer[..count], reference, received)?;
        received += count;
    }
    Ok((first.unwrap_or_default().as_secs_f64(), began.elapsed().as_secs_f64(), received))
}

fn check(part: &[u8], reference: &[u8], at: usize) -> io::Result<()> {
    if reference.get(at..at + part.len()) == Some(part) { Ok(()) } else { Err(bad(format!("wrong bytes after byte {at}"))) }
}

fn get(address: &str, path: &str, reference: Vec<u8>, clients: usize, killed: usize, after: usize) -> io::Result<()> {
    let (reference, start) = (Arc::new(reference), Arc::new(Barrier::new(clients)));
    let threads: Vec<_> = (0..clients)
        .map(|number| {
            let (address, path) = (address.to_owned(), path.to_owned());
            let (reference, start) = (reference.clone(), start.clone());
            let stop_after = (number < killed).then_some(after);
            thread::spawn(move || pull(&address, &path, &reference, stop_after, &start))
        })
        .collect();
    for thread in threads {
        match thread.join().map_err(|_| bad("a client's thread ended".to_owned()))? {
            Ok((first, total, bytes)) => println!("{first:.6} {total:.6} {bytes}"),
            Err(error) => println!("error {error}"),
        }
    }
    Ok(())
}

fn slow(address: &str, path: &str, reference: &[u8], clients: usize, rate: usize) -> io::Result<()> {
    let mut streams = Vec::new();
    for _ in 0..clients {
        let mut stream = TcpStream::connect(address)?;
        let answer = ask(&mut stream, address, path)?;
        check(&answer.begun, reference, 0)?;
        stream.set_nonblocking(true)?;
        streams.push((stream, answer.begun.len()));
    }
    println!("open {clients}");
    let ended = until_end_of_input();
    let mut buffer = vec![0; rate.max(1)];
    while !ended.is_finished() {
        let second = Instant::now();
        for (stream, received) in &mut streams {
            match stream.read(&mut buffer) {
                Ok(0) => return Err(bad(format!("a body ended after {received} bytes"))),
                Ok(count) => {
                    check(&buffer[..count], reference, *received)?;
                    *received += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        while second.elapsed() < Duration::from_secs(1) && !ended.is_finished() {
            thread::sleep(Duration::from_millis(20));
        }
    }
    println!("least {}", streams.iter().map(|(_, received)| *received).min().unwrap_or(0));
    Ok(())
}

fn idle(address: &str, path: &str, clients: usize) -> io::Result<()> {
    let mut streams = Vec::new();
    for _ in 0..clients {
        let mut stream = TcpStream::connect(address)?;
        let answer = ask(&mut stream, address, path)?;
        let mut rest = vec![0; answer.length.saturating_sub(answer.begun.len())];
        stream.read_exact(&mut rest)?;
        streams.push(stream);
    }
    println!("open {clients}");
    let _ = until_end_of_input().join();
    let mut alive = 0;
    for stream in &mut streams {
        stream.set_nonblocking(true)?;
        // An open connection has nothing to read; a closed one has its end.
        alive += usize::from(matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock));
    }
    println!("alive {alive}");
    Ok(())
}

fn until_end_of_input() -> thread::JoinHandle<()> {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
    })
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<usize>().map_err(|error| bad(format!("{word}: {error}")));
    let done = (|| match words[..] {
        ["get", address, path, reference, clients, killed, after] => {
            get(address, path, fs::read(reference)?, number(clients)?, number(killed)?, number(after)?)
        }
        ["slow", address, path, reference, clients, rate] => {
            slow(address, path, &fs::read(reference)?, number(clients)?, number(rate)?)
        }
        ["idle", address, path, clients] => idle(address, path, number(clients)?),
        _ => Err(bad("see the head of load.rs".to_owned())),
    })();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}
