//! Where in an object a walk is: a list of steps on the stack, made into text only for an error.

use std::fmt;

/// A place in an object.
pub(crate) enum Path<'a> {
    /// The object.
    Root,
    /// A field of what is at the first.
    Field(&'a Path<'a>, &'a str),
    /// An entry of the list at the first.
    Entry(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Entry(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
