//! Pods that are no longer declared, kept for the sidecars that outlive them.
//!
//! A Pod object may go before its process does: `kubectl delete --force`, or a document removed from the folder while the
//! application drains. Until the sidecar has ended it needs what every sidecar needs: endpoints that move, policies, a
//! renewed certificate and the roots of a rotation. So its last known workload answers for it, for [`GRACE`], but is found
//! by its name alone: it gets no traffic and no selector sees it.
//!
//! What is kept lives in the mesh and not on disk: a control plane that restarts meanwhile refuses such a sidecar, which
//! then goes on with what it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use tasuki_resources::NamespacedName;
use tasuki_xds::model::listener::DeclaredProtocol;
use tokio::time::{Duration, Instant};

use super::shared_map::SharedMap;
use super::workloads::Workload;

/// How long a sidecar may outlive its Pod. The default drain is 30 s, as is Kubernetes' `terminationGracePeriodSeconds`, and
/// those with long-lived connections raise it to minutes. It is also the longest that a client which has gone silently can
/// hold up a rotation of the roots, and that the credentials of a deleted Pod still open a stream; so not hours.
pub const GRACE: Duration = Duration::from_secs(600);

/// Pods remembered, at about a kilobyte each; of more the oldest are forgotten first.
const REMEMBERED: usize = 16_384;

/// The ports that anybody declared of a pod.
type Ports = BTreeMap<u16, DeclaredProtocol>;

/// Pods that have gone within the last [`GRACE`].
#[derive(Clone, Debug, Default)]
pub struct Departed {
    pods: SharedMap<NamespacedName, Arc<Kept>>,
    /// When the first of them is to be forgotten.
    next_end: Option<Instant>,
    /// That one is there again: which is the first now is found out once for all that come back together.
    first_is_back: bool,
}

#[derive(Debug)]
struct Kept {
    workload: Arc<Workload>,
    ports: Ports,
    since: Instant,
}

impl Departed {
    /// A pod that is gone since `now`.
    pub(super) fn add(&mut self, workload: Arc<Workload>, ports: Ports, now: Instant) {
        let id = workload.id.clone();
        let kept = Kept {
            workload,
            ports,
            since: now,
        };
        self.pods.insert(id, Arc::new(kept));
        self.next_end = Some(
            self.next_end
                .map_or(now + GRACE, |end| end.min(now + GRACE)),
        );
    }

    /// A pod that is there again.
    pub(super) fn remove(&mut self, id: &NamespacedName) {
        let removed = self.pods.remove(id);
        self.first_is_back |= removed.is_some_and(|kept| Some(kept.since + GRACE) == self.next_end);
    }

    /// Forgets those whose time is over, and the oldest where there are too many; returns their names. To be called after
    /// each change.
    pub(super) fn forget(&mut self, now: Instant) -> Vec<NamespacedName> {
        if std::mem::take(&mut self.first_is_back) {
            self.find_next_end();
        }
        let is_due = self.next_end.is_some_and(|end| end <= now);
        if !is_due && self.pods.len() <= REMEMBERED {
            return Vec::new();
        }
        let pods = self.pods.iter();
        let mut ages: Vec<_> = pods.map(|(id, kept)| (kept.since, id.clone())).collect();
        ages.sort_unstable();
        let excess = ages.len().saturating_sub(REMEMBERED);
        let over = ages.partition_point(|(since, _)| *since + GRACE <= now);
        ages.truncate(excess.max(over));
        let forgotten: Vec<_> = ages.into_iter().map(|(_, id)| id).collect();
        for id in &forgotten {
            self.pods.remove(id);
        }
        self.find_next_end();
        forgotten
    }

    fn find_next_end(&mut self) {
        self.next_end = self.pods.iter().map(|(_, kept)| kept.since + GRACE).min();
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.pods.iter().map(|(_, kept)| &kept.workload)
    }

    pub(super) fn get(&self, id: &NamespacedName) -> Option<&Arc<Workload>> {
        self.pods.get(id).map(|kept| &kept.workload)
    }

    pub(super) fn ports(&self, id: &NamespacedName) -> Option<&Ports> {
        self.pods.get(id).map(|kept| &kept.ports)
    }

    /// When the next of them is to be forgotten.
    pub fn next_end(&self) -> Option<Instant> {
        self.next_end
    }
}
