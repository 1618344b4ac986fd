//! How the several selectors of a policy and of its rules become one each, to be matched against
//! [`super::EndpointLabels`].

use super::expression::Expression;
use super::{
    LABEL_NAMESPACE, LABEL_SERVICE_ACCOUNT, PREFIX_NAMESPACE, PREFIX_SERVICE_ACCOUNT, ParseError,
    Selector,
};
use crate::v3::{EntityRule, GlobalNetworkPolicySpec, NetworkPolicySpec, ServiceAccountMatch};

/// A selector of a policy that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {source}")]
pub struct RewriteError {
    /// The field, relative to what was rewritten: `selector`, `serviceAccounts.selector`, ...
    pub field: &'static str,
    /// What is wrong.
    #[source]
    pub source: ParseError,
}

/// One side of a rule, as far as it is about endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntitySelectors {
    /// Only what this selects; None if the rule does not restrict endpoints.
    pub selector: Option<Selector>,
    /// Anything but what this selects, including addresses of no endpoint.
    pub not_selector: Option<Selector>,
}

/// `namespaceSelector`, to be matched against endpoints: the namespace's labels carry the prefix
/// `pcns.`; `all()` is every namespaced endpoint and `global()` every other.
pub fn namespace_selector(text: &str) -> Result<Selector, ParseError> {
    let namespaced = || Expression::Has(LABEL_NAMESPACE.into());
    let selector = Selector::parse(text)?;
    let rewritten = selector.expression().map_leaves(&|leaf| match leaf {
        Expression::All => namespaced(),
        Expression::Global => Expression::Not(Box::new(namespaced())),
        leaf => prefixed(leaf, PREFIX_NAMESPACE),
    });
    Ok(rewritten.into())
}

/// `serviceAccountSelector`, to be matched against endpoints: labels carry the prefix `pcsa.`.
pub fn service_account_selector(text: &str) -> Result<Selector, ParseError> {
    let selector = Selector::parse(text)?;
    Ok(selector.expression().map_leaves(&|leaf| prefixed(leaf, PREFIX_SERVICE_ACCOUNT)).into())
}

fn prefixed(leaf: &Expression, prefix: &str) -> Expression {
    match leaf.key() {
        Some(key) => leaf.with_key(format!("{prefix}{key}").into()),
        None => leaf.clone(),
    }
}

/// Everything in this namespace.
pub fn in_namespace(namespace: &str) -> Selector {
    Expression::Equal(LABEL_NAMESPACE.into(), namespace.into()).into()
}

/// One side of a rule, in a policy of `namespace` (None in a GlobalNetworkPolicy). `services`,
/// networks and ports are not about labels and left to the caller.
///
/// A rule of a namespaced policy that gives a selector or service accounts but no namespace means
/// the policy's own namespace; a rule with networks only means these wherever they are. notSelector
/// means all namespaces.
pub fn entity(rule: &EntityRule, namespace: Option<&str>) -> Result<EntitySelectors, RewriteError> {
    let mut parts = Vec::new();
    let by_label = !rule.selector.is_empty() || !rule.not_selector.is_empty();
    let accounts = rule.service_accounts.as_ref().filter(|a| **a != ServiceAccountMatch::default());
    if !rule.namespace_selector.is_empty() {
        let selector = namespace_selector(&rule.namespace_selector);
        parts.push(selector.map_err(in_field("namespaceSelector"))?);
    } else if let Some(namespace) = namespace
        && (by_label || accounts.is_some())
    {
        parts.push(in_namespace(namespace));
    }
    if let Some(accounts) = accounts {
        parts.extend(service_accounts(accounts)?);
    }
    if !rule.selector.is_empty() {
        parts.push(Selector::parse(&rule.selector).map_err(in_field("selector"))?);
    }
    let not_selector = match rule.not_selector.as_str() {
        "" => None,
        text => Some(Selector::parse(text).map_err(in_field("notSelector"))?),
    };
    let selector = (!parts.is_empty()).then(|| Selector::every(&parts));
    Ok(EntitySelectors { selector, not_selector })
}

fn service_accounts(accounts: &ServiceAccountMatch) -> Result<Vec<Selector>, RewriteError> {
    let mut parts = Vec::new();
    if !accounts.names.is_empty() {
        let names = accounts.names.iter().map(|name| name.as_str().into()).collect();
        parts.push(Expression::In(LABEL_SERVICE_ACCOUNT.into(), names).into());
    }
    if !accounts.selector.is_empty() {
        let selector = service_account_selector(&accounts.selector);
        parts.push(selector.map_err(in_field("serviceAccounts.selector"))?);
    }
    Ok(parts)
}

/// The endpoints that a NetworkPolicy of `namespace` is for.
pub fn network_policy(spec: &NetworkPolicySpec, namespace: &str) -> Result<Selector, RewriteError> {
    let mut parts = vec![
        Selector::parse(&spec.selector).map_err(in_field("selector"))?,
        in_namespace(namespace),
    ];
    if !spec.service_account_selector.is_empty() {
        let selector = service_account_selector(&spec.service_account_selector);
        parts.push(selector.map_err(in_field("serviceAccountSelector"))?);
    }
    Ok(Selector::every(&parts))
}

/// The endpoints that a GlobalNetworkPolicy is for.
pub fn global_network_policy(spec: &GlobalNetworkPolicySpec) -> Result<Selector, RewriteError> {
    let mut parts = vec![Selector::parse(&spec.selector).map_err(in_field("selector"))?];
    if !spec.namespace_selector.is_empty() {
        let selector = namespace_selector(&spec.namespace_selector);
        parts.push(selector.map_err(in_field("namespaceSelector"))?);
    }
    if !spec.service_account_selector.is_empty() {
        let selector = service_account_selector(&spec.service_account_selector);
        parts.push(selector.map_err(in_field("serviceAccountSelector"))?);
    }
    Ok(Selector::every(&parts))
}

fn in_field(field: &'static str) -> impl FnOnce(ParseError) -> RewriteError {
    move |source| RewriteError { field, source }
}
