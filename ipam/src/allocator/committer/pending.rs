//! What is asked, who waits for the answer, and what is left to do where nobody does any more.

use super::*;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

pub(crate) enum Message {
    Assign(AssignRequest, Reply<Assignment>),
    Release(String, Reply<Vec<IpAddr>>),
    Collect(Live, Reply<Vec<IpAddr>>),
    Pools(Pools),
    Reservations(Vec<IpNet>),
    Config(Option<IpamConfig>),
    NodeLabels(BTreeMap<String, String>),
    Hold(Vec<Held>),
    Tend,
    Close(oneshot::Sender<()>),
}

/// Who waits for an answer.
pub(super) enum Waiting {
    Assign(Reply<Assignment>),
    Addresses(Reply<Vec<IpAddr>>),
    Nobody,
}

impl Waiting {
    /// True if there was somebody and they left.
    pub(super) fn left(&self) -> bool {
        match self {
            Self::Assign(reply) => reply.is_closed(),
            Self::Addresses(reply) => reply.is_closed(),
            Self::Nobody => false,
        }
    }

    pub(super) fn fail(self, error: Error) {
        // Who left does not care.
        let _ = match self {
            Self::Assign(reply) => reply.send(Err(error)).is_ok(),
            Self::Addresses(reply) => reply.send(Err(error)).is_ok(),
            Self::Nobody => true,
        };
    }
}

/// A request on its way.
pub(super) struct Pending {
    pub(super) work: Work,
    pub(super) waiting: Waiting,
    pub(super) effort: Effort,
    pub(super) conflicts: u32,
    /// What transactions without an answer may have given this request.
    pub(super) tentative: BTreeSet<IpAddr>,
    /// What it has released so far.
    pub(super) released: Vec<IpAddr>,
    /// It waits for the end of this search.
    pub(super) search: Option<Search>,
}

impl Pending {
    pub(super) fn new(work: Work, waiting: Waiting) -> Self {
        Self {
            work,
            waiting,
            effort: Effort::Own,
            conflicts: 0,
            tentative: BTreeSet::new(),
            released: Vec::new(),
            search: None,
        }
    }

    /// True if it can be planned now.
    pub(super) fn is_ready(&self) -> bool {
        self.search.is_none()
    }
}

/// What tells searches apart; equal ones are done once for all who need them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Search {
    Room(Family, Vec<String>),
    Of(IpAddr),
    Named(Family),
}

impl Committer {
    /// Drops requests that nobody waits for any more. What an assignment may have been given is
    /// taken back, and a release is done all the same.
    pub(super) fn forget_the_abandoned(&mut self) {
        if !self.pending.iter().any(|pending| pending.waiting.left()) {
            return;
        }
        let mut releasing = BTreeSet::new();
        for mut pending in std::mem::take(&mut self.pending) {
            if pending.waiting.left() {
                pending.waiting = Waiting::Nobody;
                pending.work = match pending.work {
                    Work::Assign(request) if !pending.tentative.is_empty() => {
                        let addresses = std::mem::take(&mut pending.tentative);
                        let addresses = addresses.into_iter().collect();
                        pending.search = None;
                        Work::Undo { handle: request.handle, addresses }
                    }
                    // Whoever repeats it during an outage repeats it often.
                    Work::Release { handle, looked_up } if !releasing.contains(&handle) => {
                        Work::Release { handle, looked_up }
                    }
                    _ => continue,
                };
            }
            match &pending.work {
                Work::Release { handle, .. } => releasing.insert(handle.clone()),
                Work::Assign(request) => releasing.remove(&request.handle),
                _ => false,
            };
            self.pending.push_back(pending);
        }
    }

    /// Fails requests that somebody waits for.
    pub(super) fn fail_waiting(&mut self, error: &Error, which: impl Fn(&Pending) -> bool) {
        for pending in std::mem::take(&mut self.pending) {
            if matches!(pending.waiting, Waiting::Nobody) || !which(&pending) {
                self.pending.push_back(pending);
            } else {
                pending.waiting.fail(error.clone());
            }
        }
    }
}
