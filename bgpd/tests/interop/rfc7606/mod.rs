//! What becomes of errors in UPDATEs (RFC 7606), seen from outside: one peer sends each of them to
//! the running daemon, and another, which is told all its routes, shows what it made of it.

mod cases;

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail, ensure};

use crate::kit::{Daemon, LIMIT, Node, Pair, Routes, Script, Speaker, script};
use cases::{Case, Want};

/// What the error is about: 10.7.7.0/24 and fd00:7::/64.
const SUBJECT: [&[u8]; 2] = [&[24, 10, 7, 7], &[64, 0xfd, 0, 0, 7, 0, 0, 0, 0]];
/// What must not suffer from it: 10.6.6.0/24 and fd00:6::/64.
const BYSTANDER: [&[u8]; 2] = [&[24, 10, 6, 6], &[64, 0xfd, 0, 0, 6, 0, 0, 0, 0]];
/// An attribute that nobody knows and everybody passes on: it tells UPDATEs apart.
const MARK: u8 = 200;

const WATCHER: u8 = 9;

const OURS: &str = "
router-id: 10.255.0.1
asn: 65001
cluster-id: 10.255.9.9
ebgp-requires-policy: false
graceful-restart: {enabled: false}
peers:
  - {name: external, address: 10.0.1.2, asn: 65002, passive: true, hold-time: 0}
  - {name: internal, address: 10.0.1.3, asn: 65001, passive: true, hold-time: 0}
  - {name: watcher, address: 10.0.1.9, asn: 65001, passive: true, hold-time: 0,
     route-reflector-client: true}
";

/// The peer that makes errors.
#[derive(Clone, Copy)]
struct Sender {
    external: bool,
    four_octets: bool,
}

impl Sender {
    fn speaker(self) -> Speaker {
        let (host, asn) = if self.external { (2, 65002) } else { (3, 65001) };
        Speaker { four_octets: self.four_octets, ..Speaker::new(host, asn) }
    }

    fn address(self) -> Ipv4Addr {
        self.speaker().address
    }
}

struct Bench<'a> {
    node: &'a Node,
    sender: Sender,
    script: Option<Script>,
    watcher: Script,
    seen: Routes,
    mark: u32,
}

