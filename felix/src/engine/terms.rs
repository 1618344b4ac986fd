//! What selectors see of a workload, and what they need to see to match it.

use std::sync::Arc;

use api::selector::{
    Expression, LABEL_NAME, LABEL_NAMESPACE, LABEL_ORCHESTRATOR, LABEL_SERVICE_ACCOUNT,
    PREFIX_NAMESPACE, PREFIX_SERVICE_ACCOUNT, Selector,
};
use rustc_hash::FxHashMap;

use super::shapes::{Bearer, ShapeKey};
use crate::model::{Labels, ObjectKey};

/// The label that every Kubernetes namespace has: its name.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// A workload, or a network set, as selectors see it. What is implied wins over what its author
/// wrote: a pod's own label is never taken for one of its namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    shape: &'a ShapeKey,
    /// None if the namespace is not known.
    namespace: Option<&'a Labels>,
    accounts: &'a FxHashMap<ObjectKey, Labels>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        shape: &'a ShapeKey,
        namespace: Option<&'a Labels>,
        accounts: &'a FxHashMap<ObjectKey, Labels>,
    ) -> Self {
        Self { shape, namespace, accounts }
    }

    /// The workload's own labels.
    pub(super) fn own_labels(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.shape.labels.iter()
    }

    /// The labels of its namespace, as far as they are known.
    pub(super) fn namespace_labels(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.namespace.into_iter().flat_map(Labels::iter)
    }

    /// Its namespace.
    pub(super) fn namespace(&self) -> &'a str {
        &self.shape.namespace
    }

    /// Whether the labels of its namespace are known, if it is in one.
    pub(super) fn namespace_is_known(&self) -> bool {
        self.namespace.is_some()
            || matches!(self.shape.bearer, Bearer::GlobalNetworkSet | Bearer::HostEndpoint)
    }

    fn account_label(&self, key: &str) -> Option<&'a str> {
        if key == LABEL_NAME {
            return Some(&self.shape.service_account);
        }
        if self.accounts.is_empty() {
            return None;
        }
        let account = ObjectKey {
            namespace: Some(self.shape.namespace.clone()),
            name: self.shape.service_account.clone(),
        };
        self.accounts.get(&account)?.get(key)
    }
}

impl api::selector::Labels for View<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        if !key.starts_with('p') {
            return self.shape.labels.get(key);
        }
        let (is_pod, is_global) = match self.shape.bearer {
            Bearer::Pod => (true, false),
            Bearer::NetworkSet => (false, false),
            Bearer::GlobalNetworkSet | Bearer::HostEndpoint => (false, true),
        };
        if let Some(key) = key.strip_prefix(PREFIX_NAMESPACE) {
            return match key {
                _ if is_global => None,
                LABEL_NAME | METADATA_NAME => Some(&self.shape.namespace),
                _ => self.namespace?.get(key),
            };
        }
        if let Some(key) = key.strip_prefix(PREFIX_SERVICE_ACCOUNT) {
            return self.account_label(key).filter(|_| is_pod);
        }
        match key {
            LABEL_NAMESPACE => (!is_global).then_some(&self.shape.namespace),
            LABEL_ORCHESTRATOR => is_pod.then_some("k8s"),
            LABEL_SERVICE_ACCOUNT => {
                let name: &str = &self.shape.service_account;
                (is_pod && name.len() < 63).then_some(name)
            }
            _ => self.shape.labels.get(key),
        }
    }
}

/// Something that every workload a selector matches has. `None` stands for any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Term {
    /// An own label.
    Label(Arc<str>, Option<Vec<Arc<str>>>),
    /// A label of its namespace.
    NamespaceLabel(Arc<str>, Option<Vec<Arc<str>>>),
    /// One of these namespaces.
    Namespace(Vec<Arc<str>>),
}

/// What the engine needs to know of a selector to find what it matches.
#[derive(Debug, Default)]
pub(super) struct Analysis {
    /// Everything that matches has all of these.
    pub(super) terms: Vec<Term>,
    /// It looks at labels of namespaces, other than their names.
    pub(super) namespace_labels: bool,
}

impl Analysis {
    /// Reads a selector.
    pub(super) fn of(selector: &Selector) -> Self {
        let expression = selector.expression();
        let mut analysis = Self { terms: Vec::new(), namespace_labels: asks_namespace(expression) };
        let operands = match expression {
            Expression::And(operands) => operands.as_slice(),
            other => std::slice::from_ref(other),
        };
        analysis.terms.extend(operands.iter().filter_map(|operand| match operand {
            Expression::Equal(key, value) => term(key, Some(vec![value.clone()])),
            Expression::In(key, values) => term(key, Some(values.clone())),
            Expression::Has(key)
            | Expression::Contains(key, _)
            | Expression::StartsWith(key, _)
            | Expression::EndsWith(key, _) => term(key, None),
            _ => None,
        }));
        analysis
    }
}

/// The term for a label that must be there, with one of `values` if they are given. None if it is
/// not indexed.
fn term(label: &str, values: Option<Vec<Arc<str>>>) -> Option<Term> {
    if let Some(key) = label.strip_prefix(PREFIX_NAMESPACE) {
        return match key {
            LABEL_NAME | METADATA_NAME => values.map(Term::Namespace),
            _ => Some(Term::NamespaceLabel(key.into(), values)),
        };
    }
    match label {
        LABEL_NAMESPACE => values.map(Term::Namespace),
        LABEL_ORCHESTRATOR | LABEL_SERVICE_ACCOUNT => None,
        _ if label.starts_with(PREFIX_SERVICE_ACCOUNT) => None,
        _ => Some(Term::Label(label.into(), values)),
    }
}

/// Whether some part asks for a label of namespaces, other than their names.
fn asks_namespace(expression: &Expression) -> bool {
    match expression {
        Expression::Not(operand) => asks_namespace(operand),
        Expression::And(operands) | Expression::Or(operands) => operands.iter().any(asks_namespace),
        leaf => leaf
            .key()
            .and_then(|key| key.strip_prefix(PREFIX_NAMESPACE))
            .is_some_and(|key| key != LABEL_NAME && key != METADATA_NAME),
    }
}
