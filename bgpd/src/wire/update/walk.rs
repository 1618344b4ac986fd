//! The walk over an UPDATE's attributes: what is wrong with each (RFC 7606), and the block of those
//! that are kept.

use std::net::{IpAddr, Ipv4Addr};

use smallvec::SmallVec;

use super::{AttributeError, Confederation, Context, Disposition, Reach, Unreach, reset};
use crate::wire::attributes::{AttributeBlock, NextHop, flag, kind, push};
use crate::wire::prefix::is_usable_next_hop;
use crate::wire::{AS_TRANS, Family, Notification, Prefixes, Reader, path};

/// The walk over an UPDATE's attributes.
pub(super) struct Walk<'a> {
    context: Context,
    /// Which types there were, a bit each.
    seen: [u64; 4],
    /// Which of them more than once: that is said once, however many there are.
    repeated: [u64; 4],
    pub(super) kept: SmallVec<[(u8, u8, &'a [u8]); 12]>,
    pub(super) next_hop: Option<Ipv4Addr>,
    pub(super) reach: Option<Reach<'a>>,
    pub(super) unreach: Option<Unreach<'a>>,
    /// MP_REACH_NLRI announces something, be it in a family that is ignored or cannot be read.
    pub(super) announces: bool,
    /// There are attributes other than MP_UNREACH_NLRI.
    pub(super) others: bool,
    as4_path: Option<Vec<u8>>,
    as4_aggregator: Option<[u8; 8]>,
    pub(super) errors: SmallVec<[AttributeError; 1]>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            seen: [0; 4],
            repeated: [0; 4],
            kept: SmallVec::new(),
            next_hop: None,
            reach: None,
            unreach: None,
            announces: false,
            others: false,
            as4_path: None,
            as4_aggregator: None,
            errors: SmallVec::new(),
        }
    }

    fn error(&mut self, kind: u8, disposition: Disposition, reason: &'static str) {
        self.errors.push(AttributeError { kind, disposition, reason });
    }

    fn withdraw(&mut self, kind: u8, reason: &'static str) {
        self.error(kind, Disposition::TreatAsWithdraw, reason);
    }

    fn discard(&mut self, kind: u8, reason: &'static str) {
        self.error(kind, Disposition::DiscardAttribute, reason);
    }

    pub(super) fn run(&mut self, octets: &'a [u8]) -> Result<(), Notification> {
        let mut reader = Reader(octets);
        while !reader.is_empty() {
            let header = reader.array::<2>().and_then(|[flags, kind]| {
                let len = if flags & flag::EXTENDED_LENGTH == 0 {
                    usize::from(reader.u8()?)
                } else {
                    usize::from(reader.u16()?)
                };
                Some((flags & !flag::EXTENDED_LENGTH, kind, len))
            });
            let Some((flags, kind, value)) =
                header.and_then(|(flags, kind, len)| Some((flags, kind, reader.take(len)?)))
            else {
                // RFC 7606 section 4: the NLRI field is still found by the total length.
                self.others = true;
                self.withdraw(0, "an attribute runs past the end of the attributes");
                return Ok(());
            };
            self.others |= kind != kind::MP_UNREACH_NLRI;
            let (word, bit) = (usize::from(kind / 64), 1 << (kind % 64));
            if self.seen[word] & bit != 0 {
                if matches!(kind, kind::MP_REACH_NLRI | kind::MP_UNREACH_NLRI) {
                    return Err(reset(1, &[], "MP_REACH_NLRI or MP_UNREACH_NLRI appears twice"));
                }
                if self.repeated[word] & bit == 0 {
                    self.repeated[word] |= bit;
                    self.discard(kind, "the attribute appears more than once");
                }
                continue;
            }
            self.seen[word] |= bit;
            self.attribute(flags, kind, value)?;
        }
        Ok(())
    }

    fn attribute(&mut self, flags: u8, kind: u8, value: &'a [u8]) -> Result<(), Notification> {
        const CLASS: u8 = flag::OPTIONAL | flag::TRANSITIVE;
        const WELL_KNOWN: u8 = flag::TRANSITIVE;
        const NON_TRANSITIVE: u8 = flag::OPTIONAL;
        let class = match kind {
            kind::ORIGIN..=kind::NEXT_HOP | kind::LOCAL_PREF | kind::ATOMIC_AGGREGATE => WELL_KNOWN,
            kind::MULTI_EXIT_DISC
            | kind::ORIGINATOR_ID
            | kind::CLUSTER_LIST
            | kind::MP_REACH_NLRI
            | kind::MP_UNREACH_NLRI => NON_TRANSITIVE,
            kind::AGGREGATOR
            | kind::COMMUNITIES
            | kind::EXTENDED_COMMUNITIES
            | kind::AS4_PATH
            | kind::AS4_AGGREGATOR
            | kind::IPV6_EXTENDED_COMMUNITIES
            | kind::LARGE_COMMUNITIES
            | kind::ONLY_TO_CUSTOMER => CLASS,
            _ => return self.unknown(flags, kind, value),
        };
        // External peers may not send these: ignored whatever they look like.
        let internal_only =
            matches!(kind, kind::LOCAL_PREF | kind::ORIGINATOR_ID | kind::CLUSTER_LIST);
        let member = self.context.confederation == Confederation::OtherMember;
        if internal_only && (self.context.external || (member && kind != kind::LOCAL_PREF)) {
            self.discard(kind, "the attribute came from an external peer");
            return Ok(());
        }
        // RFC 6793 section 4.1: whatever they look like.
        let of_old_speakers = matches!(kind, kind::AS4_PATH | kind::AS4_AGGREGATOR);
        if of_old_speakers && self.context.four_octet_as {
            self.discard(kind, "the attribute came from a peer with four-octet AS numbers");
            return Ok(());
        }
        if kind == kind::MP_REACH_NLRI {
            self.mp_reach(value)?;
        } else if kind == kind::MP_UNREACH_NLRI {
            self.mp_unreach(value)?;
        }
        if flags & CLASS != class {
            // RFC 7606 section 3 (c): also where a wrong length would mean less.
            self.withdraw(kind, "the Optional or Transitive flag is wrong");
            return Ok(());
        }
        let partial = if class == CLASS { flags & flag::PARTIAL } else { 0 };
        self.value(kind, class | partial, value);
        Ok(())
    }

    /// RFC 7606 section 7, attribute by attribute.
    fn value(&mut self, kind: u8, flags: u8, value: &'a [u8]) {
        let multiple = |of: usize| !value.is_empty() && value.len().is_multiple_of(of);
        let as4 = self.context.four_octet_as;
        match kind {
            kind::ORIGIN if value.len() != 1 || value[0] > 2 => {
                self.withdraw(kind, "ORIGIN has a wrong length or an undefined value");
            }
            kind::NEXT_HOP => match <[u8; 4]>::try_from(value) {
                Ok(octets) => {
                    let addr = Ipv4Addr::from(octets);
                    self.next_hop = Some(addr);
                    if !is_usable_next_hop(&IpAddr::V4(addr)) {
                        self.withdraw(kind, "NEXT_HOP is not a unicast address");
                    }
                }
                Err(_) => self.withdraw(kind, "NEXT_HOP has a wrong length"),
            },
            kind::MULTI_EXIT_DISC
            | kind::LOCAL_PREF
            | kind::ORIGINATOR_ID
            | kind::ONLY_TO_CUSTOMER
                if value.len() != 4 =>
            {
                self.withdraw(kind, "the attribute must have 4 octets");
            }
            kind::ATOMIC_AGGREGATE if !value.is_empty() => {
                self.discard(kind, "ATOMIC_AGGREGATE must be empty");
            }
            kind::AGGREGATOR => match aggregator(value, as4) {
                Some(asn) if asn != 0 => self.kept.push((kind, flags, value)),
                Some(_) => self.discard(kind, "AGGREGATOR holds AS 0"),
                None => self.discard(kind, "AGGREGATOR has a wrong length"),
            },
            kind::COMMUNITIES | kind::CLUSTER_LIST if !multiple(4) => {
                self.withdraw(kind, "the length is not a multiple of 4 octets above 0");
            }
            kind::EXTENDED_COMMUNITIES if !multiple(8) => {
                self.withdraw(kind, "the length is not a multiple of 8 octets above 0");
            }
            kind::IPV6_EXTENDED_COMMUNITIES if !multiple(20) => {
                self.withdraw(kind, "the length is not a multiple of 20 octets above 0");
            }
            kind::LARGE_COMMUNITIES if !multiple(12) => {
                self.withdraw(kind, "the length is not a multiple of 12 octets above 0");
            }
            kind::AS4_PATH => {
                let mut path = Vec::new();
                match path::normalise_as4(value, &mut path) {
                    Ok(()) => self.as4_path = Some(path),
                    Err(_) => self.discard(kind, "AS4_PATH is malformed"),
                }
            }
            kind::AS4_AGGREGATOR => match <[u8; 8]>::try_from(value) {
                Ok(octets) if octets[..4] != [0; 4] => self.as4_aggregator = Some(octets),
                _ => self.discard(kind, "AS4_AGGREGATOR has a wrong length or AS 0"),
            },
            kind::MP_REACH_NLRI | kind::MP_UNREACH_NLRI => {}
            _ => self.kept.push((kind, flags, value)),
        }
    }

    /// Unknown optional attributes: transitive ones travel on with the Partial bit, others end
    /// here (RFC 4271 section 9).
    fn unknown(&mut self, flags: u8, kind: u8, value: &'a [u8]) -> Result<(), Notification> {
        if flags & flag::OPTIONAL == 0 {
            let mut data: SmallVec<[u8; 16]> = SmallVec::from_slice(&[flags, kind]);
            data.extend(value.iter().take(12).copied());
            return Err(reset(2, &data, "an unknown attribute says it is well-known"));
        }
        if flags & flag::TRANSITIVE != 0 {
            let flags = flag::OPTIONAL | flag::TRANSITIVE | flag::PARTIAL;
            self.kept.push((kind, flags, value));
        }
        Ok(())
    }

    fn disable(&mut self, kind: u8, family: Family, reason: &'static str) {
        self.error(kind, Disposition::DisableFamily(family), reason);
    }

    fn mp_reach(&mut self, value: &'a [u8]) -> Result<(), Notification> {
        const KIND: u8 = kind::MP_REACH_NLRI;
        let mut reader = Reader(value);
        let (Some(afi), Some(safi)) = (reader.u16(), reader.u8()) else {
            return Err(reset(9, &[], "MP_REACH_NLRI is too short to name its family"));
        };
        let next_hop = reader.u8().and_then(|n| reader.take(usize::from(n)));
        let reserved = reader.u8();
        let nlri = reader.0;
        self.announces = next_hop.is_none() || reserved.is_none() || !nlri.is_empty();
        let family = Family::from_wire(afi, safi);
        let Some(family) = family.filter(|f| self.context.families.contains(*f)) else {
            return Ok(());
        };
        let (Some(next_hop), Some(_)) = (next_hop, reserved) else {
            self.disable(KIND, family, "the next hop runs past the end of MP_REACH_NLRI");
            return Ok(());
        };
        let parsed = match (family, next_hop.len()) {
            (Family::Ipv4Unicast, 4) => {
                next_hop.first_chunk::<4>().map(|a| NextHop::new(Ipv4Addr::from(*a).into()))
            }
            (Family::Ipv4Unicast, 16 | 32) if !self.context.extended_next_hop => None,
            (_, 16 | 32) => next_hop
                .split_first_chunk::<16>()
                .map(|(global, rest)| NextHop::from_v6(*global, rest.first_chunk::<16>().copied())),
            _ => None,
        };
        let Some(next_hop) = parsed else {
            self.disable(KIND, family, "the next hop's length does not fit the family");
            return Ok(());
        };
        if nlri.is_empty() {
            return Ok(());
        }
        let add_path = self.context.add_path.contains(family);
        let reach = match family {
            Family::Ipv4Unicast => Prefixes::parse(nlri, add_path).map(|p| Reach::V4(next_hop, p)),
            Family::Ipv6Unicast => Prefixes::parse(nlri, add_path).map(|p| Reach::V6(next_hop, p)),
        };
        if reach.is_none() {
            self.disable(KIND, family, "a prefix in MP_REACH_NLRI cannot be delimited");
        } else if !is_usable_next_hop(&next_hop.addr) {
            self.withdraw(KIND, "the next hop is not a unicast address");
        }
        self.reach = reach;
        Ok(())
    }

    fn mp_unreach(&mut self, value: &'a [u8]) -> Result<(), Notification> {
        let mut reader = Reader(value);
        let (Some(afi), Some(safi)) = (reader.u16(), reader.u8()) else {
            return Err(reset(9, &[], "MP_UNREACH_NLRI is too short to name its family"));
        };
        let family = Family::from_wire(afi, safi);
        let Some(family) = family.filter(|f| self.context.families.contains(*f)) else {
            return Ok(());
        };
        let add_path = self.context.add_path.contains(family);
        self.unreach = match family {
            Family::Ipv4Unicast => Prefixes::parse(reader.0, add_path).map(Unreach::V4),
            Family::Ipv6Unicast => Prefixes::parse(reader.0, add_path).map(Unreach::V6),
        };
        if self.unreach.is_none() {
            let reason = "a prefix in MP_UNREACH_NLRI cannot be delimited";
            self.disable(kind::MP_UNREACH_NLRI, family, reason);
        }
        Ok(())
    }

    /// With all attributes seen and something announced: mandatory ones, AS number width, and
    /// the block in its one form.
    pub(super) fn finish(&mut self, needs_next_hop: bool, block: &mut AttributeBlock) {
        if !needs_next_hop {
            // RFC 4760 section 3: beside MP_REACH_NLRI alone it is ignored.
            self.errors.retain(|error| error.kind != kind::NEXT_HOP);
        }
        self.as_path(block);
        let has = |walk: &Self, kind: u8| walk.kept.iter().any(|(k, ..)| *k == kind);
        let complained = |walk: &Self, kind: u8| walk.errors.iter().any(|e| e.kind == kind);
        if !has(self, kind::ORIGIN) && !complained(self, kind::ORIGIN) {
            self.withdraw(kind::ORIGIN, "ORIGIN is missing");
        }
        if needs_next_hop && self.next_hop.is_none() && !complained(self, kind::NEXT_HOP) {
            self.withdraw(kind::NEXT_HOP, "NEXT_HOP is missing");
        }
        if !self.context.external
            && self.context.confederation != Confederation::OtherMember
            && !has(self, kind::LOCAL_PREF)
            && !complained(self, kind::LOCAL_PREF)
        {
            self.withdraw(kind::LOCAL_PREF, "LOCAL_PREF is missing from an internal peer");
        }
        let four_octets = self.four_octet_aggregator();
        if !self.kept.is_sorted_by_key(|(kind, ..)| *kind) {
            self.kept.sort_by_key(|(kind, ..)| *kind);
        }
        for (kind, flags, value) in &self.kept {
            match (*kind, &four_octets) {
                (kind::AS_PATH, _) => push(&mut block.bytes, *flags, *kind, &block.scratch),
                (kind::AGGREGATOR, Some(aggregator)) => {
                    push(&mut block.bytes, *flags, *kind, aggregator);
                }
                _ => push(&mut block.bytes, *flags, *kind, value),
            }
        }
    }

    /// Looks at the form of AS_PATH and leaves it, in four octets, in the block's scratch space.
    /// Whether it is there and well formed.
    pub(super) fn check_path(&mut self, block: &mut AttributeBlock) -> bool {
        block.scratch.clear();
        let Some(value) = self.kept.iter().find(|(k, ..)| *k == kind::AS_PATH).map(|a| a.2) else {
            return false;
        };
        let width = if self.context.four_octet_as { 4 } else { 2 };
        let inside = self.context.confederation != Confederation::None;
        let parsed = path::normalise(value, width, inside, &mut block.scratch);
        if let Err(error) = parsed {
            self.withdraw(kind::AS_PATH, error.reason());
        }
        parsed.is_ok()
    }

    /// Leaves the whole path, in four octets, in the block's scratch space.
    fn as_path(&mut self, block: &mut AttributeBlock) {
        if !self.check_path(block) {
            if !self.errors.iter().any(|e| e.kind == kind::AS_PATH) {
                self.withdraw(kind::AS_PATH, "AS_PATH is missing");
            }
            return;
        }
        let inside = self.context.confederation != Confederation::None;
        // RFC 6793 section 4.2.3: an AGGREGATOR without AS_TRANS was set by one who did not know
        // the AS4 attributes, so they are older than the path.
        let stale = self.as4_aggregator.is_some() && self.aggregator_as() != Some(AS_TRANS.into());
        if stale {
            self.as4_path = None;
            self.as4_aggregator = None;
        }
        if let Some(as4_path) = &self.as4_path {
            let mut merged = Vec::with_capacity(block.scratch.len() + as4_path.len());
            path::merge(&block.scratch, as4_path, &mut merged);
            block.scratch = merged;
        }
        let sender = match self.context.confederation {
            Confederation::OtherMember => path::member(&block.scratch),
            _ => path::neighbor(&block.scratch),
        };
        if self.context.confederation == Confederation::OtherMember && sender.is_none() {
            // RFC 5065 section 5.
            self.withdraw(kind::AS_PATH, "AS_PATH does not start with a member AS");
        } else if let Some(first) = self.context.first_as
            && (self.context.external || inside)
            && self.context.confederation != Confederation::SameMember
            && sender != Some(first)
        {
            self.withdraw(kind::AS_PATH, "the first AS of AS_PATH is not the peer's");
        }
    }

    fn aggregator_as(&self) -> Option<u32> {
        let value = self.kept.iter().find(|(kind, ..)| *kind == kind::AGGREGATOR)?.2;
        aggregator(value, self.context.four_octet_as)
    }

    /// AGGREGATOR in its four-octet form where it came in the short one.
    fn four_octet_aggregator(&self) -> Option<[u8; 8]> {
        let asn = self.aggregator_as().filter(|_| !self.context.four_octet_as)?;
        if let Some(as4) = self.as4_aggregator.filter(|_| asn == u32::from(AS_TRANS)) {
            return Some(as4);
        }
        let value = self.kept.iter().find(|(kind, ..)| *kind == kind::AGGREGATOR)?.2;
        let mut octets = [0; 8];
        octets[..4].copy_from_slice(&asn.to_be_bytes());
        octets[4..].copy_from_slice(value.get(2..6)?);
        Some(octets)
    }
}

/// The AS of an AGGREGATOR of the right length.
fn aggregator(value: &[u8], four_octet_as: bool) -> Option<u32> {
    match (value, four_octet_as) {
        ([a, b, c, d, _, _, _, _], true) => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        ([a, b, _, _, _, _], false) => Some(u16::from_be_bytes([*a, *b]).into()),
        _ => None,
    }
}
