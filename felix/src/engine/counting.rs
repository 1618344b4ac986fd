//! Who decides, for those who count: every rule of a policy, every end of a tier, and that nothing
//! decides have numbers.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::active::ActivePolicy;
use super::explain::field;
use super::policies::Policies;
use super::program::{ProgramKey, Role};
use super::programs::Programs;
use super::stable_hash::StableHasher;
use crate::model::{Decider, Decision, Direction};

/// More numbers than this that nobody may use any more are looked for and forgotten.
const IDLE: usize = 1024;

/// The numbers in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Counting {
    on: bool,
    numbers: FxHashMap<Arc<Decision>, Decider>,
    taken: FxHashSet<Decider>,
    /// Those that no delta has told of.
    news: Vec<(Decider, Arc<Decision>)>,
    /// How many were left by the last sweep.
    swept: usize,
}

impl Counting {
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// True if it was otherwise.
    pub(super) fn set(&mut self, on: bool) -> bool {
        std::mem::replace(&mut self.on, on) != on
    }

    /// Who decides by each line of the program of this key, in the order of its lines: the rules of each
    /// tier and its end, and at last the end of all. Empty if nothing is counted.
    pub(super) fn of_lines(
        &mut self,
        key: &ProgramKey,
        active: &[Arc<ActivePolicy>],
        policies: &Policies,
    ) -> Box<[Decider]> {
        if !key.counted {
            return Box::default();
        }
        let direction = key.direction;
        let early = key.role == Role::Early;
        let mut deciders = Vec::new();
        let mut revisions = key.policies.iter();
        for tier in active.chunk_by(|a, b| a.tier == b.tier) {
            let name = tier.first().map(|policy| policy.tier.name.to_string());
            for (active, revision) in tier.iter().zip(&mut revisions) {
                let policy = policies.policy(*revision);
                let rules = policy.and_then(|policy| policy.rules(direction)).unwrap_or_default();
                for number in 0..active.rules(direction).len() {
                    deciders.push(self.number(Decision {
                        tier: name.clone(),
                        policy: policy.map(|policy| policy.id.to_string()),
                        direction,
                        rule: rules.get(number).map(|rule| field(rule, direction)),
                    }));
                }
            }
            if !early {
                deciders.push(self.end(name, direction, None));
            }
        }
        deciders.push(match key.role {
            // What is judged once more counts there.
            Role::Early => Decider::NOBODY,
            Role::Host { .. } => self.end(None, direction, Some(Decision::PROFILES.to_owned())),
            Role::Workload | Role::Forward => self.end(None, direction, None),
        });
        deciders.into()
    }

    fn end(&mut self, tier: Option<String>, direction: Direction, rule: Option<String>) -> Decider {
        self.number(Decision { tier, policy: None, direction, rule })
    }

    fn number(&mut self, decision: Decision) -> Decider {
        if let Some(known) = self.numbers.get(&decision) {
            return *known;
        }
        // Made from what it stands for, so that a restarted agent numbers as before: tables of host
        // endpoints are named by what they say. Where it is taken, the next that is free: tables of such
        // deciders may have other names then, and are written anew.
        let mut number = Decider(hash(&decision));
        while number == Decider::NOBODY || self.taken.contains(&number) {
            number = Decider(number.0.wrapping_add(1));
        }
        self.taken.insert(number);
        let decision = Arc::new(decision);
        self.numbers.insert(decision.clone(), number);
        self.news.push((number, decision));
        number
    }

    /// Those numbered since the last call.
    pub(super) fn take_news(&mut self) -> Vec<(Decider, Arc<Decision>)> {
        std::mem::take(&mut self.news)
    }

    /// Forgets numbers that no program uses, once there are many.
    pub(super) fn sweep(&mut self, programs: &Programs) {
        if self.numbers.len() > 2 * self.swept + IDLE {
            let used = programs.deciders();
            self.numbers.retain(|_, number| used.contains(number));
            self.taken.retain(|number| used.contains(number));
            self.swept = self.numbers.len();
        }
    }
}

fn hash(decision: &Decision) -> u32 {
    let Decision { tier, policy, direction, rule } = decision;
    let mut hasher = StableHasher::default();
    for part in [tier, policy, rule] {
        hasher.write(part.as_deref().unwrap_or_default().as_bytes());
        hasher.write(&[0]);
    }
    hasher.write(&[u8::from(*direction == Direction::Egress)]);
    hasher.finish()
}
