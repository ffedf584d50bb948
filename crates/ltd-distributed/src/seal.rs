//! Seals on messages: who has the secret wrote them, for this place of this session.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes of a seal.
pub(crate) const SEAL: usize = 32;

/// A shared secret, and what tells this session from others.
#[derive(Clone)]
pub(crate) struct Seal {
    secret: Vec<u8>,
    /// Drawn by the first rank for each session: messages of an earlier one do not fit.
    nonce: Vec<u8>,
}

impl Seal {
    /// Seals with a secret (none has no bytes), before there is a session.
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self { secret: secret.to_vec(), nonce: Vec::new() }
    }

    /// The same for a session.
    pub(crate) fn of_session(&self, nonce: &[u8]) -> Self {
        Self { secret: self.secret.clone(), nonce: nonce.to_vec() }
    }

    /// A message as it lies at `key`.
    pub(crate) fn close(&self, key: &str, message: &[u8]) -> Vec<u8> {
        let mut sealed = self.code(key, message).finalize().into_bytes().to_vec();
        sealed.extend_from_slice(message);
        sealed
    }

    /// The message that lies at `key`, if it is sealed.
    pub(crate) fn open<'m>(&self, key: &str, sealed: &'m [u8]) -> Option<&'m [u8]> {
        let (seal, message) = sealed.split_at_checked(SEAL)?;
        self.code(key, message).verify_slice(seal).ok()?;
        Some(message)
    }

    /// HMAC-SHA-256 (RFC 2104) over the parts, each after its length.
    fn code(&self, key: &str, message: &[u8]) -> Hmac<Sha256> {
        let mut code =
            Hmac::<Sha256>::new_from_slice(&self.secret).expect("invariant: a key may have any length");
        for part in [&self.nonce, key.as_bytes(), message] {
            code.update(&(part.len() as u64).to_le_bytes());
            code.update(part);
        }
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_opens_at_its_place_in_its_session_with_its_secret_only() {
        let seal = Seal::new(b"sixteen bytes....").of_session(b"today");
        let sealed = seal.close("here", b"message");
        assert_eq!(seal.open("here", &sealed), Some(&b"message"[..]));
        assert_eq!(seal.open("there", &sealed), None);
        assert_eq!(seal.of_session(b"yesterday").open("here", &sealed), None);
        assert_eq!(Seal::new(b"").of_session(b"today").open("here", &sealed), None);
        for byte in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[byte] ^= 1;
            assert_eq!(seal.open("here", &changed), None, "byte {byte}");
        }
        assert_eq!(seal.open("here", &sealed[..SEAL - 1]), None);
    }
}
