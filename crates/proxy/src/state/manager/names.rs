//! Which destinations this proxy knows: what workers ask for comes in, what nobody uses goes, what the control plane
//! removed is told to those who wait. All of it bounded (contract section 3).

use std::sync::Arc;
use std::time::Duration;

use tasuki_xds::ResourceType;
use tokio::time::Instant;

use super::Manager;
use crate::state::dependencies::{INBOUND, PASSTHROUGH};
use crate::state::{Demand, ListenerName, Lookup, Outbound};

/// New names that are asked for in a second.
pub(super) const NEW_NAMES_PER_SECOND: u32 = 100;

/// Names held at one time.
const MOST_NAMES: usize = 4_096;

/// A destination that nobody has used for this long is no longer subscribed to.
const IDLE: Duration = Duration::from_secs(300);

/// What becomes of a demand; the label of `tasuki_demands_total`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// The control plane is asked.
    Asked,
    /// It has been asked already.
    Joined,
    /// One too many.
    Limited,
}

impl Manager {
    /// A worker asks for a name.
    pub fn on_demand(&mut self, demand: Demand, now: Instant) {
        let Demand { name, reply } = demand;
        if let Some(found) = self.next.outbound.get(&name) {
            let _ = reply.send(Lookup::Found(Arc::clone(found)));
            return;
        }
        if self.departed.asked(&name, now) && self.is_known_absent(&name) {
            // It would have been pushed.
            self.count_demand("unknown");
            self.state.negative().insert(name, now.into_std());
            let _ = reply.send(Lookup::Unknown);
            return;
        }
        let admission = self.admit(&name, now);
        match admission {
            Admission::Limited => {
                self.count_demand("limited");
                self.state.counters.overflowed();
                let _ = reply.send(self.state.too_many());
            }
            Admission::Joined => {
                self.count_demand("joined");
                self.waiters.add(name, reply);
            }
            Admission::Asked => {
                self.count_demand("asked");
                self.deps.add_root(name.as_str());
                self.waiters.add(name, reply);
                self.settle(now);
            }
        }
    }

    fn count_demand(&self, outcome: &str) {
        self.metrics.demands.with_label_values(&[outcome]).inc();
    }

    /// The control plane of this stream has said that there is no such destination.
    fn is_known_absent(&self, name: &ListenerName) -> bool {
        self.connected && self.deps.is_absent(ResourceType::Listener, name.as_str())
    }

    /// Whether the bounds allow to take the name up.
    fn admit(&mut self, name: &ListenerName, now: Instant) -> Admission {
        if self.waiters.is_full() {
            return Admission::Limited;
        }
        if self.deps.has_root(name.as_str()) {
            return Admission::Joined;
        }
        if !self.connected && self.shelf.holds(ResourceType::Listener, name.as_str()) {
            // Costs the control plane nothing, and an application that starts up uses all its destinations at once.
            return Admission::Asked;
        }
        if self.deps.root_count() >= MOST_NAMES && !self.evict_one() {
            return Admission::Limited;
        }
        if !self.rate.admit(now.into_std()) {
            return Admission::Limited;
        }
        Admission::Asked
    }

    /// The control plane has no such Listener, or no longer.
    pub(super) fn listener_removed(&mut self, name: &str, now: Instant) {
        let key = ListenerName::exact(name);
        self.changed |=
            self.next.outbound.remove(&key).is_some() | self.next.gateway.remove(&key).is_some();
        if self.gateway_role {
            self.deps.remove_root(name);
            return;
        }
        if self.deps.is_applied(name)
            && let Some(oldest) = self.departed.insert(key.clone(), now)
        {
            self.deps.remove_root(oldest.as_str());
        }
        if self.departed.contains(&key) {
            self.deps.declare_absent(ResourceType::Listener, name);
        } else {
            self.deps.remove_root(name);
        }
        self.state.negative().insert(key.clone(), now.into_std());
        self.count_demand("unknown");
        self.waiters.answer(&key, &Lookup::Unknown);
    }

    /// A Listener has come: if it was gone for a while, look-ups wait for it again.
    pub(super) fn listener_arrived(&mut self, name: &str) {
        let name = ListenerName::exact(name);
        if self.departed.remove(&name) {
            self.state.negative().remove(&name);
        }
    }

    /// A stream has opened: what was said on an earlier one about names that are gone no longer counts.
    pub(super) fn ask_again_for_departed(&mut self, now: Instant) {
        for name in self.departed.names() {
            self.deps.ask_again(name.as_str(), now);
        }
    }

    /// The control plane did not answer in time. Nobody has said that there is no such destination, and it may be a
    /// service of the mesh: it is refused, not passed through.
    pub(super) fn listener_overdue(&mut self, name: &str, now: Instant) {
        let own = name == INBOUND || name == PASSTHROUGH;
        if own || self.deps.is_applied(name) {
            return;
        }
        let key = ListenerName::exact(name);
        self.departed.remove(&key);
        self.deps.remove_root(name);
        self.state.in_vain().insert(key.clone(), now.into_std());
        self.count_demand("disconnected");
        self.waiters.answer(&key, &self.state.disconnected());
    }

    /// Drops waiters that gave up and, while connected, destinations that nobody uses.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.waiters.prune();
        if !self.connected || self.gateway_role {
            return;
        }
        let idle: Vec<ListenerName> = self
            .next
            .outbound
            .values()
            .filter(|outbound| outbound.idle() >= IDLE && unused(outbound))
            .map(|outbound| outbound.name.clone())
            .collect();
        for name in idle {
            self.evict(&name);
        }
        for name in self.departed.take_idle(now) {
            self.deps.remove_root(name.as_str());
        }
    }

    /// Makes room for one more name. Nothing is evicted while disconnected.
    fn evict_one(&mut self) -> bool {
        if !self.connected {
            return false;
        }
        if let Some(gone) = self.departed.take_oldest() {
            self.deps.remove_root(gone.as_str());
            return true;
        }
        let free = self
            .next
            .outbound
            .values()
            .filter(|outbound| unused(outbound) && !outbound.idle().is_zero());
        let longest = free.max_by_key(|outbound| outbound.idle());
        let Some(name) = longest.map(|outbound| outbound.name.clone()) else {
            return false;
        };
        self.evict(&name);
        true
    }

    /// No longer subscribed to, but still on the shelf.
    fn evict(&mut self, name: &ListenerName) {
        tracing::debug!(%name, "idle destination dropped");
        self.deps.remove_root(name.as_str());
        self.changed |= self.next.outbound.remove(name).is_some();
    }

    /// Tells those who wait for what has been found.
    pub(super) fn answer(&mut self) {
        let found: Vec<_> = self
            .waiters
            .answerable(|name| self.next.outbound.get(name).map(Arc::clone))
            .collect();
        for (name, outbound) in found {
            self.count_demand("found");
            self.waiters.answer(&name, &Lookup::Found(outbound));
        }
    }
}

/// Held by nobody but the manager and the published snapshot.
fn unused(outbound: &Arc<Outbound>) -> bool {
    Arc::strong_count(outbound) <= 2
}
