//! Denied packets that are rejected, where FelixConfiguration says so.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{allow_frontend, default_deny_ingress, pods, within_a_second};
use crate::lab::{Lab, pod_targets};
use crate::suites::kit::{ANSWER, PORT, Scope, expect_answers, expect_silence};
use crate::wait;

/// From a change of settings, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn settings(action: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "FelixConfiguration",
        "metadata": { "name": "node.node1" },
        "spec": { "nftablesFilterDenyAction": action },
    })
}

pub(super) fn as_set(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-rejected").await?;
        let [api, _, far, other] = pods(&mut scope).await?;
        for policy in [default_deny_ingress(), allow_frontend()] {
            scope.apply(policy).await?;
        }
        let targets = ["tcp", "udp"].map(|protocol| pod_targets(&api, protocol, PORT)).concat();
        let denied = view.netns_of_pod(&other);
        within_a_second(view, &other, &targets, false).await?;
        expect_silence(view, &denied, &targets).await?;

        scope.apply_global(settings("Reject")).await?;
        wait::until("refusals", SOON, || async {
            for probe in view.connect(&denied, &targets, ANSWER).await? {
                let error = probe.error.as_deref().unwrap_or_default().to_lowercase();
                ensure!(!probe.ok && error.contains("refused"), "{probe:?}");
            }
            Ok(())
        })
        .await?;
        let tcp = pod_targets(&api, "tcp", PORT);
        expect_answers(view, &far, &tcp).await?;

        scope.apply_global(settings("Drop")).await?;
        wait::until("silence", SOON, || expect_silence(view, &denied, &targets)).await?;
        expect_answers(view, &far, &tcp).await?;
        scope.end().await
    }
    .boxed()
}
