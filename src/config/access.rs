//! Who may pull: `[access]`, its rules, and the password file that they stand on.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::value::Value;
use super::{Config, ConfigError, Finding, Globs, Listen, Secret, Upstream, Visibility};

/// More than this takes a minute a password, and a file that says so is a mistake.
const MAX_COST: u32 = 16;

/// A token holds no longer than a day: nobody can take it back before, but by changing a password.
pub const LONGEST_TOKEN: Duration = Duration::from_secs(24 * 3600);

/// `[access]`: who may pull what.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// `open`: everybody who reaches the mirror may pull everything. Never with rules.
    pub open: bool,
    /// `htpasswd`: users and their passwords.
    pub htpasswd: Option<Htpasswd>,
    /// `token_lifetime`: how long a token of `/token` is good for.
    pub token_lifetime: Duration,
    /// `token_key_file`: what tokens are sealed with; `None` for a key that dies with the process.
    pub token_key: Option<Secret>,
    /// `token_url`: where clients get tokens; `None` for `/token` at the address that they used.
    pub token_url: Option<Url>,
    /// `challenge_everybody`: clients are asked to sign in even where callers without a name may pull something.
    pub challenge_everybody: bool,
    /// `requests_per_second` and `burst`: how fast one identity may ask.
    pub pace: Option<Pace>,
    /// `max_fills_per_client`: downloads that one identity may have begun at one time.
    pub max_fills_per_client: Option<usize>,
    /// `[[access.rule]]`: the first that matches decides; none matches: refused. Empty where everybody may.
    pub rules: Vec<AccessRule>,
}

impl Access {
    /// Whether the operator has said who may pull, be it everybody.
    pub fn is_chosen(&self) -> bool {
        self.open || !self.rules.is_empty()
    }
}

/// How fast one identity may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// `requests_per_second`: in the long run.
    pub per_second: u32,
    /// `burst`: at once.
    pub burst: u32,
}

/// `[[access.rule]]`
#[derive(Clone, Debug, PartialEq)]
pub struct AccessRule {
    /// `who`: any of them.
    pub who: Vec<Who>,
    /// `pull`: globs over `UPSTREAM/REPOSITORY`.
    pub pull: Globs,
    /// `deny`: may not, rather than may.
    pub deny: bool,
}

/// One entry of `who`.
#[derive(Clone, Debug, PartialEq)]
pub enum Who {
    /// `anyone`
    Anyone,
    /// `signed-in`: has a user name or a client certificate.
    SignedIn,
    /// `user:GLOB`: a user of the password file.
    User(Globs),
    /// `cert:GLOB`: a name in the client's certificate.
    Certificate(Globs),
    /// `address:CIDR`
    Address(IpNet),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::SignedIn => f.write_str("signed-in"),
            Self::User(globs) => write!(f, "user:{}", globs.patterns().join(",")),
            Self::Certificate(globs) => write!(f, "cert:{}", globs.patterns().join(",")),
            Self::Address(network) => write!(f, "address:{network}"),
        }
    }
}

impl Value for Who {
    const EXPECTED: &'static str = "\"anyone\", \"signed-in\", \"user:NAME\", \"cert:NAME\" or \"address:10.0.0.0/8\"";

    fn text(text: &str) -> Result<Self, String> {
        let names = |glob: &str| match glob {
            "" => Err("a name or a pattern comes after the colon".to_owned()),
            glob => Globs::new([glob]),
        };
        match text.split_once(':') {
            Some(("user", glob)) => names(glob).map(Self::User),
            Some(("cert", glob)) => names(glob).map(Self::Certificate),
            Some(("address", network)) => {
                let one = network.parse::<IpAddr>().map(IpNet::from).ok();
                let network = one
                    .or_else(|| network.parse().ok())
                    .ok_or_else(|| "after the colon comes an IP address or network".to_owned())?;
                // An address within its network is a mistake as often as not; its network is what is meant.
                Ok(Self::Address(network.trunc()))
            }
            None if text == "anyone" => Ok(Self::Anyone),
            None if text == "signed-in" => Ok(Self::SignedIn),
            _ => Err(String::new()),
        }
    }
}

/// A file as `htpasswd -B` writes it, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Htpasswd {
    /// Where it is.
    pub path: PathBuf,
    users: BTreeMap<String, Secret>,
    cost: u32,
}

