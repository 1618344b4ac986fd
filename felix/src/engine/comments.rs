//! What `nft list ruleset` says beside elements, for those who read it.

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use super::policy::PolicyId;
use crate::model::{Delta, LocalEndpoint};

/// Beside the interface of an endpoint: the pod.
pub(super) fn of_endpoint(endpoint: &LocalEndpoint) -> Arc<str> {
    format!("{}/{}", endpoint.namespace, endpoint.pod).into()
}

/// Beside the interface of a host endpoint.
pub(super) fn of_host(name: &str) -> Arc<str> {
    format!("HostEndpoint {name}").into()
}

/// Beside what holds for all whom no policy tells apart: the policies that were asked, in order.
pub(super) fn of_policies<'a>(
    policies: impl ExactSizeIterator<Item = &'a PolicyId> + Clone,
) -> Arc<str> {
    list(policies).into()
}

/// As many as there is room for, and how many more.
fn list<T: Display>(all: impl ExactSizeIterator<Item = T> + Clone) -> String {
    let total = all.len();
    if total == 0 {
        return "no policy".into();
    }
    let mut text = String::new();
    for (number, one) in all.enumerate() {
        let before = text.len();
        let separator = if before == 0 { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{one}");
        let rest = total - number - 1;
        let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
        if text.len() + more.len() > Delta::COMMENT && before > 0 {
            text.truncate(before);
            let _ = write!(text, " and {} more", rest + 1);
            return text;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_named_as_far_as_there_is_room() {
        assert_eq!(list([""; 0].iter()), "no policy");
        assert_eq!(list(["a", "b"].iter()), "a, b");
        for count in 1..60 {
            let names: Vec<String> =
                (0..count).map(|n| format!("NetworkPolicy shop/{n}")).collect();
            let text = list(names.iter());
            assert!(text.len() <= Delta::COMMENT, "{text}");
            let named = text.matches("shop/").count();
            assert!(named == count || text.ends_with(&format!(" and {} more", count - named)));
            assert!(named >= count.min(4), "{text}");
        }
        let long = "x".repeat(200);
        assert_eq!(list([&long, "b"].iter()), format!("{long} and 1 more"), "one at least");
    }
}
