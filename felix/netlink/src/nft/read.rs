//! Reading back what the kernel has.

use std::collections::{HashMap, HashSet};

use super::expr::Expr;
use super::set::{Element, Set};
use super::transaction::family_header;
use super::types::UserData;
use super::{
    BaseChain, Chain, FAMILY_HEADER, Family, Hook, Rule, SUBSYSTEM, Table, attr, msg, udata,
};
use crate::buffer::{self, Attrs, Batch, DUMP, Message};
use crate::{Error, Result, Socket};

/// A table's chains with their rules, and its sets without their elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// In the kernel's order.
    pub chains: Vec<Chain>,
    /// In the kernel's order.
    pub sets: Vec<Set>,
    /// Names of sets that this crate cannot describe.
    pub other_sets: Vec<String>,
}

/// What a notification says of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The table or something in it changed.
    Changed,
    /// Nothing that concerns the table.
    Other,
}

/// How often a set is read again because a listing repeated elements. The kernel moves 100,000
/// elements within some milliseconds, less than one such listing takes.
const REPEATED_ATTEMPTS: usize = 100;

fn request(kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch::new();
    batch.message(SUBSYSTEM | kind, flags, |batch| {
        batch.put(&[family, 0, 0, 0]);
        fill(batch);
    });
    batch
}

/// The attributes of a message, if it is of this kind.
fn attrs<'a>(message: &Message<'a>, kind: u16) -> Option<Attrs<'a>> {
    (message.kind == SUBSYSTEM | kind).then(|| message.attrs(FAMILY_HEADER))
}

fn is_table(attrs: &Attrs<'_>, table: &str) -> bool {
    attrs.find(attr::TABLE).is_some_and(|name| buffer::text(name) == table)
}

/// The ruleset's generation: it changes with every transaction, whoever's it is.
pub fn generation(socket: &mut Socket) -> Result<u32> {
    let mut request = request(msg::GET_GENERATION, 0, 0, |_| {});
    socket.query(&mut request, |message| {
        attrs(message, msg::NEW_GENERATION)?.find(attr::GENERATION_ID).and_then(buffer::be32)
    })
}

