//! The error codes of a registry, with their statuses and bodies (OCI distribution-spec, *Error Codes*). Which error gets
//! which code is decided where it happens.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

/// A code that clients understand. Which status it goes with is what distribution answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The repository has no such blob.
    BlobUnknown,
    /// The repository has no such manifest or tag.
    ManifestUnknown,
    /// There is no such repository, or no such upstream.
    NameUnknown,
    /// Not a repository name.
    NameInvalid,
    /// Not a digest.
    DigestInvalid,
    /// A page size that is not a number.
    PaginationNumberInvalid,
    /// A range outside the blob.
    RangeInvalid,
    /// Who asks has to sign in.
    Unauthorized,
    /// May not be pulled.
    Denied,
    /// Not something a mirror does.
    Unsupported,
    /// The upstream's rate limit, or one of the mirror's.
    TooManyRequests,
    /// Cannot be had at the moment.
    Unavailable,
    /// Anything else.
    Unknown,
}

impl ErrorCode {
    /// All of them. docs/OPERATIONS.md has a table of what each is answered to, and a test holds the two together.
    pub const ALL: [Self; 13] = [
        Self::BlobUnknown,
        Self::ManifestUnknown,
        Self::NameUnknown,
        Self::NameInvalid,
        Self::DigestInvalid,
        Self::PaginationNumberInvalid,
        Self::RangeInvalid,
        Self::Unauthorized,
        Self::Denied,
        Self::Unsupported,
        Self::TooManyRequests,
        Self::Unavailable,
        Self::Unknown,
    ];

    /// The code as it stands in the body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The status it is answered with.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown | Self::ManifestUnknown | Self::NameUnknown => StatusCode::NOT_FOUND,
            Self::NameInvalid | Self::DigestInvalid | Self::PaginationNumberInvalid => StatusCode::BAD_REQUEST,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The JSON body. dockerd reads it only as `application/json`.
    pub fn body(self, message: &str, detail: Option<Value>) -> Bytes {
        let mut error = json!({ "code": self.as_str(), "message": message });
        if let (Some(detail), Some(fields)) = (detail, error.as_object_mut()) {
            fields.insert("detail".into(), detail);
        }
        json!({ "errors": [error] }).to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A code that is added and not listed does not compile, or fails here.
    #[test]
    fn all_codes_are_listed() {
        let place = |code| match code {
            ErrorCode::BlobUnknown => 0,
            ErrorCode::ManifestUnknown => 1,
            ErrorCode::NameUnknown => 2,
            ErrorCode::NameInvalid => 3,
            ErrorCode::DigestInvalid => 4,
            ErrorCode::PaginationNumberInvalid => 5,
            ErrorCode::RangeInvalid => 6,
            ErrorCode::Unauthorized => 7,
            ErrorCode::Denied => 8,
            ErrorCode::Unsupported => 9,
            ErrorCode::TooManyRequests => 10,
            ErrorCode::Unavailable => 11,
            ErrorCode::Unknown => 12,
        };
        assert!(ErrorCode::ALL.into_iter().map(place).eq(0..ErrorCode::ALL.len()));
    }

    #[test]
    fn a_body_is_what_clients_parse() {
        assert_eq!(
            ErrorCode::BlobUnknown.body("no \"such\" blob", Some(json!({ "digest": "sha256:0" }))),
            r#"{"errors":[{"code":"BLOB_UNKNOWN","detail":{"digest":"sha256:0"},"message":"no \"such\" blob"}]}"#
        );
        assert_eq!(ErrorCode::Unsupported.body("no", None), r#"{"errors":[{"code":"UNSUPPORTED","message":"no"}]}"#);
    }
}
