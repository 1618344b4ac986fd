//! Bad input: refused where it comes in, with a message that says what and where; nothing else is
//! disturbed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::kernel::KernelState;
use super::kit::{Held, PORT, Scope, expect_answers, expect_silence};
use super::{CALM, DIRECTORY, RACKS, Test};
use crate::lab::{Lab, View, pod_targets};
use crate::{process, wait};

pub(super) const TESTS: &[Test] = &[
    Test { name: "wrong::the_api_server_refuses_with_our_message", bed: &RACKS, body: refused },
    Test { name: "wrong::a_file_is_reported_and_the_rest_holds", bed: &DIRECTORY, body: file },
    Test { name: "wrong::configuration_ends_the_start", bed: &DIRECTORY, body: configuration },
    Test { name: "wrong::garbage_on_sockets_changes_nothing", bed: &CALM, body: garbage },
];

fn refused(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let object = |kind: &str, spec: Value| {
            json!({ "apiVersion": "projectcalico.org/v3", "kind": kind,
                "metadata": { "name": "wrong" }, "spec": spec })
        };
        for (object, words) in [
            (object("IPPool", json!({ "cidr": "10.0.0.0/33" })), &["cidr"][..]),
            (object("IPPool", json!({ "cidr": "10.99.0.0/16", "blockSize": 40 })), &["blockSize"]),
            (
                object("IPPool", json!({ "cidr": "10.99.0.0/16", "vxlanMode": "Sometimes" })),
                &["vxlanMode", "Sometimes"],
            ),
            (
                object("BGPPeer", json!({ "peerIP": "10.0.0.1", "peerSelector": "all()" })),
                &["peerSelector cannot be combined with peerIP or asNumber"],
            ),
            (object("HostEndpoint", json!({ "node": "node1" })), &["interfaceName", "expectedIPs"]),
        ] {
            let Err(error) = view.cluster.apply(&object).await else {
                view.cluster.delete(&object).await?;
                anyhow::bail!("the API server takes {object}");
            };
            let text = format!("{error:#}");
            for word in words {
                ensure!(text.contains(word), "{object}: the message has no {word}: {text}");
            }
        }
        Ok(())
    }
    .boxed()
}

fn file(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let crate::cluster::Cluster::Directory(directory) = &view.cluster else {
            anyhow::bail!("this lab has no folder")
        };
        let mut scope = Scope::new(&view, "wrong-file").await?;
        let wanted = [scope.pod("server", "node1", &[]), scope.pod("client", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let targets = pod_targets(&pods[0], "tcp", PORT);
        let client = view.netns_of_pod(&pods[1]);
        expect_answers(&view, &pods[1], &targets).await?;
        let path = directory.path().join("by-hand.yaml");
        let good = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                    metadata:\n  name: by-hand\n  namespace: wrong-file\n\
                    spec:\n  podSelector: {}\n  policyTypes: [Ingress]\n";
        replace(&path, good)?;
        let silent = || expect_silence(&view, &client, &targets);
        wait::until("the policy in the file", Duration::from_secs(5), silent).await?;

        replace(&path, &good.replace("policyTypes: [Ingress]", "policyTypes: Ingress"))?;
        let log = lab.agent("node1")?.log();
        wait::until("the file to be reported", Duration::from_secs(10), || async {
            let text = std::fs::read_to_string(&log)?;
            let line = text.lines().find(|line| line.contains("by-hand.yaml"));
            let line = line.context("the log does not name the file")?;
            ensure!(line.contains("policyTypes"), "no field in: {line}");
            ensure!(line.contains("line 8:"), "no line number in: {line}");
            Ok(())
        })
        .await?;
        // What the file said when it was last good is still in force.
        wait::always("the policy", Duration::from_secs(1), silent).await?;
        std::fs::remove_file(&path)?;
        let open = || expect_answers(&view, &pods[1], &targets);
        wait::until("the policy to go with its file", Duration::from_secs(5), open).await?;
        scope.end().await
    }
    .boxed()
}

fn replace(path: &std::path::Path, text: &str) -> Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text)?;
    Ok(std::fs::rename(&draft, path)?)
}

fn configuration(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let good = std::fs::read_to_string(lab.agent("node1")?.config())?;
        let folder = tempfile::tempdir()?;
        let netns = lab.view().place.netns("outside");
        for (from, to, words) in [
            ("kind: directory", "kind: dictionary", &["source.kind", "dictionary"][..]),
            ("nodeName: node1", "nodeName: Node 1", &["nodeName"]),
            ("stateDir:", "statDir:", &["statDir"]),
            ("127.0.0.1:9099", "127.0.0.1:port", &["http.address"]),
            ("source:", "source: [", &["line"]),
        ] {
            let text = good.replace(from, to);
            ensure!(text != good, "the configuration has no {from:?}:\n{good}");
            let file = folder.path().join("felix.yaml");
            std::fs::write(&file, text)?;
            let mut command = Command::new(crate::agent::program("felix")?);
            command.arg("run").arg("--config").arg(&file);
            let ended =
                process::capture(command, Some(&netns), b"", Duration::from_secs(10)).await?;
            let said = String::from_utf8_lossy(&ended.stderr);
            ensure!(ended.status.code() == Some(2), "{to}: {} {said}", ended.status);
            ensure!(said.contains("felix.yaml"), "{to}: no file in: {said}");
            for word in words {
                ensure!(said.contains(word), "{to}: no {word} in: {said}");
            }
        }
        Ok(())
    }
    .boxed()
}

