//! Which replica leads: the holder of Lease `tasuki-control`.
//!
//! Every replica serves and signs; the leader alone does what must be done once (rotation, what is written into the
//! cluster). Nobody's wall clock is believed: a leader acts for [`RENEW_DEADLINE`] after it *began* its last renewal, and the
//! others take over when they have seen the record unchanged for longer, each by its own monotonic clock.

use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};
use tasuki_kubernetes::names;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// As client-go's defaults: a leader that has died is replaced after 15 s.
const LEASE: Duration = Duration::from_secs(15);
/// Less than [`LEASE`], so that there are never two who believe to lead.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(2);
/// For one request to the API server.
const REQUEST: Duration = Duration::from_secs(4);
/// Whoever leaves a longer term in the record is not waited for so long.
const LONGEST_LEASE: Duration = Duration::from_secs(60);

/// True while this replica leads. It becomes false in time whatever the API server does; see also [`while_leading`].
pub type Leadership = watch::Receiver<bool>;

/// Runs `work` whenever this replica becomes the leader and drops it at once when it no longer is. Work that ends by itself is
/// not begun again in the same term.
pub async fn while_leading<F: Future<Output = ()>>(
    mut leadership: Leadership,
    mut work: impl FnMut() -> F,
) {
    while turned(&mut leadership, true).await {
        let mut watched = leadership.clone();
        let mut lost = pin!(turned(&mut watched, false));
        tokio::select! {
            biased;
            _ = &mut lost => {}
            () = work() => { lost.await; }
        }
    }
}

/// Waits for that state; false when the process is ending.
async fn turned(leadership: &mut Leadership, to: bool) -> bool {
    leadership.wait_for(|leading| *leading == to).await.is_ok()
}

