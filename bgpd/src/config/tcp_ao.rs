//! TCP-AO (RFC 5925): keys that can be told apart, and of which several may be there at once.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Password;

/// How many keys a peer may have.
const KEYS: usize = 16;

/// The keys of a peer: its Master Key Tuples (RFC 5925 section 3.1). All of them are taken; we begin
/// with the first, and go on with the one that the peer asks for. The kernel does all that: Linux
/// 6.7 and later, with CONFIG_TCP_AO. Under another the peer stays down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TcpAo {
    /// 1 to 16, of different ids.
    pub keys: Vec<TcpAoKey>,
}

/// One Master Key Tuple.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TcpAoKey {
    /// The KeyID of what we send: the peer's `recv-id`.
    pub send_id: u8,
    /// The KeyID of what the peer sends: its `send-id`.
    pub recv_id: u8,
    /// How segments are signed.
    #[serde(default)]
    pub algorithm: TcpAoAlgorithm,
    /// The Master Key, 1 to 80 octets (what Linux takes). Never shown, nor serialized.
    pub key: Password,
}

/// Those that RFC 5926 has, with 96 bits of authentication code each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TcpAoAlgorithm {
    /// HMAC-SHA-1-96, with keys derived by KDF_HMAC_SHA1.
    #[default]
    #[serde(rename = "hmac-sha-1-96")]
    HmacSha1,
    /// AES-128-CMAC-96, with keys derived by KDF_AES_128_CMAC.
    #[serde(rename = "aes-128-cmac-96")]
    Aes128Cmac,
}

impl TcpAo {
    pub(super) fn validate(&self) -> Result<(), &'static str> {
        if !(1..=KEYS).contains(&self.keys.len()) {
            return Err("must have 1 to 16 keys");
        }
        if !self.keys.iter().all(|key| key.key.is_possible()) {
            return Err("a key must have 1 to 80 octets");
        }
        let ids = |id: fn(&TcpAoKey) -> u8| self.keys.iter().map(id).collect::<HashSet<_>>().len();
        if ids(|key| key.send_id) != self.keys.len() || ids(|key| key.recv_id) != self.keys.len() {
            return Err("no two keys may have the same send-id, or the same recv-id");
        }
        Ok(())
    }
}
