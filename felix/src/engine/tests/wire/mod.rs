//! Random clusters once more, with real packets through a real kernel: what comes through is what the
//! evaluators say that are written from the description of the API alone.

mod bed;
mod frames;
mod hosts;
mod pods;
mod recipes;

use std::collections::BTreeSet;
use std::fmt::Write;

use proptest::prelude::*;

use self::bed::{At, Bed};
use self::frames::{Header, Part, packet};
use super::world::{ICMP, ICMPV6, UDP};

/// Flows whose packets are under way at once: fewer than a processor's backlog holds.
const WINDOW: usize = 64;

/// A flow and where its ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Flow {
    header: Header,
    from: At,
    to: At,
    /// Where answers go: by the way back, which may be another.
    back: At,
}

impl Flow {
    /// Who sends this part, and who should hear it as what.
    fn ends(&self, part: Part) -> (At, (At, Header)) {
        if part.is_back() {
            (self.to, (self.back, self.header.reply()))
        } else {
            (self.from, (self.to, self.header))
        }
    }
}

/// Sends this part of each flow; tells of each whether it came where it should, and fails if anything
/// came anywhere else.
fn send<'a>(
    bed: &mut Bed,
    part: Part,
    flows: impl IntoIterator<Item = &'a Flow>,
) -> Result<Vec<bool>, TestCaseError> {
    let flows: Vec<&Flow> = flows.into_iter().collect();
    let mut came = Vec::with_capacity(flows.len());
    for window in flows.chunks(WINDOW) {
        for flow in window {
            bed.send(flow.ends(part).0, &packet(flow.header, part));
        }
        let heard = bed.settle();
        let wanted: BTreeSet<(At, Header)> = window.iter().map(|flow| flow.ends(part).1).collect();
        let stray: Vec<_> = heard.difference(&wanted).collect();
        // The kernel tells of itself by ICMP.
        let of_flow = |(_, header): &&&(At, Header)| ![ICMP, ICMPV6].contains(&header.protocol);
        prop_assert!(!stray.iter().any(|it| of_flow(&it)), "where it does not belong: {stray:?}");
        came.extend(window.iter().map(|flow| heard.contains(&flow.ends(part).1)));
    }
    Ok(came)
}

/// Sends the first packets of flows and, of those that came, the answers and what ends a handshake, which have
/// to come, too, if the flows are `tracked`. Tells which came.
fn begin(bed: &mut Bed, flows: &[Flow], tracked: bool) -> Result<Vec<bool>, TestCaseError> {
    let came = send(bed, Part::First, flows)?;
    let begun = || flows.iter().zip(&came).filter(|(_, came)| **came).map(|(flow, _)| flow);
    if tracked {
        for part in [Part::Answer, Part::Third] {
            let of_part = |flow: &&Flow| {
                part == Part::Answer || ![UDP, ICMP, ICMPV6].contains(&flow.header.protocol)
            };
            let of_part: Vec<&Flow> = begun().filter(of_part).collect();
            let answered = send(bed, part, of_part.iter().copied())?;
            let lost: Vec<_> = of_part.iter().zip(answered).filter(|(_, came)| !came).collect();
            prop_assert!(lost.is_empty(), "{part:?} of an established flow: {lost:?}");
        }
    }
    Ok(came)
}

/// What came and what should have, where that differs.
fn compare(
    what: &str,
    flows: &[Flow],
    came: &[bool],
    wanted: &[bool],
) -> Result<(), TestCaseError> {
    let mut wrong = String::new();
    for ((flow, came), wanted) in flows.iter().zip(came).zip(wanted) {
        if came != wanted {
            writeln!(wrong, "{flow:?}: came {came}, should {wanted}").unwrap();
        }
    }
    prop_assert!(wrong.is_empty(), "{what}:\n{wrong}");
    Ok(())
}

/// Numbers by which a case chooses; the same for the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}
