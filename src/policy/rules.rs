//! The rules of `[access]`: the first that matches decides, and none is a no. Pure; called by [`super::Policy`], and by
//! `roadstead check --as` through [`super::explain`].

use crate::config::{Access, AccessRule, Who};

use super::Identity;

/// What the rules say of one identity and one repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be pulled.
    pub allowed: bool,
    /// Which rule says so, from 0; `None` where none matches or there are none.
    pub rule: Option<usize>,
}

/// Whether an entry of `who` means this identity.
fn means(who: &Who, identity: &Identity) -> bool {
    match who {
        Who::Anyone => true,
        Who::SignedIn => identity.is_signed_in(),
        Who::User(globs) => identity.user.as_deref().is_some_and(|user| globs.is_match(user)),
        Who::Certificate(globs) => identity.certificate.iter().any(|name| globs.is_match(name)),
        Who::Address(network) => identity.address.is_some_and(|address| network.contains(&address)),
    }
}

fn is_for(rule: &AccessRule, identity: &Identity) -> bool {
    rule.who.iter().any(|who| means(who, identity))
}

/// Whether `identity` may pull from `name`, an `UPSTREAM/REPOSITORY`.
pub(super) fn decide(access: &Access, identity: &Identity, name: &str) -> Verdict {
    if access.rules.is_empty() {
        return Verdict { allowed: true, rule: None };
    }
    let found = access.rules.iter().enumerate().find(|(_, rule)| rule.pull.is_match(name) && is_for(rule, identity));
    match found {
        Some((number, rule)) => Verdict { allowed: !rule.deny, rule: Some(number) },
        None => Verdict { allowed: false, rule: None },
    }
}

/// Whether signing in could let somebody pull from `name` who may not as `identity`.
pub(super) fn could_sign_in(access: &Access, identity: &Identity, name: &str) -> bool {
    if identity.user.is_some() || access.htpasswd.is_none() {
        return false;
    }
    for rule in access.rules.iter().filter(|rule| rule.pull.is_match(name)) {
        if is_for(rule, identity) {
            return !rule.deny;
        }
        if rule.who.contains(&Who::SignedIn) {
            return !rule.deny;
        }
        if !rule.deny && rule.who.iter().any(|who| matches!(who, Who::User(_))) {
            return true;
        }
    }
    false
}

/// Whether there may be anything that `identity` may pull.
pub(super) fn leaves_something(access: &Access, identity: &Identity) -> bool {
    if access.rules.is_empty() {
        return true;
    }
    for rule in access.rules.iter().filter(|rule| is_for(rule, identity)) {
        if !rule.deny {
            return true;
        }
        if rule.pull.patterns().iter().any(|pattern| pattern == "**") {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests;
