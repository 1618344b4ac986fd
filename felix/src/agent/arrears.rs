//! What the kernel does not have as it should: refused policy, flows that could not be judged.

use std::time::{Duration, Instant};

use crate::model::Parties;

/// After this the kernel is asked again, or told again.
const RETRY: Duration = Duration::from_secs(1);

/// The debts of the brain. Pure: the time is told.
#[derive(Debug, Default)]
pub(super) struct Arrears {
    error: Option<String>,
    retry_at: Option<Instant>,
    unjudged: Parties,
}

/// How policy is, compared with how it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// In force, as before.
    Well,
    /// In force again.
    Recovered,
    /// Not in force, for a reason that is new.
    Failed,
    /// Not in force, for the reason known.
    Failing,
}

impl Arrears {
    /// When there is something to be done; None while nothing is amiss.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether that time has come.
    pub(super) fn due(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at <= now)
    }

    /// Why policy is not in force.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Their flows are to be judged once policy is in the kernel.
    pub(super) fn judge(&mut self, parties: Parties) {
        self.unjudged.extend(parties);
    }

    /// The same, for another attempt: without waiting for a change of policy.
    pub(super) fn judge_again(&mut self, parties: Parties, now: Instant) {
        self.judge(parties);
        self.retry_at.get_or_insert(now + RETRY);
    }

    /// Policy is in the kernel: whose flows are judged now.
    pub(super) fn take_unjudged(&mut self) -> Parties {
        std::mem::take(&mut self.unjudged)
    }

    /// Takes how policy is now.
    pub(super) fn settle(&mut self, outcome: Result<(), String>, now: Instant) -> Turn {
        match outcome {
            Ok(()) => {
                // What has to be judged again waits for its own time.
                self.retry_at = self.retry_at.filter(|_| !self.unjudged.is_empty());
                if self.error.take().is_some() { Turn::Recovered } else { Turn::Well }
            }
            Err(error) => {
                self.retry_at = Some(now + RETRY);
                let known = self.error.as_ref() == Some(&error);
                self.error = Some(error);
                if known { Turn::Failing } else { Turn::Failed }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_refusal_is_told_once_and_asked_about_until_it_ends() {
        let (start, mut arrears) = (Instant::now(), Arrears::default());
        let refused = || Err("no memory".to_owned());
        assert_eq!(arrears.settle(Ok(()), start), Turn::Well);
        assert_eq!(arrears.retry_at(), None);
        assert_eq!(arrears.settle(refused(), start), Turn::Failed);
        assert_eq!(arrears.error(), Some("no memory"));
        assert!(!arrears.due(start) && arrears.due(start + RETRY));
        assert_eq!(arrears.settle(refused(), start + RETRY), Turn::Failing);
        assert!(!arrears.due(start + RETRY), "asked a moment ago");
        assert_eq!(arrears.settle(Err("no space".into()), start), Turn::Failed);
        assert_eq!(arrears.settle(Ok(()), start), Turn::Recovered);
        assert_eq!((arrears.error(), arrears.retry_at()), (None, None));
        assert_eq!(arrears.settle(Ok(()), start), Turn::Well);
    }

    #[test]
    fn flows_that_could_not_be_judged_are_not_forgotten() {
        let (start, mut arrears) = (Instant::now(), Arrears::default());
        let [a, b]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let of = |addresses: &[IpAddr]| addresses.iter().copied().collect::<Parties>();
        let range = Parties { ranges: [(a, b)].into(), ..Parties::default() };
        arrears.judge(of(&[b, a, b]));
        assert_eq!(arrears.retry_at(), None, "they go with the change that made them due");
        // The kernel took that change.
        assert_eq!(arrears.take_unjudged(), of(&[a, b]));
        arrears.settle(Ok(()), start);
        assert_eq!(arrears.retry_at(), None);
        // It could not say which flows there are.
        arrears.judge_again(of(&[a]), start);
        assert!(arrears.due(start + RETRY));
        // A second failure does not put the first one off.
        arrears.judge_again(range.clone(), start + RETRY / 2);
        assert!(arrears.due(start + RETRY));
        // Nor does policy that is well.
        arrears.settle(Ok(()), start);
        assert!(arrears.due(start + RETRY));
        // Refused policy keeps them, too.
        arrears.settle(Err("no memory".into()), start);
        let both = Parties { ranges: range.ranges, ..of(&[a]) };
        assert_eq!(arrears.take_unjudged(), both);
        assert!(arrears.take_unjudged().is_empty());
    }
}
