//! What a client may not do: how many connections it may hold, and why one is closed.
//!
//! Owns the count of each client's connections, and the one reading of hyper's errors. Closes nothing itself. Called by
//! [`super::Server`] for each connection, and by [`super::connection`] when one ends.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::listen::tls::HandshakeError;
use crate::policy::network;

/// Why a connection was closed: the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its client has as many as one may have.
    PerClient,
    /// TLS was not agreed on in time.
    HandshakeTimeout,
    /// TLS was not agreed on.
    Handshake,
    /// The client's certificate is missing or not good here.
    Certificate,
    /// The head of a request was begun and not ended in time.
    HeadTimeout,
    /// The head of a request is too large, or has too many headers; 431 or 414 was answered.
    HeadSize,
    /// What came is no request; 400 was answered.
    Malformed,
    /// The client took no byte of its answer for too long.
    Stalled,
    /// HTTP/2 frames that cost more than they are worth: resets, settings, pings, continuations without end.
    Flood,
}

impl Refusal {
    pub const fn label(self) -> &'static str {
        match self {
            Self::PerClient => "per_client",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Handshake => "handshake",
            Self::Certificate => "certificate",
            Self::HeadTimeout => "head_timeout",
            Self::HeadSize => "head_size",
            Self::Malformed => "malformed",
            Self::Stalled => "stalled",
            Self::Flood => "flood",
        }
    }

    pub fn of_handshake(error: &HandshakeError) -> Self {
        match error {
            HandshakeError::TimedOut => Self::HandshakeTimeout,
            HandshakeError::Certificate(_) => Self::Certificate,
            HandshakeError::Failed(_) => Self::Handshake,
        }
    }

    /// What hyper's error means; `None` where nobody is to blame, as for a client that left.
    /// `head_begun`: whether some of a request's head had come.
    pub fn of(error: &hyper::Error, head_begun: bool) -> Option<Self> {
        if error.is_parse_too_large() {
            return Some(Self::HeadSize);
        }
        if error.is_parse() {
            return Some(Self::Malformed);
        }
        let mut source: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(cause) = cause.downcast_ref::<io::Error>()
                && cause.kind() == io::ErrorKind::TimedOut
            {
                return Some(Self::Stalled);
            }
            if let Some(cause) = cause.downcast_ref::<h2::Error>()
                && cause.is_library()
                && cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
            {
                return Some(Self::Flood);
            }
            source = cause.source();
        }
        // Between two requests this is how an idle connection ends.
        (error.is_timeout() && head_begun).then_some(Self::HeadTimeout)
    }
}

/// How many connections each client has.
#[derive(Debug)]
pub(super) struct Clients {
    limit: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection in its client's count, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    client: Option<IpAddr>,
}

impl Clients {
    /// At most `limit` for each.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default() })
    }

    /// Counts a connection; `None` if its client has enough of them. Those by a unix socket have no limit but that of all.
    pub fn enter(self: &Arc<Self>, address: Option<SocketAddr>) -> Option<Place> {
        let client = address.map(|address| network(address.ip()));
        if let Some(client) = client {
            let mut open = self.open.lock();
            let count = open.entry(client).or_default();
            if *count >= self.limit {
                return None;
            }
            *count += 1;
        }
        Some(Place { clients: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(client) = self.client else { return };
        let mut open = self.clients.open.lock();
        if let Some(count) = open.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_count() {
        let clients = Clients::new(2);
        let enter = |address: &str| clients.enter(Some(address.parse().unwrap()));
        let (one, _two) = (enter("192.0.2.1:1").unwrap(), enter("[::ffff:192.0.2.1]:2").unwrap());
        assert!(enter("192.0.2.1:3").is_none());
        let _other = enter("192.0.2.2:1").unwrap();
        drop(one);
        let _three = enter("192.0.2.1:4").unwrap();
        assert!(enter("192.0.2.1:5").is_none());
        let _six = [enter("[2001:db8::1]:1").unwrap(), enter("[2001:db8::ffff:2]:1").unwrap()];
        assert!(enter("[2001:db8:0:0:9::]:1").is_none(), "of the same /64");
        assert!(enter("[2001:db8:0:1::1]:1").is_some());
        assert!((0..9).map(|_| clients.enter(None)).all(|place| place.is_some()));
    }

    #[test]
    fn clients_that_have_left_are_forgotten() {
        let clients = Clients::new(2);
        for host in 0..=255 {
            drop(clients.enter(Some(SocketAddr::from(([192, 0, 2, host], 1)))));
        }
        assert!(clients.open.lock().is_empty());
    }
}
