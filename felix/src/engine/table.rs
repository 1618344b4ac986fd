//! Flattening: an ordered list of rules with allow, deny and pass becomes one final verdict for
//! each protocol and its ports, and that becomes the fewest map elements the kernel's lookup order
//! allows.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use crate::model::{Decider, Flow, Traffic, Value, Verdict};

/// Ranges of up to this many ports become one element a port: a hash lookup, and cheap to change.
/// The kernel's range maps (pipapo) are neither.
const EXPANDED_PORTS: u32 = 64;
/// What one range costs beside single ports when choosing what to spell out.
const RANGE_COST: u32 = EXPANDED_PORTS + 1;

/// Every port there is.
pub(super) const ALL_PORTS: (u16, u16) = (0, u16::MAX);

/// What a verdict depends on besides the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// IP protocol number.
    pub(super) protocol: u8,
    /// The source port, if the protocol has one.
    pub(super) source: u16,
    /// As in [`crate::model::Flow`].
    pub(super) port: u16,
}

impl Header {
    /// Of a flow's first packet.
    pub(super) fn of(flow: &Flow) -> Self {
        Self { protocol: flow.protocol, source: flow.source_port, port: flow.destination_port }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ruling {
    pub(super) verdict: Verdict,
    /// It is logged before.
    pub(super) log: bool,
    /// Who decides, where packets are counted.
    pub(super) by: Decider,
}

impl Ruling {
    /// What nothing decides. The first of those that are equally good for a protocol.
    pub(super) const DENY: Self = Self::new(Verdict::Deny, false);
    /// All that there are where nothing is counted.
    const ALL: [Self; 6] = [
        Self::DENY,
        Self::new(Verdict::Allow, false),
        Self::new(Verdict::Deny, true),
        Self::new(Verdict::Allow, true),
        Self::new(Verdict::Accept, false),
        Self::new(Verdict::Accept, true),
    ];

    /// Where nothing is counted.
    pub(super) const fn new(verdict: Verdict, log: bool) -> Self {
        Self { verdict, log, by: Decider::NOBODY }
    }
}

impl From<Ruling> for Value {
    fn from(ruling: Ruling) -> Self {
        let Ruling { verdict, log, by } = ruling;
        match (by, log) {
            (Decider::NOBODY, true) => Self::Logged(verdict),
            (Decider::NOBODY, false) => Self::Verdict(verdict),
            (by, log) => Self::Counted { verdict, log, by },
        }
    }
}

/// The final verdict on every packet to or from peers of one class, in the shape of the kernel's
/// maps. Equal tables mean that the same becomes of all packets, and the other way round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Table {
    /// What differs from `any`, in key order, most specific kind first.
    entries: Box<[(Traffic, Ruling)]>,
    /// Of everything else.
    any: Ruling,
}

impl Table {
    /// The same verdict on everything.
    pub(super) fn of_all(verdict: Verdict) -> Self {
        Self { entries: Box::default(), any: Ruling::new(verdict, false) }
    }

    /// The verdict that the kernel finds.
    pub(super) fn verdict(&self, header: Header) -> Verdict {
        self.find(header).1.verdict
    }

    /// What differs from the rest, in key order.
    pub(super) fn entries(&self) -> &[(Traffic, Ruling)] {
        &self.entries
    }

