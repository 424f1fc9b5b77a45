//! Who a request turned out to be from: a user, a certificate, or an address alone.
//!
//! Holds only what was proved, but for a login for an upstream, which only that can prove. Made by [`super::Policy`]; the
//! rules, the limits and the log go by it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::{ClientCertificate, Login, Peer};

/// Who sends a request, as far as it was proved. Made by [`super::Session::identify`] alone.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// A user of the password file.
    pub(super) user: Option<Arc<str>>,
    /// The names of a verified client certificate, the most telling one first.
    pub(super) certificate: Vec<String>,
    /// Where the connection comes from; `None` on a unix socket.
    pub(super) address: Option<IpAddr>,
    /// A login that is none of the mirror's users: the caller's own, for an upstream.
    pub(super) login: Option<Login>,
    /// Whether a token of this mirror was shown.
    pub(super) token: bool,
}

impl Identity {
    /// What the connection alone says.
    pub(super) fn of(peer: &Peer) -> Self {
        let address = peer.address().map(|address| address.ip().to_canonical());
        Self { certificate: certificate_names(peer), address, ..Self::default() }
    }

    /// Whether it is anybody in particular.
    pub fn is_signed_in(&self) -> bool {
        self.user.is_some() || !self.certificate.is_empty()
    }

    /// Whether it is one of the mirror's users.
    pub fn is_user(&self) -> bool {
        self.user.is_some()
    }

    /// A login of the caller's own, for an upstream.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// For the log: the user's name, or `cert:` and the certificate's. `None` for callers without a name.
    pub fn name(&self) -> Option<String> {
        let name = match (&self.user, self.certificate.first()) {
            (Some(user), _) => user.to_string(),
            (None, Some(name)) => format!("cert:{name}"),
            (None, None) => return None,
        };
        // Certificates hold whatever an authority let pass; nothing of it may forge a line.
        Some(name.chars().map(|c| if c.is_control() { '?' } else { c }).take(200).collect())
    }

    /// Whose limits it uses up.
    pub(super) fn key(&self) -> Key {
        match (&self.user, self.certificate.first(), self.address) {
            (Some(user), ..) => Key::User(user.clone()),
            (None, Some(name), _) => Key::Certificate(name.as_str().into()),
            (None, None, Some(address)) => Key::Address(network(address)),
            (None, None, None) => Key::Local,
        }
    }
}

/// Whom a limit counts. A whole IPv6 /64 is one: it is what one customer gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    User(Arc<str>),
    Certificate(Arc<str>),
    Address(IpAddr),
    /// Unix sockets.
    Local,
}

impl Key {
    /// Where a connection comes from, whoever is at its end.
    pub fn place(peer: &Peer) -> Self {
        peer.address().map_or(Self::Local, |address| Self::Address(network(address.ip())))
    }
}

/// Who an address belongs to, for limits of one client: a customer of an IPv6 provider has at least a /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// The names that rules look at.
fn certificate_names(peer: &Peer) -> Vec<String> {
    let Some(ClientCertificate { common_name, dns, uris, emails }) = &peer.certificate else { return Vec::new() };
    [common_name.as_slice(), uris, dns, emails].concat()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.address) {
            (Some(name), _) => f.write_str(&name),
            (None, Some(address)) => address.fmt(f),
            (None, None) => f.write_str("a local caller"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::new(Some(address.parse().unwrap()))
    }

    #[test]
    fn a_certificate_is_a_name_for_the_log_and_for_limits() {
        let certificate = ClientCertificate {
            common_name: Some("node\n1".to_owned()),
            dns: vec!["node-1.example".to_owned()],
            uris: vec!["spiffe://example/node/1".to_owned()],
            emails: vec!["ops@example".to_owned()],
        };
        let mut peer = peer("10.0.0.1:1");
        peer.certificate = Some(certificate);
        let mut identity = Identity::of(&peer);
        assert_eq!(identity.certificate, ["node\n1", "spiffe://example/node/1", "node-1.example", "ops@example"]);
        assert!(identity.is_signed_in());
        assert_eq!(identity.name().as_deref(), Some("cert:node?1"), "no line of the log is forged");
        assert_eq!(identity.key(), Key::Certificate("node\n1".into()));
        identity.user = Some("alice".into());
        assert_eq!((identity.name().as_deref(), identity.key()), (Some("alice"), Key::User("alice".into())));
    }

    #[test]
    fn limits_count_networks_of_ipv6() {
        let key = |address: &str| Identity::of(&peer(address)).key();
        assert_eq!(key("[2001:db8::1]:1"), key("[2001:db8::ffff]:2"));
        assert_ne!(key("[2001:db8::1]:1"), key("[2001:db8:0:1::1]:1"));
        assert_eq!(key("[::ffff:10.0.0.1]:1"), key("10.0.0.1:9"));
        assert_ne!(key("10.0.0.1:1"), key("10.0.0.2:1"));
        assert_eq!(Identity::of(&Peer::new(None)).key(), Key::Local);
        assert_eq!(Key::place(&peer("10.0.0.1:1")), key("10.0.0.1:2"));
    }
}