impl Bench<'_> {
    /// Reads what the watcher is told until it is as wanted.
    fn watch(&mut self, what: &str, wanted: impl Fn(&Routes) -> bool) -> Result<()> {
        while !wanted(&self.seen) {
            let (kind, body) = self.watcher.next().with_context(|| what.to_owned())?;
            if kind == script::UPDATE {
                self.seen.take(&body)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, body: &[u8]) -> Result<()> {
        self.script.as_mut().context("no session")?.send(script::UPDATE, body)
    }

    /// Announces a prefix as one should, and waits until the watcher has it. What was sent before
    /// has had its effect then.
    fn announce(&mut self, family: usize, prefix: &[u8]) -> Result<()> {
        self.mark += 1;
        let (mark, afi) = (self.mark, AFI[family]);
        self.send(&cases::good(self.sender, mark, family, prefix))?;
        self.watch("a good route", |seen| marked(seen, afi, prefix) == Some(mark))
    }

    fn check(&mut self, case: &Case) -> Result<()> {
        if self.script.is_none() {
            self.script = Some(Script::establish(self.node, &self.sender.speaker()));
            for (family, prefix) in BYSTANDER.into_iter().enumerate() {
                self.announce(family, prefix)?;
            }
        }
        for (family, prefix) in SUBJECT.into_iter().enumerate() {
            self.announce(family, prefix)?;
        }
        self.mark += 1;
        let (mark, family) = (self.mark, case.family);
        let (afi, subject) = (AFI[family], SUBJECT[family]);
        self.send(&case.body(self.sender, mark))?;
        let verdict = self.verdict(case, mark);
        if verdict.is_err() || matches!(case.want, Want::Disable | Want::Reset(_)) {
            self.script = None;
            self.watch("the end of the session", |seen| seen.len() == 0)?;
            return verdict;
        }
        verdict?;
        // The session goes on, and others of its routes are as they were.
        let other = 1 - family;
        self.announce(other, SUBJECT[other])?;
        for (afi, prefix) in AFI.into_iter().zip(BYSTANDER) {
            let there = self.seen.get(afi, prefix).is_some();
            ensure!(there, "another route is gone");
        }
        let gone = self.seen.get(afi, subject).is_none();
        ensure!(gone == (case.want == Want::Withdraw), "gone: {gone}");
        Ok(())
    }

    fn verdict(&mut self, case: &Case, mark: u32) -> Result<()> {
        let family = case.family;
        let (afi, subject) = (AFI[family], SUBJECT[family]);
        match case.want {
            Want::Accept | Want::Discard => {
                self.watch("the route", |seen| marked(seen, afi, subject) == Some(mark))?;
                let all = self.seen.get(afi, subject).unwrap_or_default();
                let carried = all.iter().any(|(kind, value)| {
                    // A reflector's own cluster comes in front.
                    let ours = value.is_empty() == case.value.is_empty();
                    *kind == case.kind && ours && value.ends_with(&case.value)
                });
                if case.visible() {
                    ensure!(carried == (case.want == Want::Accept), "passed on: {all:?}");
                }
            }
            Want::Withdraw => {
                self.watch("the withdrawal", |seen| seen.get(afi, subject).is_none())?;
            }
            Want::Disable => {
                self.watch("the end of the family", |seen| {
                    [subject, BYSTANDER[family]].iter().all(|p| seen.get(afi, p).is_none())
                })?;
                let other = 1 - family;
                self.announce(other, SUBJECT[other])?;
                ensure!(self.seen.get(AFI[other], BYSTANDER[other]).is_some(), "both are gone");
                // What comes in the family is ignored from now on.
                let good = cases::good(self.sender, mark, family, subject);
                self.send(&good)?;
                self.announce(other, SUBJECT[other])?;
                ensure!(self.seen.get(afi, subject).is_none(), "it goes on");
            }
            Want::Reset(subcode) => {
                let script = self.script.as_mut().context("no session")?;
                let said = script.until_notification()?;
                ensure!((said.code, said.subcode) == (3, subcode), "{said}");
                self.watch("the end of all routes", |seen| seen.len() == 0)?;
            }
        }
        Ok(())
    }
}

const AFI: [u16; 2] = [1, 2];

/// The mark of a route.
fn marked(seen: &Routes, afi: u16, prefix: &[u8]) -> Option<u32> {
    let (_, mark) = seen.get(afi, prefix)?.iter().find(|(kind, _)| *kind == MARK)?;
    Some(u32::from_be_bytes(mark.as_slice().try_into().ok()?))
}

/// Runs all cases of a sender, and names those that did not end as they should.
fn run(sender: Sender) -> Result<()> {
    let pair = Pair::new();
    for host in [3, WATCHER] {
        pair.peer.ip(&format!("address add 10.0.1.{host}/24 dev us"));
    }
    let us = Daemon::start(&pair.us, OURS);
    let watcher = Script::establish(&pair.peer, &Speaker::new(WATCHER, 65001));
    watcher.set_patience(LIMIT / 12);
    let seen = Routes::default();
    let mut bench = Bench { node: &pair.peer, sender, script: None, watcher, seen, mark: 0 };
    let cases = cases::all(sender);
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(error) = bench.check(case) {
            wrong.push(format!("{} wants {:?}: {error:#}", case.name, case.want));
        }
    }
    drop(us);
    if !wrong.is_empty() {
        bail!("{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    }
    Ok(())
}

#[test]
fn of_an_external_peer() {
    run(Sender { external: true, four_octets: true }).unwrap();
}

#[test]
fn of_an_internal_peer() {
    run(Sender { external: false, four_octets: true }).unwrap();
}

#[test]
fn of_an_external_peer_with_two_octet_as_numbers() {
    run(Sender { external: true, four_octets: false }).unwrap();
}

#[test]
fn of_an_internal_peer_with_two_octet_as_numbers() {
    run(Sender { external: false, four_octets: false }).unwrap();
}
