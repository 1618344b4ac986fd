//! Whether Kubernetes has a node, asked anew: what watches tell may be old, and this decides
//! whether addresses go.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ipam::retire::{Identity, Registry};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::time::timeout;

/// For one question.
const DEADLINE: Duration = Duration::from_secs(10);

/// The nodes of the API server. Without a resourceVersion in the request it answers by a quorum.
pub(super) struct Nodes(pub(super) Client);

impl Registry for Nodes {
    fn uid<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        let nodes: Api<Node> = Api::all(self.0.clone());
        async move {
            let Some(found) = answer(node, nodes.get_metadata(node)).await? else {
                return Ok(None);
            };
            found.metadata.uid.map(Some).ok_or_else(|| format!("node {node} has no uid"))
        }
        .boxed()
    }

    fn identity<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<Identity>, String>> {
        let nodes: Api<Node> = Api::all(self.0.clone());
        async move {
            let Some(found) = answer(node, nodes.get(node)).await? else { return Ok(None) };
            let uid = found.metadata.uid.ok_or_else(|| format!("node {node} has no uid"))?;
            let info = found.status.and_then(|status| status.node_info);
            let boot_id = info.map(|info| info.boot_id).filter(|id| !id.is_empty());
            Ok(Some(Identity { uid, boot_id }))
        }
        .boxed()
    }
}

/// What an API server says of a node; None: that there is none.
async fn answer<T>(
    node: &str,
    asked: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Option<T>, String> {
    let answered = timeout(DEADLINE, asked).await;
    match answered.map_err(|_| format!("no answer about node {node} within {DEADLINE:?}"))? {
        Ok(found) => Ok(Some(found)),
        // Said of this very object by an API server, not of a path by whatever is between.
        Err(kube::Error::Api(status))
            if status.reason == "NotFound"
                && status
                    .details
                    .as_ref()
                    .is_some_and(|of| of.kind == "nodes" && of.name == node) =>
        {
            Ok(None)
        }
        Err(error) => Err(format!("node {node}: {error}")),
    }
}
