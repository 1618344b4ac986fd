//! The syntax tree of a selector.

use std::fmt;
use std::sync::Arc;

use super::Labels;

/// A label's key.
pub type Key = Arc<str>;
/// A label's value.
pub type Value = Arc<str>;

/// A selector's syntax tree.
///
/// In canonical form, which every [`super::Selector`] has, `And` and `Or` have at least two
/// operands, none of which is of their own kind; `Not` does not hold a `Not`; and the values of `In`
/// and `NotIn` are sorted and unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Expression {
    /// Everything.
    All,
    /// What is in no namespace; meaningful in namespace selectors only, see
    /// [`super::rewrite::namespace_selector`]. Elsewhere it selects everything.
    Global,
    /// The label is present.
    Has(Key),
    /// The label is present and equals the value.
    Equal(Key, Value),
    /// The label is absent or differs from the value.
    NotEqual(Key, Value),
    /// The label is present and contains the value.
    Contains(Key, Value),
    /// The label is present and starts with the value.
    StartsWith(Key, Value),
    /// The label is present and ends with the value.
    EndsWith(Key, Value),
    /// The label is present and is one of the values.
    In(Key, Vec<Value>),
    /// The label is absent or none of the values.
    NotIn(Key, Vec<Value>),
    /// The operand does not select it.
    Not(Box<Expression>),
    /// Every operand selects it.
    And(Vec<Expression>),
    /// Some operand selects it.
    Or(Vec<Expression>),
}

