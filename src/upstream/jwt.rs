//! How long a JSON Web Token lives, for services that do not say so beside it.
//!
//! Nothing is verified: a wrong life only means that the token is asked for too early or is refused once. The life is
//! the difference of two of its own times, so that no clock has to agree with another one.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    exp: f64,
    #[serde(default)]
    iat: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
}

/// From its making to its end; `None` for what is no such token.
pub(super) fn life(token: &str) -> Option<Duration> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?).ok()?;
    Duration::try_from_secs_f64(claims.exp - claims.iat.or(claims.nbf)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(life(&token(r#"{"iat":1000,"exp":5500}"#)), Some(Duration::from_secs(4500)));
        assert_eq!(life(&token(r#"{"nbf":1000,"exp":1060.5}"#)), Some(Duration::from_millis(60_500)));
        for bad in [token(r#"{"exp":5500}"#), token(r#"{"iat":9,"exp":1}"#), token("x"), "opaque".into(), "a.b".into()] {
            assert_eq!(life(&bad), None, "{bad}");
        }
    }
}
