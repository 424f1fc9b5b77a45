//! From [`Raw`] to [`Config`]: defaults where the file is silent, and the checks that concern several keys.

mod access;
mod credentials;
mod interfaces;
mod upstreams;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::defaults::built_in_upstreams;
use super::document::Document;
use super::raw::{self, Raw};
use super::reach::{self, Known, Of};
use super::value::{Many, One, RepositoryGlob, TagPattern, Time, TimeOrForever, Timeout};
use super::{
    Amount, Cache, Config, ConfigError, Fill, Finding, Freshness, FreshnessRule, Globs, Import, Log, Prefetch, Quota,
    RepositoryRule, Secret, Server, TagPatterns,
};
use crate::oci::Platforms;

/// Looks up an environment variable.
type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Tries what a configuration asks for.
pub(super) type Examine<'a> = &'a mut dyn FnMut(&Config) -> Vec<Finding>;

pub(super) fn build(document: Document<'_>, raw: Raw, env: Env<'_>, examine: Examine<'_>) -> Result<Config, ConfigError> {
    let known = known(&raw);
    let mut builder = Builder { document, env, known };
    let server = builder.server(raw.server);
    let access = builder.access(raw.access, &server);
    let admin = builder.admin(raw.admin, &server);
    let cache = builder.cache(raw.cache);
    let freshness = builder.freshness(raw.freshness, &Freshness::default(), &["freshness"], None);
    let upstreams = builder.upstreams(raw.upstream, &freshness);
    builder.check_upstreams(&upstreams, &server);
    let prefetch = builder.prefetch(raw.prefetch);
    let import = Import { verify_key: raw.import.verify_key.map(|One(path)| path) };
    let fill = Fill::default();
    let log = Log::default();
    let config = Config {
        server,
        access,
        admin,
        cache,
        upstreams,
        freshness,
        prefetch,
        import,
        fill: Fill {
            abandoned: one(raw.fill.abandoned, fill.abandoned),
            abandon_after: time(raw.fill.abandon_after, fill.abandon_after),
            parallel: raw.fill.parallel.map_or(fill.parallel, |One(parts)| parts.0),
            parallel_threshold: raw.fill.parallel_threshold.map_or(fill.parallel_threshold, |One(size)| size.0),
        },
        log: Log { format: one(raw.log.format, log.format), level: raw.log.level.map_or(log.level, |One(level)| level.0) },
    };
    // What was wrong has a default in its place: the rest can be tried all the same.
    examine(&config).into_iter().for_each(|finding| builder.document.find_place(finding));
    builder.document.finish(config)
}

fn one<T>(raw: Option<One<T>>, default: T) -> T {
    raw.map_or(default, |One(value)| value)
}

fn time(raw: Option<One<Time>>, default: Duration) -> Duration {
    raw.map_or(default, |One(Time(time))| time)
}

fn time_or_forever(raw: Option<One<TimeOrForever>>, default: Duration) -> Duration {
    raw.map_or(default, |One(TimeOrForever(time))| time)
}

fn timeout(raw: Option<One<Timeout>>, default: Duration) -> Duration {
    raw.map_or(default, |One(Timeout(time))| time)
}

struct Builder<'a> {
    document: Document<'a>,
    env: Env<'a>,
    /// The upstreams that patterns and images may name.
    known: Known,
}

/// Those that exist by default, and those that the file names.
fn known(raw: &Raw) -> Known {
    let mut known = Known::default();
    for (name, upstream) in built_in_upstreams(&Freshness::default()) {
        known.add(&name, upstream.hosts.iter().map(String::as_str));
    }
    for (name, upstream) in &raw.upstream {
        known.add(name, upstream.hosts.iter().flat_map(|Many(hosts)| hosts).map(|host| host.0.as_str()));
    }
    if raw.cache.offline == Some(true) { known.with_others() } else { known }
}

