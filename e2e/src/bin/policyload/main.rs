//! `policyload`: clusters full of policies, given to the agent's engine and its kernel writer in this
//! network namespace, and the same work done by the program `nft`.
//!
//! No process stands between: what is timed is what the agent does with an update, from the object to
//! the end of the kernel's transaction.

mod allocations;
mod packets;
mod stock;
mod world;

use std::future::Future;
use std::hint::black_box;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use api::selector::Selector;
use felix::engine::Engine;
use felix::kernel::{Kernel, Options};
use felix::model::{Delta, Update};
use serde_json::{Map, Value, json};

use self::world::World;

const USAGE: &str = "\
Usage: policyload WORKLOAD     measures, as JSON
Workloads: member member-nft start selectors selectors-nft edit index
       policyload hold POLICIES    has them in force until standard input ends
       policyload serve            answers connections until standard input ends
       policyload send|connect ADDRESS    measures what packets and connections cost
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let answer = match words.as_slice() {
        [verb] if verb == "serve" => packets::serve(),
        [workload] => measure(workload),
        [verb, word] => with_packets(verb, word),
        _ => Err(anyhow::anyhow!("one or two words are needed\n{USAGE}")),
    };
    match answer {
        Ok(times) => match writeln!(std::io::stdout().lock(), "{}", times.to_json()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "policyload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(workload: &str) -> Result<Figures> {
    match workload {
        "member" => member(),
        "member-nft" => stock::member(),
        "start" => start(),
        "selectors" => selectors(),
        "selectors-nft" => stock::selectors(),
        "edit" => edit(),
        "index" => index(),
        other => bail!("there is no workload {other:?}\n{USAGE}"),
    }
}

fn with_packets(verb: &str, word: &str) -> Result<Figures> {
    let address = || word.parse().with_context(|| format!("{word:?} is not an address"));
    match verb {
        "hold" => packets::hold(word.parse().with_context(|| format!("{word:?} policies"))?),
        "send" => packets::send(address()?),
        "connect" => packets::connect(address()?),
        other => bail!("there is no {other:?}\n{USAGE}"),
    }
}

/// What was measured: lists of numbers by name, in seconds or as the name says.
#[derive(Debug, Default)]
pub(crate) struct Figures(Map<String, Value>);

impl Figures {
    fn put(&mut self, name: &str, values: &[f64]) {
        self.0.insert(name.to_owned(), json!(values));
    }

    fn to_json(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

/// Times of one operation after another.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.0.push(start.elapsed().as_secs_f64());
        done
    }
}

/// An agent's policy: engine and kernel, as `agent` ties them together.
struct Node {
    engine: Engine,
    kernel: Kernel,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    fn new() -> Result<Self> {
        let kernel = Kernel::start(Options::default()).context("the kernel's writer")?;
        Ok(Self { engine: Engine::new(), kernel, runtime: runtime()? })
    }

    /// All of a world, from nothing to the kernel. Returns how long it took, in seconds.
    fn fill(&mut self, world: &World) -> Result<f64> {
        let taking_in = take_in(&mut self.engine, world)?;
        let mut times = Times::default();
        times.time(|| {
            let delta = self.engine.take_delta().context("a whole world and no policy")?;
            block(&self.runtime, self.kernel.sync(delta)).context("the first transaction")
        })?;
        Ok(taking_in + times.sum())
    }

    fn delta(&mut self, update: Update) -> Delta {
        self.engine.apply(update);
        self.engine.take_delta().unwrap_or_default()
    }

    fn commit(&self, delta: Delta) -> Result<()> {
        Ok(block(&self.runtime, self.kernel.commit(delta))?)
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().build()?)
}

fn block<T>(runtime: &tokio::runtime::Runtime, work: impl Future<Output = T>) -> T {
    runtime.block_on(work)
}

/// The endpoints come first, as they do when an agent starts: by its own records. Returns how long the
/// engine took, in seconds; what makes the objects is not counted.
fn take_in(engine: &mut Engine, world: &World) -> Result<f64> {
    let mut times = Times::default();
    for endpoint in world.endpoints() {
        times.time(|| engine.endpoint_set(endpoint));
    }
    for object in world.objects() {
        let object = object?;
        times.time(|| engine.apply(Update::Set(object)));
    }
    times.time(|| engine.apply(Update::InSync));
    Ok(times.sum())
}

/// One pod joins 100 selectors and leaves them, among 10,000 pods.
fn member() -> Result<Figures> {
    const ROUNDS: usize = 2000;
    let world = World::hundred_selectors();
    let mut node = Node::new()?;
    node.fill(&world)?;
    let mut figures = Figures::default();
    // Where a pod with the same labels is there already, and where there is none.
    for (name, other) in [("like-others", true), ("first-of-its-kind", false)] {
        if other {
            let delta = node.delta(Update::Set(world.member(0)));
            node.commit(delta)?;
        } else {
            let delta = node.delta(world.no_member(0));
            node.commit(delta)?;
        }
        let (mut engine, mut whole, mut elements) = (Times::default(), Times::default(), 0);
        for round in 0..ROUNDS {
            let update =
                if round % 2 == 0 { Update::Set(world.member(1)) } else { world.no_member(1) };
            let start = Instant::now();
            let delta = engine.time(|| node.delta(update));
            elements = delta.elements.len();
            ensure!(elements > 0, "a pod that joins or leaves changes nothing");
            node.commit(delta)?;
            whole.0.push(start.elapsed().as_secs_f64());
        }
        figures.put(&format!("{name}.engine"), &engine.0);
        figures.put(&format!("{name}.whole"), &whole.0);
        figures.put(&format!("{name}.elements"), &[count(elements)]);
    }
    Ok(figures)
}

/// An agent starts in a cluster of 250,000 pods and 10,000 policies, with 100 pods of its own.
fn start() -> Result<Figures> {
    let world = World::large();
    let before = resident()?;
    let mut node = Node::new()?;
    let wall = node.fill(&world)?;
    let mut figures = Figures::default();
    figures.put("wall", &[wall]);
    figures.put("engine-MB", &[(resident()? - before) / 1e6]);
    figures.put("peak-MB", &[peak()? / 1e6]);
    let counts = node.engine.counts();
    for (name, value) in [
        ("pods", counts.pods),
        ("policies", counts.policies),
        ("active-policies", counts.active_policies),
        ("classes", counts.classes),
    ] {
        figures.put(name, &[count(value)]);
    }
    Ok(figures)
}

/// 2,000 selectors of 100 members each, 2,000 policies of 10 rules: from nothing, again by an agent that
/// finds it all in the kernel, and one member more or less.
fn selectors() -> Result<Figures> {
    const ROUNDS: usize = 2000;
    let world = World::two_thousand_selectors();
    let mut figures = Figures::default();
    let mut node = Node::new()?;
    figures.put("build", &[node.fill(&world)?]);

    let mut member = Times::default();
    for round in 0..ROUNDS {
        let update = if round % 2 == 0 { Update::Set(world.member(1)) } else { world.no_member(1) };
        member.time(|| {
            let delta = node.delta(update);
            ensure!(delta.elements.len() == 1, "{} elements of one member", delta.elements.len());
            node.commit(delta)
        })?;
    }
    figures.put("member", &member.0);

    drop(node);
    let mut resync = Times::default();
    let mut engine = Engine::new();
    take_in(&mut engine, &world)?;
    let delta = engine.take_delta().context("a whole world and no policy")?;
    figures.put("elements", &[count(delta.elements.len())]);
    let runtime = runtime()?;
    resync.time(|| {
        let kernel = Kernel::start(Options::default())?;
        block(&runtime, kernel.sync(delta))
    })?;
    figures.put("resync", &resync.0);
    Ok(figures)
}

/// A policy whose edit changes some verdicts: the kernel's part.
fn edit() -> Result<Figures> {
    const ROUNDS: usize = 200;
    let world = World::one_policy();
    let mut node = Node::new()?;
    node.fill(&world)?;
    let mut figures = Figures::default();
    for tuples in [1_u16, 10, 100, 1000] {
        let (mut kernel, mut engine) = (Times::default(), Times::default());
        for round in 0..ROUNDS {
            let ports = if round % 2 == 0 { tuples } else { 0 };
            let update = Update::Set(world::policy_of_ports(ports)?);
            let delta = engine.time(|| node.delta(update));
            let changed = delta.elements.len();
            ensure!(changed == usize::from(tuples), "{changed} elements, not {tuples}");
            kernel.time(|| node.commit(delta))?;
        }
        figures.put(&format!("{tuples}.engine"), &engine.0);
        figures.put(&format!("{tuples}.kernel"), &kernel.0);
    }
    Ok(figures)
}

/// Selectors by themselves: how long reading and matching one takes, and an engine with 10,000 of them
/// and 100,000 pods.
fn index() -> Result<Figures> {
    let mut figures = Figures::default();
    let (mut parse, mut matches) = (Times::default(), Times::default());
    let text =
        "app == 'web' && tier in {'front', 'back'} && !has(legacy) || name starts with 'db-'";
    let pod: felix::model::Labels =
        [("app", "web"), ("tier", "back"), ("name", "x"), ("zone", "a")].into_iter().collect();
    for _ in 0..20 {
        let parsed: Result<Vec<Selector>, _> =
            parse.time(|| (0..1000).map(|_| Selector::parse(black_box(text))).collect());
        let selector = parsed?.pop().context("nothing was read")?;
        let matching =
            matches.time(|| (0..100_000).filter(|_| selector.matches(black_box(&pod))).count());
        ensure!(matching == 100_000, "the selector does not match");
    }
    figures.put("parse-1000", &parse.0);
    figures.put("match-100000", &matches.0);
    let selector = Selector::parse(text)?;
    let parsing = allocations::of(|| drop(black_box(Selector::parse(black_box(text)))));
    figures.put("parse-allocations", &[parsing]);
    let matching = allocations::of(|| _ = black_box(selector.matches(black_box(&pod))));
    figures.put("match-allocations", &[matching]);

    let world = World::ten_thousand_selectors();
    let before = resident()?;
    let mut engine = Engine::new();
    let mut settling = Times::default();
    let taking_in = take_in(&mut engine, &world)?;
    settling.time(|| engine.take_delta()).context("a whole world and no policy")?;
    figures.put("build", &[taking_in + settling.sum()]);
    figures.put("engine-MB", &[(resident()? - before) / 1e6]);
    let mut one = Times::default();
    for round in 0..2000 {
        let update = if round % 2 == 0 { Update::Set(world.member(1)) } else { world.no_member(1) };
        one.time(|| {
            engine.apply(update);
            engine.take_delta()
        })
        .context("a pod that joins or leaves changes nothing")?;
    }
    figures.put("one-pod", &one.0);
    let update = Update::Set(world.member(1));
    let ours = allocations::of(|| {
        engine.apply(update);
        drop(black_box(engine.take_delta()));
    });
    figures.put("one-pod-allocations", &[ours]);
    Ok(figures)
}

fn count(of: usize) -> f64 {
    u32::try_from(of).map_or(f64::INFINITY, f64::from)
}

/// In bytes, as proc(5) has it.
fn resident() -> Result<f64> {
    status("VmRSS:")
}

fn peak() -> Result<f64> {
    status("VmHWM:")
}

fn status(field: &str) -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u32 = kilobytes.with_context(|| format!("no {field}"))?.parse()?;
    Ok(f64::from(kilobytes) * 1024.0)
}