/// The table of this name, if there is one.
pub fn table(socket: &mut Socket, family: Family, name: &str) -> Result<Option<Table>> {
    let mut request = request(msg::GET_TABLE, 0, family_header(family)[0], |batch| {
        batch.str(attr::TABLE, name);
    });
    let found = socket.query(&mut request, |message| {
        let attrs = attrs(message, msg::NEW_TABLE)?;
        Some(Table {
            name: buffer::text(attrs.find(attr::TABLE)?),
            flags: attrs.find(attr::TABLE_FLAGS).and_then(buffer::be32).unwrap_or(0),
            owner: attrs.find(attr::TABLE_OWNER).and_then(buffer::be32),
            comment: UserData::find_comment(&attrs, attr::TABLE_USERDATA, udata::COMMENT)
                .map(Into::into),
        })
    });
    match found {
        Err(error) if error.is(libc::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// Where a chain hooks into the packet path; None: there is no such chain, or it does not.
pub fn base_chain(
    socket: &mut Socket,
    family: Family,
    table: &str,
    name: &str,
) -> Result<Option<BaseChain>> {
    let mut request = request(msg::GET_CHAIN, 0, family_header(family)[0], |batch| {
        batch.str(attr::TABLE, table);
        batch.str(attr::CHAIN_NAME, name);
    });
    let found =
        socket.query(&mut request, |message| Some(chain(&attrs(message, msg::NEW_CHAIN)?)?.base));
    match found {
        Err(error) if error.is(libc::ENOENT) => Ok(None),
        other => other,
    }
}

/// The rules of a chain, in order; of expressions that this crate does not know only the names. Empty if
/// there is no such chain.
pub fn rules(socket: &mut Socket, family: Family, table: &str, chain: &str) -> Result<Vec<Rule>> {
    let mut request = request(msg::GET_RULE, DUMP, family_header(family)[0], |batch| {
        batch.str(attr::TABLE, table);
        batch.str(attr::RULE_CHAIN, chain);
    });
    let found = socket.dump(&mut request, |message| {
        let attrs = attrs(message, msg::NEW_RULE)?;
        let is_its = attrs.find(attr::RULE_CHAIN).is_some_and(|name| buffer::text(name) == chain);
        (is_table(&attrs, table) && is_its).then(|| rule(&attrs))
    });
    match found {
        Err(error) if error.is(libc::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}

/// Everything in a table except elements. Empty if there is no such table.
pub fn ruleset(socket: &mut Socket, family: Family, table: &str) -> Result<Ruleset> {
    let header = family_header(family)[0];
    let mut chains =
        socket.dump(&mut request(msg::GET_CHAIN, DUMP, header, |_| {}), |message| {
            let attrs = attrs(message, msg::NEW_CHAIN)?;
            if is_table(&attrs, table) { chain(&attrs) } else { None }
        })?;

    let mut of_table = request(msg::GET_RULE, DUMP, header, |batch| batch.str(attr::TABLE, table));
    let rules = match socket.dump(&mut of_table, |message| {
        let attrs = attrs(message, msg::NEW_RULE)?;
        if !is_table(&attrs, table) {
            return None;
        }
        Some((buffer::text(attrs.find(attr::RULE_CHAIN)?), rule(&attrs)))
    }) {
        Err(error) if error.is(libc::ENOENT) => Vec::new(),
        other => other?,
    };
    let index: HashMap<String, usize> =
        chains.iter().enumerate().map(|(i, chain)| (chain.name.clone(), i)).collect();
    for (chain, rule) in rules {
        if let Some(chain) = index.get(&chain).and_then(|i| chains.get_mut(*i)) {
            chain.rules.push(rule);
        }
    }

    let mut of_table = request(msg::GET_SET, DUMP, header, |batch| batch.str(attr::TABLE, table));
    let found = match socket.dump(&mut of_table, |message| {
        let attrs = attrs(message, msg::NEW_SET)?;
        if !is_table(&attrs, table) {
            return None;
        }
        Some(Set::decode(&attrs).ok_or(buffer::text(attrs.find(attr::SET_NAME)?)))
    }) {
        Err(error) if error.is(libc::ENOENT) => Vec::new(),
        other => other?,
    };
    let mut sets = Vec::new();
    let mut other_sets = Vec::new();
    for set in found {
        match set {
            Ok(set) => sets.push(set),
            Err(name) => other_sets.push(name),
        }
    }
    Ok(Ruleset { chains, sets, other_sets })
}

/// What `parse` makes of each element of a set, as many as it makes something of.
///
/// While the kernel moves the elements of a growing set to a larger hash table, a dump repeats
/// some and leaves out as many others without saying so (`nft_rhash_walk` counts its way back to
/// where it was). A listing with a repetition is therefore read again, from the start.
pub fn elements<T>(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
    mut parse: impl FnMut(Element<'_>) -> Option<T>,
) -> Result<Vec<T>> {
    let mut request = request(msg::GET_ELEMENTS, DUMP, family_header(family)[0], |batch| {
        batch.str(attr::TABLE, table);
        batch.str(attr::ELEMENTS_SET, set);
    });
    for _ in 0..REPEATED_ATTEMPTS {
        let messages = socket.dump(&mut request, |message| {
            let list = attrs(message, msg::NEW_ELEMENTS)?.find(attr::ELEMENTS_LIST)?;
            let mut found = Vec::new();
            for (_, bytes) in Attrs(list) {
                let Some(element) = Element::decode(bytes) else { continue };
                let id = (Box::from(element.key), element.interval_end);
                found.push((id, parse(element)));
            }
            Some(found)
        })?;
        let mut seen: HashSet<(Box<[u8]>, bool)> = HashSet::new();
        let mut result = Vec::new();
        let mut repeated = false;
        for (id, parsed) in messages.into_iter().flatten() {
            repeated |= !seen.insert(id);
            result.extend(parsed);
        }
        if !repeated {
            return Ok(result);
        }
    }
    Err(Error::Interrupted)
}

/// What `parse` makes of the element of this key, or of the range that begins with it; None if there
/// is none.
pub fn element<T>(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
    element: &Element<'_>,
    mut parse: impl FnMut(Element<'_>) -> Option<T>,
) -> Result<Option<T>> {
    let mut request = request(msg::GET_ELEMENTS, 0, family_header(family)[0], |batch| {
        batch.str(attr::TABLE, table);
        batch.str(attr::ELEMENTS_SET, set);
        batch.nest(attr::ELEMENTS_LIST, |batch| element.encode(batch));
    });
    let found = socket.query(&mut request, |message| {
        let list = attrs(message, msg::NEW_ELEMENTS)?.find(attr::ELEMENTS_LIST)?;
        let (_, bytes) = Attrs(list).next()?;
        Some(Element::decode(bytes).and_then(&mut parse))
    });
    match found {
        Err(error) if error.is(libc::ENOENT) => Ok(None),
        other => other,
    }
}

/// What a message of [`super::NOTIFICATIONS`] says of a table.
pub fn event(message: &Message<'_>, family: Family, table: &str) -> Event {
    let ours = message.kind & 0xff00 == SUBSYSTEM
        && message.payload.first() == Some(&family_header(family)[0])
        && is_table(&message.attrs(FAMILY_HEADER), table);
    if ours { Event::Changed } else { Event::Other }
}

/// Reads a message as each answer that it may be.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn anything(message: &Message<'_>) {
    let all = message.attrs(FAMILY_HEADER);
    drop((chain(&all), rule(&all), Set::decode(&all)));
    let _ = UserData::find_comment(&all, attr::TABLE_USERDATA, udata::COMMENT);
    let list = all.find(attr::ELEMENTS_LIST).unwrap_or_default();
    let _ = Attrs(list).filter_map(|(_, element)| Element::decode(element)).count();
    let _ = event(message, Family::Inet, "caracal");
}

fn chain(attrs: &Attrs<'_>) -> Option<Chain> {
    let base = attrs.find(attr::CHAIN_HOOK).and_then(|hook| {
        let number = |kind| Attrs(hook).find(kind).and_then(buffer::be32);
        Some(BaseChain {
            kind: buffer::text(attrs.find(attr::CHAIN_TYPE)?),
            hook: Hook::from_number(number(attr::HOOK_NUMBER)?)?,
            priority: number(attr::HOOK_PRIORITY)?.cast_signed(),
            accept: attrs.find(attr::CHAIN_POLICY).and_then(buffer::be32) == Some(1),
        })
    });
    Some(Chain { name: buffer::text(attrs.find(attr::CHAIN_NAME)?), base, rules: Vec::new() })
}

fn rule(attrs: &Attrs<'_>) -> Rule {
    let list = Attrs(attrs.find(attr::RULE_EXPRESSIONS).unwrap_or_default());
    Rule {
        exprs: list.map(|(_, element)| Expr::decode(element)).collect(),
        comment: UserData::find_comment(attrs, attr::RULE_USERDATA, udata::COMMENT).map(Into::into),
    }
}
