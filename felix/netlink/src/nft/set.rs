//! Sets, maps and their elements.

use super::expr::{Counter, Expr, Verdict};
use super::types::{BYTEORDER_HOST, BYTEORDER_INVALID, BYTEORDER_NETWORK, DataType, UserData};
use super::{attr, udata};
use crate::buffer::{self, Attrs, Batch};

const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const CONCAT: u32 = 0x80;
/// What a set that this module describes may have; others are of another kind.
const KNOWN: u32 = INTERVAL | MAP | CONCAT;
/// `NFT_DATA_VERDICT`.
const VERDICT_TYPE: u32 = 0xffff_ff00;
/// Bits of one type in the type of a concatenation.
const TYPE_BITS: u32 = 6;
const ELEMENT_INTERVAL_END: u32 = 1;

/// What the keys of a set map to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Nothing: a plain set.
    None,
    /// A value of this type.
    Data(DataType),
    /// What becomes of the packet.
    Verdict,
}

/// A named set or map, without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// The types of the parts of its keys.
    pub key: Vec<DataType>,
    /// What keys map to.
    pub value: Value,
    /// Keys are ranges.
    pub interval: bool,
    /// Most elements it takes. None: it grows.
    pub size: Option<u32>,
    /// What `nft list` shows.
    pub comment: Option<String>,
}

impl Set {
    /// A plain set.
    pub fn new(name: &str, key: &[DataType]) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
            value: Value::None,
            interval: false,
            size: None,
            comment: None,
        }
    }

    /// Maps keys to values of this type.
    #[must_use]
    pub fn maps_to(mut self, value: Value) -> Self {
        self.value = value;
        self
    }

    /// Keys are ranges.
    #[must_use]
    pub fn ranges(mut self) -> Self {
        self.interval = true;
        self
    }

    /// Ranges of concatenated keys are written as one element with two ends (pipapo); ranges of
    /// simple keys as two elements, of which the second begins what is no longer in the set.
    pub fn two_ended(&self) -> bool {
        self.interval && self.key.len() > 1
    }

    /// Length of a key in bytes: each part is padded to 4, except in a key of one part.
    pub fn key_len(&self) -> u32 {
        match self.key[..] {
            [one] => one.len(),
            _ => self.key.iter().map(|part| part.len().next_multiple_of(4)).sum(),
        }
    }

    pub(super) fn encode(&self, batch: &mut Batch, id: u32) {
        let mut flags = 0;
        if self.interval {
            flags |= INTERVAL;
        }
        if self.two_ended() {
            flags |= CONCAT;
        }
        if self.value != Value::None {
            flags |= MAP;
        }
        batch.str(attr::SET_NAME, &self.name);
        batch.be32(attr::SET_FLAGS, flags);
        let key_type = self.key.iter().fold(0, |all, part| (all << TYPE_BITS) | part.number());
        batch.be32(attr::SET_KEY_TYPE, key_type);
        batch.be32(attr::SET_KEY_LEN, self.key_len());
        match self.value {
            Value::None => {}
            Value::Data(data) => {
                batch.be32(attr::SET_DATA_TYPE, data.number());
                batch.be32(attr::SET_DATA_LEN, data.len());
            }
            Value::Verdict => {
                batch.be32(attr::SET_DATA_TYPE, VERDICT_TYPE);
                batch.be32(attr::SET_DATA_LEN, 0);
            }
        }
        batch.be32(attr::SET_ID, id);
        if self.size.is_some() || self.two_ended() {
            batch.nest(attr::SET_DESCRIPTION, |batch| {
                if let Some(size) = self.size {
                    batch.be32(attr::DESCRIPTION_SIZE, size);
                }
                if self.two_ended() {
                    batch.nest(attr::DESCRIPTION_CONCAT, |batch| {
                        for part in &self.key {
                            batch.nest(attr::LIST_ELEM, |batch| {
                                batch.be32(attr::FIELD_LEN, part.len());
                            });
                        }
                    });
                }
            });
        }
        self.user_data().write(batch, attr::SET_USERDATA);
    }

    /// What `nft` keeps to be able to list the elements.
    fn user_data(&self) -> UserData {
        let order = |kind: DataType| {
            if kind.host_order() { BYTEORDER_HOST } else { BYTEORDER_NETWORK }
        };
        let mut user_data = UserData::default();
        let key = match self.key[..] {
            [one] => order(one),
            _ => BYTEORDER_INVALID,
        };
        user_data.number(udata::SET_KEY_BYTEORDER, key);
        match self.value {
            Value::None => {}
            Value::Data(data) => user_data.number(udata::SET_DATA_BYTEORDER, order(data)),
            Value::Verdict => user_data.number(udata::SET_DATA_BYTEORDER, BYTEORDER_INVALID),
        }
        if let Some(comment) = &self.comment {
            user_data.comment(udata::SET_COMMENT, comment);
        }
        user_data
    }

    /// None for what this module cannot describe (timeouts, objects, other types, anonymous sets).
    pub(super) fn decode(attrs: &Attrs<'_>) -> Option<Self> {
        let number = |kind| attrs.find(kind).and_then(buffer::be32);
        let name = buffer::text(attrs.find(attr::SET_NAME)?);
        let flags = number(attr::SET_FLAGS).unwrap_or(0);
        if flags & !KNOWN != 0 {
            return None;
        }
        let mut key = Vec::new();
        let mut rest = number(attr::SET_KEY_TYPE)?;
        while rest != 0 {
            key.insert(0, DataType::from_number(rest & ((1 << TYPE_BITS) - 1))?);
            rest >>= TYPE_BITS;
        }
        let value = match number(attr::SET_DATA_TYPE) {
            _ if flags & MAP == 0 => Value::None,
            Some(VERDICT_TYPE) => Value::Verdict,
            Some(other) => Value::Data(DataType::from_number(other)?),
            None => return None,
        };
        let description = Attrs(attrs.find(attr::SET_DESCRIPTION).unwrap_or_default());
        let set = Self {
            name,
            key,
            value,
            interval: flags & INTERVAL != 0,
            size: description.find(attr::DESCRIPTION_SIZE).and_then(buffer::be32),
            comment: UserData::find_comment(attrs, attr::SET_USERDATA, udata::SET_COMMENT)
                .map(Into::into),
        };
        let consistent = number(attr::SET_KEY_LEN)? == set.key_len()
            && (flags & CONCAT != 0) == set.two_ended()
            && !set.key.is_empty();
        consistent.then_some(set)
    }
}

