//! What `roadstead check` says of `[access]`: the rules as a table, and what they mean for one caller (`--as`).

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::anyhow;

use crate::cli::print;
use crate::config::{Access, Config};
use crate::oci::ImageRef;
use crate::policy;

/// What the rules say of `who`, one image a line.
pub(super) fn explain(config: &Config, who: &str, images: &[ImageRef]) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    let mut all = true;
    for ImageRef { scope, .. } in images {
        let verdict = policy::explain(&config.access, who, scope).map_err(|reason| anyhow!("--as: {reason}"))?;
        let name = scope.upstream.as_str();
        let permits = config.upstreams.get(&scope.upstream).map(|upstream| upstream.repositories.permits(&scope.repository));
        let (allowed, why) = match (verdict.allowed, verdict.rule) {
            (true, _) if permits.is_none() => (false, format!("since there is no [upstream.{name:?}]")),
            (true, _) if permits == Some(false) => (false, format!("by allow and deny under [upstream.{name:?}]")),
            (allowed, Some(rule)) => (allowed, format!("by rule {}", rule + 1)),
            (false, None) => (false, "since no rule matches".to_owned()),
            (true, None) => (true, "as everybody may".to_owned()),
        };
        all &= allowed;
        let _ = writeln!(text, "{who} {} {scope}, {why}", if allowed { "may pull" } else { "may not pull" });
    }
    print(&text)?;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who may pull what, in the order in which the mirror looks.
pub(super) fn rows(access: &Access) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    if access.rules.is_empty() {
        let who = if access.open { "everybody who reaches the mirror" } else { "everybody on this machine" };
        row("access", format!("{who} may pull everything"));
    } else {
        row("access", "the first rule that matches decides".to_owned());
        for (number, rule) in access.rules.iter().enumerate() {
            let who: Vec<_> = rule.who.iter().map(ToString::to_string).collect();
            let may = if rule.deny { "may not pull" } else { "may pull" };
            row(&format!("  {}", number + 1), format!("{} {may} {}", who.join(", "), rule.pull.patterns().join(" ")));
        }
        row("  else", "nobody may pull anything".to_owned());
    }
    if let Some(file) = &access.htpasswd {
        let life = humantime::format_duration(access.token_lifetime);
        row("  users", format!("{} of {}, tokens good for {life}", file.len(), file.path.display()));
    }
    if let Some(pace) = access.pace {
        row("  requests", format!("{} a second of one client, {} at once", pace.per_second, pace.burst));
    }
    if let Some(limit) = access.max_fills_per_client {
        row("  fills", format!("{limit} begun by one client at one time"));
    }
    rows
}