/// This replica's standing candidacy.
pub struct Campaign {
    identity: String,
    leadership: Leadership,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Campaign {
    /// `identity` must be of this process alone: see [`identity`].
    pub fn start(client: Client, namespace: &str, identity: String) -> Self {
        let (state, leadership) = watch::channel(false);
        let (end, ended) = oneshot::channel();
        let candidate = Candidate {
            leases: Api::namespaced(client, namespace),
            identity: identity.clone(),
            observed: None,
            state,
            renewed: Instant::now(),
            complained: String::new(),
        };
        Self {
            identity,
            leadership,
            end,
            task: tokio::spawn(candidate.run(ended)),
        }
    }

    /// Of this process alone.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Gives the lease back, so that another replica leads at once; what it takes is bounded.
    pub async fn release(self) {
        let _ = self.end.send(());
        let _ = timeout(REQUEST, self.task).await;
    }
}

/// Whether a replica is alive that holds the lease: seen by its renewals, which takes as long as a term when there are none.
pub async fn is_led(client: Client, namespace: &str) -> bool {
    let leases: Api<Lease> = Api::namespaced(client, namespace);
    let start = Instant::now();
    let mut first: Option<LeaseSpec> = None;
    while start.elapsed() <= LEASE {
        // An API server that is away is asked again: nobody can take over meanwhile either.
        if let Ok(Ok(lease)) = timeout(REQUEST, leases.get_opt(names::CONTROL)).await {
            let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
            if spec
                .holder_identity
                .as_deref()
                .unwrap_or_default()
                .is_empty()
            {
                return false;
            }
            if first.get_or_insert_with(|| spec.clone()) != &spec {
                return true;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
    false
}

/// A name for this process: the pod's, for people, and a random part, since a restarted container is another process.
pub fn identity(pod: Option<&str>) -> String {
    format!(
        "{}_{:016x}",
        pod.unwrap_or(names::CONTROL),
        rand::random::<u64>()
    )
}

struct Candidate {
    leases: Api<Lease>,
    identity: String,
    observed: Option<Observed>,
    state: watch::Sender<bool>,
    /// When the last renewal that succeeded was begun.
    renewed: Instant,
    complained: String,
}

impl Candidate {
    async fn run(mut self, mut ended: oneshot::Receiver<()>) {
        loop {
            let began = Instant::now();
            let mut until = began + REQUEST;
            if self.leads() {
                until = until.min(self.deadline());
            }
            let attempt = tokio::select! {
                attempt = timeout_at(until, self.attempt(began)) => attempt,
                _ = &mut ended => break,
            };
            match attempt {
                Ok(Ok(held)) => self.settle(held, began),
                Ok(Err(error)) => self.complain(&error.to_string()),
                Err(_) => self.complain("no answer from the API server"),
            }
            let mut next = began + EVERY;
            if self.leads() {
                next = next.min(self.deadline());
            }
            tokio::select! {
                () = sleep_until(next) => {}
                _ = &mut ended => break,
            }
            if self.leads() && Instant::now() >= self.deadline() {
                tracing::warn!("leadership lost: the lease could not be renewed in time");
                self.state.send_replace(false);
            }
        }
        let led = self.state.send_replace(false);
        if led && let Err(error) = self.release().await {
            tracing::debug!(%error, "the lease could not be released");
        }
    }

    fn leads(&self) -> bool {
        *self.state.borrow()
    }

    fn deadline(&self) -> Instant {
        self.renewed + RENEW_DEADLINE
    }

    fn settle(&mut self, held: bool, began: Instant) {
        self.complained.clear();
        if held {
            self.renewed = began;
        }
        if self.state.send_replace(held) != held {
            tracing::info!(identity = self.identity, leader = held, "leadership");
        }
    }

    fn complain(&mut self, reason: &str) {
        if self.complained != reason {
            tracing::warn!(reason, "lease {}", names::CONTROL);
            reason.clone_into(&mut self.complained);
        }
    }

    /// Whether this replica holds the lease now.
    async fn attempt(&mut self, now: Instant) -> Result<bool, Error> {
        let current = self.leases.get_opt(names::CONTROL).await?;
        let spec = current.as_ref().and_then(|lease| lease.spec.as_ref());
        if !may_claim(spec, &self.identity, &mut self.observed, now) {
            return Ok(false);
        }
        let claim = claim(current.as_ref(), &self.identity, Timestamp::now());
        let params = PostParams::default();
        let written = match current {
            None => self.leases.create(&params, &claim).await,
            // The resource version in it makes this a compare-and-swap.
            Some(_) => self.leases.replace(names::CONTROL, &params, &claim).await,
        };
        match written {
            Ok(_) => Ok(true),
            // Another replica was faster; if we led, the next try says whether we still do, within the deadline.
            Err(Error::Api(status))
                if (status.is_conflict() || status.is_already_exists()) && !self.leads() =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn release(&self) -> Result<(), Error> {
        let Some(mut lease) = self.leases.get_opt(names::CONTROL).await? else {
            return Ok(());
        };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| holds(spec, &self.identity))
        else {
            return Ok(());
        };
        spec.holder_identity = None;
        let params = PostParams::default();
        self.leases.replace(names::CONTROL, &params, &lease).await?;
        Ok(())
    }
}

/// A record of another holder, and since when it has been the same.
#[derive(Clone, Debug, PartialEq)]
struct Observed {
    spec: LeaseSpec,
    since: Instant,
}

/// Whether the lease is ours, nobody's, or of somebody who has not renewed it for its whole term while we looked.
fn may_claim(
    spec: Option<&LeaseSpec>,
    me: &str,
    observed: &mut Option<Observed>,
    now: Instant,
) -> bool {
    let Some(spec) = spec else { return true };
    if holds(spec, me)
        || spec
            .holder_identity
            .as_deref()
            .unwrap_or_default()
            .is_empty()
    {
        *observed = None;
        return true;
    }
    let known = observed.take().filter(|known| known.spec == *spec);
    let since = known.map_or(now, |known| known.since);
    *observed = Some(Observed {
        spec: spec.clone(),
        since,
    });
    now.saturating_duration_since(since) > term(spec)
}

fn holds(spec: &LeaseSpec, identity: &str) -> bool {
    spec.holder_identity.as_deref() == Some(identity)
}

fn term(spec: &LeaseSpec) -> Duration {
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    let said = Duration::from_secs(seconds.try_into().unwrap_or(0));
    said.clamp(LEASE, LONGEST_LEASE)
}

/// The lease as it is when we hold it from `now` on. Times in it are for people.
fn claim(current: Option<&Lease>, me: &str, now: Timestamp) -> Lease {
    let metadata = current.map_or_else(
        || ObjectMeta {
            name: Some(names::CONTROL.to_owned()),
            ..ObjectMeta::default()
        },
        |lease| lease.metadata.clone(),
    );
    let old = current.and_then(|lease| lease.spec.clone());
    let old = old.unwrap_or_default();
    let kept = holds(&old, me);
    let before = old.lease_transitions.unwrap_or(0);
    let transitions = if kept || current.is_none() {
        before
    } else {
        before.saturating_add(1)
    };
    let acquired = old.acquire_time.clone().filter(|_| kept);
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions),
            ..old
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(name: &str, second: i64) -> Lease {
        claim(None, name, Timestamp::from_second(second).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_holder_is_waited_for_whatever_its_clock_says() {
        let mut observed = None;
        let start = Instant::now();
        // Renewed in 1970 by its clock.
        let old = held_by("a", 5).spec.unwrap();
        assert!(!may_claim(Some(&old), "b", &mut observed, start));
        assert!(!may_claim(Some(&old), "b", &mut observed, start + LEASE));
        let renewed = held_by("a", 6).spec.unwrap();
        let late = start + LEASE + EVERY;
        assert!(!may_claim(Some(&renewed), "b", &mut observed, late));
        assert!(!may_claim(Some(&renewed), "b", &mut observed, late + LEASE));
        assert!(may_claim(
            Some(&renewed),
            "b",
            &mut observed,
            late + LEASE + EVERY
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn ours_and_nobodys_are_claimed_at_once() {
        let mut observed = None;
        let now = Instant::now();
        assert!(may_claim(None, "b", &mut observed, now));
        let mut lease = held_by("b", 5);
        assert!(may_claim(lease.spec.as_ref(), "b", &mut observed, now));
        lease.spec.as_mut().unwrap().holder_identity = None;
        assert!(may_claim(lease.spec.as_ref(), "b", &mut observed, now));
    }

    #[test]
    fn a_claim_keeps_the_version_that_it_replaces() {
        let mut lease = held_by("a", 5);
        lease.metadata.resource_version = Some("7".to_owned());
        let renewed = claim(Some(&lease), "a", Timestamp::from_second(9).unwrap());
        assert_eq!(renewed.metadata.resource_version.as_deref(), Some("7"));
        let spec = renewed.spec.unwrap();
        assert_eq!(spec.acquire_time, lease.spec.as_ref().unwrap().acquire_time);
        assert_eq!(spec.lease_transitions, Some(0));
        let taken = claim(Some(&lease), "b", Timestamp::from_second(9).unwrap());
        assert_eq!(taken.spec.unwrap().lease_transitions, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_with_the_term_and_begins_with_the_next() {
        let (state, leadership) = watch::channel(false);
        let (begun, mut terms) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(while_leading(leadership, move || {
            let (alive, ended) = oneshot::channel::<()>();
            begun.send(ended).unwrap();
            async move {
                let _alive = alive;
                std::future::pending().await
            }
        }));
        for _ in 0..2 {
            state.send_replace(true);
            let ended = terms.recv().await.unwrap();
            state.send_replace(false);
            assert!(ended.await.is_err(), "dropped with its term");
        }
    }
}
