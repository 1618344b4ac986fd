//! `ipam check`: what is in the store must agree with itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipam::block::{AddressState, Attribute, Block};
use ipam::model::AffinityState;
use ipam::timestamp::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod pools;

use super::data::Data;
use super::live::Live;
use super::show::user;
use super::{Outcome, json};

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// List every allocation.
    #[arg(long)]
    show_all_ips: bool,
    #[command(flatten)]
    evidence: Evidence,
}

/// What proves that an address is not in use.
#[derive(clap::Args, Default)]
pub(crate) struct Evidence {
    /// YAML file with all pods, nodes and namespaces, what `kubectl get pods,nodes,namespaces -A -o
    /// yaml` printed just now. Without it nothing is said of what is in use.
    #[arg(long, value_name = "FILE")]
    pub(crate) pods: Option<PathBuf>,
    /// How old an allocation must have been when the file was written to count as unused, in minutes.
    /// Default 15. The file itself may not be older than that, or than 15 minutes if that is less.
    #[arg(long, value_name = "MINUTES", requires = "pods")]
    pub(crate) grace: Option<u32>,
}

impl Evidence {
    pub(crate) fn grace(&self) -> Duration {
        self.grace.map_or(Live::GRACE, |minutes| Duration::from_secs(u64::from(minutes) * 60))
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Problem {
    kind: Kind,
    /// The key, handle, block or address.
    object: String,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum Kind {
    /// A value that cannot be read, or a block that contradicts itself.
    InvalidValue,
    /// Two blocks share addresses.
    OverlappingBlocks,
    /// An affinity and a block that disagree.
    Affinity,
    /// An allocation outside every pool.
    OutsidePools,
    /// A handle with no matching address.
    LeakedHandle,
    /// An address whose handle has no record, or not with this count.
    MissingHandle,
    /// A pool, reservation or configuration that cannot be used.
    Configuration,
    /// A field that this version does not know. It is kept as it is.
    UnknownField,
    /// A pool without a free address.
    PoolFull,
    /// The store takes no writes.
    Store,
    /// An allocation that nothing uses any more.
    NotInUse,
    /// An address that a pod has and nobody gave it.
    NotAllocated,
}

/// An allocation, as calicoctl's report has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Allocation {
    pub(super) ip: IpAddr,
    pub(super) handle: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sequence_number: Option<u64>,
    #[serde(rename = "type")]
    kind: String,
    allocated_to: String,
    node: String,
    borrowed: bool,
    pub(super) cooling_down: bool,
    /// None: nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) in_use: Option<bool>,
}

/// What `check -o json` prints and `release --from-report` reads.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    version: &'static str,
    #[serde(rename = "clusterGUID")]
    cluster_guid: String,
    datastore_locked: bool,
    revision: i64,
    blocks: usize,
    pools: Vec<IpNet>,
    /// By address.
    pub(super) allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    allocations_by_node: BTreeMap<String, usize>,
    handles: usize,
    pub(super) leaked_handles: Vec<String>,
    problems: Vec<Problem>,
}

pub(crate) fn run(
    data: &Data,
    options: &Options,
    now: Timestamp,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let report = examine(data, &options.evidence, now)?;
    if as_json {
        json(out, &report)?;
    } else {
        print(data, &report, options, out)?;
    }
    Ok(if report.problems.is_empty() { Outcome::Well } else { Outcome::Found })
}

/// Looks at everything.
///
/// # Errors
/// The evidence cannot be read or proves nothing.
pub(super) fn examine(data: &Data, evidence: &Evidence, now: Timestamp) -> anyhow::Result<Report> {
    let grace = evidence.grace();
    let live = evidence.pods.as_deref().map(|path| Live::from_file(path, now, grace));
    let mut live = live.transpose()?;
    if let Some(live) = &mut live {
        live.compare(data.blocks.values());
    }
    let mut problems = BTreeSet::new();
    let mut wrong = |kind, object: &dyn ToString, reason: String| {
        problems.insert(Problem { kind, object: object.to_string(), reason });
    };
    for corrupt in &data.corrupt {
        wrong(Kind::InvalidValue, &corrupt.key, corrupt.reason.clone());
    }
    for unknown in &data.unknown {
        wrong(Kind::UnknownField, &unknown.key, unknown.reason.clone());
    }
    if let Some(error) = &data.unwritable {
        wrong(Kind::Store, &data.store, error.clone());
    }
    pools::check(data, &mut wrong);
    for reason in &data.pools.wrong {
        wrong(Kind::Configuration, &"pools", reason.clone());
    }
    if let Some(Err(reason)) = data.config.as_ref().map(ipam::IpamConfig::validate) {
        wrong(Kind::Configuration, &ipam::model::CONFIG, reason);
    }
    let cidrs: Vec<&IpNet> = data.blocks.keys().collect();
    for (n, cidr) in cidrs.iter().enumerate() {
        // In address order everything inside a network follows it.
        for inner in cidrs[n + 1..].iter().take_while(|other| cidr.contains(**other)) {
            wrong(Kind::OverlappingBlocks, inner, format!("overlaps the block {cidr}"));
        }
    }
    check_affinities(data, &mut wrong);
    let uses = |ip, attribute: &_, block: &_| {
        live.as_ref().map(|live| live.uses(ip, attribute, block, grace))
    };
    let mut allocations: Vec<Allocation> =
        data.blocks.values().flat_map(|block| allocations_of(block, &uses)).collect();
    keep_whole_handles(&mut allocations);
    for allocation in &allocations {
        if allocation.in_use == Some(false) && !allocation.cooling_down {
            let Allocation { ip, handle, allocated_to, .. } = allocation;
            let reason =
                format!("is allocated to {allocated_to} ({handle}), which does not use it");
            wrong(Kind::NotInUse, ip, reason);
        }
        let in_pool = data.pools.pools.iter().any(|pool| pool.cidr.contains(&allocation.ip));
        if !in_pool && !allocation.cooling_down {
            wrong(Kind::OutsidePools, &allocation.ip, "is allocated outside every pool".to_owned());
        }
    }
    if let Some(live) = &live {
        let allocated: BTreeSet<IpAddr> =
            allocations.iter().filter(|a| !a.cooling_down).map(|a| a.ip).collect();
        for (ip, pod) in live.addresses().filter(|(ip, _)| !allocated.contains(ip)) {
            if data.pools.pools.iter().any(|pool| pool.cidr.contains(&ip)) {
                wrong(Kind::NotAllocated, &ip, format!("is in use by {pod}, but not allocated"));
            }
        }
    }
    let leaked_handles = check_handles(data, &mut wrong);
    let mut allocations_by_node = BTreeMap::new();
    for allocation in allocations.iter().filter(|a| !a.cooling_down) {
        *allocations_by_node.entry(allocation.node.clone()).or_default() += 1;
    }
    let mut by_address: BTreeMap<IpAddr, Vec<Allocation>> = BTreeMap::new();
    for allocation in allocations {
        by_address.entry(allocation.ip).or_default().push(allocation);
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        cluster_guid: data.cluster.guid.clone(),
        datastore_locked: data.cluster.locked,
        revision: data.revision,
        blocks: data.blocks.len(),
        pools: data
            .pools
            .pools
            .iter()
            .filter(|pool| !pool.disabled)
            .map(|pool| pool.cidr)
            .collect(),
        allocations: by_address,
        allocations_by_node,
        handles: data.handles.len(),
        leaked_handles,
        problems: problems.into_iter().collect(),
    })
}

