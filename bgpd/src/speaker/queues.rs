//! What the update groups have to say, on its way to the neighbors.

use bytes::Bytes;

use super::core::{Output, Time};
use super::neighbor::Neighbor;
use crate::export::{Sink, Told};
use crate::rib::{DestId, PeerId};
use crate::wire::{Family, MessageType};

/// The neighbors' queues, as the update groups see them.
pub(super) struct Queues<'a> {
    pub(super) clock: Time,
    pub(super) neighbors: &'a mut [Option<Neighbor>],
    pub(super) outputs: &'a mut Vec<Output>,
    pub(super) caught_up: &'a mut Vec<(PeerId, Family, Told)>,
    /// Destinations of which somebody was told something else; None: nobody wants to know.
    pub(super) told: Option<&'a mut Vec<(Family, DestId)>>,
}

impl Sink for Queues<'_> {
    fn queue(&mut self, peer: PeerId, octets: &Bytes, messages: usize) {
        let Some(Some(neighbor)) = self.neighbors.get_mut(peer.index()) else { return };
        neighbor.note_sent(self.clock, MessageType::Update, messages, octets);
        let Some(slot) = neighbor.session_slot() else { return };
        let was_empty = slot.out.len() == 0;
        slot.out.push(octets.clone());
        if let Some(conn) = slot.conn
            && was_empty
        {
            self.outputs.push(Output::Write(conn));
        }
    }

    fn queued(&self, peer: PeerId) -> usize {
        let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
        let session = neighbor.and_then(|n| Some((n, n.session.as_ref()?)));
        session.map_or(0, |(n, session)| n.slots[session.direction.index()].out.len())
    }

    fn told(&mut self, family: Family, dest: DestId) {
        if let Some(told) = &mut self.told {
            told.push((family, dest));
        }
    }

    fn caught_up(&mut self, peer: PeerId, family: Family, told: Told) {
        self.caught_up.push((peer, family, told));
    }
}
