//! What rules ask of nodes: which addresses are those of the nodes that a selector picks.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::Selector;

use super::addresses::Addresses;
use super::atoms::{Atom, AtomId, Question};
use crate::model::{Labels, Node};

/// All nodes, and what is asked of them. A node's event costs what it changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<Arc<str>, Node>,
    asked: BTreeMap<AtomId, Selector>,
}

impl Nodes {
    /// The node is now this.
    pub(super) fn set(&mut self, node: Node, addresses: &mut Addresses) {
        let says = self.answers(&node.labels);
        if let Some(before) = self.nodes.get(&node.name) {
            if before.addresses == node.addresses && self.answers(&before.labels) == says {
                self.nodes.insert(node.name.clone(), node);
                return;
            }
            self.remove(&node.name.clone(), addresses);
        }
        node.addresses.iter().for_each(|address| addresses.attest(*address, &says));
        self.nodes.insert(node.name.clone(), node);
    }

    /// All nodes that are known.
    pub(super) fn all(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The node is gone.
    pub(super) fn remove(&mut self, name: &str, addresses: &mut Addresses) {
        let Some(node) = self.nodes.remove(name) else { return };
        let said = self.answers(&node.labels);
        node.addresses.iter().for_each(|address| addresses.retract(*address, &said));
    }

    /// A question is asked from now on. One that is not about nodes is ignored.
    pub(super) fn activate(&mut self, id: AtomId, question: &Question, addresses: &mut Addresses) {
        let Question::Nodes(selector) = question else { return };
        for node in self.nodes.values().filter(|node| selector.matches(&node.labels)) {
            node.addresses.iter().for_each(|address| addresses.attest(*address, &[Atom::yes(id)]));
        }
        self.asked.insert(id, selector.clone());
    }

    /// A question is not asked any more.
    pub(super) fn deactivate(
        &mut self,
        id: AtomId,
        question: &Question,
        addresses: &mut Addresses,
    ) {
        let Question::Nodes(selector) = question else { return };
        for node in self.nodes.values().filter(|node| selector.matches(&node.labels)) {
            node.addresses.iter().for_each(|address| addresses.retract(*address, &[Atom::yes(id)]));
        }
        self.asked.remove(&id);
    }

    /// What is true of each address of a node with these labels, ascending.
    fn answers(&self, labels: &Labels) -> Vec<Atom> {
        let asked = self.asked.iter().filter(|(_, selector)| selector.matches(labels));
        asked.map(|(id, _)| Atom::yes(*id)).collect()
    }
}