/// All or none: a handle of which one address is in use uses them all.
fn keep_whole_handles(allocations: &mut [Allocation]) {
    let used = allocations.iter().filter(|a| a.in_use == Some(true) && !a.handle.is_empty());
    let used: BTreeSet<String> = used.map(|a| a.handle.clone()).collect();
    for allocation in allocations.iter_mut().filter(|a| used.contains(&a.handle)) {
        allocation.in_use = Some(true);
    }
}

fn allocations_of<'a>(
    block: &'a Block,
    uses: &'a dyn Fn(IpAddr, &Attribute, &Block) -> Option<bool>,
) -> impl Iterator<Item = Allocation> + 'a {
    block.occupied().map(move |(ip, state)| match state {
        AddressState::Allocated(attributes, sequence_number) => {
            let (kind, allocated_to) = user(attributes);
            let node = attributes.get("node").unwrap_or_default().to_owned();
            Allocation {
                ip,
                handle: attributes.handle_id.clone().unwrap_or_default(),
                sequence_number,
                kind,
                allocated_to,
                borrowed: !node.is_empty() && block.node() != Some(&node),
                node,
                cooling_down: false,
                in_use: uses(ip, attributes, block),
            }
        }
        _ => Allocation {
            ip,
            handle: String::new(),
            sequence_number: None,
            kind: String::new(),
            allocated_to: String::new(),
            node: String::new(),
            borrowed: false,
            cooling_down: true,
            in_use: None,
        },
    })
}