    /// The element that the kernel finds: by port, then range, then protocol, then the rest.
    pub(super) fn find(&self, header: Header) -> (Traffic, Ruling) {
        let Header { protocol, source, port } = header;
        let exact = |traffic| {
            let at = self.entries.binary_search_by_key(&traffic, |entry| entry.0).ok()?;
            Some(self.entries[at])
        };
        let range = || {
            let after = self
                .entries
                .partition_point(|entry| entry.0 <= Traffic::Ports(protocol, port, u16::MAX));
            match self.entries[..after].last()? {
                found @ (Traffic::Ports(p, _, last), _) if *p == protocol && port <= *last => {
                    Some(*found)
                }
                _ => None,
            }
        };
        let pair = || {
            let from = Traffic::Pairs(protocol, (0, 0), (0, 0));
            let from = self.entries.partition_point(|entry| entry.0 < from);
            let pairs = self.entries[from..].iter().map_while(|entry| match entry.0 {
                Traffic::Pairs(of, ports, sources) if of == protocol => {
                    Some((entry, ports, sources))
                }
                _ => None,
            });
            let mut has = pairs.filter(|(_, ports, sources)| {
                (ports.0..=ports.1).contains(&port) && (sources.0..=sources.1).contains(&source)
            });
            has.next().map(|(entry, ..)| *entry)
        };
        let by_port = || {
            if has_ports(protocol) {
                exact(Traffic::Port(protocol, port)).or_else(range).or_else(pair)
            } else {
                None
            }
        };
        let found = by_port().or_else(|| exact(Traffic::Protocol(protocol)));
        found.unwrap_or((Traffic::Any, self.any))
    }

    /// The elements, ending with that of everything else.
    pub(super) fn all_elements(&self) -> impl Iterator<Item = (Traffic, Ruling)> {
        self.entries.iter().copied().chain([(Traffic::Any, self.any)])
    }

    /// The same without what would be so anyway: what no element matches is denied by the kernel.
    pub(super) fn needed_elements(&self) -> impl Iterator<Item = (Traffic, Ruling)> {
        let any = (self.any != Ruling::DENY).then_some((Traffic::Any, self.any));
        self.entries.iter().copied().chain(any)
    }
}

/// Whether packets of this protocol carry a destination port, or a type and a code in its place,
/// that the kernel looks at.
pub(super) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 1 | 6 | 17 | 58 | 132)
}

/// What is known so far of some traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing; rules before this one do not apply any more (a rule passed it on). Whether a rule
    /// has logged it.
    Open { from: u32, log: bool },
    /// What becomes of it.
    Decided(Ruling),
}

/// What a matching rule does to traffic that is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Decides.
    Decide(Verdict),
    /// Goes on with this rule, the first of the next tier.
    SkipTo(u32),
    /// Logs it and goes on.
    Log,
}

impl State {
    fn step(&mut self, rule: u32, step: Step, by: Decider) {
        if let Self::Open { from, log } = *self
            && from <= rule
        {
            *self = match step {
                Step::Decide(verdict) => Self::Decided(Ruling { verdict, log, by }),
                Step::SkipTo(from) => Self::Open { from, log },
                Step::Log => Self::Open { from, log: true },
            };
        }
    }

    /// What no rule decided is denied.
    fn ruling(self) -> Ruling {
        match self {
            Self::Decided(ruling) => ruling,
            Self::Open { log, .. } => Ruling::new(Verdict::Deny, log),
        }
    }
}

/// Inclusive ranges of destination ports that cover 0 to 65535 in order.
type Segments = SmallVec<[(u16, u16, State); 4]>;
/// The same of source ports, each with what is known of packets from there.
type Bands = SmallVec<[((u16, u16), Segments); 1]>;

/// Builds a [`Table`] from rules given in their order.
#[derive(Debug)]
pub(super) struct Flattener<'a> {
    protocols: BTreeMap<u8, Bands>,
    /// Of the protocols that no rule has named.
    other: State,
    /// Who decides by which rule; empty where nothing is counted.
    deciders: &'a [Decider],
}

impl<'a> Flattener<'a> {
    /// Nothing decided. What is decided differently is told apart; with `deciders`, one for each rule,
    /// also what is decided by different ones of them.
    pub(super) fn new(deciders: &'a [Decider]) -> Self {
        let other = State::Open { from: 0, log: false };
        Self { protocols: BTreeMap::new(), other, deciders }
    }

    fn by(&self, rule: u32) -> Decider {
        self.deciders.get(rule as usize).copied().unwrap_or_default()
    }

    /// Applies rule number `rule` to all traffic. True if everything is decided now.
    pub(super) fn all_traffic(&mut self, rule: u32, step: Step) -> bool {
        self.all_but(rule, step, &[])
    }

