//! Where to listen, and how to speak there: `server.listen`, `admin.listen` and `server.tls`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::value::Value;

/// One entry of `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `IP:PORT`. Speaks TLS where the interface has it.
    Tcp(SocketAddr),
    /// `plain:IP:PORT`. Never speaks TLS.
    Plain(SocketAddr),
    /// `unix:PATH`. Never speaks TLS: the file's mode says who may connect.
    Unix(PathBuf),
    /// `systemd` or `systemd:NAME`: sockets that the service manager passes (sd_listen_fds(3)); without a name all that
    /// no other entry names. TCP sockets among them are as [`Listen::Tcp`].
    Systemd(Option<String>),
}

impl Listen {
    /// The address, where it is one of TCP and known before it is bound.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Plain(address) => Some(*address),
            Self::Unix(_) | Self::Systemd(_) => None,
        }
    }

    /// Whether both would bind the same. Port 0 is a port of one's own each time.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        match (self.address(), other.address()) {
            (Some(one), Some(two)) => one.port() != 0 && one == two,
            _ => self == other,
        }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Plain(address) => write!(f, "plain:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(None) => f.write_str("systemd"),
            Self::Systemd(Some(name)) => write!(f, "systemd:{name}"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    /// The error may be empty; it never repeats `text`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "systemd" {
            return Ok(Self::Systemd(None));
        }
        match text.split_once(':') {
            Some(("unix", path)) => PathBuf::text(path).map(Self::Unix).map_err(|_| "unix: is followed by a path".to_owned()),
            Some(("plain", address)) => SocketAddr::text(address).map(Self::Plain),
            // FileDescriptorName= of systemd.socket(5).
            Some(("systemd", name)) if !name.is_empty() && name.len() < 256 && name.bytes().all(|c| c.is_ascii_graphic()) => {
                Ok(Self::Systemd(Some(name.to_owned())))
            }
            Some(("systemd", _)) => Err("systemd: is followed by the name of a socket".to_owned()),
            _ => SocketAddr::text(text).map(Self::Tcp),
        }
    }
}

impl Value for Listen {
    const EXPECTED: &'static str = "an IP address and port such as \"127.0.0.1:5000\", \"plain:\" before one, \"unix:PATH\", \"systemd\" or \"systemd:NAME\"";

    fn text(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        SocketAddr::integer(number).map(|result| result.map(Self::Tcp))
    }
}

/// `server.tls`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `cert` and `key`, and those of `certificates`. Never empty; the first is for clients that name no server that
    /// another one is for.
    pub certificates: Vec<KeyPair>,
    /// `client_ca` and `client_auth`
    pub clients: Option<ClientAuth>,
    /// `min_version`
    pub min_version: TlsVersion,
}

/// A certificate with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// `cert`: a PEM file with the certificate, and those that lead from it to a root.
    pub cert: PathBuf,
    /// `key`: a PEM file with its key.
    pub key: PathBuf,
}

/// Which clients may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// `client_ca`: a PEM file of the roots that clients' certificates must lead to.
    pub ca: PathBuf,
    /// `client_auth`: whether a client may come without one.
    pub required: bool,
}

/// `server.tls.min_version`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246
    V1_2,
    /// RFC 8446
    V1_3,
}

impl Value for TlsVersion {
    const EXPECTED: &'static str = "\"1.2\" or \"1.3\"";

    fn text(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err(String::new()),
        }
    }
}

/// `server.tls.client_auth`: whether a certificate is required.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Required(pub bool);

impl Value for Required {
    const EXPECTED: &'static str = "\"required\" or \"optional\"";

    fn text(text: &str) -> Result<Self, String> {
        match text {
            "required" => Ok(Self(true)),
            "optional" => Ok(Self(false)),
            _ => Err(String::new()),
        }
    }
}

/// `server.socket_mode`: permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mode(pub u32);

impl Value for Mode {
    const EXPECTED: &'static str = "the mode of a file in octal digits such as \"0660\"";

    fn text(text: &str) -> Result<Self, String> {
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).map(Self).ok_or_else(String::new)
    }

    fn integer(_: i64) -> Option<Result<Self, String>> {
        Some(Err("it stands in quotes".to_owned()))
    }
}
