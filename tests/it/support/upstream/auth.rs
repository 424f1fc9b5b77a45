//! Signing in: token and Basic challenges, and the token endpoint.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Upstream;
use super::act::Reply;
use super::journal::Request;

/// A name and a password.
type User = (String, String);

/// Users, their passwords and the repositories that each may read. Clones are the same list, which can change.
#[derive(Clone, Debug, Default)]
pub struct Accounts(Arc<Mutex<HashMap<User, Vec<String>>>>);

impl Accounts {
    /// Lets a user read these repositories, and no others.
    pub fn set(&self, user: &str, password: &str, repositories: &[&str]) -> &Self {
        let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
        self.0.lock().expect("no test thread died with it").insert((user.to_owned(), password.to_owned()), repositories);
        self
    }

    /// The user is unknown from now on.
    pub fn remove(&self, user: &str) {
        self.0.lock().expect("no test thread died with it").retain(|(name, _), _| name != user);
    }

    /// What a user may read; `None` for a user or password that is wrong.
    fn of(&self, user: &User) -> Option<Vec<String>> {
        self.0.lock().expect("no test thread died with it").get(user).cloned()
    }
}

/// What a registry wants before it answers; see [`Upstream::require`].
#[derive(Clone, Debug)]
pub struct Auth {
    scheme: Scheme,
    user: Option<(String, String)>,
    challenge: Option<String>,
    accounts: Option<Accounts>,
    hides: bool,
}

#[derive(Clone, Debug)]
enum Scheme {
    Basic,
    Bearer(Upstream),
}

impl Auth {
    /// A token from the `/token` of `issuer`, which may be the registry itself.
    pub fn bearer(issuer: &Upstream) -> Self {
        Self { scheme: Scheme::Bearer(issuer.clone()), user: None, challenge: None, accounts: None, hides: false }
    }

    /// A login with each request, which is refused to whom `accounts` gives no right.
    pub fn basic_of(accounts: &Accounts) -> Self {
        Self { scheme: Scheme::Basic, user: None, challenge: None, accounts: Some(accounts.clone()), hides: false }
    }

    /// Whoever may not read a repository is told that there is none.
    pub fn hiding(mut self) -> Self {
        self.hides = true;
        self
    }

    /// User name and password with each request.
    pub fn basic(user: &str, password: &str) -> Self {
        Self { scheme: Scheme::Basic, user: None, challenge: None, accounts: None, hides: false }.user(user, password)
    }

