//! `felix policy status`: which policies are in force, in which revision, since when.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::Rows;
use super::table::{duration, table, text};

/// The answer to [`crate::cni::protocol::Request::Policies`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoliciesReport {
    /// The node whose agent answers.
    pub node: String,
    /// Why the kernel does not have what it should; None if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// In the order of evaluation.
    #[serde(flatten)]
    pub policies: Rows<PolicyRow>,
}

/// A policy of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    /// Kind, namespace and name.
    pub policy: String,
    /// Its tier.
    pub tier: String,
    /// It has a say in traffic to the endpoints that it selects.
    pub ingress: bool,
    /// It has a say in traffic from them.
    pub egress: bool,
    /// How many of this node's endpoints it selects.
    pub endpoints: usize,
    /// `metadata.generation` of the object that the agent has: how often its `spec` was written. None
    /// in a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// What the kernel has of it; None if it does not have any of it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_kernel: Option<HeldRevision>,
    /// What is wrong with it: it denies all that it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// It is staged, and would do this to the policy of its name: `Set`, `Delete`, `Learn`, `Ignore`. It
    /// is not in force; the endpoints are those that it would select.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<String>,
}

/// What the kernel has of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldRevision {
    /// `metadata.generation`; None in a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// For so long.
    pub since_seconds: u64,
    /// It is the one that the agent has.
    pub current: bool,
}

/// For people.
pub fn policies_text(report: &PoliciesReport) -> String {
    let PoliciesReport { node, error, policies: Rows { total, rows } } = report;
    let mut out = String::new();
    if let Some(error) = error {
        let _ = writeln!(out, "The kernel of {node} does not have all of this: {error}");
    }
    if *total == 0 {
        out.push_str("no policy applies\n");
        return out;
    }
    let mut table =
        table(["TIER", "POLICY", "DIRECTIONS", "ENDPOINTS", "GENERATION", "IN KERNEL", "SINCE"]);
    for row in rows {
        let directions = match (row.ingress, row.egress) {
            (true, true) => "ingress,egress",
            (true, false) => "ingress",
            (false, true) => "egress",
            (false, false) => "<none>",
        };
        let (held, since) = match &row.in_kernel {
            None if row.staged.is_some() => {
                let action = row.staged.as_deref().unwrap_or_default();
                (format!("staged: {action}"), String::new())
            }
            None => ("not yet".to_owned(), String::new()),
            Some(held) => {
                let which = match (held.current, held.generation) {
                    (true, _) => "yes".to_owned(),
                    (false, Some(old)) => format!("still {old}"),
                    (false, None) => "an earlier one".to_owned(),
                };
                (which, duration(held.since_seconds))
            }
        };
        table.add_row([
            row.tier.clone(),
            row.policy.clone(),
            directions.to_owned(),
            row.endpoints.to_string(),
            row.generation.map_or_else(|| "<none>".to_owned(), |number| number.to_string()),
            held,
            since,
        ]);
    }
    out += &text(&table);
    if rows.len() < *total {
        let _ = writeln!(out, "({} of {total} policies)", rows.len());
    }
    for row in rows.iter().filter(|row| !row.problems.is_empty()) {
        let denies = if row.staged.is_some() { "would deny" } else { "denies" };
        let _ = writeln!(out, "{} {denies} all that it is about:", row.policy);
        for problem in &row.problems {
            let _ = writeln!(out, "    {problem}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(policy: &str, held: Option<HeldRevision>, problems: &[&str]) -> PolicyRow {
        PolicyRow {
            policy: policy.into(),
            tier: "default".into(),
            ingress: true,
            egress: false,
            endpoints: 3,
            generation: Some(12),
            in_kernel: held,
            problems: problems.iter().map(ToString::to_string).collect(),
            staged: None,
        }
    }

    #[test]
    fn a_staged_policy_says_so() {
        let staged = PolicyRow {
            staged: Some("Set".into()),
            ..row("StagedNetworkPolicy a/b", None, &["x"])
        };
        let policies = Rows { total: 1, rows: vec![staged] };
        let report = PoliciesReport { node: "n1".into(), error: None, policies };
        let wanted = "\
TIER     POLICY                   DIRECTIONS  ENDPOINTS  GENERATION  IN KERNEL    SINCE
default  StagedNetworkPolicy a/b  ingress     3          12          staged: Set
StagedNetworkPolicy a/b would deny all that it is about:
    x
";
        assert_eq!(policies_text(&report), wanted);
    }

    #[test]
    fn each_policy_says_what_the_kernel_has_of_it() {
        let held = |generation, current| {
            Some(HeldRevision { generation: Some(generation), since_seconds: 61, current })
        };
        let report = PoliciesReport {
            node: "n1".into(),
            error: Some("no space".into()),
            policies: Rows {
                total: 4,
                rows: vec![
                    row("NetworkPolicy a/b", held(12, true), &[]),
                    row("NetworkPolicy a/c", held(11, false), &["spec.ingress[0].http: no"]),
                    row("NetworkPolicy a/d", None, &[]),
                ],
            },
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][1]["inKernel"]["generation"], 11);
        assert_eq!(serde_json::from_value::<PoliciesReport>(json).unwrap(), report);
        let wanted = "\
The kernel of n1 does not have all of this: no space
TIER     POLICY             DIRECTIONS  ENDPOINTS  GENERATION  IN KERNEL  SINCE
default  NetworkPolicy a/b  ingress     3          12          yes        1m1s
default  NetworkPolicy a/c  ingress     3          12          still 11   1m1s
default  NetworkPolicy a/d  ingress     3          12          not yet
(3 of 4 policies)
NetworkPolicy a/c denies all that it is about:
    spec.ingress[0].http: no
";
        assert_eq!(policies_text(&report), wanted);
        let none = Rows { total: 0, rows: Vec::new() };
        let nothing = PoliciesReport { error: None, policies: none, ..report };
        assert_eq!(policies_text(&nothing), "no policy applies\n");
    }
}
