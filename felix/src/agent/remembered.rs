//! The BGP configuration of before, for an agent that restarts while the source is away.
//!
//! Its peers keep its routes for a restart's time only (RFC 4724, 120 s unless configured); an API
//! server can be away for longer. A file, `bgp.json` in the state directory, in the daemon's own
//! format; readable by root alone, for it holds the keys of sessions. Not brought to the disk: after a
//! boot there is nothing to keep alive.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use bgpd::Config;
use serde_json::Value;

use crate::peering::Local;

/// Longest that the source is waited for; less where peers are asked for less patience.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the configuration is kept.
#[derive(Debug)]
pub(super) struct Memory(PathBuf);

impl Memory {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// What was kept, if it can be read and makes sense.
    pub(super) fn load(&self) -> Option<Remembered> {
        let read = || -> Result<Config, String> {
            let bytes = fs::read(&self.0).map_err(|error| error.to_string())?;
            let config: Config =
                serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            config.validate().map_err(|error| error.to_string())?;
            Ok(config)
        };
        match read() {
            Ok(config) => Some(Remembered(config)),
            Err(reason) => {
                let path = self.0.display();
                tracing::info!(%path, reason, "no BGP configuration of before");
                None
            }
        }
    }

    /// Keeps a configuration for the next start.
    ///
    /// # Errors
    /// It could not be written; what was kept before still is.
    pub(super) fn store(&self, config: &Config) -> io::Result<()> {
        let mut json = serde_json::to_value(config)?;
        let peers = json.get_mut("peers").and_then(Value::as_array_mut);
        for (peer, config) in peers.into_iter().flatten().zip(&config.peers) {
            if let Some(password) = &config.password {
                peer["password"] = password.reveal().into();
            }
        }
        let new = self.0.with_extension("json.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&json)?)?;
        fs::rename(new, &self.0)
    }
}

/// The configuration of before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remembered(Config);

impl Remembered {
    /// How long to wait for the source before this is used.
    pub(super) fn patience(&self) -> Duration {
        let Config { graceful_restart, peers, .. } = &self.0;
        let asked = peers.iter().filter_map(|peer| peer.restart_time);
        let shortest = asked.fold(graceful_restart.restart_time, u16::min);
        // Peers have to be met again, and told everything, in what is left.
        PATIENCE.min(Duration::from_secs(shortest.into()) / 3)
    }

    /// The configuration as it can be used now: without the blocks and addresses that are no longer
    /// this node's. Those that are new wait for the source, which may say that they stay inside.
    pub(super) fn config(&self, local: &Local) -> Config {
        let mut config = self.0.clone();
        config.graceful_restart.restarting = local.restarting;
        config.networks.retain(|network| {
            let prefix = network.prefix;
            let borrowed = prefix.prefix_len() == prefix.max_prefix_len()
                && local.borrowed.contains(&prefix.addr());
            local.blocks.contains(&prefix) || borrowed
        });
        config
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use bgpd::config::Password;
    use bgpd::{Network, PeerConfig};

    use super::*;

    fn config() -> Config {
        let mut config = Config::new("10.0.0.1".parse().unwrap(), 65001);
        let mut tor = PeerConfig::new("tor1", "10.0.0.254".parse().unwrap(), 65100);
        tor.password = Some(Password::new("s3cret"));
        config.peers = vec![tor, PeerConfig::new("tor2", "fd00::254".parse().unwrap(), 65100)];
        let networks = ["10.244.0.0/26", "10.244.7.0/26", "10.244.9.9/32", "fd00:1::/122"];
        config.networks = networks.map(|net| Network::new(net.parse().unwrap())).to_vec();
        config
    }

    #[test]
    fn what_was_kept_is_read_back_by_root_alone_and_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bgp.json");
        let memory = Memory::at(path.clone());
        assert_eq!(memory.load(), None);
        memory.store(&Config::new("10.0.0.9".parse().unwrap(), 1)).unwrap();
        memory.store(&config()).unwrap();
        assert_eq!(memory.load(), Some(Remembered(config())));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        // What cannot be kept leaves what was.
        fs::create_dir(path.with_extension("json.new")).unwrap();
        memory.store(&Config::new("10.0.0.9".parse().unwrap(), 1)).unwrap_err();
        assert_eq!(memory.load(), Some(Remembered(config())));
        for damage in ["", "{\"asn\": 65001", "{\"asn\": 65001, \"router-id\": \"0.0.0.0\"}"] {
            fs::write(&path, damage).unwrap();
            assert_eq!(memory.load(), None, "{damage:?}");
        }
    }

    #[test]
    fn only_what_is_still_this_nodes_is_announced() {
        let local = Local {
            blocks: ["10.244.0.0/26", "fd00:1::/122", "10.244.8.0/26"]
                .map(|net| net.parse().unwrap())
                .into(),
            borrowed: ["10.244.9.9".parse().unwrap()].into(),
            restarting: true,
            ..Local::default()
        };
        let now = Remembered(config()).config(&local);
        let announced: Vec<String> =
            now.networks.iter().map(|network| network.prefix.to_string()).collect();
        assert_eq!(announced, ["10.244.0.0/26", "10.244.9.9/32", "fd00:1::/122"]);
        assert!(now.graceful_restart.restarting);
        assert_eq!(now.peers, config().peers);
    }

    #[test]
    fn impatient_peers_are_met_in_time() {
        let mut remembered = Remembered(config());
        assert_eq!(remembered.patience(), Duration::from_secs(10));
        remembered.0.graceful_restart.restart_time = 6;
        assert_eq!(remembered.patience(), Duration::from_secs(2));
        remembered.0.peers[1].restart_time = Some(3);
        assert_eq!(remembered.patience(), Duration::from_secs(1));
    }
}
