//! The nodes that Kubernetes knows.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use ipam::retire::{Identity, Registry};

type Meanwhile = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Nodes by name, and what happens whenever it is asked. Clones are the same.
#[derive(Clone, Default)]
pub struct Kubernetes {
    nodes: Arc<Mutex<BTreeMap<String, Identity>>>,
    pub away: bool,
    pub meanwhile: Option<Meanwhile>,
}

impl Kubernetes {
    /// Nodes of these names and uids; no kubelet has said anything.
    pub fn of(nodes: &[(&str, &str)]) -> Self {
        let kubernetes = Self::default();
        for (node, uid) in nodes {
            kubernetes.make(node, uid, None);
        }
        kubernetes
    }

    pub fn make(&self, node: &str, uid: &str, boot_id: Option<&str>) {
        let (uid, boot_id) = (uid.to_owned(), boot_id.map(str::to_owned));
        self.lock().insert(node.to_owned(), Identity { uid, boot_id });
    }

    pub fn delete(&self, node: &str) {
        self.lock().remove(node).unwrap();
    }

    /// The node of this name now.
    pub fn node(&self, node: &str) -> Option<Identity> {
        self.lock().get(node).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Identity>> {
        self.nodes.lock().unwrap()
    }
}

impl Registry for Kubernetes {
    fn uid<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        async move { Ok(self.identity(node).await?.map(|node| node.uid)) }.boxed()
    }

    fn identity<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<Identity>, String>> {
        async move {
            if let Some(meanwhile) = &self.meanwhile {
                meanwhile().await;
            }
            if self.away { Err("no answer".to_owned()) } else { Ok(self.node(node)) }
        }
        .boxed()
    }
}
