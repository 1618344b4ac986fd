//! How many of the routes that a group was sent are from whom.

use rustc_hash::FxHashMap;

use crate::rib::PeerId;

/// Counts by source. Routes of one source come in runs: a run is counted without looking anything up.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    counts: FxHashMap<PeerId, usize>,
    total: usize,
    /// The source that runs, with its count, which is not among the others.
    run: Option<(PeerId, usize)>,
}

impl Sources {
    pub(super) fn add(&mut self, source: PeerId) {
        *self.running(source) += 1;
        self.total += 1;
    }

    pub(super) fn remove(&mut self, source: PeerId) {
        let count = self.running(source);
        *count = count.saturating_sub(1);
        self.total = self.total.saturating_sub(1);
    }

    fn running(&mut self, source: PeerId) -> &mut usize {
        let (run, count) = self.run.get_or_insert((source, 0));
        if *run != source {
            if *count > 0 {
                self.counts.insert(*run, *count);
            }
            (*run, *count) = (source, 0);
        }
        if *count == 0 {
            *count = self.counts.remove(&source).unwrap_or(0);
        }
        count
    }

    /// All of them.
    pub(super) const fn total(&self) -> usize {
        self.total
    }

    /// Those from one source.
    pub(super) fn of(&self, source: PeerId) -> usize {
        match self.run {
            Some((run, count)) if run == source && count > 0 => count,
            _ => self.counts.get(&source).copied().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_counted_by_itself() {
        let mut sources = Sources::default();
        let [a, b] = [PeerId(1), PeerId(2)];
        for source in [a, a, b, a, b] {
            sources.add(source);
        }
        assert_eq!((sources.of(a), sources.of(b), sources.total()), (3, 2, 5));
        for source in [a, b, a, a] {
            sources.remove(source);
        }
        assert_eq!((sources.of(a), sources.of(b), sources.total()), (0, 1, 1));
        sources.add(b);
        assert_eq!((sources.of(a), sources.of(b), sources.of(PeerId(3))), (0, 2, 0));
    }
}
