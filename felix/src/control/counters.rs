//! `felix policy counters`: how many packets which rule has decided about.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Rows;
use super::table::{table, text, with_rest};
use crate::kernel::{Count, Counted};
use crate::model::{Decision, Direction};

/// The answer to [`crate::cni::protocol::Request::Counters`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountersReport {
    /// The node whose agent answers.
    pub node: String,
    /// By tier, policy, direction and rule.
    #[serde(flatten)]
    pub counters: Rows<CounterRow>,
}

/// Packets about which a rule has decided, or the end of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterRow {
    /// Who decided.
    #[serde(flatten)]
    pub by: Decision,
    /// Packets that begin flows, or of which nobody has answered the first.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

impl CountersReport {
    /// What a node's kernel has counted.
    pub fn new(node: &str, counts: Counted) -> Self {
        let row = |(by, Count { packets, bytes }): (Arc<Decision>, Count)| CounterRow {
            by: Arc::unwrap_or_clone(by),
            packets,
            bytes,
        };
        let mut rows: Vec<CounterRow> = counts.into_iter().map(row).collect();
        // What no tier decides comes last, and in a tier its end; rules as they stand in the object.
        rows.sort_by_cached_key(|CounterRow { by, .. }| {
            let place =
                (by.tier.is_none(), by.tier.clone(), by.policy.is_none(), by.policy.clone());
            (place, by.direction, by.rule.as_deref().and_then(number))
        });
        Self { node: node.to_owned(), counters: Rows::bounded(rows) }
    }
}

/// Of `spec.ingress[7]`.
fn number(rule: &str) -> Option<u32> {
    rule.rsplit_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// For people.
pub fn counters_text(report: &CountersReport) -> String {
    if report.counters.total == 0 {
        return "nothing is counted: see policyCounters of FelixConfiguration\n".to_owned();
    }
    let mut table = table(["TIER", "POLICY", "DIRECTION", "RULE", "PACKETS", "BYTES"]);
    for CounterRow { by, packets, bytes } in &report.counters.rows {
        let direction = match by.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let (policy, rule) = match (&by.tier, &by.policy) {
            (None, _) => ("no policy", by.rule.as_deref().unwrap_or_default()),
            (Some(_), None) => ("default action", ""),
            (Some(_), Some(policy)) => (policy.as_str(), by.rule.as_deref().unwrap_or_default()),
        };
        table.add_row([
            by.tier.as_deref().unwrap_or("<none>"),
            policy,
            direction,
            rule,
            &packets.to_string(),
            &bytes.to_string(),
        ]);
    }
    with_rest(text(&table), &report.counters, "counters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_their_rules() {
        let by = |tier: Option<&str>, policy: Option<&str>, rule: Option<u32>| {
            Arc::new(Decision {
                tier: tier.map(str::to_owned),
                policy: policy.map(str::to_owned),
                direction: Direction::Ingress,
                rule: rule.map(|number| format!("spec.ingress[{number}]")),
            })
        };
        let count = |packets| Count { packets, bytes: packets * 60 };
        let report = CountersReport::new(
            "n1",
            vec![
                (by(None, None, None), count(1)),
                (by(Some("default"), None, None), count(4)),
                (by(Some("default"), Some("NetworkPolicy a/b"), Some(10)), count(3)),
                (by(Some("default"), Some("NetworkPolicy a/b"), Some(9)), count(0)),
            ],
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][1]["rule"], "spec.ingress[10]");
        assert_eq!(json["rows"][1]["packets"], 3);
        assert_eq!(serde_json::from_value::<CountersReport>(json).unwrap(), report);
        let wanted = "\
TIER     POLICY             DIRECTION  RULE              PACKETS  BYTES
default  NetworkPolicy a/b  ingress    spec.ingress[9]   0        0
default  NetworkPolicy a/b  ingress    spec.ingress[10]  3        180
default  default action     ingress                      4        240
<none>   no policy          ingress                      1        60
";
        assert_eq!(counters_text(&report), wanted);
        let none = CountersReport::new("n1", Vec::new());
        assert!(counters_text(&none).starts_with("nothing is counted"));
    }
}
