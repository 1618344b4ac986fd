//! What becomes of established flows when policy changes.

use std::time::Instant;

use super::brain::{Brain, Command};
use crate::kernel::TrackedFlow;
use crate::kernel::flows::Rejudged;
use crate::model::{Flow, Parties, Verdict};

impl Brain {
    /// Established flows go on from now on, whatever policy says, and those that were cut; or they do not.
    pub(super) fn keep_established(&mut self, keep: bool) {
        if std::mem::replace(&mut self.keep_established, keep) == keep {
            return;
        }
        let endpoints = self.engine.endpoints();
        let all: Parties =
            endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        self.arrears.judge_again(Parties { at_hosts: true, ..all }, Instant::now());
    }

    /// Has the flows of those concerned looked up, off the path that pods and policies wait
    /// on.
    pub(super) fn rejudge(&mut self) {
        let parties = self.arrears.take_unjudged();
        if parties.is_empty() {
            return;
        }
        let (kernel, own) = (self.kernel.clone(), self.own.clone());
        let has_hosts = self.engine.has_host_endpoints();
        let again = !self.keep_established;
        tokio::spawn(async move {
            let looked_up = async {
                if has_hosts {
                    kernel.judge_at_hosts(parties.clone(), again).await?;
                }
                kernel.flows(parties.clone()).await
            };
            let command = match looked_up.await {
                Ok(flows) => Command::Judge { parties, flows },
                Err(error) => {
                    tracing::error!(%error, "established flows could not be judged again yet");
                    Command::Unjudged { parties }
                }
            };
            if let Some(own) = own.upgrade() {
                // The brain has ended: nobody judges any more.
                drop(own.send(command).await);
            }
        });
    }

    /// Cuts the flows that policy now denies, and lets those go on that it allows again.
    pub(super) async fn judge(&mut self, of: &Parties, flows: Vec<TrackedFlow>) {
        let verdict = |flow: &Flow| match self.keep_established {
            true => Verdict::Allow,
            false => self.engine.verdict_on_established(flow),
        };
        let Rejudged { deny, allow, denied_destinations } = Rejudged::of(flows, verdict);
        self.engine.flows_judged(of, denied_destinations);
        let all = deny.iter().chain(&allow);
        let parties = all.flat_map(|flow| [flow.flow.source, flow.flow.destination]).collect();
        let ended = deny.len();
        let (denied, cleared) =
            (self.kernel.mark_denied(deny).await, self.kernel.clear_denied(allow).await);
        match denied.and(cleared) {
            Ok(()) => {
                self.metrics.flows_ended.inc_by(ended as u64);
            }
            Err(error) => {
                tracing::error!(%error, "not all established flows could be marked yet");
                self.arrears.judge_again(parties, Instant::now());
            }
        }
    }
}