    /// Applies rule number `rule` to all protocols but these. True if everything is decided now.
    pub(super) fn all_but(&mut self, rule: u32, step: Step, except: &[u8]) -> bool {
        for protocol in except {
            // What is left out goes on with what is known of it so far.
            self.bands(*protocol);
        }
        let by = self.by(rule);
        self.other.step(rule, step, by);
        let mut open = matches!(self.other, State::Open { .. });
        for (protocol, bands) in &mut self.protocols {
            for (_, _, state) in bands.iter_mut().flat_map(|(_, segments)| segments) {
                if !except.contains(protocol) {
                    state.step(rule, step, by);
                }
                open |= matches!(state, State::Open { .. });
            }
        }
        !open
    }

    /// Applies rule number `rule` to a whole protocol.
    pub(super) fn protocol(&mut self, rule: u32, step: Step, protocol: u8) {
        let by = self.by(rule);
        for (_, _, state) in self.bands(protocol).iter_mut().flat_map(|(_, segments)| segments) {
            state.step(rule, step, by);
        }
    }

    /// Applies rule number `rule` to what goes to one inclusive range of ports of a protocol from
    /// another.
    pub(super) fn ports(
        &mut self,
        rule: u32,
        step: Step,
        protocol: u8,
        ports: (u16, u16),
        sources: (u16, u16),
    ) {
        let by = self.by(rule);
        let bands = self.bands(protocol);
        if sources != ALL_PORTS {
            cut_bands(bands, sources);
        }
        for (band, segments) in bands {
            if sources.0 <= band.0 && band.1 <= sources.1 {
                apply(segments, rule, (step, by), ports);
            }
        }
    }

    fn bands(&mut self, protocol: u8) -> &mut Bands {
        let other = self.other;
        self.protocols.entry(protocol).or_insert_with(|| {
            let all = [(ALL_PORTS.0, ALL_PORTS.1, other)].into_iter().collect();
            [(ALL_PORTS, all)].into_iter().collect()
        })
    }

    /// The result.
    pub(super) fn finish(self) -> Table {
        let any = self.other.ruling();
        let mut entries = Vec::new();
        for (protocol, bands) in self.protocols {
            spell_out(protocol, &ends(&bands), any, &mut entries);
        }
        entries.sort_unstable_by_key(|entry| entry.0);
        Table { entries: entries.into(), any }
    }
}

/// Has bands begin and end where these source ports do.
fn cut_bands(bands: &mut Bands, sources: (u16, u16)) {
    let mut cut = Bands::new();
    for (band, segments) in bands.drain(..) {
        let (low, high) = (band.0.max(sources.0), band.1.min(sources.1));
        if low > high {
            cut.push((band, segments));
            continue;
        }
        if band.0 < low {
            cut.push(((band.0, low - 1), segments.clone()));
        }
        if high < band.1 {
            cut.push(((low, high), segments.clone()));
            cut.push(((high + 1, band.1), segments));
        } else {
            cut.push(((low, high), segments));
        }
    }
    *bands = cut;
}

/// Applies a rule to an inclusive range of destination ports. Looks at the segments in it only: a rule may
/// name a thousand ports.
fn apply(segments: &mut Segments, rule: u32, (step, by): (Step, Decider), ports: (u16, u16)) {
    let from = segments.partition_point(|segment| segment.1 < ports.0);
    let to = segments.partition_point(|segment| segment.0 <= ports.1);
    let Some(concerned) = segments.get(from..to) else { return };
    let mut cut = Segments::new();
    for &(first, last, state) in concerned {
        let (low, high) = (first.max(ports.0), last.min(ports.1));
        let mut inside = state;
        inside.step(rule, step, by);
        if inside == state {
            cut.push((first, last, state));
            continue;
        }
        if first < low {
            cut.push((first, low - 1, state));
        }
        cut.push((low, high, inside));
        if high < last {
            cut.push((high + 1, last, state));
        }
    }
    segments.drain(from..to);
    segments.insert_many(from, cut);
}

/// What becomes of packets to some ports.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The same wherever they come from.
    Same(Ruling),
    /// That depends on the source port: ranges that cover all in order, neighbours with different
    /// rulings.
    BySource(Vec<((u16, u16), Ruling)>),
}

