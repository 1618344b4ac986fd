//! A workload from beginning to end, with the clocks around it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::engine::{Engine, Patience};
use crate::plan::{Plan, SUBJECT, Workload};
use crate::session::{Session, Speaker};
use crate::subject::Subject;
use crate::sys::CpuClock;
use crate::table::{self, Table};

/// A subject rests when it took less than [`IDLE`] of CPU time in so long, with nothing to read:
/// longer than any of them waits before it goes on with what it has.
const QUIET: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_millis(5);
/// Between two looks at its clock.
const LOOK: Duration = Duration::from_millis(1);
/// Routes announced one after another: so many, or fewer of a subject that takes longer than
/// [`PROBING`] for them.
const PROBES: u32 = 3000;
const PROBING: Duration = Duration::from_secs(10);

/// One workload against one subject, which is fresh.
#[derive(Debug)]
pub(crate) struct Measurement {
    plan: Plan,
    speakers: Vec<Speaker>,
    engine: Engine,
    subject: Subject,
    within: Duration,
    phases: Vec<Value>,
    figures: serde_json::Map<String, Value>,
}

impl Measurement {
    pub(crate) fn new(plan: Plan, subject: Subject, within: Duration) -> Result<Self> {
        let speakers = plan.speakers();
        Ok(Self {
            engine: Engine::new(SUBJECT, &speakers)?,
            plan,
            speakers,
            subject,
            within,
            phases: Vec::new(),
            figures: serde_json::Map::new(),
        })
    }

    /// Does it. Each phase has `name`, `wall_s` until its end was seen from outside, `cpu_s` of the
    /// subject until it rested after that, `generator_cpu_s` until the end, and how many UPDATEs
    /// and prefixes the receivers had by then.
    ///
    /// # Errors
    /// A session was refused or has ended, the subject has, or it was not done within the time.
    pub(crate) fn run(mut self) -> Result<Value> {
        let all = 0..self.speakers.len();
        match self.plan.workload {
            Workload::One => self.one()?,
            Workload::Herd => self.herd()?,
            _ => {
                self.engine.establish(all, self.within)?;
                self.rest()?;
            }
        }
        match self.plan.workload {
            Workload::One | Workload::Herd => {}
            Workload::Forward => self.forward(&self.packed())?,
            Workload::Internet => {
                self.forward(&Table::internet(self.speakers[0], self.plan.routes))?;
            }
            Workload::Fan => self.fan()?,
            Workload::Reflect => self.reflect()?,
            Workload::Probe => self.probe()?,
            Workload::Withdraw => self.withdraw()?,
        }
        self.figures.insert("workload".into(), self.plan.name.into());
        self.figures.insert("routes".into(), self.plan.routes.into());
        self.figures.insert("peers".into(), self.plan.peers.into());
        self.figures.insert("phases".into(), self.phases.into());
        Ok(self.figures.into())
    }

    fn packed(&self) -> Table {
        Table::packed(self.speakers[0], self.plan.routes)
    }

    /// Nobody is told, so the end is when the subject rests; afterwards a second peer sees that
    /// all is there.
    fn one(&mut self) -> Result<()> {
        self.engine.establish(0..1, self.within)?;
        self.rest()?;
        let table = self.packed();
        let memory = self.subject.memory()?;
        let (cpu, own) = (self.subject.cpu()?, CpuClock::OWN.read()?);
        let start = Instant::now();
        self.engine.send(0, &table.announcement)?;
        let worked = self.rest()?;
        let own = CpuClock::OWN.read()? - own;
        self.note("announce", worked.saturating_duration_since(start), cpu, own)?;
        self.bytes_per_route(memory, table.routes)?;
        self.engine.establish(1..2, self.within)?;
        self.all_have(1, table.routes)
    }

