//! etcd lost what it had and was restored from an older copy: nothing is given twice, and what pods
//! have is written back.

use super::*;

pub(super) fn etcd_restored(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let nodes = ["node1", "node2"];
        let mut scope = Scope::new(&view, "outage-restored").await?;
        let named = |scope: &Scope, what: &str| -> Vec<Value> {
            let pods = nodes.iter().flat_map(|node| (0..2).map(move |n| (node, n)));
            pods.map(|(node, n)| scope.pod(&format!("{what}-{node}-{n}"), node, &[])).collect()
        };
        let first = named(&scope, "first");
        let mut pods = scope.run(&first).await?;
        view.wait_for_routes().await?;

        let copy = lab.etcd.as_ref().context("this lab has no etcd")?.save().await?;
        let since = named(&scope, "since");
        pods.extend(scope.run(&since).await?);
        view.end_pod(&first[0], POD).await?;
        pods.remove(0);
        // What this agent remembers is what its journal says.
        lab.agent("node2")?.stop(nix::sys::signal::Signal::SIGKILL).await?;
        lab.etcd.as_mut().context("this lab has no etcd")?.restore(&copy).await?;
        // It is waited for.
        wait::until("claims to be frozen", Duration::from_secs(60), || async {
            let ipam = view.ask_felix("node1", "status").await?["ipam"].clone();
            let why = ipam["frozen"].as_str().unwrap_or_default();
            ensure!(why.contains("older copy") && why.contains("waiting for node2"), "{ipam}");
            Ok(())
        })
        .await?;
        let agent = lab.agent("node2")?;
        agent.start().await?;
        agent.ready().await?;

        let after = named(&scope, "after");
        pods.extend(scope.run(&after).await?);
        let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(pod_addresses).collect();
        ensure!(addresses.len() == 2 * pods.len(), "an address was given twice: {addresses:?}");
        for pod in &pods[1..] {
            let reach =
                || async { expect_answers(&view, &pods[0], &pod_targets(pod, "tcp", PORT)).await };
            wait::until("the pods to reach each other", Duration::from_secs(60), reach).await?;
        }
        for node in view.plan.topology.nodes.iter().map(|node| node.name.as_str()) {
            wait::until("the freeze to end", Duration::from_secs(120), || async {
                let ipam = view.ask_felix(node, "status").await?["ipam"].clone();
                ensure!(ipam["frozen"].is_null() && ipam["error"].is_null(), "{node}: {ipam}");
                ensure!(ipam["lost"].is_null(), "{node}: {ipam}");
                Ok(())
            })
            .await?;
        }
        expect_stored(lab, &pods).await?;
        scope.end().await
    }
    .boxed()
}
