//! Which of several replicas acts: the holder of a Lease (coordination.k8s.io). It spares work and
//! noise; that no address is given twice does not rest on it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// The Lease's name.
pub const NAME: &str = "caracal-load-balancer";

/// How long others wait for a holder that does not renew, in seconds.
const LASTS: i32 = 15;
/// Between renewals.
const PERIOD: Duration = Duration::from_secs(5);
/// A holder that could not renew for so long holds nothing any more; well before others take over.
const GIVES_UP: Duration = Duration::from_secs(10);
/// For one request.
const DEADLINE: Duration = Duration::from_secs(4);

/// What was seen of the Lease, and when it was first seen so. Others' clocks do not count.
#[derive(Debug, Default)]
struct Watched {
    seen: Option<(String, Option<MicroTime>, Instant)>,
}

impl Watched {
    /// Whether `me` may hold it: it is mine, nobody's, or its holder has not renewed it for as long as
    /// it lasts.
    fn is_free(&mut self, spec: &LeaseSpec, me: &str, now: Instant) -> bool {
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder.is_empty() || holder == me {
            return true;
        }
        let same = self.seen.as_ref().filter(|(of, at, _)| *of == holder && *at == spec.renew_time);
        let since = same.map_or(now, |(_, _, since)| *since);
        self.seen = Some((holder, spec.renew_time.clone(), since));
        let lasts = u64::try_from(spec.lease_duration_seconds.unwrap_or(LASTS)).unwrap_or(0);
        now >= since + Duration::from_secs(lasts)
    }
}

/// Tries to hold the Lease until `stop`, and tells whether it does. Gives it away at the end.
pub(super) async fn hold(
    client: Client,
    namespace: String,
    me: String,
    held: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let (mut watched, mut renewed) = (Watched::default(), None::<Instant>);
    loop {
        let asked = Instant::now();
        let attempt = timeout(DEADLINE, attempt(&leases, &me, &mut watched, asked)).await;
        match attempt.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}"))) {
            // Counted from before the request: others count from after it.
            Ok(true) => renewed = Some(asked),
            Ok(false) => renewed = None,
            Err(error) => {
                tracing::warn!(lease = %format_args!("{namespace}/{NAME}"), error, "not renewed");
            }
        }
        let holds = renewed.is_some_and(|at| at.elapsed() < GIVES_UP);
        held.send_if_modified(|before| {
            let changed = *before != holds;
            *before = holds;
            changed
        });
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
    held.send_replace(false);
    if renewed.is_some() {
        let _ = timeout(DEADLINE, give_away(&leases, &me)).await;
    }
}

async fn attempt(
    leases: &Api<Lease>,
    me: &str,
    watched: &mut Watched,
    now: Instant,
) -> Result<bool, String> {
    let found = leases.get_opt(NAME).await.map_err(|error| error.to_string())?;
    let time = Some(MicroTime(Timestamp::now()));
    let mut lease = found.unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    let mut spec = lease.spec.take().unwrap_or_default();
    if !watched.is_free(&spec, me, now) {
        return Ok(false);
    }
    if spec.holder_identity.as_deref() != Some(me) {
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        spec.acquire_time.clone_from(&time);
    }
    spec.holder_identity = Some(me.to_owned());
    spec.lease_duration_seconds = Some(LASTS);
    spec.renew_time = time;
    lease.spec = Some(spec);
    // With the version that was read: whoever was faster holds it.
    let written = match lease.metadata.resource_version {
        None => leases.create(&PostParams::default(), &lease).await,
        Some(_) => leases.replace(NAME, &PostParams::default(), &lease).await,
    };
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

async fn give_away(leases: &Api<Lease>, me: &str) {
    let Ok(Some(mut lease)) = leases.get_opt(NAME).await else { return };
    let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(me))
    else {
        return;
    };
    spec.holder_identity = None;
    // Whoever waits for it finds out by itself if this fails.
    let _ = leases.replace(NAME, &PostParams::default(), &lease).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_free_when_its_holder_has_not_renewed_it_for_long_enough() {
        let (mut watched, start) = (Watched::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let spec = |holder: &str, renewed: i64| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            // Of whatever clock the holder has.
            renew_time: Timestamp::from_second(renewed).ok().map(MicroTime),
            ..LeaseSpec::default()
        };
        assert!(watched.is_free(&LeaseSpec::default(), "a", at(0)), "nobody's");
        assert!(watched.is_free(&spec("a", 7), "a", at(0)), "its own");
        for (renewed, seconds, free) in
            [(1, 0, false), (1, 14, false), (2, 15, false), (2, 29, false), (2, 30, true)]
        {
            assert_eq!(watched.is_free(&spec("b", renewed), "a", at(seconds)), free, "{seconds}");
        }
        assert!(!watched.is_free(&spec("c", 2), "a", at(31)), "another holder");
        assert!(watched.is_free(&spec("", 2), "a", at(31)), "given away");
    }
}