    fn forward(&mut self, table: &Table) -> Result<()> {
        let memory = self.subject.memory()?;
        let routes = table.routes;
        self.phase(
            "announce",
            |engine| engine.send(0, &table.announcement),
            |sessions| sessions[1].heard.prefixes == routes,
        )?;
        self.bytes_per_route(memory, routes)
    }

    fn fan(&mut self) -> Result<()> {
        let table = self.packed();
        let routes = table.routes;
        self.phase(
            "announce",
            |engine| engine.send(0, &table.announcement),
            |sessions| sessions[1..].iter().all(|session| session.heard.prefixes == routes),
        )
    }

    fn reflect(&mut self) -> Result<()> {
        let mut tables = Vec::new();
        let mut total = 0;
        for (block, speaker) in (0..).zip(&self.speakers) {
            let table = Table::internal(*speaker, block, self.plan.routes);
            total += table.routes;
            tables.push(table.announcement);
        }
        for (block, session) in (0..).zip(&mut self.engine.sessions) {
            // Its own it has, and nobody tells it.
            for number in 0..self.plan.routes {
                session.heard.have(table::plain(block * self.plan.routes + number))?;
            }
        }
        let send = |engine: &mut Engine| -> Result<()> {
            tables.iter().enumerate().try_for_each(|(session, bytes)| engine.send(session, bytes))
        };
        self.phase("announce", send, |sessions| {
            sessions.iter().all(|session| session.heard.prefixes == total)
        })
    }

    fn herd(&mut self) -> Result<()> {
        let count = usize::from(self.plan.peers);
        self.engine.establish(count..count + 1, self.within)?;
        self.rest()?;
        let (cpu, own) = (self.subject.cpu()?, CpuClock::OWN.read()?);
        let start = Instant::now();
        self.engine.start(0..count)?;
        self.engine.until(self.within, Patience::Asleep, |sessions| {
            sessions.iter().all(Session::is_established)
        })?;
        let wall = start.elapsed();
        let own = CpuClock::OWN.read()? - own;
        let herd = &mut self.engine.sessions[..count];
        let up = herd.iter().filter(|session| session.is_established()).count();
        // What is not up by now is given up, and with it what was never read.
        herd.iter_mut().filter(|session| !session.is_established()).for_each(Session::stop);
        self.figures.insert("up".into(), up.into());
        self.note("up", wall, cpu, own)
    }

    fn probe(&mut self) -> Result<()> {
        let table = self.packed();
        self.engine.send(0, &table.announcement)?;
        self.all_have(1, table.routes)?;
        self.rest()?;
        let mut times = Vec::new();
        let end = Instant::now() + PROBING;
        for number in (0..PROBES).take_while(|_| Instant::now() < end) {
            let bytes = table::further(self.speakers[0], number);
            let due = table.routes + u64::from(number) + 1;
            let start = Instant::now();
            self.engine.send(0, &bytes)?;
            let arrived = self.engine.until(self.within, Patience::Awake, |sessions| {
                sessions[1].heard.prefixes == due
            })?;
            ensure!(arrived, "a route did not arrive within {} s", self.within.as_secs());
            times.push(start.elapsed().as_secs_f64());
        }
        self.figures.insert("probes_s".into(), times.into());
        Ok(())
    }

    fn withdraw(&mut self) -> Result<()> {
        let table = self.packed();
        let none = |sessions: &[Session]| sessions[1].heard.prefixes == 0;
        self.engine.send(0, &table.announcement)?;
        self.all_have(1, table.routes)?;
        self.rest()?;
        self.phase("withdraw", |engine| engine.send(0, &table.withdrawal), none)?;
        self.engine.send(0, &table.announcement)?;
        self.all_have(1, table.routes)?;
        self.rest()?;
        let lose = |engine: &mut Engine| -> Result<()> {
            engine.sessions[0].stop();
            Ok(())
        };
        self.phase("lose", lose, none)
    }

