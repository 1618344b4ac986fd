//! Who decides what becomes of a packet, for those who count.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Direction;

/// Numbers a [`Decision`]: the engine's number, never of two at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Decider(pub u32);

impl Decider {
    /// Not asked, or not known: read from the kernel.
    pub const NOBODY: Self = Self(0);
}

/// What decides about packets: a rule, the end of a tier, or that nothing else does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The tier; None: no tier decides, which allows what is of workloads or forwarded; of host
    /// endpoints their profiles decide then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Kind, namespace and name of the policy; None: the tier's default action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Of traffic to endpoints or from them.
    pub direction: Direction,
    /// Where the rule stands in the object, `spec.ingress[0]`; `spec` for a policy that is closed;
    /// without a tier [`Decision::PROFILES`], if those decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl Decision {
    /// In the place of a rule: the profiles of a host endpoint.
    pub const PROFILES: &str = "profiles";
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.tier, &self.policy) {
            (None, _) => f.write_str(self.rule.as_deref().unwrap_or("no policy")),
            (Some(tier), None) => write!(f, "default action of tier {tier}"),
            (Some(_), Some(policy)) => {
                write!(f, "{} of {policy}", self.rule.as_deref().unwrap_or("spec"))
            }
        }
    }
}
