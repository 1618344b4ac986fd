//! Host endpoints on their way to the kernel.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Class, Direction};

/// The longest name of an interface, in bytes (`IFNAMSIZ` without the end).
const LONGEST: usize = 15;

/// Types of ICMPv6 that the host's links need, which policy of host endpoints is not asked about: multicast
/// listeners (RFC 2710, RFC 3810) and neighbour discovery (RFC 4861) but for redirects.
pub const LINK_TYPES: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

/// The name of an interface of the host, as the kernel compares it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName([u8; LONGEST + 1]);

/// Why something is no name of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAName(&'static str);

impl InterfaceName {
    /// A name that the kernel lets an interface have (`dev_valid_name`).
    ///
    /// # Errors
    /// It is empty, longer than 15 bytes, `.` or `..`, or has a slash, a colon, white space or
    /// something else that is not printable ASCII.
    pub fn new(text: &str) -> Result<Self, NotAName> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(NotAName("the name of an interface has 1 to 15 bytes"));
        }
        let forbidden = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'/' | b':');
        if matches!(text, "." | "..") || text.bytes().any(forbidden) {
            return Err(NotAName("no interface can have this name"));
        }
        let mut bytes = [0; LONGEST + 1];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }

    /// As the kernel keeps it: padded with zeros.
    pub fn bytes(&self) -> &[u8; LONGEST + 1] {
        &self.0
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the traffic of host endpoints is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostHook {
    /// What comes in for the host itself.
    Input,
    /// What the host itself sends out.
    Output,
    /// What comes in for others.
    ForwardIn,
    /// What goes out from others.
    ForwardOut,
    /// What comes in, for the host itself or for others, before destination NAT.
    PreDnat,
    /// What comes in, for the host itself or for others, before connection tracking.
    UntrackedIn,
    /// What the host itself sends out, before connection tracking.
    UntrackedOut,
    /// What comes in and is not tracked, once more where that is judged that is: nobody has kept what
    /// [`Self::UntrackedIn`] said.
    UntrackedInAgain,
    /// As above, of what goes out.
    UntrackedOutAgain,
}

impl HostHook {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Input,
        Self::Output,
        Self::ForwardIn,
        Self::ForwardOut,
        Self::PreDnat,
        Self::UntrackedIn,
        Self::UntrackedOut,
        Self::UntrackedInAgain,
        Self::UntrackedOutAgain,
    ];

    /// Which rules of a policy are asked.
    pub fn direction(self) -> Direction {
        match self {
            Self::Input
            | Self::ForwardIn
            | Self::PreDnat
            | Self::UntrackedIn
            | Self::UntrackedInAgain => Direction::Ingress,
            Self::Output | Self::ForwardOut | Self::UntrackedOut | Self::UntrackedOutAgain => {
                Direction::Egress
            }
        }
    }

    /// Whether others follow that judge what is not decided here.
    pub fn is_early(self) -> bool {
        self == Self::PreDnat || self.is_untracked()
    }

    /// Whether it is policy with `doNotTrack` that judges.
    pub fn is_untracked(self) -> bool {
        matches!(self, Self::UntrackedIn | Self::UntrackedOut) || self.is_again()
    }

    /// Where the same policy judges once more.
    pub fn again(self) -> Option<Self> {
        match self {
            Self::UntrackedIn => Some(Self::UntrackedInAgain),
            Self::UntrackedOut => Some(Self::UntrackedOutAgain),
            _ => None,
        }
    }

    /// Whether policy judges what it has judged before.
    pub fn is_again(self) -> bool {
        matches!(self, Self::UntrackedInAgain | Self::UntrackedOutAgain)
    }

    /// Whether the traffic neither begins nor ends at the host.
    pub fn forwards(self) -> bool {
        matches!(self, Self::ForwardIn | Self::ForwardOut)
    }
}

/// What is true of the host's own side of a packet, as far as policy at a hook asks about that: a number for
/// the truths, which stands in the upper bits of a mark beside the class of the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct View(u8);

impl View {
    /// Nothing that is asked is true.
    pub const PLAIN: Self = Self(0);
    /// More is told apart than there are numbers for: rules that ask open nothing.
    pub const CLOSED: Self = Self(14);
    /// How many numbers there are between these.
    pub const NUMBERED: u8 = Self::CLOSED.0 - 1;
    /// How many there are beside [`Self::PLAIN`].
    pub const TOLD_APART: usize = Self::CLOSED.0 as usize;
    /// The bits of a mark that say which. All set: the class beside them is that of the own side, which is
    /// being looked up.
    pub const MASK: u32 = !Class::MASK;

    /// By its number; None if no view has it.
    pub fn new(number: u8) -> Option<Self> {
        (number <= Self::CLOSED.0).then_some(Self(number))
    }

    /// All but [`Self::PLAIN`].
    pub fn told_apart() -> impl Iterator<Item = Self> {
        (Self::PLAIN.0 + 1..=Self::CLOSED.0).map(Self)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The bits of a mark.
    pub fn mark(self) -> u32 {
        u32::from(self.0) << Self::MASK.trailing_zeros()
    }

    /// From the bits of a mark, whose other bits are not looked at.
    pub fn of_mark(mark: u32) -> Option<Self> {
        Self::new(u8::try_from(mark >> Self::MASK.trailing_zeros()).ok()?)
    }
}

/// Names one table of final verdicts. Its lowest bit says which direction's packets it judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(u32);

impl TableId {
    /// The mark of packets that are accepted: no table has this number.
    pub const ACCEPTED: u32 = 1;
    /// The mark of packets that are denied and wait for what becomes of them. No table has this number,
    /// and no class.
    pub const DENIED: u32 = 3;

    /// One for a direction; of any two numbers that differ by 1 the same may come.
    pub fn new(number: u32, direction: Direction) -> Self {
        match number & !1 | u32::from(direction == Direction::Egress) {
            number @ (Self::ACCEPTED | Self::DENIED) => Self(number + 4),
            number => Self(number),
        }
    }

    /// The name that the kernel knows it by.
    pub fn number(self) -> u32 {
        self.0
    }

    /// From the name that the kernel knows it by.
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Whose packets it judges.
    pub fn direction(self) -> Direction {
        if self.0 & 1 == 1 { Direction::Egress } else { Direction::Ingress }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_interfaces_can_have() {
        for good in ["eth0", "bond0.100", "wg-a_b", "a", "fifteen-bytes-x"] {
            assert_eq!(InterfaceName::new(good).unwrap().to_string(), good);
        }
        for bad in ["", ".", "..", "a/b", "eth0:1", "a b", "sixteen-bytes-xx", "é", "eth\n"] {
            assert!(InterfaceName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_table_knows_its_direction() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for number in [0, 1, 2, 3, 7, u32::MAX] {
                assert_eq!(TableId::new(number, direction).direction(), direction);
                let number = TableId::new(number, direction).number();
                assert!(![TableId::ACCEPTED, TableId::DENIED].contains(&number));
            }
        }
    }
}
