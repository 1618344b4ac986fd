//! Whether Kubernetes has a node, asked anew: what watches tell may be old, and this decides
//! whether addresses go.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ipam::retire::Registry;
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
            let asked = timeout(DEADLINE, nodes.get_metadata(node)).await;
            match asked.map_err(|_| format!("no answer about node {node} within {DEADLINE:?}"))? {
                Ok(found) => match found.metadata.uid {
                    Some(uid) => Ok(Some(uid)),
                    None => Err(format!("node {node} has no uid")),
                },
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
        .boxed()
    }
}