    fn all_have(&mut self, session: usize, routes: u64) -> Result<()> {
        let within = self.within;
        let all = self.engine.until(within, Patience::Asleep, |sessions| {
            sessions[session].heard.prefixes == routes
        })?;
        let has = self.engine.sessions[session].heard.prefixes;
        ensure!(all, "a peer has {has} of {routes} routes after {} s", within.as_secs());
        Ok(())
    }

    /// From `begin` until `done`.
    fn phase(
        &mut self,
        name: &str,
        begin: impl FnOnce(&mut Engine) -> Result<()>,
        done: impl Fn(&[Session]) -> bool,
    ) -> Result<()> {
        let (cpu, own) = (self.subject.cpu()?, CpuClock::OWN.read()?);
        let start = Instant::now();
        begin(&mut self.engine)?;
        let all = self.engine.until(self.within, Patience::Asleep, done)?;
        let wall = start.elapsed();
        let own = CpuClock::OWN.read()? - own;
        let most = self.engine.sessions.iter().map(|session| session.heard.prefixes);
        ensure!(
            all,
            "{name}: not done within {} s; peers have {:?} to {:?} prefixes",
            self.within.as_secs(),
            most.clone().min(),
            most.max()
        );
        self.note(name, wall, cpu, own)
    }

    /// Writes a phase down, once the subject has done what it put off.
    fn note(&mut self, name: &str, wall: Duration, cpu: Duration, own: Duration) -> Result<()> {
        // A sender may be told its own routes; that says nothing.
        let receivers = if self.plan.reflects() { 0 } else { 1 };
        let heard = self.engine.sessions[receivers..].iter().map(|session| &session.heard);
        let updates: u64 = heard.clone().map(|heard| heard.updates).sum();
        let prefixes: u64 = heard.map(|heard| heard.prefixes).sum();
        self.rest()?;
        let cpu = self.subject.cpu()?.saturating_sub(cpu);
        self.phases.push(json!({
            "name": name,
            "wall_s": wall.as_secs_f64(),
            "cpu_s": cpu.as_secs_f64(),
            "generator_cpu_s": own.as_secs_f64(),
            "updates": updates,
            "prefixes": prefixes,
        }));
        Ok(())
    }

    fn bytes_per_route(&mut self, before: u64, routes: u64) -> Result<()> {
        let memory = self.subject.memory()?;
        self.figures.insert("memory_before".into(), before.into());
        self.figures.insert("memory_after".into(), memory.into());
        let grown = memory.saturating_sub(before);
        self.figures.insert("bytes_per_route".into(), (grown / routes.max(1)).into());
        Ok(())
    }

    /// Waits until the subject has read everything and rests. When it last worked.
    fn rest(&mut self) -> Result<Instant> {
        let end = Instant::now() + self.within;
        let mut looks: VecDeque<(Instant, Duration)> = VecDeque::new();
        let mut worked = Instant::now();
        loop {
            self.engine.turn(LOOK)?;
            let (now, cpu) = (Instant::now(), self.subject.cpu()?);
            // More than the clock itself would show of a speaker that sleeps.
            let before = looks.back().map_or(cpu, |last| last.1);
            if cpu.saturating_sub(before) > LOOK / 10 {
                worked = now;
            }
            looks.push_back((now, cpu));
            while looks.get(1).is_some_and(|second| now - second.0 >= QUIET) {
                looks.pop_front();
            }
            let quiet = looks
                .front()
                .is_some_and(|first| now - first.0 >= QUIET && cpu.saturating_sub(first.1) < IDLE);
            if quiet && self.settled()? {
                return Ok(worked);
            }
            ensure!(now < end, "it does not rest within {} s", self.within.as_secs());
        }
    }

    /// Has all that we wrote been read?
    fn settled(&self) -> Result<bool> {
        for session in &self.engine.sessions {
            if !session.is_flushed()? {
                return Ok(false);
            }
        }
        Ok(self.subject.unread()? == 0)
    }
}
