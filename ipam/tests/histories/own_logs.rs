//! Nodes that answer from logs of their own.

use super::*;

impl World {
    /// strictAffinity is switched.
    pub(super) fn learn_strictness(&mut self) {
        // Each node learns it at a time of its own.
        let (n, strict) = (self.any(), self.random.random_bool(0.5));
        self.told(format!("n{n} learns that strictAffinity is {strict}"));
        let config = IpamConfig { strict_affinity: strict, ..IpamConfig::default() };
        self.cluster.config = Some(config.clone());
        self.machine(n).node.ipam.set_config(Some(config)).unwrap();
    }

    /// A node that Kubernetes deleted while it was cut off from the store gets no pods before it has
    /// reached the store again: what it held is others' (the limit of the local-first mode).
    pub(super) async fn may_start(&mut self, n: usize) -> bool {
        if !self.deposed.contains(&n) {
            return true;
        }
        let link = &self.machine(n).link;
        if link.is_cut() || link.is_dead() || !self.retakes(n).await {
            return false;
        }
        // It has read, too, what is left to it.
        let status = self.machine(n).node.ipam.status();
        if !status.ready || status.problem.is_some() {
            return false;
        }
        self.deposed.remove(&n);
        true
    }

    /// The power went off while the log was written: its last record is not whole.
    pub(super) fn tear(&mut self, disk: &TempDir) {
        let path = disk.path().join("ipam-log");
        let Ok(mut log) = std::fs::read(&path) else { return };
        // It is torn where it would have been written, and not behind the room that there is.
        let (room, used) =
            (log.len(), log.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1));
        log.truncate(used);
        let end = self.random.random_range(0..log.len());
        let record = log.clone();
        if self.random.random_bool(0.5) {
            log.extend(&record[..end.min(record.len() - 1)]);
        } else {
            log.extend(std::iter::repeat_n(0, end));
        }
        // The first frame is the log's beginning, whole: not what may be repeated.
        let whole = record.len();
        if log.len() > whole + 8 && is_whole(&log[whole..]) {
            log.truncate(whole + 8);
        }
        log.resize(log.len().max(room), 0);
        std::fs::write(&path, log).unwrap();
    }

    /// Waits until the store has everything.
    pub(super) async fn catch_up(&mut self) {
        for n in 0..self.machines.len() {
            let end = std::time::Instant::now() + PATIENCE;
            while self.machine(n).node.ipam.status().behind > 0 {
                assert!(std::time::Instant::now() < end, "the store stays behind n{n}");
                tokio::time::sleep(Duration::from_millis(2)).await;
                // A death that was to come may come now.
                self.bury().await;
            }
        }
    }
}

/// True if a log's frame begins here and is whole: its length fits.
fn is_whole(bytes: &[u8]) -> bool {
    let length = bytes.first_chunk().map_or(usize::MAX, |four| u32::from_le_bytes(*four) as usize);
    length.checked_add(8).is_some_and(|end| end <= bytes.len())
}
