//! Is this login one of the upstream's at all? For `/v2/` and `/token`, by which clients sign in before they ask for anything.
//!
//! A yes opens nothing: each repository is asked about by itself ([`super::verdicts`]). It is remembered as long as a
//! verdict is, a no for some seconds, both by a keyed hash. Where the upstream cannot be asked, nobody is sent away: a
//! login whose verdict still holds may read what is here.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::{Pull, PullError};
use super::verdicts::{REFUSED, Verdict};
use crate::config;
use crate::oci::UpstreamName;
use crate::policy::Login;
use crate::upstream::TokenAge;

impl Pull {
    /// Fails if callers read this upstream by logins of their own, and it does not know this one; or if so many from
    /// this address were refused that no further one is tried. Cancel-safe: the question goes on for others.
    pub async fn try_login(
        self: &Arc<Self>,
        upstream: &UpstreamName,
        login: &Login,
        from: Option<IpAddr>,
    ) -> Result<(), PullError> {
        let epoch = self.negative.epoch();
        let Some(site) = self.site_of(upstream).filter(|site| site.visibility == config::Visibility::Caller) else {
            return Ok(());
        };
        let key = self.visibility.secrecy.login_key(upstream, login);
        if let Some(verdict) = self.visibility.verdicts.get(&key).filter(Verdict::holds) {
            return verdict.said();
        }
        let asked = || {
            let (this, login, upstream) = (self.clone(), login.clone(), site.upstream.clone());
            let verdict_for = site.verdict_for;
            async move {
                let turn = this.visibility.patience.turn(from).await;
                let turn = turn.map_err(|wait| PullError::TooManyRefusals { upstream: upstream.name().clone(), wait })?;
                let started = Instant::now();
                let said = upstream.signed_in_as(login.username(), login.password(), TokenAge::New).try_login().await;
                let verdict = match said {
                    Ok(()) => Verdict { until: started + verdict_for, refusal: None },
                    Err(error) if error.refuses_login() => {
                        turn.refused();
                        Verdict { until: Instant::now() + REFUSED.min(verdict_for), refusal: Some(error.into()) }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "whether a login is good cannot be asked now");
                        return Ok(());
                    }
                };
                this.keep_verdict(key, verdict.clone(), epoch);
                verdict.said()
            }
        };
        self.visibility.checks.join(key, asked).await.ok_or(PullError::Internal)?.value
    }
}
