//! A configuration in a recording: JSON, in which every secret is `***`, and then for each of them,
//! in order, which one it is. So a recording tells that two neighbors have the same key, or that a
//! key was changed, as the core notices such things, but not which key that is.

use rustc_hash::FxHashMap;

use super::codec::{Fields, Malformed, put_number, put_octets};
use crate::config::{Config, Password, PeerConfig};
use crate::wire::Reader;

/// The secrets of a recording, by the number that stands for them in it.
#[derive(Default)]
pub(super) struct Secrets(FxHashMap<String, u64>);

impl Secrets {
    fn number(&mut self, secret: &Password) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(secret.reveal().to_owned()).or_insert(next)
    }

    pub(super) fn encode(&mut self, config: &Config) -> serde_json::Result<Vec<u8>> {
        let mut out = Vec::new();
        put_octets(&mut out, &serde_json::to_vec(config)?);
        let peers = config.peers.iter().chain(config.listen_ranges.iter().map(|r| &r.peer));
        for secret in peers.flat_map(secrets) {
            put_number(&mut out, self.number(secret));
        }
        Ok(out)
    }
}

fn secrets(peer: &PeerConfig) -> impl Iterator<Item = &Password> {
    let keys = peer.tcp_ao.iter().flat_map(|ao| &ao.keys);
    peer.password.iter().chain(keys.map(|key| &key.key))
}

fn secrets_mut(peer: &mut PeerConfig) -> impl Iterator<Item = &mut Password> {
    let keys = peer.tcp_ao.iter_mut().flat_map(|ao| &mut ao.keys);
    peer.password.iter_mut().chain(keys.map(|key| &mut key.key))
}

/// The configuration, with a number in place of each secret; one that is valid.
pub(super) fn decode(octets: &[u8]) -> Result<Config, String> {
    let mut fields = Fields(Reader(octets));
    let json = fields.octets().map_err(str::to_owned)?;
    let mut config: Config =
        serde_json::from_slice(json).map_err(|error| format!("holds no configuration: {error}"))?;
    let mut number = || -> Result<Password, Malformed> {
        Ok(Password::new(format!("secret {}", fields.number()?)))
    };
    let ranges = config.listen_ranges.iter_mut().map(|range| &mut range.peer);
    for secret in config.peers.iter_mut().chain(ranges).flat_map(secrets_mut) {
        *secret = number()?;
    }
    fields.end()?;
    config.validate().map_err(|error| format!("holds a configuration that is refused: {error}"))?;
    Ok(config)
}