/// Garbage on the BGP port, from a stranger and in the middle of a handshake, and on the agent's
/// socket.
fn garbage(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "wrong-garbage").await?;
        let wanted = [scope.pod("server", "node1", &[]), scope.pod("client", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        view.wait_for_sessions().await?;
        let netns = view.place.netns("node1");
        let held = Held::of(&view).await?;
        let before = KernelState::of(&netns).await?;
        let sessions = sessions_since(&view).await?;
        let process = lab.agent("node1")?.process().context("no agent")?;

        let bgp = SocketAddr::new(view.plan.topology.nodes[0].addresses()[0], 179);
        let mut marker_then_noise = vec![0xff; 16];
        marker_then_noise.extend([0, 19, 99]);
        let mut long = vec![0xff; 16];
        long.extend([0xff, 0xff, 2]);
        let noise: Vec<u8> = (0..4096_u32).map(|n| (n * 31 % 251) as u8).collect();
        for bytes in [b"GET / HTTP/1.0\r\n\r\n".as_slice(), &marker_then_noise, &long, &noise, b""]
        {
            for from in ["tor1", "outside"] {
                // A stranger may be refused, or not be listened to.
                let connected = view.place.netns(from).connect(bgp, Duration::from_secs(2)).await;
                let Ok(mut stream) = connected else {
                    ensure!(from == "outside", "nobody listens on {bgp}");
                    continue;
                };
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
                let mut answer = Vec::new();
                let _ =
                    tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer))
                        .await;
            }
        }
        let socket = view.place.directory_of("node1").join("run/felix.sock");
        let huge = u32::MAX.to_be_bytes();
        for bytes in [&noise[..], b"", &huge, b"\0\0\0\x02{}", b"\0\0\0\x05{\"a\"", b"\0\0\x10"] {
            let mut stream = UnixStream::connect(&socket)?;
            // It may already have been hung up on.
            let _ = stream.write_all(bytes);
        }
        // A message that is well framed and makes no sense is answered as such.
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"\0\0\0\x02{}")?;
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut answer)?;
        ensure!(answer.len() > 4, "a request without a command is not answered");
        ensure!(process.alive(), "the agent ended");
        expect_kept(&view, &sessions).await?;
        let now = KernelState::of(&netns).await?;
        let moved = held.moved(&view, None).await?;
        before.clone().without(&moved).expect_same(&now.without(&moved), "under garbage")?;
        expect_answers(&view, &pods[1], &pod_targets(&pods[0], "tcp", PORT)).await?;

        // Controls: a change of the kernel and the end of a session would have been seen.
        scope.run(&[scope.pod("another", "node1", &[])]).await?;
        let now = KernelState::of(&netns).await?;
        ensure!(before.expect_same(&now, "").is_err(), "a new pod changes nothing");
        view.router("tor1")?.reset_sessions().await?;
        wait::until("the reset to be seen", Duration::from_secs(15), || async {
            ensure!(expect_kept(&view, &sessions).await.is_err(), "all sessions seem to be kept");
            Ok(())
        })
        .await?;
        view.wait_for_sessions().await?;
        view.wait_for_routes().await?;
        scope.end().await
    }
    .boxed()
}

/// By peer, for how long a session has been up, in seconds.
type Ages = BTreeMap<String, u64>;

/// Each of node1's sessions is still the one that it was.
async fn expect_kept(view: &View, before: &Ages) -> Result<()> {
    let now = sessions_since(view).await?;
    for (peer, since) in before {
        let now = now.get(peer).with_context(|| format!("the session with {peer} is gone"))?;
        ensure!(now >= since, "the session with {peer} is {now} s old, and was {since}");
    }
    Ok(())
}

/// Node1's sessions.
async fn sessions_since(view: &View) -> Result<Ages> {
    let status = view.ask_felix("node1", "status").await?;
    let peers = status["bgp"]["peers"].as_array().context("no peers in the status")?;
    let up = peers.iter().filter(|peer| peer["state"] == "Established");
    up.map(|peer| {
        let address = peer["address"].as_str().context("a peer without an address")?;
        Ok((address.to_owned(), peer["sinceSeconds"].as_u64().context("no sinceSeconds")?))
    })
    .collect()
}