/// What an element maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Data<'a> {
    /// Bytes as in the packet or register.
    Value(&'a [u8]),
    /// What becomes of the packet.
    Verdict(Verdict<'a>),
}

/// One element of a set or map, borrowed from where it is built or read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Element<'a> {
    /// The key, or where a range starts.
    pub key: &'a [u8],
    /// Where a range of concatenated keys ends, inclusive.
    pub key_end: Option<&'a [u8]>,
    /// Not in the set: the first key after a range.
    pub interval_end: bool,
    /// Of maps, but not of the ends of ranges.
    pub data: Option<Data<'a>>,
    /// Packets that found it are counted.
    pub counter: Option<Counter>,
    /// What `nft list` shows, of at most 127 bytes.
    pub comment: Option<&'a str>,
}

impl<'a> Element<'a> {
    /// An element of a plain set.
    pub fn key(key: &'a [u8]) -> Self {
        Self { key, key_end: None, interval_end: false, data: None, counter: None, comment: None }
    }

    pub(super) fn encode(&self, batch: &mut Batch) {
        batch.nest(attr::LIST_ELEM, |batch| {
            batch.nest(attr::ELEMENT_KEY, |batch| batch.attr(attr::DATA_VALUE, self.key));
            if let Some(end) = self.key_end {
                batch.nest(attr::ELEMENT_KEY_END, |batch| batch.attr(attr::DATA_VALUE, end));
            }
            if self.interval_end {
                batch.be32(attr::ELEMENT_FLAGS, ELEMENT_INTERVAL_END);
            }
            match self.data {
                Some(Data::Value(value)) => {
                    batch.nest(attr::ELEMENT_DATA, |batch| batch.attr(attr::DATA_VALUE, value));
                }
                Some(Data::Verdict(verdict)) => {
                    batch.nest(attr::ELEMENT_DATA, |batch| verdict.encode(batch));
                }
                None => {}
            }
            if let Some(counter) = self.counter {
                let counter = Expr::Counter(counter);
                batch.nest(attr::ELEMENT_EXPRESSION, |batch| counter.encode_bare(batch));
            }
            if let Some(comment) = self.comment {
                let mut user_data = UserData::default();
                user_data.comment(udata::ELEMENT_COMMENT, comment);
                user_data.write(batch, attr::ELEMENT_USERDATA);
            }
        });
    }

    /// None for an element without a key (the catch-all).
    pub fn decode(element: &'a [u8]) -> Option<Self> {
        let attrs = Attrs(element);
        let bytes = |kind| Attrs(attrs.find(kind)?).find(attr::DATA_VALUE);
        let flags = attrs.find(attr::ELEMENT_FLAGS).and_then(buffer::be32).unwrap_or(0);
        Some(Self {
            key: bytes(attr::ELEMENT_KEY)?,
            key_end: bytes(attr::ELEMENT_KEY_END),
            interval_end: flags & ELEMENT_INTERVAL_END != 0,
            data: match attrs.find(attr::ELEMENT_DATA) {
                Some(data) => Some(match Attrs(data).find(attr::DATA_VALUE) {
                    Some(value) => Data::Value(value),
                    None => Data::Verdict(Verdict::decode(data)?),
                }),
                None => None,
            },
            counter: match attrs.find(attr::ELEMENT_EXPRESSION).map(Expr::decode) {
                Some(Expr::Counter(counter)) => Some(counter),
                _ => None,
            },
            comment: UserData::find_comment(&attrs, attr::ELEMENT_USERDATA, udata::ELEMENT_COMMENT),
        })
    }
}
