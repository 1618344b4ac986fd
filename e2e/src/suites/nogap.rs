//! No gap: a pod that uses its network from the first instant never gets a packet past a policy
//! that already selects it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::{IpNet, Ipv4AddrRange, Ipv6AddrRange};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::kit::{PORT, Scope, expect_silence};
use super::{RACKS, Test};
use crate::kubelet::EARLY;
use crate::lab::{Lab, pod_addresses, pod_targets};
use crate::wait;

pub(super) const TESTS: &[Test] = &[
    Test { name: "nogap::two_hundred_pods_from_their_first_instant", bed: &RACKS, body: denied },
    Test { name: "nogap::control_without_a_policy_packets_pass", bed: &RACKS, body: control },
];

/// How many pods, in all.
const PODS: usize = 200;
/// How many at a time: each sends and listens as fast as it can.
const AT_ONCE: usize = 10;

/// Nothing in, nothing out.
fn isolated() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "isolated" },
        "spec": {
            "podSelector": { "matchLabels": { "role": "eager" } },
            "policyTypes": ["Ingress", "Egress"],
        },
    })
}

/// A pod whose program runs before the pod has a link, sending to `targets` all the time.
fn eager(scope: &Scope, name: &str, targets: &[String]) -> Value {
    let mut pod = scope.pod(name, "node1", &[("role", "eager")]);
    let pool = |family: &str| format!("cni.projectcalico.org/{family}pools");
    pod["metadata"]["annotations"] = json!({
        EARLY: "true",
        pool("ipv4"): "[\"nogap-ipv4\"]",
        pool("ipv6"): "[\"nogap-ipv6\"]",
    });
    let mut args = vec!["first".to_owned(), format!("--port={PORT}")];
    args.extend(targets.iter().cloned());
    pod["spec"]["containers"][0]["args"] = json!(args);
    pod
}

/// What a program of kind `first` has reported last.
fn last_report(scope: &Scope, name: &str) -> Result<Value> {
    let pod = crate::kubelet::pod_name(&scope.name, name);
    let log = scope.view.place.directory_of("pods").join(format!("{pod}.log"));
    let text = std::fs::read_to_string(&log)?;
    // The last line may be half written.
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let last = complete.lines().last().with_context(|| format!("{name} has reported nothing"))?;
    Ok(serde_json::from_str(last)?)
}

/// Whom a listener has heard, as addresses.
fn heard(report: &Value) -> Vec<String> {
    report["heard"].as_object().into_iter().flatten().map(|(ip, _)| ip.clone()).collect()
}

/// Every address of a block, the first and the last too.
fn addresses(block: IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match block {
        IpNet::V4(net) => {
            Box::new(Ipv4AddrRange::new(net.network(), net.broadcast()).map(IpAddr::from))
        }
        IpNet::V6(net) => {
            Box::new(Ipv6AddrRange::new(net.network(), net.broadcast()).map(IpAddr::from))
        }
    }
}

/// All that an eager pod's address can be: a block of each family.
const BLOCKS: [&str; 2] = ["10.246.0.0/26", "fd00:10:246::/122"];

/// Pools of one block each for the eager pods, and no rest for released addresses: each is sent to
/// from before the first pod has it.
fn addressing() -> [Value; 3] {
    let object = |kind: &str, name: &str, spec: Value| {
        json!({ "apiVersion": "projectcalico.org/v3", "kind": kind,
            "metadata": { "name": name }, "spec": spec })
    };
    let pool = |name: &str, cidr: &str, size: u8| {
        // Only for pods that ask for it.
        let spec = json!({ "cidr": cidr, "blockSize": size, "assignmentMode": "Manual" });
        object("IPPool", name, spec)
    };
    [
        object("IPAMConfiguration", "default", json!({ "ipCooldownSeconds": 0 })),
        pool("nogap-ipv4", BLOCKS[0], 26),
        pool("nogap-ipv6", BLOCKS[1], 122),
    ]
}

async fn end(scope: Scope) -> Result<()> {
    let view = scope.view.clone();
    scope.end().await?;
    for object in addressing() {
        view.cluster.delete(&object).await?;
    }
    Ok(())
}

