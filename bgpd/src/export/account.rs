//! What a neighbor was told of a destination, and why it was told no more: for who asks. What it is to
//! be told is decided by what decides it for the flush.

use serde::Serialize;

use super::group::{Group, Sent};
use super::outcome::Prepared;
use super::withheld::Withheld;
use super::{QUEUE_HIGH, UpdateGroups};
use crate::config::SentPaths;
use crate::rib::{AttrId, Bitmap, DestId, Path, PeerId, Rib, RibPrefix, SetId};

/// What a neighbor waits for that is to be told something else than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waits {
    /// For its turn: it is told at once.
    Turn,
    /// For the neighbor, which does not take what is queued for it.
    Queue,
    /// For the advertisement interval (RFC 4271 section 9.2.1.1).
    Interval,
    /// For the acknowledgement of who writes the route into the kernel.
    Kernel,
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Turn => "its turn",
            Self::Queue => "the neighbor, which does not take what is queued for it",
            Self::Interval => "the advertisement interval (RFC 4271 9.2.1.1)",
            Self::Kernel => "the kernel to have the route (advertise-after-install)",
        })
    }
}

/// A path that a neighbor was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentPath {
    /// Our number of it (RFC 7911); 0 where the neighbor takes one path.
    pub(crate) number: u32,
    /// The number that its source gave it; 0 where the neighbor takes one path.
    pub(crate) learned: u32,
    pub(crate) source: PeerId,
    /// As encoded for the neighbor; [`AttrId::UNKNOWN`]: it was, and is about to be told again.
    pub(crate) attr: AttrId,
}

/// A path that a neighbor is not to be told of; None: there is none that it could be.
pub(crate) type WithheldPath = (Option<(PeerId, u32)>, Withheld);

/// What a neighbor was told of a destination, and what not.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) sent: Vec<SentPath>,
    pub(crate) withheld: Vec<WithheldPath>,
    pub(crate) waits: Option<Waits>,
}

impl UpdateGroups {
    /// What a neighbor was told of a destination, path by path.
    pub(crate) fn sent_paths<P: RibPrefix>(
        &self,
        peer: PeerId,
        dest: DestId,
    ) -> impl Iterator<Item = SentPath> {
        let group = self.position(peer, P::FAMILY).map(|at| &self.groups[at]);
        group.into_iter().flat_map(move |group| group.sent_paths(peer, dest))
    }

    /// What a neighbor was told of a destination and what not, and why; `queued` are the octets that
    /// wait for it. None: it is told nothing in the family.
    pub(crate) fn account<P: RibPrefix>(
        &self,
        peer: PeerId,
        dest: DestId,
        rib: &Rib,
        awaited: &[Bitmap; 2],
        queued: usize,
    ) -> Option<Account> {
        let group = &self.groups[self.position(peer, P::FAMILY)?];
        let mut account = group.compare::<P>(peer, dest, rib);
        if account.waits.is_some() {
            let needed = P::table(rib).dest(dest).next_hops != SetId::NONE;
            let kernel = needed && awaited[P::FAMILY.index()].contains(dest);
            account.waits = Some(match (group.pace.holds(dest), kernel) {
                (true, true) => Waits::Kernel,
                (true, false) => Waits::Interval,
                _ if queued > QUEUE_HIGH => Waits::Queue,
                _ => Waits::Turn,
            });
        }
        Some(account)
    }
}

impl Group {
    /// What a member was told. What it is the source of it was not.
    pub(super) fn sent_paths(&self, peer: PeerId, dest: DestId) -> impl Iterator<Item = SentPath> {
        let one = (0, 0, self.sent(dest));
        std::iter::once(one)
            .chain(self.several.numbered(dest))
            .filter(move |(_, _, sent)| sent.attr != AttrId::NONE && sent.source != peer)
            .map(|(number, learned, Sent { attr, source })| SentPath {
                number,
                learned,
                source,
                attr,
            })
    }

    /// What a member was told beside what it is to be told; `waits` stands for there being a difference.
    fn compare<P: RibPrefix>(&self, peer: PeerId, dest: DestId, rib: &Rib) -> Account {
        let entry = P::table(rib).dest(dest);
        let sent: Vec<SentPath> = self.sent_paths(peer, dest).collect();
        let (mut withheld, mut due, mut differs) = (Vec::new(), 0, false);
        let mut consider = |path: &Path| {
            let prepared = if path.attr == AttrId::NONE {
                return; // Why it is not used is said of the path.
            } else if path.peer == peer {
                Err(Withheld::OwnRoute)
            } else if !self.key.is_for(path) {
                Err(Withheld::NotUsed)
            } else {
                self.would_export::<P>(dest, (path.peer, path.attr), rib)
            };
            let learned = self.key.paths.map_or(0, |_| path.id);
            match prepared {
                Ok(prepared) => {
                    due += 1;
                    let told = |it: &&SentPath| (it.source, it.learned) == (path.peer, learned);
                    let told = sent.iter().find(told);
                    differs |= told.is_none_or(|it| !prepared.is(it.attr, rib));
                }
                Err(why) => withheld.push((Some(path.key()), why)),
            }
        };
        match self.key.paths {
            None => entry.best_path().into_iter().for_each(&mut consider),
            Some(_) => entry.paths.iter().for_each(&mut consider),
        }
        if due == 0 && withheld.is_empty() {
            withheld.push((None, Withheld::NoUsablePath));
        }
        let waits = (differs || due != sent.len()).then_some(Waits::Turn);
        Account { sent, withheld, waits }
    }
}

impl Prepared {
    /// Whether the attributes are these.
    fn is(&self, attr: AttrId, rib: &Rib) -> bool {
        attr != AttrId::UNKNOWN && {
            let set = rib.attrs.get(attr);
            (set.block, set.next_hop) == (&self.block, self.next_hop)
        }
    }
}

impl super::GroupKey {
    /// Whether the members are sent this one of several usable paths, as far as that depends on
    /// selection (RFC 7911).
    pub(super) fn is_for(&self, path: &Path) -> bool {
        match self.paths {
            Some(SentPaths::All) => path.reason != crate::rib::Reason::NextHopUnreachable,
            Some(SentPaths::Used) | None => path.is_used(),
        }
    }
}
