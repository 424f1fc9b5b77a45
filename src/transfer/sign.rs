//! Ed25519 over a bundle's index, which names everything else by digest.
//!
//! Keys are what `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write.

use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

/// What precedes the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a key or a signature is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// A key file cannot be used.
    #[error("{file}: {why}")]
    Key {
        /// The file.
        file: String,
        /// What is wrong with it; never a part of it (I9).
        why: &'static str,
    },
    /// The bundle has no signature.
    #[error("the bundle is not signed, and a verify key is configured: export it with --sign KEY")]
    Unsigned,
    /// The signature is not by this key, or not over this index.
    #[error("the bundle's signature is wrong: it was signed with another key, or its index was changed")]
    Wrong,
}

/// A private key.
#[derive(Debug)]
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// Reads a PKCS#8 PEM file.
    pub fn from_file(file: &Path) -> Result<Self, SignError> {
        let fail = |why| SignError::Key { file: file.display().to_string(), why };
        let der = PrivatePkcs8KeyDer::from_pem_file(file).map_err(|_| {
            fail("cannot be read as a private key in PEM form; make one with: openssl genpkey -algorithm ed25519")
        })?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map(Self).map_err(|_| fail("is not an ed25519 key"))
    }

    /// The signature of `index`, as text.
    pub fn sign(&self, index: &[u8]) -> String {
        STANDARD.encode(self.0.sign(index).as_ref()) + "\n"
    }
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier(Vec<u8>);

impl Verifier {
    /// Reads a public key's PEM file.
    pub fn from_file(file: &Path) -> Result<Self, SignError> {
        let fail = |why| SignError::Key { file: file.display().to_string(), why };
        let der = SubjectPublicKeyInfoDer::from_pem_file(file)
            .map_err(|_| fail("cannot be read as a public key in PEM form; make it with: openssl pkey -in KEY -pubout"))?;
        match der.as_ref().strip_prefix(&SPKI) {
            Some(key) if key.len() == 32 => Ok(Self(key.to_vec())),
            _ => Err(fail("is not an ed25519 public key")),
        }
    }

    /// Whether `signature` is this key's over `index`.
    pub fn verify(&self, index: &[u8], signature: Option<&[u8]>) -> Result<(), SignError> {
        let text = signature.ok_or(SignError::Unsigned)?;
        let raw = STANDARD.decode(text.trim_ascii()).map_err(|_| SignError::Wrong)?;
        UnparsedPublicKey::new(&ED25519, &self.0).verify(index, &raw).map_err(|_| SignError::Wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made once by openssl.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIFzIEgvsG3nyuhB0lrUHv0b03cixjlvwj2ZtNKf6TB+T\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str =
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAz53RbjOCHSU5FdDGUT8+YyhoRXgfD2EdVqsRr5Ra+pU=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn what_is_signed_verifies_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let signer = Signer::from_file(&path("key", PRIVATE)).unwrap();
        let verifier = Verifier::from_file(&path("pub", PUBLIC)).unwrap();
        let signature = signer.sign(b"index");
        assert_eq!(verifier.verify(b"index", Some(signature.as_bytes())), Ok(()));
        assert_eq!(verifier.verify(b"other", Some(signature.as_bytes())), Err(SignError::Wrong));
        assert_eq!(verifier.verify(b"index", Some(b"nonsense")), Err(SignError::Wrong));
        assert_eq!(verifier.verify(b"index", None), Err(SignError::Unsigned));
        assert!(Signer::from_file(&path("bad", PUBLIC)).is_err());
        assert!(Verifier::from_file(&path("worse", PRIVATE)).is_err());
    }
}