/// One listener near and one far, both of which also send to every address the eager pods can
/// get.
async fn witnesses(scope: &mut Scope) -> Result<(Vec<Pod>, BTreeSet<IpAddr>)> {
    let view = scope.view.clone();
    for object in addressing() {
        view.cluster.apply(&object).await?;
    }
    let mut reached = BTreeSet::new();
    for block in BLOCKS {
        reached.extend(addresses(block.parse()?));
    }
    let targets: Vec<String> = reached
        .iter()
        .map(|ip| format!("udp://{}", std::net::SocketAddr::new(*ip, PORT)))
        .collect();
    let mut wanted = Vec::new();
    for (name, node) in [("near", "node1"), ("far", "node2")] {
        let mut pod = scope.pod(name, node, &[]);
        // Some hundred addresses fifty times a second: as much as two processors bear.
        let mut args = vec!["first".to_owned(), format!("--port={PORT}"), "--pause=20".to_owned()];
        args.extend(targets.iter().cloned());
        pod["spec"]["containers"][0]["args"] = json!(args);
        wanted.push(pod);
    }
    let pods = scope.run(&wanted).await?;
    view.wait_for_routes().await?;
    Ok((pods, reached))
}

async fn has_sent(scope: &Scope, name: &str) -> Result<Value> {
    wait::until(&format!("{name} to have sent"), Duration::from_secs(20), || async {
        let report = last_report(scope, name)?;
        let sent = report["sent"].as_u64().unwrap_or_default();
        ensure!(sent > 100, "{report}");
        Ok(report)
    })
    .await
}

fn denied(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "nogap").await?;
        let (witnesses, reached) = witnesses(&mut scope).await?;
        // The policy has to be known before the first pod: one that it selects falls silent.
        let canary = [scope.pod("canary", "node1", &[("role", "eager")])];
        let canary = scope.run(&canary).await?;
        scope.apply(isolated()).await?;
        let far = view.netns_of_pod(&witnesses[1]);
        let canaries = pod_targets(&canary[0], "tcp", PORT);
        let silent = || expect_silence(&view, &far, &canaries);
        wait::until("the policy", Duration::from_secs(10), silent).await?;
        let targets: Vec<String> =
            witnesses.iter().flat_map(|pod| pod_targets(pod, "udp", PORT)).collect();
        let mut number = 0;
        let mut eager_ones = BTreeSet::new();
        while number < PODS {
            let pods: Vec<Value> = (number..number + AT_ONCE)
                .map(|number| eager(&scope, &format!("eager-{number}"), &targets))
                .collect();
            let running = scope.run(&pods).await?;
            for ip in running.iter().flat_map(pod_addresses) {
                ensure!(reached.contains(&ip), "{ip} is an address that nobody sends to");
                eager_ones.insert(ip.to_string());
            }
            for pod in &pods {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                let report = has_sent(&scope, name).await?;
                let got = heard(&report);
                ensure!(got.is_empty(), "{name} got packets from {got:?}");
            }
            expect_unheard(&scope, &eager_ones)?;
            for pod in &pods {
                view.end_pod(pod, super::kit::POD).await?;
            }
            number += AT_ONCE;
        }
        // Once more, in reports of after the last one's end.
        for witness in ["near", "far"] {
            let sent = last_report(&scope, witness)?["sent"].as_u64();
            wait::until("a later report", Duration::from_secs(20), || async {
                let now = last_report(&scope, witness)?["sent"].as_u64();
                ensure!(now > sent, "{witness} still has sent {now:?}");
                Ok(())
            })
            .await?;
        }
        expect_unheard(&scope, &eager_ones)?;
        end(scope).await
    }
    .boxed()
}

/// No witness has heard one of these.
fn expect_unheard(scope: &Scope, silenced: &BTreeSet<String>) -> Result<()> {
    for witness in ["near", "far"] {
        let got = heard(&last_report(scope, witness)?);
        if let Some(ip) = got.iter().find(|ip| silenced.contains(*ip)) {
            bail!("{witness} got packets of {ip}, which may send none");
        }
    }
    Ok(())
}

/// The same without the policy: if now nothing passed either, the test above would prove nothing.
fn control(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "nogap-control").await?;
        let (witnesses, _) = witnesses(&mut scope).await?;
        let targets: Vec<String> =
            witnesses.iter().flat_map(|pod| pod_targets(pod, "udp", PORT)).collect();
        let wanted = [eager(&scope, "eager", &targets)];
        let running = scope.run(&wanted).await?;
        let own: Vec<String> = pod_addresses(&running[0]).iter().map(ToString::to_string).collect();
        wait::until("packets to pass both ways", Duration::from_secs(20), || async {
            let report = last_report(&scope, "eager")?;
            ensure!(!heard(&report).is_empty(), "the pod heard nobody: {report}");
            for witness in ["near", "far"] {
                let got = heard(&last_report(&scope, witness)?);
                ensure!(own.iter().all(|ip| got.contains(ip)), "{witness} heard only {got:?}");
            }
            Ok(())
        })
        .await?;
        end(scope).await
    }
    .boxed()
}