impl Builder<'_> {
    fn cache(&mut self, raw: raw::Cache) -> Cache {
        let default = Cache::default();
        let max_size = one(raw.max_size, default.max_size);
        if max_size == Amount::Bytes(0) {
            self.document.problem(&["cache", "max_size"], "a cache without room cannot work; give it a size such as \"50GiB\"");
        }
        let min_free = one(raw.min_free, default.min_free);
        if min_free == Amount::Percent(100.0) {
            self.document.problem(&["cache", "min_free"], "100% leaves the cache no room; give it a share such as \"5%\"");
        }
        Cache {
            dir: one(raw.dir, default.dir),
            max_size,
            min_free,
            memory: raw.memory.map_or(default.memory, |One(size)| size.0),
            offline: raw.offline.unwrap_or(default.offline),
            eviction: one(raw.eviction, default.eviction),
            verify_every: time(raw.verify_every, default.verify_every),
            verify_rate: raw.verify_rate.map_or(default.verify_rate, |One(size)| size.0),
            quotas: self.quotas(raw.quota),
        }
    }

    /// The longest pattern comes first: it says most about what it matches.
    fn quotas(&mut self, raw: BTreeMap<String, raw::Quota>) -> Vec<Quota> {
        let mut raw: Vec<_> = raw.into_iter().collect();
        raw.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        if raw.len() > usize::from(u8::MAX) - 1 {
            self.document.problem(&["cache", "quota"], "there are more than 254 quotas");
        }
        let quota = |(pattern, raw): (String, raw::Quota)| {
            if raw.max_size.is_none() && raw.unused_for.is_none() {
                self.document.problem(&["cache", "quota", &pattern], "it limits nothing; give it max_size, unused_for or both");
            }
            let full = if pattern.contains('/') || pattern == "**" { pattern.clone() } else { format!("{pattern}/**") };
            let globs = Globs::new([full]).unwrap_or_else(|reason| {
                self.document.problem(&["cache", "quota", &pattern], reason);
                Globs::default()
            });
            // Of an upstream that is none any more, content may still be here.
            if let Some(why) = reach::of_scopes(&pattern, &self.known.with_others()) {
                self.document.problem(&["cache", "quota", &pattern], format!("it can match nothing: {why}"));
            }
            let max_size = raw.max_size.map(|One(size)| size);
            Quota { pattern: globs, max_size, unused_for: raw.unused_for.map(|One(Timeout(time))| time) }
        };
        raw.into_iter().map(quota).collect()
    }

    fn freshness(&mut self, raw: raw::Freshness, default: &Freshness, path: &[&str], of: Option<Of<'_>>) -> Freshness {
        let immutable_tags = match raw.immutable_tags {
            None => default.immutable_tags.clone(),
            Some(Many(patterns)) => {
                TagPatterns::new(patterns.iter().map(|TagPattern(pattern)| pattern)).unwrap_or_else(|reason| {
                    self.document.problem(&[path, &["immutable_tags"]].concat(), reason);
                    TagPatterns::default()
                })
            }
        };
        // The upstream's own rules come before the general ones, which hold for it, too.
        let mut rules: Vec<_> = raw.rule.unwrap_or_default().into_iter().map(|rule| self.rule(rule, path, of)).collect();
        rules.extend(default.rules.iter().cloned());
        Freshness {
            no_cache: raw.no_cache.unwrap_or(default.no_cache),
            rules,
            fresh_for: time_or_forever(raw.fresh_for, default.fresh_for),
            revalidate_within: time_or_forever(raw.revalidate_within, default.revalidate_within),
            stale_while_revalidate: time_or_forever(raw.stale_while_revalidate, default.stale_while_revalidate),
            stale_if_error: time_or_forever(raw.stale_if_error, default.stale_if_error),
            negative: time(raw.negative, default.negative),
            immutable_tags,
        }
    }

    fn rule(&mut self, raw: raw::Rule, path: &[&str], of: Option<Of<'_>>) -> FreshnessRule {
        let path = [path, &["rule"]].concat();
        if raw.repositories.is_none() && raw.tags.is_none() {
            self.document
                .problem(&path, "a rule needs `tags` or `repositories`; what holds for all tags stands in the table above it");
        }
        let tags = match raw.tags {
            Some(Many(patterns)) => TagPatterns::new(patterns.iter().map(|TagPattern(pattern)| pattern)),
            None => TagPatterns::new([""]),
        };
        let tags = tags.unwrap_or_else(|reason| {
            self.document.problem(&path, reason);
            TagPatterns::default()
        });
        let or_forever = |raw: Option<One<TimeOrForever>>| raw.map(|One(TimeOrForever(time))| time);
        FreshnessRule {
            repositories: self.globs(
                raw.repositories,
                RepositoryRule::default().allow,
                &[&path, &["repositories"][..]].concat(),
                of,
            ),
            tags,
            fresh_for: or_forever(raw.fresh_for),
            revalidate_within: or_forever(raw.revalidate_within),
            stale_while_revalidate: or_forever(raw.stale_while_revalidate),
            stale_if_error: or_forever(raw.stale_if_error),
            negative: raw.negative.map(|One(Time(time))| time),
            no_cache: raw.no_cache,
        }
    }

    fn prefetch(&mut self, raw: Vec<raw::Prefetch>) -> Vec<Prefetch> {
        let entries = raw.into_iter().map(|raw| Prefetch {
            images: raw.images.map_or(Vec::new(), |Many(images)| images),
            platforms: raw.platforms.map_or(Platforms::default(), |Many(platforms)| platforms.into_iter().collect()),
            with_referrers: raw.with_referrers.unwrap_or(false),
            every: timeout(raw.every, Duration::from_secs(6 * 3600)),
        });
        let entries: Vec<_> = entries.collect();
        if entries.iter().any(|entry| entry.images.is_empty()) {
            self.document.problem(&["prefetch"], "[[prefetch]] needs images = [\"IMAGE\", …]");
        }
        for wish in entries.iter().flat_map(|entry| &entry.images) {
            if let Some(why) = self.known.missing(wish.scope().upstream.as_str()) {
                self.document.problem_of(&["prefetch", "images"], |text| text.parse().as_ref() == Ok(wish), why);
            }
        }
        entries
    }

    /// Patterns of repositories: of an upstream, or of any.
    fn globs(&mut self, raw: Option<Many<RepositoryGlob>>, default: Globs, path: &[&str], of: Option<Of<'_>>) -> Globs {
        let Some(Many(globs)) = raw else { return default };
        for RepositoryGlob(glob) in &globs {
            if let Some(why) = reach::of_repositories(glob, of) {
                self.matches_nothing(path, glob, &why);
            }
        }
        Globs::new(globs.iter().map(|RepositoryGlob(glob)| glob)).unwrap_or_else(|reason| {
            self.document.problem(path, reason);
            default
        })
    }

    /// A rule that denies nothing lets everything through: that is no small mistake.
    fn matches_nothing(&mut self, path: &[&str], pattern: &str, why: &str) {
        self.document.problem_of(path, |text| text == pattern, format!("{pattern:?} can match nothing: {why}"));
    }

    fn secret(&mut self, path: &[&str], secret: Result<Secret, String>) -> Secret {
        secret.unwrap_or_else(|reason| {
            self.document.problem(path, reason);
            Secret::new("")
        })
    }
}

/// Whether `file` holds certificates.
fn check_authorities(file: &Path) -> Result<(), String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => Err(format!("{} holds no certificate in PEM form", file.display())),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{} is no PEM file: {error}", file.display())),
    }
}
