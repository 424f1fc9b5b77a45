//! Does the upstream know this login at all? Asked as `docker login` asks, for the mirror's own `docker login`.
//!
//! `/v2/`, its challenge, a token for nothing in particular, and `/v2/` with that. Says no only where the upstream does; what
//! a login may read is another question ([`Upstream::resolve`]). Called by `pull` for a view of an upstream
//! ([`Upstream::signed_in_as`]).

use http::{HeaderValue, StatusCode};

use super::Upstream;
use super::challenge::{self, Challenge};
use super::client::remark;
use super::error::{Reason, UpstreamError};
use super::request::Origin;
use super::traffic::Traffic;

impl Upstream {
    /// Whether the login of this view is one of the upstream's; an error that [`UpstreamError::refuses_login`] says that it
    /// is not, any other that it cannot be said. Cancel-safe.
    pub async fn try_login(&self) -> Result<(), UpstreamError> {
        let mut offline = self.offline.subscribe();
        tokio::select! {
            biased;
            _ = offline.wait_for(|offline| *offline) => Err(self.error(Reason::Offline)),
            tried = self.try_login_around() => tried,
        }
    }

    /// The first address that says anything decides: they are one registry.
    async fn try_login_around(&self) -> Result<(), UpstreamError> {
        let mut origins: Vec<_> = self.origins.iter().collect();
        origins.sort_by_key(|origin| origin.health().rank(Traffic::Check));
        let mut failed = None;
        for origin in origins {
            let resting = origin.peek_at_checks();
            let tried = match resting {
                Ok(_) => try_login(origin).await,
                Err(reason) => Err(UpstreamError::new(&self.name, origin.host(), reason)),
            };
            match tried {
                Err(error) if !error.refuses_login() => failed = Some(error),
                decided => return decided,
            }
        }
        Err(failed.unwrap_or_else(|| self.error(Reason::Connect("it has no `url`".into()))))
    }
}

async fn try_login(origin: &Origin) -> Result<(), UpstreamError> {
    let (status, challenges) = base(origin, None).await?;
    let Some(challenge) = challenge::preferred(&challenges).filter(|_| status == StatusCode::UNAUTHORIZED) else {
        // Nobody has to sign in for this.
        return Ok(());
    };
    let Some(grant) = origin.auth().login(&origin.client, challenge).await? else { return Ok(()) };
    match base(origin, grant.header()).await? {
        (StatusCode::UNAUTHORIZED, _) => Err(origin.client.error(origin.url(), Reason::LoginRefused(StatusCode::UNAUTHORIZED))),
        _ => Ok(()),
    }
}

/// What `/v2/` says of signing in, if it says anything of it.
async fn base(origin: &Origin, authorization: Option<HeaderValue>) -> Result<(StatusCode, Vec<Challenge>), UpstreamError> {
    let response = origin.base(authorization).await?;
    let (status, challenges) = (response.status(), challenge::challenges(response.headers()));
    if !status.is_success() && status != StatusCode::UNAUTHORIZED {
        return Err(origin.client.refusal(origin.url(), response).await);
    }
    drop(remark(response.into_body()).await);
    Ok((status, challenges))
}
