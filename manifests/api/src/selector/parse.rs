//! Text to syntax tree, by recursive descent; the grammar is in the module's parent.

use super::expression::{Expression, Key, Value};

/// Most characters of a label's key.
pub const MAX_LABEL: usize = 512;
/// Most brackets inside each other: bounds the stack that reading and evaluating may take.
pub const MAX_DEPTH: usize = 64;

/// What is wrong with a selector, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid selector {selector:?}: {reason} at character {at}")]
pub struct ParseError {
    selector: String,
    reason: String,
    /// In characters from 1.
    at: usize,
}

impl ParseError {
    /// Where, in characters from 1.
    pub fn position(&self) -> usize {
        self.at
    }

    /// What was expected or found there.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

pub(super) fn parse(text: &str) -> Result<Expression, ParseError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.skip_blanks();
    let parsed = if parser.rest().is_empty() {
        Ok(Expression::All)
    } else {
        parser.or().and_then(|expression| {
            if parser.rest().is_empty() {
                Ok(expression)
            } else {
                Err("expected \"&&\", \"||\" or the end".to_owned())
            }
        })
    };
    parsed.map_err(|reason| ParseError {
        selector: text.to_owned(),
        reason,
        at: text.get(..parser.at).map_or(0, |before| before.chars().count()) + 1,
    })
}

/// `at` is always at a character boundary: it only ever moves past whole matches.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, String>;

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    /// Moves past `token` and the blanks after it, if it comes next.
    fn take(&mut self, token: &str) -> bool {
        let taken = self.rest().starts_with(token);
        if taken {
            self.at += token.len();
            self.skip_blanks();
        }
        taken
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { Err(format!("expected {token:?}")) }
    }

    fn or(&mut self) -> Parsed<Expression> {
        let mut operands = vec![self.and()?];
        while self.take("||") {
            operands.push(self.and()?);
        }
        Ok(Expression::or(operands))
    }

    fn and(&mut self) -> Parsed<Expression> {
        let mut operands = vec![self.operand()?];
        while self.take("&&") {
            operands.push(self.operand()?);
        }
        Ok(Expression::and(operands))
    }

    fn operand(&mut self) -> Parsed<Expression> {
        let mut negate = false;
        while self.take("!") {
            negate = !negate;
        }
        let operand = self.positive_operand()?;
        Ok(if negate { Expression::negated(operand) } else { operand })
    }

    fn positive_operand(&mut self) -> Parsed<Expression> {
        if self.take("(") {
            if self.depth == MAX_DEPTH {
                return Err(format!("more than {MAX_DEPTH} brackets inside each other"));
            }
            self.depth += 1;
            let inner = self.or()?;
            self.depth -= 1;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.take("has(") {
            let key = self.label()?;
            self.expect(")")?;
            return Ok(Expression::Has(key));
        }
        for (name, expression) in [("all(", Expression::All), ("global(", Expression::Global)] {
            if self.take(name) {
                self.expect(")")?;
                return Ok(expression);
            }
        }
        let key = self.label()?;
        self.comparison(key)
    }

    fn label(&mut self) -> Parsed<Key> {
        let rest = self.rest();
        let is_label = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
        let length = rest.find(|c| !is_label(c)).unwrap_or(rest.len());
        if length == 0 {
            return Err(match rest.chars().next() {
                None => "expected a label, \"has(\", \"all()\", \"!\" or \"(\"".to_owned(),
                Some('\n' | '\r') => "a selector cannot contain line breaks".to_owned(),
                Some(found) => format!("expected a label, found {found:?}"),
            });
        }
        if length > MAX_LABEL {
            return Err(format!("a label longer than {MAX_LABEL} characters"));
        }
        let label = rest.get(..length).unwrap_or_default().into();
        self.at += length;
        self.skip_blanks();
        Ok(label)
    }

    fn comparison(&mut self, key: Key) -> Parsed<Expression> {
        if self.take("==") {
            return Ok(Expression::Equal(key, self.string()?));
        }
        if self.take("!=") {
            return Ok(Expression::NotEqual(key, self.string()?));
        }
        if self.take("contains") {
            return Ok(Expression::Contains(key, self.string()?));
        }
        if self.take_words("starts", "with") {
            return Ok(Expression::StartsWith(key, self.string()?));
        }
        if self.take_words("ends", "with") {
            return Ok(Expression::EndsWith(key, self.string()?));
        }
        if self.take_words("not", "in") {
            return Ok(Expression::NotIn(key, self.set()?));
        }
        if self.take("in") {
            return Ok(Expression::In(key, self.set()?));
        }
        Err(format!(
            "expected \"==\", \"!=\", \"contains\", \"starts with\", \"ends with\", \"in\" or \
             \"not in\" after the label {key}"
        ))
    }

    /// Two words with or without blanks between them; moves only if both are there.
    fn take_words(&mut self, first: &str, second: &str) -> bool {
        let start = self.at;
        let taken = self.take(first) && self.take(second);
        if !taken {
            self.at = start;
        }
        taken
    }

    fn string(&mut self) -> Parsed<Value> {
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| ['\'', '"'].contains(c)) else {
            return Err("expected a string in quotes".to_owned());
        };
        let body = rest.get(1..).unwrap_or_default();
        let Some(length) = body.find(quote) else {
            return Err("a string without its closing quote".to_owned());
        };
        self.at += length + 2;
        self.skip_blanks();
        Ok(body.get(..length).unwrap_or_default().into())
    }

    fn set(&mut self) -> Parsed<Vec<Value>> {
        self.expect("{")?;
        let mut values = Vec::new();
        while !self.take("}") {
            values.push(self.string()?);
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(values)
    }
}
