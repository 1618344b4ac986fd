//! Patterns for AS paths: regular expressions over the path's text, in the form routers have.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::wire::text_form;

/// The longest pattern, in characters.
const LONGEST: usize = 256;
/// What a path's text is made of; a set of these is a bit mask.
const SYMBOLS: &[u8; 18] = b"0123456789 ,{}()[]";
const DIGITS: u32 = 0x3ff;
const ANY: u32 = (1 << SYMBOLS.len()) - 1;

/// A regular expression that a path must match somewhere, such as `^65001_.*_65010$`: `^` and `$`
/// are its ends, `_` is an end or anything between two AS numbers, `.`, `[...]`, `(...)`, `|`,
/// `*`, `+` and `?` are as usual, and `\` takes its meaning from what follows. The text of a path
/// is its AS numbers, nearest first, with blanks between them and sets in braces. Matching takes
/// time proportional to the lengths of path and pattern, at most 256 characters.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AsPathPattern {
    text: Arc<str>,
    program: Arc<[Step]>,
}

/// One step of the automaton. What has no other place to go to goes to the next one.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Takes one symbol of the set.
    Take(u32),
    /// Passes at the start of the text only.
    Start,
    /// Passes at the end of the text only.
    End,
    /// Goes both ways.
    Split(u16, u16),
    Jump(u16),
    Found,
}

/// A parsed pattern.
enum Node {
    Take(u32),
    Start,
    End,
    All(Vec<Node>),
    Either(Vec<Node>),
    Repeat { what: Box<Node>, optional: bool, again: bool },
}

fn symbol(octet: u8) -> u32 {
    SYMBOLS.iter().position(|s| *s == octet).map_or(0, |at| 1 << at)
}

struct Parser<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    depth: usize,
}

impl Parser<'_> {
    fn either(&mut self) -> Result<Node, String> {
        let mut branches = vec![self.all()?];
        while self.rest.next_if_eq(&'|').is_some() {
            branches.push(self.all()?);
        }
        Ok(Node::Either(branches))
    }

    fn all(&mut self) -> Result<Node, String> {
        let mut all = Vec::new();
        while let Some(c) = self.rest.next_if(|c| !matches!(c, '|' | ')')) {
            let node = self.one(c)?;
            all.push(self.repeated(node)?);
        }
        Ok(Node::All(all))
    }

    fn repeated(&mut self, node: Node) -> Result<Node, String> {
        let (mut optional, mut again, mut any) = (false, false, false);
        while let Some(c) = self.rest.next_if(|c| matches!(c, '*' | '+' | '?')) {
            if matches!(node, Node::Start | Node::End) {
                return Err(format!("{c} has nothing before it to repeat"));
            }
            any = true;
            optional |= c != '+';
            again |= c != '?';
        }
        let what = Box::new(node);
        Ok(if any { Node::Repeat { what, optional, again } } else { *what })
    }

    fn one(&mut self, c: char) -> Result<Node, String> {
        Ok(match c {
            '^' => Node::Start,
            '$' => Node::End,
            '_' => Node::Either(vec![Node::Start, Node::Take(ANY & !DIGITS), Node::End]),
            '.' => Node::Take(ANY),
            '[' => Node::Take(self.class()?),
            '(' => {
                self.depth += 1;
                // Deeper than anybody writes; what is below recurses.
                if self.depth > 32 {
                    return Err("more than 32 parentheses inside each other".into());
                }
                let inner = self.either()?;
                if self.rest.next() != Some(')') {
                    return Err("( is not closed".into());
                }
                self.depth -= 1;
                inner
            }
            '\\' => match self.rest.next().map_or(0, literal) {
                0 => return Err("\\ is followed by nothing that is in a path".into()),
                set => Node::Take(set),
            },
            '*' | '+' | '?' => return Err(format!("{c} has nothing before it to repeat")),
            '{' => return Err("repetition by numbers is not known; \\{ stands for {".into()),
            c => match literal(c) {
                0 => return Err(format!("{c:?} is in no path")),
                set => Node::Take(set),
            },
        })
    }

    /// What stands between brackets.
    fn class(&mut self) -> Result<u32, String> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut set = 0;
        let mut first = true;
        loop {
            let c = match self.rest.next() {
                None => return Err("[ is not closed".into()),
                Some(']') if !first => break,
                Some(c) => c,
            };
            first = false;
            let from = literal(c);
            if from == 0 {
                return Err(format!("{c:?} is in no path"));
            }
            set |= from;
            if c.is_ascii_digit() && self.rest.next_if_eq(&'-').is_some() {
                match self.rest.next() {
                    Some(to) if to.is_ascii_digit() && to >= c => {
                        // From one digit's bit to the other's.
                        set |= (literal(to) << 1) - from;
                    }
                    _ => return Err(format!("{c}- begins no range of digits")),
                }
            }
        }
        Ok(if negated { ANY & !set } else { set })
    }
}

