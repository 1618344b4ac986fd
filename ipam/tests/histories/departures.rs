//! Nodes that Kubernetes deletes and makes again: what they held is given back by others, or taken
//! over by their successors, and what still lives keeps what it has.

use ipam::retire::Challenge;

use super::*;

/// What an agent finds out about its own node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attended {
    /// It is the node of Kubernetes, and has written that down.
    Itself,
    /// It took the name from its predecessor.
    Succeeds,
    /// Not yet.
    Unknown,
}

impl World {
    /// By which the kubelet names the boot of the machine.
    fn boot_id(&self, n: usize) -> String {
        format!("{n}/{}", self.boots[n])
    }

    /// Kubernetes deletes a node, or has it again.
    pub(super) async fn reconsider(&mut self) {
        let n = self.any();
        if self.kubernetes.node(&name(n)).is_none() {
            self.register(n);
            return;
        }
        self.kubernetes.delete(&name(n));
        if self.random.random_bool(0.5) {
            self.told(format!("Kubernetes deletes n{n}"));
            return;
        }
        self.told(format!("Kubernetes deletes n{n}, and another machine gets its name"));
        let Machine { node, link } = self.machines[n].take().unwrap();
        node.stop().await;
        self.graves.push(link);
        self.pods.retain(|_, (at, _)| *at != n);
        self.boots[n] += 1;
        self.anew.insert(n);
        self.deposed.remove(&n);
        self.machines[n] = Some(self.start(n, disk(), false));
    }

    pub(super) fn register(&mut self, n: usize) {
        self.next += 1;
        let (uid, boot_id) = (format!("u{}", self.next), self.boot_id(n));
        // Some kubelets say nothing.
        let boot_id = self.random.random_bool(0.8).then_some(&*boot_id);
        self.kubernetes.make(&name(n), &uid, boot_id);
        self.told(format!("Kubernetes has n{n} as {uid} of {boot_id:?}"));
    }

    /// A node's agent says which node of Kubernetes it is, as soon as it may.
    pub(super) async fn attend(&mut self, n: usize) -> Option<Result<Attended, Error>> {
        let Some(mut known) = self.kubernetes.node(&name(n)) else {
            return Some(Ok(Attended::Unknown));
        };
        if self.random.random_bool(0.5) {
            // The kubelet tells of the last boot.
            known.boot_id = Some(self.boot_id(n));
            self.kubernetes.make(&name(n), &known.uid, known.boot_id.as_deref());
        }
        let machine = known.machine(&self.boot_id(n));
        let Machine { node, link } = self.machine(n);
        let asked = async {
            if node.ipam.identify(&known.uid, machine).await? {
                return Ok(Attended::Itself);
            }
            let succeeds = node.ipam.succeed(&known.uid, machine, &self.kubernetes).await?;
            Ok(if succeeds { Attended::Succeeds } else { Attended::Unknown })
        };
        let attended = tokio::select! {
            biased;
            () = link.died() => None,
            attended = asked => Some(attended),
        };
        self.told(format!("n{n} looks for itself as {known:?}: {attended:?}"));
        match attended {
            Some(Ok(Attended::Itself)) => drop(self.anew.remove(&n)),
            // Its allocator would look again in a while.
            Some(Ok(Attended::Succeeds)) => self.replace(n, Fate::Restarts).await,
            _ => {}
        }
        self.bury().await;
        attended
    }

    /// A node's agent gives back what nodes held that Kubernetes does not have.
    pub(super) async fn give_back(&mut self) {
        let has = |n: &usize| self.kubernetes.node(&name(*n)).is_some();
        let (there, gone): (Vec<usize>, Vec<usize>) = (0..self.machines.len()).partition(has);
        let Some(last) = there.len().checked_sub(1) else { return };
        let asker = there[self.random.random_range(0..=last)];
        for n in gone {
            let (Machine { node, link }, of) = (self.machine(asker), name(n));
            let challenged = tokio::select! {
                biased;
                () = link.died() => break,
                challenged = node.ipam.challenge(&of, &self.kubernetes) => challenged,
            };
            self.told(format!("n{asker} challenges n{n}: {challenged:?}"));
            if !matches!(challenged, Ok(Challenge::Unowned)) {
                continue;
            }
            self.object(n).await;
            // Also if it is told of nothing, or of a failure, it may be done.
            let unreachable = self.machine(n).link.is_cut() || self.machine(n).link.is_dead();
            if unreachable {
                self.deposed.insert(n);
            }
            let Machine { node, link } = self.machine(asker);
            let retired = tokio::select! {
                biased;
                () = link.died() => break,
                retired = node.ipam.retire(&of, &self.kubernetes) => retired,
            };
            self.told(format!("n{asker} retires n{n}: {retired:?}"));
        }
        self.bury().await;
    }

    /// An agent whose name was taken from it takes it again, if it lives and reaches the store. The
    /// pods of one that cannot are no more: so says Kubernetes, which deletes them with their node.
    async fn object(&mut self, n: usize) {
        let lives = self.pods.values().any(|(at, _)| *at == n);
        let local = self.machine(n).node.ipam.status().mode == Mode::LocalFirst;
        // Or will be soon.
        let mark = [model::local_key(&name(n))];
        let marked = self.memory.read(&mark).await.is_ok_and(|read| !read.entries.is_empty());
        if (lives || local || marked) && !self.retakes(n).await {
            self.told(format!("the pods of n{n} end"));
            self.pods.retain(|_, (at, _)| *at != n);
        }
    }

    /// Waits until the agent has taken its name again. False if it cannot.
    pub(super) async fn retakes(&mut self, n: usize) -> bool {
        let key = model::node_key(&name(n));
        let link = self.machine(n).link.clone();
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let Ok(read) = self.memory.read(std::slice::from_ref(&key)).await else { return false };
            if read.get(&key).is_some() {
                return true;
            }
            if link.is_cut() || link.is_dead() {
                return false;
            }
            assert!(std::time::Instant::now() < end, "n{n} does not take its name again");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Kubernetes has every node, and every machine is the one of its name.
    pub(super) async fn reconcile(&mut self) {
        for n in 0..self.machines.len() {
            let end = std::time::Instant::now() + PATIENCE;
            loop {
                if self.kubernetes.node(&name(n)).is_none() {
                    self.register(n);
                }
                let attended = self.attend(n).await;
                if let Some(Ok(Attended::Itself)) = attended {
                    break;
                }
                // Whose predecessor never said which node it was has to be proven gone by hand.
                let recorded = self.memory.read(&[model::node_uid_key(&name(n))]).await.unwrap();
                if self.anew.contains(&n) && recorded.entries.is_empty() {
                    self.disown(&model::node_key(&name(n))).await;
                    self.replace(n, Fate::Restarts).await;
                }
                assert!(std::time::Instant::now() < end, "n{n} is not itself: {attended:?}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
}