/// Ranges of destination ports that cover all in order, neighbours with different ends. It depends
/// on the rulings alone, not on how the bands were cut.
fn ends(bands: &Bands) -> Vec<(u16, u16, End)> {
    let mut starts: Vec<u16> =
        bands.iter().flat_map(|(_, segments)| segments.iter().map(|segment| segment.0)).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut ends: Vec<(u16, u16, End)> = Vec::new();
    for (number, first) in starts.iter().enumerate() {
        let last = starts.get(number + 1).map_or(u16::MAX, |next| next - 1);
        let mut by_source: Vec<((u16, u16), Ruling)> = Vec::new();
        for (band, segments) in bands {
            // Segments cover every port: there is one that does not end before this.
            let at = segments.partition_point(|segment| segment.1 < *first);
            let ruling = segments.get(at).map_or(Ruling::DENY, |segment| segment.2.ruling());
            match by_source.last_mut() {
                Some(before) if before.1 == ruling => before.0.1 = band.1,
                _ => by_source.push((*band, ruling)),
            }
        }
        let end = match *by_source {
            [(_, ruling)] => End::Same(ruling),
            _ => End::BySource(by_source),
        };
        match ends.last_mut() {
            Some(before) if before.2 == end => before.1 = last,
            _ => ends.push((*first, last, end)),
        }
    }
    ends
}

/// Appends the elements of one protocol: one ruling for the protocol, left out if it is that of
/// everything else, and the ports that differ from it. The ruling is the one that leaves least to
/// spell out, of several the first.
fn spell_out(
    protocol: u8,
    ends: &[(u16, u16, End)],
    any: Ruling,
    entries: &mut Vec<(Traffic, Ruling)>,
) {
    let size = |first: u16, last: u16| u32::from(last) - u32::from(first) + 1;
    let cost = |base: Ruling| {
        let ports: u32 = ends
            .iter()
            .map(|(first, last, end)| match end {
                End::Same(ruling) if *ruling == base => 0,
                End::Same(_) => size(*first, *last).min(RANGE_COST),
                End::BySource(ranges) => {
                    ranges.iter().filter(|range| range.1 != base).map(|_| RANGE_COST).sum()
                }
            })
            .sum();
        ports + u32::from(base != any)
    };
    let base = candidates(ends, any).into_iter().min_by_key(|base| cost(*base)).unwrap_or(any);
    if base != any {
        entries.push((Traffic::Protocol(protocol), base));
    }
    for (first, last, end) in ends {
        let (first, last) = (*first, *last);
        match end {
            End::Same(ruling) if *ruling == base => {}
            End::Same(ruling) if size(first, last) <= EXPANDED_PORTS => {
                let ports = (first..=last).map(|port| Traffic::Port(protocol, port));
                entries.extend(ports.map(|port| (port, *ruling)));
            }
            End::Same(ruling) => entries.push((Traffic::Ports(protocol, first, last), *ruling)),
            End::BySource(ranges) => {
                let ranges = ranges.iter().filter(|range| range.1 != base);
                entries.extend(ranges.map(|(sources, ruling)| {
                    (Traffic::Pairs(protocol, (first, last), *sources), *ruling)
                }));
            }
        }
    }
}

/// The rulings that may be that of a whole protocol. Where packets are counted they are as many as
/// those who decide: the ones in use.
fn candidates(ends: &[(u16, u16, End)], any: Ruling) -> SmallVec<[Ruling; 6]> {
    if any.by == Decider::NOBODY {
        return Ruling::ALL.into();
    }
    let in_use = ends.iter().flat_map(|(_, _, end)| match end {
        End::Same(ruling) => vec![*ruling],
        End::BySource(ranges) => ranges.iter().map(|range| range.1).collect(),
    });
    let mut found: SmallVec<[Ruling; 6]> = [any].into_iter().chain(in_use).collect();
    let mut seen = FxHashSet::default();
    found.retain(|ruling| seen.insert(*ruling));
    found
}

#[cfg(test)]
mod tests;
