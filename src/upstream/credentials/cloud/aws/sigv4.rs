//! AWS Signature Version 4 in the `Authorization` header, for requests to `/`.
//!
//! Checked against the vectors that Amazon publishes (`aws-sig-v4-test-suite`). Pure.

use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use super::Keys;
use crate::upstream::client::authority;

/// All but the unreserved characters of RFC 3986.
const ENCODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a signature is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) time: SystemTime,
}

/// Adds `X-Amz-Date`, `X-Amz-Security-Token` and `Authorization`. Signs the host and all of `headers`. `None` if a key
/// cannot stand in a header.
pub(super) fn sign(
    keys: &Keys,
    scope: Scope<'_>,
    method: &Method,
    url: &Url,
    headers: &mut HeaderMap,
    body: &[u8],
) -> Option<()> {
    let stamp = stamp(scope.time);
    let sensitive = |text: String| {
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    };
    headers.insert(HeaderName::from_static("x-amz-date"), HeaderValue::try_from(&stamp).ok()?);
    if let Some(token) = &keys.token {
        headers.insert(HeaderName::from_static("x-amz-security-token"), sensitive(token.expose().to_owned())?);
    }
    let (request, names) = canonical(method, url, headers, body)?;
    let credential_scope = format!("{}/{}/{}/aws4_request", &stamp[..8], scope.region, scope.service);
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{credential_scope}\n{}", hash(request.as_bytes()));
    let signature = hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key(keys, &stamp[..8], scope)), text.as_bytes()).as_ref());
    let id = &keys.id;
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={id}/{credential_scope}, SignedHeaders={names}, Signature={signature}");
    headers.insert(header::AUTHORIZATION, sensitive(authorization)?);
    Some(())
}

/// The canonical request, and the names of the headers in it.
fn canonical(method: &Method, url: &Url, headers: &HeaderMap, body: &[u8]) -> Option<(String, String)> {
    let encode = |text: &str| utf8_percent_encode(text, &ENCODED).to_string();
    let mut query: Vec<_> = url.query_pairs().map(|(name, value)| (encode(&name), encode(&value))).collect();
    query.sort();
    let query: Vec<_> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut lines = vec![("host".to_owned(), authority(url))];
    for name in headers.keys() {
        let values: Vec<_> = headers.get_all(name).iter().map(HeaderValue::to_str).collect::<Result<_, _>>().ok()?;
        // Runs of spaces count as one.
        let value =
            values.iter().map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(",");
        lines.push((name.as_str().to_owned(), value));
    }
    lines.sort();
    let names = lines.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let lines: String = lines.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let request = format!("{method}\n{}\n{}\n{lines}\n{names}\n{}", url.path(), query.join("&"), hash(body));
    Some((request, names))
}

fn key(keys: &Keys, date: &str, scope: Scope<'_>) -> Vec<u8> {
    let secret = format!("AWS4{}", keys.secret.expose()).into_bytes();
    [date, scope.region, scope.service, "aws4_request"]
        .iter()
        .fold(secret, |key, part| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec())
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20150830T123600Z`
fn stamp(time: SystemTime) -> String {
    // RFC 3339 without its separators and fractions; the year is never beyond 9999.
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    /// 2015-08-30T12:36:00Z, the moment of all published vectors.
    const MOMENT: u64 = 1_440_938_160;

    fn keys(token: Option<&str>) -> Keys {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        Keys { id: "AKIDEXAMPLE".into(), secret, token: token.map(Secret::new) }
    }

    fn signed(service: &str, method: Method, url: &str, headers: &[(&'static str, &str)], body: &str) -> String {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(MOMENT);
        let mut map: HeaderMap =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        let scope = Scope { region: "us-east-1", service, time };
        sign(&keys(None), scope, &method, &url.parse().unwrap(), &mut map, body.as_bytes()).unwrap();
        assert!(map[header::AUTHORIZATION].is_sensitive());
        map[header::AUTHORIZATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn t42_amazons_test_suite() {
        let service = |method, url, headers: &[(&'static str, &str)], body| signed("service", method, url, headers, body);
        let url = "https://example.amazonaws.com/";
        let credential = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, ";
        // get-vanilla
        assert_eq!(
            service(Method::GET, url, &[], ""),
            format!(
                "{credential}SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
            )
        );
        // get-vanilla-query-order-key-case
        let query = "https://example.amazonaws.com/?Param2=value2&Param1=value1";
        assert!(
            service(Method::GET, query, &[], "").ends_with("b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500")
        );
        // post-vanilla
        assert!(
            service(Method::POST, url, &[], "").ends_with("5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
        );
        // post-x-www-form-urlencoded
        let form = [("content-type", "application/x-www-form-urlencoded")];
        assert_eq!(
            service(Method::POST, url, &form, "Param1=value1"),
            format!(
                "{credential}SignedHeaders=content-type;host;x-amz-date, \
                 Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
            )
        );
    }

    #[test]
    fn t42_the_worked_example_of_the_documentation() {
        // "Signature Version 4 signing process": IAM ListUsers.
        let authorization = signed(
            "iam",
            Method::GET,
            "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
            &[("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
            "",
        );
        assert!(authorization.ends_with("Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"));
        // And its signing key.
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(MOMENT);
        let scope = Scope { region: "us-east-1", service: "iam", time };
        assert_eq!(hex(&key(&keys(None), "20150830", scope)), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
    }

    #[test]
    fn t42_a_session_token_is_sent_and_signed() {
        // post-sts-header-before
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(MOMENT);
        let mut headers = HeaderMap::new();
        let scope = Scope { region: "us-east-1", service: "service", time };
        let url = "https://example.amazonaws.com/".parse().unwrap();
        sign(&keys(Some(token)), scope, &Method::POST, &url, &mut headers, b"").unwrap();
        assert_eq!(headers["x-amz-security-token"], token);
        let authorization = headers[header::AUTHORIZATION].to_str().unwrap();
        assert!(
            authorization.ends_with("Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
            "{authorization}"
        );
    }
}