impl Htpasswd {
    /// Reads the file. Blocks. The error names file and line, and no password.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::parse(path, &text)
    }

    /// Reads text that came from `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let mut users = BTreeMap::new();
        let mut costs = BTreeMap::<u32, usize>::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let problem = |what: String| Err(format!("{}:{}: {what}", path.display(), number + 1));
            let Some((user, hash)) = line.split_once(':') else { return problem("expected USER:HASH".to_owned()) };
            if user.is_empty() || user.chars().any(char::is_control) {
                return problem("this is no user name".to_owned());
            }
            let write = format!("write it with: htpasswd -B {} {user}", path.display());
            let cost = match hash.parse::<bcrypt::HashParts>() {
                Ok(parts) if ["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind)) => parts.get_cost(),
                _ => return problem(format!("the password of {user:?} is not hashed by bcrypt; {write}")),
            };
            if cost > MAX_COST {
                return problem(format!("cost {cost} takes minutes to check, at most {MAX_COST} is taken; {write}"));
            }
            *costs.entry(cost).or_default() += 1;
            if users.insert(user.to_owned(), Secret::new(hash)).is_some() {
                return problem(format!("{user:?} is here twice"));
            }
        }
        let cost = costs.into_iter().max_by_key(|(_, users)| *users).map_or(bcrypt::DEFAULT_COST, |(cost, _)| cost);
        Ok(Self { path: path.to_owned(), users, cost })
    }

    /// The bcrypt hash of a user's password.
    pub fn hash(&self, user: &str) -> Option<&Secret> {
        self.users.get(user)
    }

    /// What most passwords cost to check: what it must cost to be told that there is no such user.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is no user at all.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

/// Whether only this machine can connect to an address.
pub fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

impl Config {
    /// [`Config::check_exposure_at`] the addresses that `server.listen` names. Those of sockets that the service manager
    /// passes are known at the start only.
    pub fn check_exposure(&self) -> Result<(), ConfigError> {
        self.check_exposure_at(self.server.listen.iter().filter_map(Listen::address))
    }

    /// Fails if one of these addresses is reached by clients of other machines, and nothing says who may pull: a mirror
    /// must not become an open proxy by accident, nor hand everybody what its credentials can read.
    pub fn check_exposure_at(&self, addresses: impl Iterator<Item = SocketAddr>) -> Result<(), ConfigError> {
        let exposures = self.exposures_at(addresses);
        if exposures.is_empty() { Ok(()) } else { Err(ConfigError::Exposed(exposures)) }
    }

    /// All that [`Config::check_exposure`] fails for.
    pub fn exposures(&self) -> Vec<Finding> {
        self.exposures_at(self.server.listen.iter().filter_map(Listen::address))
    }

    fn exposures_at(&self, mut addresses: impl Iterator<Item = SocketAddr>) -> Vec<Finding> {
        let Some(address) = addresses.find(|address| !is_local(*address)) else { return Vec::new() };
        if !self.access.is_chosen() {
            let message = format!(
                "other machines reach {address}, and nothing says who may pull: write rules ([[access.rule]]), or for everybody \
                 who reaches it `open = true` under [access] (serve --open); without either, listen on 127.0.0.1"
            );
            return vec![Finding::new(&["server", "listen"], message)];
        }
        let operators = |upstream: &Upstream| upstream.visibility == Visibility::Operator;
        let opened = self.upstreams.iter().filter(|(_, upstream)| self.access.open && operators(upstream));
        let told = opened.map(|(name, _)| {
            let message = format!(
                "other machines reach {address}, access.open lets all of them pull, and this upstream is read as somebody \
                 (credentials, client_cert): write rules ([[access.rule]]) in the place of open = true, or visibility = \
                 \"public\" here if everybody may have what that one can read, or visibility = \"caller\""
            );
            Finding::new(&["upstream", name.as_str()], message)
        });
        told.collect()
    }
}

/// `token_url`
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TokenUrl(pub Url);

impl Value for TokenUrl {
    const EXPECTED: &'static str = "the address of /token as clients see it, such as \"https://mirror.example/token\"";

    fn text(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|_| "it begins with https:// or http://".to_owned())?;
        match url.scheme() {
            "https" | "http" if url.query().is_none() && url.fragment().is_none() && url.username().is_empty() => Ok(Self(url)),
            "https" | "http" => Err("it has neither a user nor '?' nor '#'".to_owned()),
            _ => Err("it begins with https:// or http://".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
