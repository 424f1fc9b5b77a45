//! Which network addresses an upstream may send the mirror to.
//!
//! A redirect, a token realm and a name that resolves are all words of somebody else. Without this check a hostile
//! upstream reads the mirror's own network and the cloud's metadata service through it (SSRF). Pure; called by
//! [`super::connect`] at the last moment, on the address that is about to be connected to, so that a name which
//! resolves to something else the second time (DNS rebinding) gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Routed on the Internet.
    Public,
    /// Loopback, private, shared or otherwise not global.
    Private,
    /// Link-local addresses and the fixed ones of metadata services: no registry stores its blobs there.
    Metadata,
}

/// Metadata and host services of clouds that lie outside of link-local space: Alibaba, Azure, Oracle.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// The same in IPv6: AWS (also the container credentials of its Kubernetes), Google.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Classifies an address; an IPv4 address wrapped into IPv6 counts as what it wraps.
pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        _ if METADATA_V4.contains(&address) || address.is_link_local() => Reach::Metadata,
        // "This network", loopback, RFC 1918, shared space (RFC 6598), protocol assignments, documentation, benchmarks.
        (0 | 10 | 127, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) | (192, 0, 0 | 2) => Reach::Private,
        (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => Reach::Private,
        // Multicast, reserved, broadcast.
        (224.., ..) => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| reach_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match segments {
        _ if METADATA_V6.contains(&address) => Reach::Metadata,
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Reach::Private,
        // Mapped, compatible, NAT64 and 6to4 addresses hide an IPv4 one.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => v4(high, low),
        // Local NAT64; Teredo and the other protocol assignments; documentation.
        [0x64, 0xff9b, 1, ..] | [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Reach::Private,
        [first, ..] if first & 0xffc0 == 0xfe80 => Reach::Metadata,
        // Only 2000::/3 is handed out as global unicast.
        [first, ..] if first & 0xe000 == 0x2000 => Reach::Public,
        _ => Reach::Private,
    }
}

/// The address that a URL's host is, if it is a literal; brackets of IPv6 are taken off.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_t37_addresses_are_told_apart() {
        for (address, expected) in [
            ("1.1.1.1", Reach::Public),
            ("172.15.0.1", Reach::Public),
            ("172.32.0.1", Reach::Public),
            ("192.0.1.1", Reach::Public),
            ("2606:4700::1111", Reach::Public),
            ("64:ff9b::1.1.1.1", Reach::Public),
            ("0.0.0.0", Reach::Private),
            ("127.9.9.9", Reach::Private),
            ("10.0.0.1", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("224.0.0.1", Reach::Private),
            ("255.255.255.255", Reach::Private),
            ("::", Reach::Private),
            ("::1", Reach::Private),
            ("::ffff:127.0.0.1", Reach::Private),
            ("::10.0.0.1", Reach::Private),
            ("64:ff9b::10.0.0.1", Reach::Private),
            ("2002:7f00:1::", Reach::Private),
            ("2001:0:4136:e378::1", Reach::Private),
            ("fc00::1", Reach::Private),
            ("fec0::1", Reach::Private),
            ("ff02::1", Reach::Private),
            ("169.254.169.254", Reach::Metadata),
            ("169.254.170.2", Reach::Metadata),
            ("::ffff:169.254.169.254", Reach::Metadata),
            ("100.100.100.200", Reach::Metadata),
            ("168.63.129.16", Reach::Metadata),
            ("fe80::1", Reach::Metadata),
            ("febf::1", Reach::Metadata),
            ("fd00:ec2::254", Reach::Metadata),
        ] {
            assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn literals() {
        assert_eq!(literal("[::1]"), Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(literal("127.0.0.1"), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert_eq!(literal("registry.example"), None);
    }
}
