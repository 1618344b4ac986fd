//! nf_tables: tables, chains, rules, sets and maps, written in transactions and read back.
//!
//! Everything that this module writes is what `nft` 1.0.6 would have written for the same ruleset
//! text, user data included, so that `nft list ruleset` shows it as text.

mod expr;
mod read;
mod rule;
mod set;
mod transaction;
mod types;

pub use expr::{
    Base, Counter, Ct, Expr, FULLY_RANDOM, Field, Meta, Register, Verdict, VerdictBuf,
    ct_direction, ct_state,
};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use read::anything;
pub use read::{
    Event, Ruleset, base_chain, element, elements, event, generation, rules, ruleset, table,
};
pub use rule::Rule;
pub use set::{Data, Element, Set, Value};
pub use transaction::{CommitError, Subject, Transaction};
pub use types::DataType;

/// The multicast group of nf_tables' notifications (`NFNLGRP_NFTABLES`).
pub const NOTIFICATIONS: u32 = 7;

const SUBSYSTEM: u16 = 10 << 8;
/// Length of the family header (`struct nfgenmsg`).
const FAMILY_HEADER: usize = 4;

/// Message types (`enum nf_tables_msg_types`).
mod msg {
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const GET_TABLE: u16 = 1;
    pub(super) const DEL_TABLE: u16 = 2;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const GET_CHAIN: u16 = 4;
    pub(super) const DEL_CHAIN: u16 = 5;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const GET_RULE: u16 = 7;
    pub(super) const DEL_RULE: u16 = 8;
    pub(super) const NEW_SET: u16 = 9;
    pub(super) const GET_SET: u16 = 10;
    pub(super) const DEL_SET: u16 = 11;
    pub(super) const NEW_ELEMENTS: u16 = 12;
    pub(super) const GET_ELEMENTS: u16 = 13;
    pub(super) const DEL_ELEMENTS: u16 = 14;
    pub(super) const NEW_GENERATION: u16 = 15;
    pub(super) const GET_GENERATION: u16 = 16;
}

/// Attribute types, by the object they belong to (`enum nft_*_attributes`).
mod attr {
    /// The table's name, in the messages of all objects.
    pub(super) const TABLE: u16 = 1;
    pub(super) const TABLE_FLAGS: u16 = 2;
    pub(super) const TABLE_USERDATA: u16 = 6;
    pub(super) const TABLE_OWNER: u16 = 7;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_USERDATA: u16 = 7;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_FLAGS: u16 = 3;
    pub(super) const SET_KEY_TYPE: u16 = 4;
    pub(super) const SET_KEY_LEN: u16 = 5;
    pub(super) const SET_DATA_TYPE: u16 = 6;
    pub(super) const SET_DATA_LEN: u16 = 7;
    pub(super) const SET_DESCRIPTION: u16 = 9;
    pub(super) const SET_ID: u16 = 10;
    pub(super) const SET_USERDATA: u16 = 13;
    pub(super) const DESCRIPTION_SIZE: u16 = 1;
    pub(super) const DESCRIPTION_CONCAT: u16 = 2;
    pub(super) const FIELD_LEN: u16 = 1;
    pub(super) const ELEMENTS_SET: u16 = 2;
    pub(super) const ELEMENTS_LIST: u16 = 3;
    pub(super) const ELEMENT_KEY: u16 = 1;
    pub(super) const ELEMENT_DATA: u16 = 2;
    pub(super) const ELEMENT_FLAGS: u16 = 3;
    pub(super) const ELEMENT_USERDATA: u16 = 6;
    pub(super) const ELEMENT_EXPRESSION: u16 = 7;
    pub(super) const ELEMENT_KEY_END: u16 = 10;
    pub(super) const LIST_ELEM: u16 = 1;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const GENERATION_ID: u16 = 1;
}

/// Where user data keeps comments (`enum nftnl_udata_*_types` of libnftnl).
mod udata {
    pub(super) const COMMENT: u8 = 0;
    pub(super) const ELEMENT_COMMENT: u8 = 0;
    pub(super) const SET_KEY_BYTEORDER: u8 = 0;
    pub(super) const SET_DATA_BYTEORDER: u8 = 1;
    pub(super) const SET_COMMENT: u8 = 7;
}

/// The address families that a table can be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6 in one table.
    Inet,
    /// IPv4, where `iptables` has its tables.
    Ip,
    /// IPv6, where `ip6tables` has its tables.
    Ip6,
    /// The ingress of single devices.
    Netdev,
    /// ARP.
    Arp,
}

impl Family {
    #[allow(clippy::cast_possible_truncation, reason = "1, 2, 3, 5 and 10")]
    fn number(self) -> u8 {
        match self {
            Self::Inet => libc::NFPROTO_INET as u8,
            Self::Ip => libc::NFPROTO_IPV4 as u8,
            Self::Ip6 => libc::NFPROTO_IPV6 as u8,
            Self::Netdev => libc::NFPROTO_NETDEV as u8,
            Self::Arp => libc::NFPROTO_ARP as u8,
        }
    }
}

/// Table flags (`enum nft_table_flags`).
pub mod table_flags {
    /// Only the socket that created or adopted the table may change it; it goes when that closes.
    pub const OWNER: u32 = 2;
    /// An owned table stays when its owner's socket closes. Linux 6.9.
    pub const PERSIST: u32 = 4;
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// [`table_flags`].
    pub flags: u32,
    /// The port of the socket that owns it now.
    pub owner: Option<u32>,
    /// What `nft list` shows.
    pub comment: Option<String>,
}

/// Where a base chain hooks into the packet path (`enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the nft keyword of its name")]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    const ALL: [Self; 5] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    fn number(self) -> u32 {
        Self::ALL.iter().zip(0..).find(|(hook, _)| **hook == self).map_or(0, |(_, number)| number)
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// What makes a chain a base chain. Its policy is accept or drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Where.
    pub hook: Hook,
    /// Lower is earlier; conntrack is at -200, source NAT at 100 (`enum nf_ip_hook_priorities`).
    pub priority: i32,
    /// What becomes of a packet that no rule decided.
    pub accept: bool,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// None: only reached by a jump or goto.
    pub base: Option<BaseChain>,
    /// In order.
    pub rules: Vec<Rule>,
}
