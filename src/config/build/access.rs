//! `[access]`: what its keys mean together.

use std::time::Duration;

use super::super::access::{Access, AccessRule, Htpasswd, LONGEST_TOKEN, Pace, TokenUrl, Who};
use super::super::raw;
use super::super::reach;
use super::super::value::{Many, One, RepositoryGlob, Timeout};
use super::{Builder, Globs, Secret, Server};

/// Docker takes any shorter life for this one, and then comes with a token that is over.
const SHORTEST: Duration = Duration::from_secs(60);
/// A key is not a word.
const KEY: usize = 32;
/// A pull of many layers, with its manifests and a token or two.
const BURST: usize = 200;

impl Builder<'_> {
    pub(super) fn access(&mut self, raw: raw::Access, server: &Server) -> Access {
        let default = Access::default();
        let rules: Vec<_> = raw.rule.unwrap_or_default().into_iter().map(|rule| self.access_rule(rule)).collect();
        let open = raw.open.unwrap_or(default.open);
        if open && !rules.is_empty() {
            let message = "everybody may pull everything, and yet there are rules; leave out the one or the others";
            self.document.problem(&["access", "open"], message);
        }
        let htpasswd = raw.htpasswd.and_then(|One(path)| {
            let read = Htpasswd::read(&path);
            read.map_err(|reason| self.document.problem(&["access", "htpasswd"], reason)).ok()
        });
        if htpasswd.is_some() && rules.is_empty() {
            let message = "passwords alone refuse nobody; say who may pull what, as in: [[access.rule]] who = [\"signed-in\"]";
            self.document.problem(&["access", "htpasswd"], message);
        }
        let named = |who: &Who| matches!(who, Who::User(_));
        if htpasswd.is_none() && rules.iter().flat_map(|rule| &rule.who).any(named) {
            self.document
                .problem(&["access", "rule"], "a rule is for users, and there are none; name a password file: htpasswd = \"…\"");
        }
        let by_certificate = |who: &Who| matches!(who, Who::Certificate(_));
        if server.tls.as_ref().is_none_or(|tls| tls.clients.is_none())
            && rules.iter().flat_map(|rule| &rule.who).any(by_certificate)
        {
            let message = "a rule is for client certificates, and nobody is asked for one; say whose are good: client_ca = \"FILE.pem\" in \
                           server.tls, with client_auth = \"optional\" where clients may also come without";
            self.document.problem(&["access", "rule"], message);
        }
        let token_lifetime = raw.token_lifetime.map_or(default.token_lifetime, |One(Timeout(time))| time);
        if !(SHORTEST..=LONGEST_TOKEN).contains(&token_lifetime) {
            self.document.problem(&["access", "token_lifetime"], "a token is good for \"1m\" at least and \"1day\" at most");
        }
        let token_key = raw.token_key_file.and_then(|One(path)| {
            let long = |key: &Secret| key.expose().len() >= KEY;
            let short = || format!("{} holds less than {KEY} characters; write it with: openssl rand -hex 32", path.display());
            let key = Secret::from_file(&path).and_then(|key| if long(&key) { Ok(key) } else { Err(short()) });
            key.map_err(|reason| self.document.problem(&["access", "token_key_file"], reason)).ok()
        });
        if raw.requests_per_second.is_none() && raw.burst.is_some() {
            self.document.problem(&["access", "burst"], "it bounds nothing without requests_per_second");
        }
        let burst = raw.burst.map_or(BURST, |One(burst)| burst.0);
        let whole = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Access {
            open,
            htpasswd,
            token_lifetime,
            token_key,
            token_url: raw.token_url.map(|One(TokenUrl(url))| url),
            challenge_everybody: raw.challenge_everybody.unwrap_or(default.challenge_everybody),
            pace: raw.requests_per_second.map(|One(rate)| Pace { per_second: whole(rate.0), burst: whole(burst) }),
            max_fills_per_client: raw.max_fills_per_client.map(|One(count)| count.0),
            rules,
        }
    }

    fn access_rule(&mut self, raw: raw::AccessRule) -> AccessRule {
        let path = ["access", "rule"];
        let who = raw.who.map_or(Vec::new(), |Many(who)| who);
        if who.is_empty() {
            self.document
                .problem(&path, "a rule needs `who`: a list of \"anyone\", \"signed-in\", \"user:…\", \"cert:…\", \"address:…\"");
        }
        for RepositoryGlob(glob) in raw.pull.iter().flat_map(|Many(globs)| globs) {
            if let Some(why) = reach::of_scopes(glob, &self.known) {
                self.matches_nothing(&[&path[..], &["pull"]].concat(), glob, &why);
            }
        }
        let full = |RepositoryGlob(glob): RepositoryGlob| match glob.contains('/') || glob == "**" {
            true => glob,
            // An upstream alone is all of it.
            false => format!("{glob}/**"),
        };
        let patterns: Vec<_> = raw.pull.map_or(vec!["**".to_owned()], |Many(globs)| globs.into_iter().map(full).collect());
        if patterns.is_empty() {
            self.document.problem(&path, "`pull` names nothing; leave it out for everything");
        }
        let pull = Globs::new(patterns).unwrap_or_else(|reason| {
            self.document.problem(&path, reason);
            Globs::default()
        });
        AccessRule { who, pull, deny: raw.deny.unwrap_or(false) }
    }
}