fn check_affinities(data: &Data, wrong: &mut dyn FnMut(Kind, &dyn ToString, String)) {
    for ((cidr, owner), affinity) in &data.affinities {
        match data.blocks.get(cidr).map(Block::affinity) {
            Some(Some(named)) if named == owner => {}
            Some(named) => wrong(
                Kind::Affinity,
                cidr,
                format!(
                    "{owner} has an affinity, but the block names {}",
                    named.unwrap_or("nobody")
                ),
            ),
            // A claim or a release on its way.
            None if affinity.state != AffinityState::Confirmed => {}
            None if data
                .corrupt
                .iter()
                .any(|c| ipam::model::parse_block_key(&c.key) == Some(*cidr)) => {}
            None => wrong(
                Kind::Affinity,
                cidr,
                format!("{owner} has an affinity, but there is no block"),
            ),
        }
    }
    for (cidr, block) in &data.blocks {
        if let Some(owner) = block.affinity()
            && !data.affinities.contains_key(&(*cidr, owner.to_owned()))
        {
            wrong(Kind::Affinity, cidr, format!("names {owner}, which has no affinity for it"));
        }
    }
}

/// Compares handles and blocks in both directions. Returns the handles that hold nothing.
fn check_handles(data: &Data, wrong: &mut dyn FnMut(Kind, &dyn ToString, String)) -> Vec<String> {
    let mut held: BTreeMap<&str, BTreeMap<IpNet, u32>> = BTreeMap::new();
    for block in data.blocks.values() {
        for (_, state) in block.occupied() {
            if let AddressState::Allocated(attributes, _) = state
                && let Some(handle) = &attributes.handle_id
            {
                *held.entry(handle).or_default().entry(block.cidr()).or_default() += 1;
            }
        }
    }
    let readable = |cidr: &IpNet| {
        !data.corrupt.iter().any(|c| ipam::model::parse_block_key(&c.key) == Some(*cidr))
    };
    let mut leaked = Vec::new();
    for (handle, record) in &data.handles {
        let has = held.get(handle.as_str());
        if has.is_none() && record.block.keys().all(readable) {
            leaked.push(handle.clone());
            wrong(Kind::LeakedHandle, handle, "holds no address".to_owned());
            continue;
        }
        for (cidr, count) in record.block.iter().filter(|(cidr, _)| readable(cidr)) {
            let really = has.and_then(|has| has.get(cidr)).copied().unwrap_or(0);
            // Calico counts before it allocates, so more than there is may be a request on its way.
            if really == 0 {
                wrong(Kind::LeakedHandle, handle, format!("says {count} of {cidr}, holds none"));
            }
        }
    }
    for (handle, blocks) in held {
        for (cidr, count) in blocks {
            match data.handles.get(handle).map(|record| record.block.get(&cidr)) {
                None => wrong(
                    Kind::MissingHandle,
                    &handle,
                    format!("holds {count} of {cidr}, but has no record"),
                ),
                Some(said) if said.copied().unwrap_or(0) < count => {
                    let said = said.copied().unwrap_or(0);
                    wrong(
                        Kind::MissingHandle,
                        &handle,
                        format!("holds {count} of {cidr}, but its record says {said}"),
                    );
                }
                Some(_) => {}
            }
        }
    }
    leaked
}

