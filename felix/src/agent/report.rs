//! Answers what the commands of `felix` ask.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bgpd::{NeighborStatus, RouteQuery};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::bgp::Running;
use super::brain::{self, Command};
use super::drops::Drops;
use super::explain::{Answer, Ways};
use super::revisions::Held;
use crate::cni::backend::{Failure, Query};
use crate::cni::protocol::Question;
use crate::control::{
    AnswerMode, BgpReport, BlockRow, ConditionRow, CountersReport, EndpointRow, Explanation,
    HeldRevision, IpamReport, KernelReport, PeerRow, PoliciesReport, PolicyRow, RouteRow, Rows,
    StatusReport,
};
use crate::engine::{AppliedPolicy, PolicyId, PolicyStanding, StagedStanding};
use crate::kernel::{Kernel, WantedRoute};
use crate::model::{Direction, Key, LocalEndpoint, RouteTarget};
use crate::observe::Health;
use crate::source::SourceStatus;

/// How often the ways to addresses are asked for, which is once unless these change meanwhile.
const TURNS: usize = 3;

/// The parts that can be asked. Clones ask the same.
#[derive(Clone)]
pub(super) struct Reporter {
    pub(super) node: Arc<str>,
    pub(super) started: Instant,
    pub(super) health: Health,
    pub(super) source: watch::Receiver<SourceStatus>,
    pub(super) brain: mpsc::WeakSender<Command>,
    pub(super) kernel: Kernel,
    pub(super) ipam: ipam::Ipam,
    pub(super) bgp: watch::Receiver<Running>,
    pub(super) drops: Arc<Drops>,
}

impl Reporter {
    /// Where the source stands, in a few words for an error.
    pub(super) fn source_summary(&self) -> String {
        let status = self.source.borrow();
        match status.ready() {
            Ok(()) => format!("{} is connected", status.origin),
            Err(reason) => reason,
        }
    }

    /// Why policy is not in the kernel as it should be, once it was; None if it is.
    pub(super) fn kernel_problem(&self) -> Option<String> {
        let checks = self.health.ready();
        checks.into_iter().find(|check| check.name == "kernel")?.result.err()
    }

    pub(super) async fn answer(&self, query: Query) -> Result<Value, Failure> {
        match query {
            Query::Status => json(&self.status().await?),
            Query::Endpoints => json(&Rows::bounded(self.endpoints().await?)),
            Query::Routes => json(&Rows::bounded(self.routes().await?)),
            Query::Policies(pod) => json(&self.policies(pod.as_deref()).await?),
            Query::Counters => json(&self.counters().await?),
            Query::Explain(question) => json(&self.explain(question).await?),
            Query::Drops(question) => json(&self.drops.answer(&self.node, &question).await),
        }
    }

    async fn brain(&self) -> Result<brain::Report, Failure> {
        let ended = || Failure::Internal("the agent is ending".into());
        let brain = self.brain.upgrade().ok_or_else(ended)?;
        let (reply, answer) = oneshot::channel();
        brain.send(Command::Report { reply }).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }

    /// What the engine says, beside what the kernel has.
    async fn explain(&self, question: Box<Question>) -> Result<Explanation, Failure> {
        let ended = || Failure::Internal("the agent is ending".into());
        let brain = self.brain.upgrade().ok_or_else(ended)?;
        let mut ways = Ways::new();
        let mut turns = 0..TURNS;
        let mut answer = loop {
            let (reply, answer) = oneshot::channel();
            let (question, known) = (question.clone(), ways.clone());
            let command = Command::Explain { question, ways: known, reply };
            brain.send(command).await.map_err(|_| ended())?;
            match answer.await.map_err(|_| ended())?? {
                Answer::Whole(answer) => break answer,
                Answer::Ways(_) if turns.next().is_none() => {
                    let reason = "the addresses of what is asked about do not stay the same";
                    return Err(Failure::TryAgainLater(reason.into()));
                }
                Answer::Ways(addresses) => {
                    for address in addresses {
                        // Without a route it is reached by none; the answer says why.
                        let by = self.kernel.interface_to(address).await.ok().flatten();
                        ways.insert(address, by);
                    }
                }
            }
        };
        drop(brain);
        answer.node = self.node.to_string();
        answer.not_in_force = self.kernel_problem();
        let asked: Vec<Key> = answer.elements().filter_map(|element| element.key).collect();
        let found = self.kernel.elements(asked).await;
        let found = found.map_err(|error| Failure::Internal(error.to_string()))?;
        let elements = answer.elements().filter(|element| element.key.is_some());
        for (element, found) in elements.zip(found) {
            element.agrees = Some(element.value == found);
        }
        for flow in &mut answer.flows {
            let route = self.kernel.route(flow.destination.address).await;
            flow.route = route.unwrap_or_else(|error| error.to_string());
        }
        Ok(answer)
    }

