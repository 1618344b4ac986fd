//! As much of policies as the storms have.

use ipnet::IpNet;

use super::Route;
use crate::policy::{Action, MedChange, Policy};

/// What a policy makes of a route; None if it rejects it.
pub(super) fn apply(
    policy: Option<&Policy>,
    prefix: &IpNet,
    route: &Route,
    asn: u32,
    member: bool,
) -> Option<Route> {
    let mut route = route.clone();
    let Some(policy) = policy else { return Some(route) };
    let mut action = policy.default;
    for rule in &policy.rules {
        if rule.prefixes.as_ref().is_some_and(|all| !all.iter().any(|p| p.matches(prefix))) {
            continue;
        }
        if rule.action != Action::Reject {
            route.local_pref = rule.set.local_pref.or(route.local_pref);
            if let Some(MedChange::Set(med)) = rule.set.med {
                route.med = Some(med);
            }
            for _ in 0..rule.set.prepend_own {
                let path = if member { &mut route.members } else { &mut route.path };
                path.insert(0, asn);
            }
        }
        if rule.action != Action::Continue {
            action = rule.action;
            break;
        }
    }
    (action == Action::Accept).then_some(route)
}