fn print(
    data: &Data,
    report: &Report,
    options: &Options,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let Options { show_all_ips, evidence } = options;
    let count = |kinds: &[Kind]| report.problems.iter().filter(|p| kinds.contains(&p.kind)).count();
    let list = |out: &mut dyn Write, kinds: &[Kind]| -> std::io::Result<()> {
        for problem in report.problems.iter().filter(|problem| kinds.contains(&problem.kind)) {
            writeln!(out, "  {}: {}", problem.object, problem.reason)?;
        }
        Ok(())
    };
    writeln!(out, "Checking IPAM for inconsistencies...\n")?;
    writeln!(out, "Loading all IPAM blocks...")?;
    writeln!(out, "Found {} IPAM blocks.", report.blocks)?;
    let mut allocations = report.allocations.values().flatten().peekable();
    for block in data.blocks.values() {
        writeln!(
            out,
            " IPAM block {} affinity={}:",
            block.cidr(),
            block.affinity().unwrap_or("none")
        )?;
        while let Some(allocation) = allocations.next_if(|a| block.cidr().contains(&a.ip)) {
            if *show_all_ips && allocation.cooling_down {
                writeln!(out, "  {} cooling down", allocation.ip)?;
            } else if *show_all_ips {
                let Allocation { ip, handle, allocated_to, .. } = allocation;
                writeln!(out, "  {ip} allocated to {allocated_to}; handle={handle}")?;
            }
        }
    }
    let active = report.allocations.values().flatten().filter(|a| !a.cooling_down).count();
    writeln!(out, "IPAM blocks record {active} allocations.\n")?;
    writeln!(out, "Loading all IPAM pools...")?;
    for pool in &report.pools {
        writeln!(out, "  {pool}")?;
    }
    writeln!(out, "Found {} active IP pools.", report.pools.len())?;
    list(out, &[Kind::Configuration, Kind::PoolFull])?;
    writeln!(out, "\nLoading all handles")?;
    nodes(report, out)?;
    if evidence.pods.is_some() {
        let (unused, unknown) = ([Kind::NotInUse], [Kind::NotAllocated]);
        writeln!(out, "\nScanning for IPs that are allocated but not actually in use...")?;
        list(out, &unused)?;
        let found = count(&unused);
        writeln!(out, "Found {found} IPs that are allocated in IPAM but not actually in use.")?;
        writeln!(out, "Scanning for IPs that are in use by a workload but not allocated...")?;
        list(out, &unknown)?;
        writeln!(
            out,
            "Found {} in-use IPs that are in active IP pools but have no corresponding IPAM \
             allocation.",
            count(&unknown)
        )?;
    }
    let outside = [Kind::OutsidePools];
    writeln!(out, "\nScanning for allocated IPs that are not in any IP pool...")?;
    list(out, &outside)?;
    writeln!(out, "Found {} allocated IPs that are not in any IP pool.", count(&outside))?;
    let affinity = [Kind::Affinity, Kind::OverlappingBlocks];
    writeln!(out, "Scanning for blocks and affinities that disagree...")?;
    list(out, &affinity)?;
    writeln!(out, "Found {} blocks and affinities that disagree.", count(&affinity))?;
    writeln!(out, "\nScanning for IPAM handles with no matching IPs...")?;
    list(out, &[Kind::LeakedHandle])?;
    let leaked = report.leaked_handles.len();
    let matching = report.handles - leaked;
    writeln!(
        out,
        "Found {leaked} handles with no matching IPs (and {matching} handles with matches)."
    )?;
    writeln!(out, "Scanning for IPs with missing handle...")?;
    list(out, &[Kind::MissingHandle])?;
    let missing = count(&[Kind::MissingHandle]);
    writeln!(out, "Found {missing} handles mentioned in blocks with no matching handle resource.")?;
    writeln!(out, "Validating IPAMBlock structures...")?;
    list(out, &[Kind::InvalidValue, Kind::UnknownField])?;
    writeln!(out, "Found {} invalid IPAMBlocks.", count(&[Kind::InvalidValue]))?;
    list(out, &[Kind::Store])?;
    writeln!(out, "Check complete; found {} problems.", report.problems.len())
}

/// The nodes that have most.
fn nodes(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "Looking for top (up to 20) nodes by allocations...")?;
    let mut nodes: Vec<_> =
        report.allocations_by_node.iter().filter(|(node, _)| !node.is_empty()).collect();
    nodes.sort_by_key(|(node, count)| (std::cmp::Reverse(**count), *node));
    for (node, count) in nodes.iter().take(20) {
        writeln!(out, "  {node} has {count} allocations")?;
    }
    if let (Some((_, most)), Some((_, median))) = (nodes.first(), nodes.get(nodes.len() / 2)) {
        writeln!(out, "Node with most allocations has {most}; median is {median}")?;
    }
    Ok(())
}
