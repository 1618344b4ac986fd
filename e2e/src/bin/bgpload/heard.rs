//! What a session was told: which prefixes it has by now.

use anyhow::{Context as _, Result, ensure};

use crate::message::Prefix;

/// The longest prefix that is counted. What we announce is no longer.
const LONGEST: u8 = 24;
/// A bit for every prefix of at most [`LONGEST`] bits: the nodes of a binary trie, in heap order.
const WORDS: usize = 1 << (LONGEST + 1 - 6);

/// The prefixes that were announced and not withdrawn since.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Empty until something is announced; touched where prefixes are, so most pages stay unused.
    have: Vec<u64>,
    /// How many there are now.
    pub(crate) prefixes: u64,
    /// UPDATEs so far.
    pub(crate) updates: u64,
}

impl Heard {
    /// Takes the body of an UPDATE (RFC 4271 section 4.3).
    ///
    /// # Errors
    /// It is malformed, or a prefix is longer than 24 bits.
    pub(crate) fn update(&mut self, body: &[u8]) -> Result<()> {
        self.updates += 1;
        let (withdrawn, rest) = counted(body).context("withdrawn routes")?;
        let (_attributes, announced) = counted(rest).context("path attributes")?;
        self.each(withdrawn, false)?;
        self.each(announced, true)
    }

    /// Counts a prefix as there.
    pub(crate) fn have(&mut self, prefix: Prefix) -> Result<()> {
        ensure!(prefix.length <= LONGEST, "a prefix of {} bits", prefix.length);
        self.mark(node(prefix.length, u32::from(prefix.address)), true);
        Ok(())
    }

    fn each(&mut self, mut nlri: &[u8], there: bool) -> Result<()> {
        loop {
            // Most are /24s, and there are millions.
            while let Some(([24, a, b, c], after)) = nlri.split_first_chunk() {
                self.mark(node(24, u32::from_be_bytes([*a, *b, *c, 0])), there);
                nlri = after;
            }
            let Some((length, rest)) = nlri.split_first() else { return Ok(()) };
            ensure!(*length <= LONGEST, "a prefix of {length} bits");
            let octets = usize::from(*length).div_ceil(8);
            let (prefix, after) = rest.split_at_checked(octets).context("a prefix is cut short")?;
            let mut address = [0; 4];
            address[..octets].copy_from_slice(prefix);
            self.mark(node(*length, u32::from_be_bytes(address)), there);
            nlri = after;
        }
    }

    #[inline]
    fn mark(&mut self, node: u32, there: bool) {
        if self.have.is_empty() {
            self.have = vec![0; WORDS];
        }
        let Some(word) = self.have.get_mut(node as usize / 64) else { return };
        let bit = 1 << (node % 64);
        let before = *word;
        *word = if there { before | bit } else { before & !bit };
        if *word != before {
            self.prefixes = if there { self.prefixes + 1 } else { self.prefixes - 1 };
        }
    }
}

/// The number of a prefix in the trie; `length` is at most [`LONGEST`].
#[inline]
fn node(length: u8, address: u32) -> u32 {
    (1 << length) | address.checked_shr(32 - u32::from(length)).unwrap_or(0)
}

/// What a length of two octets counts, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn prefix(address: [u8; 4], length: u8) -> Prefix {
        Prefix { address: Ipv4Addr::from(address), length }
    }

    #[test]
    fn a_prefix_counts_once_until_it_is_withdrawn() {
        let mut heard = Heard::default();
        let announced = [0, 0, 0, 0, 24, 20, 0, 1, 16, 20, 0, 24, 20, 0, 1, 0];
        heard.update(&announced).unwrap();
        heard.update(&announced).unwrap();
        assert_eq!((heard.prefixes, heard.updates), (3, 2), "20.0.1.0/24, 20.0.0.0/16, 0/0");
        heard.update(&[0, 4, 24, 20, 0, 1, 0, 0]).unwrap();
        heard.update(&[0, 4, 24, 99, 0, 1, 0, 0]).unwrap();
        assert_eq!(heard.prefixes, 2);
        heard.have(prefix([20, 0, 0, 0], 16)).unwrap();
        heard.have(prefix([20, 0, 0, 0], 17)).unwrap();
        assert_eq!(heard.prefixes, 3);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for body in
            [&[0][..], &[0, 1, 0, 0], &[0, 0, 0, 9, 1], &[0, 0, 0, 0, 24, 1], &[0, 0, 0, 0, 25]]
        {
            assert!(Heard::default().update(body).is_err(), "{body:?}");
        }
    }
}
