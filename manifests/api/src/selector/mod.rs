//! The selector language: which endpoints, network sets, nodes or pools an object means, by label.
//!
//! ```text
//! expression := and ( "||" and )*
//! and        := operand ( "&&" operand )*
//! operand    := "!"* ( "has(" label ")" | "all()" | "global()" | "(" expression ")"
//!             | label "==" string | label "!=" string
//!             | label "contains" string | label "starts with" string | label "ends with" string
//!             | label "in" "{" list "}" | label "not in" "{" list "}" )
//! list       := [ string ( "," string )* [ "," ] ]
//! string     := "'" any but ' "'" | '"' any but " '"'        without escapes
//! label      := [A-Za-z0-9_./-]{1,512}
//! ```
//! Spaces and tabs separate; a newline is an error. `startswith`, `endswith` and `notin` are taken
//! too. The empty selector is `all()`.
//!
//! `!=` and `not in` also match where the label is absent; all other comparisons need it.
//!
//! The labels an endpoint has beyond its own are given by [`EndpointLabels`]; how the selectors of
//! a policy become one each is in [`rewrite`].

mod expression;
mod labels;
mod parse;
pub mod rewrite;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use expression::{Expression, Key, Value};
pub use labels::{EndpointLabels, Labels};
pub use parse::{MAX_DEPTH, MAX_LABEL, ParseError};

/// The namespace of a pod or NetworkSet; absent from what is in no namespace.
pub const LABEL_NAMESPACE: &str = "projectcalico.org/namespace";
/// `k8s` on every pod.
pub const LABEL_ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// The name of a pod's service account, where it is shorter than 63 characters.
pub const LABEL_SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Goes before the labels of an endpoint's namespace.
pub const PREFIX_NAMESPACE: &str = "pcns.";
/// Goes before the labels of an endpoint's service account.
pub const PREFIX_SERVICE_ACCOUNT: &str = "pcsa.";
/// After [`PREFIX_NAMESPACE`] or [`PREFIX_SERVICE_ACCOUNT`]: the namespace's or service account's
/// name.
pub const LABEL_NAME: &str = "projectcalico.org/name";

/// A selector. Cheap to clone; equal, hashed and ordered by its canonical text, which is what
/// `Display` writes and parsing yields back.
#[derive(Clone)]
pub struct Selector(Arc<Inner>);

struct Inner {
    text: Box<str>,
    expression: Expression,
}

impl Selector {
    /// Reads a selector.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::parse(text).map(Self::from)
    }

    /// `all()`.
    pub fn all() -> Self {
        Expression::All.into()
    }

    /// What both select.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self::every([self, other])
    }

    /// What all of these select; everything if there are none.
    #[must_use]
    pub fn every<'a>(selectors: impl IntoIterator<Item = &'a Self>) -> Self {
        let operands = selectors.into_iter().map(|s| s.0.expression.clone());
        Expression::and(operands.filter(|operand| *operand != Expression::All).collect()).into()
    }

    /// What this does not select.
    #[must_use]
    pub fn negated(&self) -> Self {
        Expression::negated(self.0.expression.clone()).into()
    }

    /// Whether something with these labels is selected.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        self.0.expression.matches(labels)
    }

    /// The parsed form.
    pub fn expression(&self) -> &Expression {
        &self.0.expression
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether it selects everything for being `all()`.
    pub fn is_all(&self) -> bool {
        self.0.expression == Expression::All
    }
}

impl From<Expression> for Selector {
    /// Brings the expression into canonical form first; see [`Expression::canonical`].
    fn from(expression: Expression) -> Self {
        let expression = expression.canonical();
        Self(Arc::new(Inner { text: expression.to_string().into(), expression }))
    }
}

impl Default for Selector {
    fn default() -> Self {
        Self::all()
    }
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.0.text)
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}

impl Eq for Selector {}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.text.cmp(&other.0.text)
    }
}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
