//! What selectors are matched against.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

use super::{
    LABEL_NAME, LABEL_NAMESPACE, LABEL_ORCHESTRATOR, LABEL_SERVICE_ACCOUNT, PREFIX_NAMESPACE,
    PREFIX_SERVICE_ACCOUNT,
};

/// Labels by key.
pub trait Labels {
    /// The value of `key`, if the label is there.
    fn get(&self, key: &str) -> Option<&str>;
}

impl<L: Labels + ?Sized> Labels for &L {
    fn get(&self, key: &str) -> Option<&str> {
        (**self).get(key)
    }
}

impl<L: Labels> Labels for Option<L> {
    /// None is no labels.
    fn get(&self, key: &str) -> Option<&str> {
        self.as_ref()?.get(key)
    }
}

impl Labels for BTreeMap<String, String> {
    fn get(&self, key: &str) -> Option<&str> {
        BTreeMap::get(self, key).map(String::as_str)
    }
}

impl<S: BuildHasher> Labels for HashMap<String, String, S> {
    fn get(&self, key: &str) -> Option<&str> {
        HashMap::get(self, key).map(String::as_str)
    }
}

impl Labels for [(&str, &str)] {
    fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(candidate, _)| *candidate == key).map(|(_, value)| *value)
    }
}

impl<const N: usize> Labels for [(&str, &str); N] {
    fn get(&self, key: &str) -> Option<&str> {
        Labels::get(self.as_slice(), key)
    }
}

/// The labels of a pod or a namespaced NetworkSet as policies see them: its own, those that say
/// where it runs, and those of its namespace and service account under their prefixes. Own labels
/// win over inherited ones, but not over `projectcalico.org/namespace`, `.../orchestrator` and
/// `.../serviceaccount`, which nobody but the system may give.
#[derive(Clone, Copy, Debug)]
pub struct EndpointLabels<'a, L> {
    /// Own labels.
    pub own: L,
    /// The namespace; None for what is in none.
    pub namespace: Option<&'a str>,
    /// The namespace's labels.
    pub namespace_labels: L,
    /// Whether this is a pod.
    pub pod: bool,
    /// The service account's name; None for what has none.
    pub service_account: Option<&'a str>,
    /// The service account's labels.
    pub service_account_labels: L,
}

/// From here on a service account's name cannot be a label's value and is left out.
const LONGEST_VALUE: usize = 63;

impl<L: Labels> Labels for EndpointLabels<'_, L> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            LABEL_NAMESPACE => return self.namespace,
            LABEL_ORCHESTRATOR => return self.pod.then_some("k8s"),
            LABEL_SERVICE_ACCOUNT => {
                return self.service_account.filter(|name| name.len() < LONGEST_VALUE);
            }
            _ => {}
        }
        if let Some(own) = self.own.get(key) {
            return Some(own);
        }
        if let Some(key) = key.strip_prefix(PREFIX_NAMESPACE) {
            return match key {
                LABEL_NAME => self.namespace,
                _ => self.namespace_labels.get(key),
            };
        }
        let key = key.strip_prefix(PREFIX_SERVICE_ACCOUNT)?;
        match key {
            LABEL_NAME => self.service_account,
            _ => self.service_account_labels.get(key),
        }
    }
}