    pub(super) async fn neighbors(&self) -> Vec<NeighborStatus> {
        let speaker = self.bgp.borrow().speaker.clone();
        match speaker {
            // One that has ended has no neighbours.
            Some(speaker) => speaker.neighbors().await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    async fn status(&self) -> Result<StatusReport, Failure> {
        let brain = self.brain().await?;
        let kernel =
            self.kernel.status().await.map_err(|error| Failure::Internal(error.to_string()))?;
        let ipam = self.ipam.status();
        let Running { speaker, draining, .. } = self.bgp.borrow().clone();
        let whole = match &speaker {
            Some(speaker) => speaker.status().await.ok(),
            None => None,
        };
        let mut source = self.source.borrow().clone();
        for problem in &brain.problems {
            let object = format!("{:?}/{}", problem.kind, problem.key);
            source.problems.insert(object, format!("{}: {}", problem.field, problem.reason));
        }
        for problem in &self.bgp.borrow().problems {
            source
                .problems
                .insert(problem.object.clone(), format!("{}: {}", problem.field, problem.reason));
        }
        Ok(StatusReport {
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_seconds: self.started.elapsed().as_secs(),
            conditions: self
                .health
                .ready()
                .into_iter()
                .map(|check| ConditionRow { name: check.name.into(), reason: check.result.err() })
                .collect(),
            source,
            ipam: IpamReport {
                mode: match ipam.mode {
                    ipam::allocator::Mode::Synchronous => AnswerMode::Synchronous,
                    ipam::allocator::Mode::LocalFirst => AnswerMode::LocalFirst,
                },
                behind: ipam.behind as u64,
                behind_seconds: ipam.behind_since.map(|since| {
                    let now = ipam::timestamp::Timestamp::from(std::time::SystemTime::now());
                    now.since(since).as_secs()
                }),
                lost: ipam.lost,
                frozen: ipam.frozen.as_ref().map(ToString::to_string),
                error: ipam
                    .problem
                    .clone()
                    .or_else(|| (!ipam.ready).then(|| "not connected yet".into())),
                store: ipam.store,
                blocks: ipam
                    .blocks
                    .iter()
                    .filter(|block| block.owned)
                    .map(|block| BlockRow {
                        cidr: block.cidr,
                        used: (block.in_use - block.resting) as u64,
                        size: block.capacity as u64,
                    })
                    .collect(),
            },
            kernel: KernelReport {
                in_sync: brain.in_sync && brain.last_error.is_none(),
                error: brain.last_error.or(kernel.nft.last_error).or(kernel.routes.last_error),
                elements: kernel.nft.elements as u64,
                routes: kernel.routes.installed as u64,
                left_out: kernel
                    .nft
                    .rejected
                    .iter()
                    .chain(&kernel.routes.waiting)
                    .take(20)
                    .map(ToString::to_string)
                    .collect(),
                repairs: kernel.nft.repairs + kernel.routes.repairs,
            },
            bgp: BgpReport {
                local_as: whole.as_ref().map(|speaker| speaker.asn),
                router_id: whole.as_ref().map(|speaker| speaker.router_id),
                draining,
                peers: self.neighbors().await.iter().map(peer).collect(),
            },
            endpoints: brain.counts.endpoints,
        })
    }

    async fn endpoints(&self) -> Result<Vec<EndpointRow>, Failure> {
        let brain = self.brain().await?;
        let row = |(endpoint, policies): &(LocalEndpoint, Vec<AppliedPolicy>)| {
            let names = |direction: Direction| {
                let applies = |policy: &&AppliedPolicy| match direction {
                    Direction::Ingress => policy.ingress,
                    Direction::Egress => policy.egress,
                };
                policies.iter().filter(applies).map(|policy| policy.id.to_string()).collect()
            };
            EndpointRow {
                namespace: endpoint.namespace.clone(),
                pod: endpoint.pod.clone(),
                addresses: endpoint.addresses.to_vec(),
                interface: endpoint.host_interface.clone(),
                container_id: endpoint.id.container_id.clone(),
                programmed: brain.in_sync && brain.last_error.is_none(),
                ingress: names(Direction::Ingress),
                egress: names(Direction::Egress),
            }
        };
        Ok(brain.endpoints.iter().map(row).collect())
    }

    /// In the order of evaluation.
    async fn policies(&self, pod: Option<&str>) -> Result<PoliciesReport, Failure> {
        let ended = || Failure::Internal("the agent is ending".into());
        let brain = self.brain.upgrade().ok_or_else(ended)?;
        let (reply, answer) = oneshot::channel();
        brain.send(Command::Policies { reply }).await.map_err(|_| ended())?;
        let brain::Policies {
            mut policies,
            staged,
            problems,
            endpoints,
            of_hosts,
            has_hosts,
            last_error,
        } = answer.await.map_err(|_| ended())?;
        if let Some(name) = pod.and_then(|text| text.strip_prefix("node/")) {
            if *name != *self.node || !has_hosts {
                let node = &self.node;
                let why = if has_hosts { "this is" } else { "there are no host endpoints of" };
                return Err(Failure::Invalid(format!(
                    "{name} is not judged here: {why} node {node}"
                )));
            }
            policies.retain(|(policy, _)| of_hosts.contains(&policy.id));
        } else if let Some(pod) = pod {
            let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
            let of_pod = |(endpoint, _): &&(LocalEndpoint, Vec<AppliedPolicy>)| {
                endpoint.namespace == namespace && endpoint.pod == name
            };
            let mut found = endpoints.iter().filter(of_pod).peekable();
            if found.peek().is_none() {
                let node = &self.node;
                let reason = format!("pod {namespace}/{name} has no endpoint on node {node}");
                return Err(Failure::Invalid(reason));
            }
            let applied: BTreeSet<&PolicyId> =
                found.flat_map(|(_, policies)| policies).map(|policy| &policy.id).collect();
            policies.retain(|(policy, _)| applied.contains(&policy.id));
        }
        // Which of them would select a pod is not asked.
        let staged = if pod.is_some() { Vec::new() } else { staged };
        let row = |(policy, held): (PolicyStanding, Option<(Held, bool)>)| PolicyRow {
            staged: None,
            problems: problems
                .iter()
                .filter(|problem| problem.kind == policy.id.kind && problem.key == policy.id.key)
                .map(|problem| format!("{}: {}", problem.field, problem.reason))
                .collect(),
            policy: policy.id.to_string(),
            tier: policy.tier.to_string(),
            ingress: policy.ingress,
            egress: policy.egress,
            endpoints: policy.endpoints,
            generation: policy.generation,
            in_kernel: held.map(|(held, current)| HeldRevision {
                generation: held.generation,
                since_seconds: held.since.elapsed().as_secs(),
                current,
            }),
        };
        let staged = staged.into_iter().map(|StagedStanding { standing, action }| PolicyRow {
            staged: Some(format!("{action:?}")),
            ..row((standing, None))
        });
        let staged: Vec<PolicyRow> = staged.collect();
        Ok(PoliciesReport {
            node: self.node.to_string(),
            error: last_error,
            policies: Rows::bounded(policies.into_iter().map(row).chain(staged)),
        })
    }

    async fn counters(&self) -> Result<CountersReport, Failure> {
        let counts = self.kernel.counts().await;
        let counts = counts.map_err(|error| Failure::Internal(error.to_string()))?;
        Ok(CountersReport::new(&self.node, counts))
    }

    async fn routes(&self) -> Result<Vec<RouteRow>, Failure> {
        let brain = self.brain().await?;
        let speaker = self.bgp.borrow().speaker.clone();
        let learned = match speaker {
            Some(speaker) => speaker.routes(RouteQuery::default()).await.unwrap_or_default(),
            None => Vec::new(),
        };
        let wanted = self
            .kernel
            .wanted_routes()
            .await
            .map_err(|error| Failure::Internal(error.to_string()))?;
        Ok(wanted
            .into_iter()
            .map(|WantedRoute { destination: prefix, target, installed }| {
                let (next_hops, origin) = match &target {
                    RouteTarget::Link(index) => {
                        let endpoint = brain.endpoints.iter().find(|(e, _)| e.host_index == *index);
                        endpoint.map_or_else(
                            || (vec![format!("dev #{index}")], "endpoint".to_owned()),
                            |(e, _)| {
                                let origin = format!("endpoint {}/{}", e.namespace, e.pod);
                                (vec![format!("dev {}", e.host_interface)], origin)
                            },
                        )
                    }
                    RouteTarget::Blackhole => (vec!["blackhole".to_owned()], "block".to_owned()),
                    RouteTarget::Via(hops) => {
                        let at = learned.binary_search_by(|route| route.prefix.cmp(&prefix)).ok();
                        let peers = at.into_iter().flat_map(|at| &learned[at].paths);
                        let names: Vec<&str> = peers
                            .filter(|path| path.used)
                            .filter_map(|path| path.neighbor.as_deref())
                            .collect();
                        let hops = hops.iter().map(|hop| format!("via {}", hop.gateway)).collect();
                        (hops, format!("bgp {}", names.join(", ")))
                    }
                };
                RouteRow { prefix, next_hops, origin, installed }
            })
            .collect())
    }
}

fn peer(neighbor: &NeighborStatus) -> PeerRow {
    PeerRow {
        address: neighbor.address,
        remote_as: neighbor.asn,
        origin: neighbor.name.clone(),
        state: neighbor.state.to_string(),
        since_seconds: neighbor.since.as_secs(),
        received: neighbor.families.iter().map(|family| family.accepted as u64).sum(),
        advertised: neighbor.families.iter().map(|family| family.advertised as u64).sum(),
        reason: match &neighbor.last_down {
            Some(down) if neighbor.session.is_none() => Some(down.reason.to_string()),
            _ => None,
        },
    }
}

fn json(report: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(report).map_err(|error| Failure::Internal(error.to_string()))
}