fn literal(c: char) -> u32 {
    u8::try_from(c).map_or(0, symbol)
}

/// Appends the steps of a node.
fn emit(node: &Node, out: &mut Vec<Step>) {
    fn here(out: &[Step]) -> u16 {
        u16::try_from(out.len()).unwrap_or(u16::MAX)
    }
    match node {
        Node::Take(set) => out.push(Step::Take(*set)),
        Node::Start => out.push(Step::Start),
        Node::End => out.push(Step::End),
        Node::All(nodes) => nodes.iter().for_each(|node| emit(node, out)),
        Node::Either(branches) => {
            let mut ends = Vec::new();
            for (at, branch) in branches.iter().enumerate() {
                if at + 1 == branches.len() {
                    emit(branch, out);
                    break;
                }
                let split = out.len();
                out.push(Step::Found); // Replaced below.
                emit(branch, out);
                ends.push(out.len());
                out.push(Step::Found);
                out[split] = Step::Split(u16::try_from(split + 1).unwrap_or(u16::MAX), here(out));
            }
            let end = here(out);
            for at in ends {
                out[at] = Step::Jump(end);
            }
        }
        Node::Repeat { what, optional, again } => {
            let start = out.len();
            if *optional {
                out.push(Step::Found);
            }
            let body = here(out);
            emit(what, out);
            if *again {
                let next = here(out) + 1;
                out.push(Step::Split(body, next));
            }
            if *optional {
                out[start] = Step::Split(body, here(out));
            }
        }
    }
}

impl AsPathPattern {
    /// Whether the text of a path, as [`crate::wire::path::display`] writes it, matches.
    pub fn matches(&self, path: &str) -> bool {
        let mut now = Places::new(self.program.len());
        let mut next = Places::new(self.program.len());
        let octets = path.as_bytes();
        for at in 0..=octets.len() {
            let ends = (at == 0, at == octets.len());
            if now.enter(&self.program, 0, ends) {
                return true;
            }
            let Some(octet) = octets.get(at) else { break };
            let symbol = symbol(*octet);
            let ends = (false, at + 1 == octets.len());
            for place in &now.taking {
                if let Step::Take(set) = self.program[usize::from(*place)]
                    && set & symbol != 0
                    && next.enter(&self.program, place + 1, ends)
                {
                    return true;
                }
            }
            now.clear();
            std::mem::swap(&mut now, &mut next);
        }
        false
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Where in the program one can be.
struct Places {
    seen: SmallVec<[u64; 4]>,
    taking: SmallVec<[u16; 32]>,
}

impl Places {
    fn new(steps: usize) -> Self {
        Self { seen: SmallVec::from_elem(0, steps / 64 + 1), taking: SmallVec::new() }
    }

    fn clear(&mut self) {
        self.seen.fill(0);
        self.taking.clear();
    }

    /// Goes as far as one can without a symbol; whether that is the end. `ends` says whether this
    /// is the start of the text, and whether it is its end.
    fn enter(&mut self, program: &[Step], at: u16, ends: (bool, bool)) -> bool {
        let mut stack: SmallVec<[u16; 16]> = SmallVec::from_slice(&[at]);
        while let Some(at) = stack.pop() {
            let (word, bit) = (usize::from(at / 64), 1 << (at % 64));
            if self.seen[word] & bit != 0 {
                continue;
            }
            self.seen[word] |= bit;
            match program[usize::from(at)] {
                Step::Take(_) => self.taking.push(at),
                Step::Start if ends.0 => stack.push(at + 1),
                Step::End if ends.1 => stack.push(at + 1),
                Step::Start | Step::End => {}
                Step::Split(a, b) => stack.extend([b, a]),
                Step::Jump(to) => stack.push(to),
                Step::Found => return true,
            }
        }
        false
    }
}

impl std::str::FromStr for AsPathPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = |reason: &str| format!("{text:?} is not a pattern for AS paths: {reason}");
        if text.chars().count() > LONGEST {
            return Err(fail("it has more than 256 characters"));
        }
        let mut parser = Parser { rest: text.chars().peekable(), depth: 0 };
        let node = parser.either().map_err(|reason| fail(&reason))?;
        if parser.rest.next().is_some() {
            return Err(fail(") closes nothing"));
        }
        let mut program = Vec::new();
        emit(&node, &mut program);
        program.push(Step::Found);
        Ok(Self { text: text.into(), program: program.into() })
    }
}

impl std::fmt::Display for AsPathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::fmt::Debug for AsPathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AsPathPattern({:?})", self.text)
    }
}

impl PartialEq for AsPathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for AsPathPattern {}

impl std::hash::Hash for AsPathPattern {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

text_form!(AsPathPattern);
