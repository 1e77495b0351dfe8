//! Pods that are no longer declared, kept for the sidecars that outlive them.
//!
//! A Pod object may go before its process does: `kubectl delete --force`, or a document removed from the folder while the
//! application drains. Until the sidecar has ended it needs what every sidecar needs: endpoints that move, policies, a
//! renewed certificate and the roots of a rotation. So its last known workload answers for it, for [`GRACE`], but is found
//! by its name alone: it gets no traffic and no selector sees it.
//!
//! What is kept lives in the mesh and not on disk: a control plane that restarts meanwhile refuses such a sidecar, which
//! then goes on with what it has.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tasuki_resources::NamespacedName;
use tasuki_xds::model::listener::DeclaredProtocol;
use tokio::time::{Duration, Instant};

use super::workloads::{Workload, Workloads};

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
    pods: BTreeMap<NamespacedName, Arc<Kept>>,
}

#[derive(Debug)]
struct Kept {
    workload: Arc<Workload>,
    ports: Ports,
    since: Instant,
}

impl Departed {
    /// After a change of the resources at `now`: who was there `before` and is not `present`.
    pub(super) fn after(
        &self,
        before: &Workloads,
        ports: &HashMap<NamespacedName, Ports>,
        present: &Workloads,
        now: Instant,
    ) -> Self {
        let absent = |id: &NamespacedName| present.get(id).is_none();
        let known = self.pods.iter();
        let mut pods: BTreeMap<_, _> = known
            .filter(|(id, kept)| absent(id) && now < kept.since + GRACE)
            .map(|(id, kept)| (id.clone(), kept.clone()))
            .collect();
        for workload in before.iter().filter(|workload| absent(&workload.id)) {
            let kept = Kept {
                workload: workload.clone(),
                ports: ports.get(&workload.id).cloned().unwrap_or_default(),
                since: now,
            };
            pods.insert(workload.id.clone(), Arc::new(kept));
        }
        if pods.len() > REMEMBERED {
            let mut ages: Vec<Instant> = pods.values().map(|kept| kept.since).collect();
            ages.sort_unstable();
            let oldest = ages[pods.len() - REMEMBERED];
            pods.retain(|_, kept| kept.since >= oldest);
            // A whole namespace goes at one moment.
            while pods.len() > REMEMBERED {
                pods.pop_last();
            }
        }
        Self { pods }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.pods.values().map(|kept| &kept.workload)
    }

    pub(super) fn get(&self, id: &NamespacedName) -> Option<&Arc<Workload>> {
        self.pods.get(id).map(|kept| &kept.workload)
    }

    pub(super) fn ports(&self, id: &NamespacedName) -> Option<&Ports> {
        self.pods.get(id).map(|kept| &kept.ports)
    }

    /// When the next of them is to be forgotten.
    pub fn next_end(&self) -> Option<Instant> {
        self.pods.values().map(|kept| kept.since + GRACE).min()
    }
}