    /// Only tokens of this user will do; anonymous ones are still issued, as public registries do.
    pub fn user(mut self, user: &str, password: &str) -> Self {
        self.user = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Another `WWW-Authenticate`. `{realm}` and `{scope}` in it are replaced; without them it is sent as it is.
    pub fn challenge(mut self, text: &str) -> Self {
        self.challenge = Some(text.to_owned());
        self
    }

    /// `None` where the request may pass, else the 401.
    pub(super) fn refuse(&self, request: &Request) -> Option<Reply> {
        let authorization = request.header("authorization").unwrap_or_default();
        let scope = scope_of(&request.path);
        if let (Scheme::Basic, Some(accounts)) = (&self.scheme, &self.accounts)
            && let Some(readable) = basic(&authorization).and_then(|user| accounts.of(&user))
        {
            let may = scope.is_empty() || readable.iter().any(|name| scope == format!("repository:{name}:pull"));
            return (!may).then(|| Reply::error(403, "DENIED", "requested access to the resource is denied"));
        }
        let error = match &self.scheme {
            Scheme::Basic if self.accounts.is_none() && self.user == basic(&authorization) => return None,
            Scheme::Basic => "",
            Scheme::Bearer(issuer) => match authorization.strip_prefix("Bearer ") {
                None => "",
                Some(token) => match issuer.with_tokens(|tokens| tokens.issued.get(token).cloned()) {
                    None => ",error=\"invalid_token\"",
                    Some(grant) if grant.covers(&scope) && (self.user.is_none() || grant.user == self.user) => return None,
                    Some(_) if self.hides => {
                        return Some(Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry"));
                    }
                    Some(_) => ",error=\"insufficient_scope\"",
                },
            },
        };
        let (realm, usual) = match &self.scheme {
            Scheme::Basic => (String::new(), "Basic realm=\"scripted\"".to_owned()),
            Scheme::Bearer(issuer) => {
                let wanted = if scope.is_empty() { String::new() } else { format!(",scope=\"{scope}\"") };
                let realm = format!("{}/token", issuer.url());
                let usual = format!("Bearer realm=\"{realm}\",service=\"scripted\"{wanted}{error}");
                (realm, usual)
            }
        };
        let challenge = self.challenge.as_ref().map(|text| text.replace("{realm}", &realm).replace("{scope}", &scope));
        let mut reply = Reply::error(401, "UNAUTHORIZED", "authentication required");
        reply.set("WWW-Authenticate", &challenge.unwrap_or(usual));
        Some(reply)
    }
}

/// What a request for `path` needs a token for; nothing for `/v2/`.
fn scope_of(path: &str) -> String {
    let path = path.strip_prefix("/v2/").unwrap_or_default();
    let name = ["/manifests/", "/blobs/", "/referrers/", "/tags/list"].into_iter().find_map(|infix| path.rsplit_once(infix));
    name.map(|(name, _)| format!("repository:{name}:pull")).unwrap_or_default()
}

/// User and password of a Basic authorization.
fn basic(authorization: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(authorization.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// Whom a token was given, for what.
#[derive(Clone, Debug)]
pub struct Grant {
    user: Option<(String, String)>,
    scopes: Vec<String>,
}

impl Grant {
    fn covers(&self, scope: &str) -> bool {
        scope.is_empty() || self.scopes.iter().any(|granted| granted == scope)
    }
}

/// The tokens that one host issued.
#[derive(Debug)]
pub struct Tokens {
    issued: HashMap<String, Grant>,
    number: usize,
    /// `expires_in` of the answers; left out where `None`.
    pub expires_in: Option<u64>,
    /// Whom it gives tokens for what; everybody for everything where `None`.
    pub accounts: Option<Accounts>,
    /// The field that holds the token: `token` or `access_token`.
    pub field: &'static str,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { issued: HashMap::new(), number: 0, expires_in: Some(300), accounts: None, field: "token" }
    }
}

impl Tokens {
    /// Makes every token issued so far invalid.
    pub fn revoke(&mut self) {
        self.issued.clear();
    }

    /// The answer of `/token`. Any user and password are taken: the registry says which it believes.
    pub(super) fn issue(&mut self, request: &Request) -> Reply {
        let user = request.header("authorization").and_then(|header| basic(&header));
        let query = request.query.clone().unwrap_or_default();
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let parameters = [query.as_bytes(), form.as_bytes()].map(|text| url::form_urlencoded::parse(text).into_owned());
        let scopes = parameters.into_iter().flatten().filter(|(name, _)| name == "scope");
        let mut scopes: Vec<String> =
            scopes.flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        if let (Some(accounts), Some(user)) = (&self.accounts, &user) {
            let Some(readable) = accounts.of(user) else {
                return Reply::error(401, "UNAUTHORIZED", "incorrect username or password");
            };
            // As distribution's own: a token that is good for less than was asked for.
            scopes.retain(|scope| readable.iter().any(|name| *scope == format!("repository:{name}:pull")));
        } else if self.accounts.is_some() {
            scopes.clear();
        }
        self.number += 1;
        let token = format!("scripted-token-{}", self.number);
        self.issued.insert(token.clone(), Grant { user, scopes });
        let mut body = json!({ self.field: token });
        if let Some(seconds) = self.expires_in {
            body["expires_in"] = json!(seconds);
        }
        Reply::new(200, "application/json", body.to_string())
    }
}