impl Expression {
    /// Whether something with these labels is selected.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => labels.get(key).is_some(),
            Self::Equal(key, value) => labels.get(key) == Some(value),
            Self::NotEqual(key, value) => labels.get(key) != Some(value),
            Self::Contains(key, part) => labels.get(key).is_some_and(|v| v.contains(&**part)),
            Self::StartsWith(key, part) => labels.get(key).is_some_and(|v| v.starts_with(&**part)),
            Self::EndsWith(key, part) => labels.get(key).is_some_and(|v| v.ends_with(&**part)),
            Self::In(key, values) => labels.get(key).is_some_and(|value| holds(values, value)),
            Self::NotIn(key, values) => !labels.get(key).is_some_and(|value| holds(values, value)),
            Self::Not(operand) => !operand.matches(labels),
            Self::And(operands) => operands.iter().all(|operand| operand.matches(labels)),
            Self::Or(operands) => operands.iter().any(|operand| operand.matches(labels)),
        }
    }

    /// The conjunction of these: `all()` of none, the operand itself of one.
    pub fn and(operands: Vec<Self>) -> Self {
        Self::junction(operands, Self::And)
    }

    /// The disjunction of these. Of none it selects nothing.
    pub fn or(operands: Vec<Self>) -> Self {
        if operands.is_empty() {
            return Self::negated(Self::All);
        }
        Self::junction(operands, Self::Or)
    }

    fn junction(mut operands: Vec<Self>, of: fn(Vec<Self>) -> Self) -> Self {
        match operands.len() {
            0 => Self::All,
            1 => operands.swap_remove(0),
            _ => of(operands),
        }
    }

    /// The negation; that of a negation is its operand.
    pub fn negated(operand: Self) -> Self {
        match operand {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// The same meaning in canonical form: no nesting that brackets alone made, sets sorted.
    #[must_use]
    pub fn canonical(self) -> Self {
        fn flattened(
            operands: Vec<Expression>,
            inner: fn(Expression) -> Result<Vec<Expression>, Expression>,
        ) -> Vec<Expression> {
            let mut flat = Vec::with_capacity(operands.len());
            for operand in operands {
                match inner(operand.canonical()) {
                    Ok(operands) => flat.extend(operands),
                    Err(operand) => flat.push(operand),
                }
            }
            flat
        }
        match self {
            Self::In(key, values) => Self::In(key, sorted(values)),
            Self::NotIn(key, values) => Self::NotIn(key, sorted(values)),
            Self::Not(operand) => Self::negated(operand.canonical()),
            Self::And(operands) => Self::and(flattened(operands, |operand| match operand {
                Self::And(operands) => Ok(operands),
                other => Err(other),
            })),
            Self::Or(operands) => Self::or(flattened(operands, |operand| match operand {
                Self::Or(operands) => Ok(operands),
                other => Err(other),
            })),
            leaf => leaf,
        }
    }

    /// The same with every leaf replaced.
    #[must_use]
    pub fn map_leaves(&self, replace: &impl Fn(&Self) -> Self) -> Self {
        let all = |operands: &[Self]| operands.iter().map(|o| o.map_leaves(replace)).collect();
        match self {
            Self::Not(operand) => Self::Not(Box::new(operand.map_leaves(replace))),
            Self::And(operands) => Self::And(all(operands)),
            Self::Or(operands) => Self::Or(all(operands)),
            leaf => replace(leaf),
        }
    }

    /// The key of a leaf that compares a label.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Has(key)
            | Self::Equal(key, _)
            | Self::NotEqual(key, _)
            | Self::Contains(key, _)
            | Self::StartsWith(key, _)
            | Self::EndsWith(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _) => Some(key),
            Self::All | Self::Global | Self::Not(_) | Self::And(_) | Self::Or(_) => None,
        }
    }

    /// The same leaf for another label; anything else unchanged.
    #[must_use]
    pub fn with_key(&self, key: Key) -> Self {
        match self {
            Self::Has(_) => Self::Has(key),
            Self::Equal(_, value) => Self::Equal(key, value.clone()),
            Self::NotEqual(_, value) => Self::NotEqual(key, value.clone()),
            Self::Contains(_, value) => Self::Contains(key, value.clone()),
            Self::StartsWith(_, value) => Self::StartsWith(key, value.clone()),
            Self::EndsWith(_, value) => Self::EndsWith(key, value.clone()),
            Self::In(_, values) => Self::In(key, values.clone()),
            Self::NotIn(_, values) => Self::NotIn(key, values.clone()),
            Self::All | Self::Global | Self::Not(_) | Self::And(_) | Self::Or(_) => self.clone(),
        }
    }

    /// Whether some leaf is this one.
    pub fn contains_leaf(&self, wanted: &Self) -> bool {
        match self {
            Self::Not(operand) => operand.contains_leaf(wanted),
            Self::And(operands) | Self::Or(operands) => {
                operands.iter().any(|operand| operand.contains_leaf(wanted))
            }
            leaf => leaf == wanted,
        }
    }
}

fn holds(values: &[Value], value: &str) -> bool {
    values.binary_search_by(|candidate| (**candidate).cmp(value)).is_ok()
}

fn sorted(mut values: Vec<Value>) -> Vec<Value> {
    values.sort_unstable();
    values.dedup();
    values
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equal(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEqual(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::Contains(key, value) => write!(f, "{key} contains {}", Quoted(value)),
            Self::StartsWith(key, value) => write!(f, "{key} starts with {}", Quoted(value)),
            Self::EndsWith(key, value) => write!(f, "{key} ends with {}", Quoted(value)),
            Self::In(key, values) => write!(f, "{key} in {}", Set(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {}", Set(values)),
            Self::Not(operand) => write!(f, "!{operand}"),
            Self::And(operands) => write_junction(f, operands, " && "),
            Self::Or(operands) => write_junction(f, operands, " || "),
        }
    }
}

/// Always in brackets, so that it may stand anywhere.
fn write_junction(
    f: &mut fmt::Formatter<'_>,
    operands: &[Expression],
    between: &str,
) -> fmt::Result {
    f.write_str("(")?;
    for (index, operand) in operands.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write!(f, "{operand}")?;
    }
    f.write_str(")")
}

/// A value that holds one kind of quote is written in the other; it cannot hold both.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a [Value]);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, value) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", Quoted(value))?;
        }
        f.write_str("}")
    }
}
