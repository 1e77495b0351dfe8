//! What the proxy knows: one immutable [`Snapshot`] behind one `ArcSwap`, and the way to ask for more.
//!
//! Workers only read. [`State::outbound`] answers from the snapshot; a name that is not there is asked for over a
//! bounded channel to the control thread, which owns everything that changes (`state/client.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tasuki_identity::Roots;
use tasuki_xds::model::{Departure, ProxySettings, TrustBundle};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::settings::UnknownPolicy;

pub mod client;
pub mod demand;
pub mod dependencies;
pub mod link;
pub mod manager;
pub mod name;
pub mod outbound;
pub mod persist;
pub mod resolve;
pub mod snapshot;

pub use self::name::ListenerName;
pub use self::outbound::{Outbound, TcpTarget};
pub use self::snapshot::{GatewayListener, Snapshot};

/// Demands that may wait for the control thread at one time; more count as unknown.
const DEMAND_QUEUE: usize = 1_024;

/// How long an unknown name waits while the control plane is away (contract section 4).
const DISCONNECTED_WAIT: Duration = Duration::from_secs(1);

/// How long a demand waits in all: the does-not-exist timer of gRFC A57 and a little more, since that timer answers first.
const DEMAND_WAIT: Duration = Duration::from_secs(16);

/// What a look-up found.
#[derive(Clone)]
pub enum Lookup {
    Found(Arc<Outbound>),
    /// The control plane says that there is no such name, or too many are asked for: `Snapshot::passthrough` decides.
    Unknown,
    /// The control plane is away, or silent, and the name was never seen: 503 `NC`.
    Disconnected,
}

/// A worker's question to the control thread.
pub struct Demand {
    pub name: ListenerName,
    pub reply: oneshot::Sender<Lookup>,
}

/// Shared by all threads.
pub struct State {
    snapshot: ArcSwap<Snapshot>,
    demands: mpsc::Sender<Demand>,
    negative: demand::NegativeCache,
    /// Names for which the control plane was waited for in vain, since it is away or silent.
    in_vain: demand::NegativeCache,
    connected: AtomicBool,
    changes: watch::Sender<u64>,
    unknown: UnknownPolicy,
    trust: watch::Sender<Option<Arc<TrustBundle>>>,
    departure: watch::Sender<Option<Departure>>,
    settings: watch::Sender<Option<ProxySettings>>,
    pub counters: demand::Counters,
}

impl State {
    /// An empty state and the end of the channel from which the control thread takes demands.
    pub fn new(unknown: UnknownPolicy) -> (Arc<State>, mpsc::Receiver<Demand>) {
        let (demands, receiver) = mpsc::channel(DEMAND_QUEUE);
        let state = State {
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            demands,
            negative: demand::NegativeCache::default(),
            in_vain: demand::NegativeCache::default(),
            connected: AtomicBool::new(false),
            changes: watch::Sender::new(0),
            unknown,
            trust: watch::Sender::new(None),
            departure: watch::Sender::new(None),
            settings: watch::Sender::new(None),
            counters: demand::Counters::default(),
        };
        (Arc::new(state), receiver)
    }

    /// The configuration of this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// [`Snapshot::generation`] without touching the reference count.
    pub fn generation(&self) -> u64 {
        self.snapshot.load().generation
    }

    /// Whether the stream to the control plane is open.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Only the control thread calls this.
    pub fn set_connected(&self, connected: bool) {
        if connected {
            self.in_vain.clear();
        }
        self.connected.store(connected, Ordering::Release);
    }

    /// Only the control thread calls this.
    pub fn publish(&self, snapshot: Snapshot) {
        let generation = snapshot.generation;
        self.snapshot.store(Arc::new(snapshot));
        self.changes.send_replace(generation);
    }

    /// Tells of each new snapshot.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The trust bundle of this moment; it is set before any certificate under it is used.
    pub fn trust(&self) -> Option<Arc<TrustBundle>> {
        self.trust.borrow().clone()
    }

    /// Tells of each trust bundle.
    pub fn trust_changes(&self) -> watch::Receiver<Option<Arc<TrustBundle>>> {
        self.trust.subscribe()
    }

    /// Only the control thread calls this.
    pub fn set_trust(&self, bundle: Arc<TrustBundle>) {
        self.trust.send_replace(Some(bundle));
    }

    /// What the control plane said last of this Pod's departure; `None` if it never did, or does not know of such things.
    pub fn departure(&self) -> watch::Receiver<Option<Departure>> {
        self.departure.subscribe()
    }

    /// Only the control thread calls this.
    pub fn set_departure(&self, departure: Option<Departure>) {
        self.departure.send_replace(departure);
    }

    /// What the mesh's settings say to this proxy; `None` before they have arrived.
    pub fn settings(&self) -> watch::Receiver<Option<ProxySettings>> {
        self.settings.subscribe()
    }

    /// Only the control thread calls this.
    pub fn set_settings(&self, settings: ProxySettings) {
        self.settings.send_replace(Some(settings));
    }

    /// The roots of the trust bundle.
    pub fn roots(&self) -> Option<Roots> {
        Roots::from_der(self.trust()?.roots.clone()).ok()
    }

    /// Names known not to exist.
    pub fn negative(&self) -> &demand::NegativeCache {
        &self.negative
    }

    /// Names that the control plane was asked for and said nothing about.
    pub fn in_vain(&self) -> &demand::NegativeCache {
        &self.in_vain
    }

    /// What to do with traffic for `name`, asking the control plane when this proxy has never heard of it.
    pub async fn outbound(&self, name: &ListenerName) -> Lookup {
        if let Some(found) = self.snapshot.load().outbound.get(name) {
            found.touch();
            return Lookup::Found(Arc::clone(found));
        }
        if self.negative.contains(name, std::time::Instant::now()) {
            return Lookup::Unknown;
        }
        // One wait for a name is enough: requests whose Host nobody knows would otherwise each take as long as the first,
        // for as long as the control plane is away or silent.
        if self.in_vain.contains(name, std::time::Instant::now()) {
            return self.disconnected();
        }
        self.ask(name).await
    }

    /// As [`State::outbound`], but never asks: only what the snapshot has.
    pub fn known(&self, name: &ListenerName) -> Option<Arc<Outbound>> {
        let found = self.snapshot.load().outbound.get(name).map(Arc::clone);
        if let Some(found) = &found {
            found.touch();
        }
        found
    }

    async fn ask(&self, name: &ListenerName) -> Lookup {
        let (reply, mut answer) = oneshot::channel();
        if self
            .demands
            .try_send(Demand {
                name: name.clone(),
                reply,
            })
            .is_err()
        {
            self.counters.overflowed();
            return self.too_many();
        }
        let start = Instant::now();
        match timeout_at(start + DISCONNECTED_WAIT, &mut answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| self.disconnected()),
            Err(_) if !self.connected() => {
                self.in_vain.insert(name.clone(), std::time::Instant::now());
                self.disconnected()
            }
            // Nobody has said that there is no such name: a control plane that came and went, or says nothing, is away.
            Err(_) => match timeout_at(start + DEMAND_WAIT, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) | Err(_) => self.disconnected(),
            },
        }
    }

    /// For a name that is one too many. While the control plane is away nobody has said that it does not exist, and
    /// what may be a service of the mesh must not be passed through.
    fn too_many(&self) -> Lookup {
        if self.connected() {
            Lookup::Unknown
        } else {
            self.disconnected()
        }
    }

    fn disconnected(&self) -> Lookup {
        match self.unknown {
            UnknownPolicy::Refuse => Lookup::Disconnected,
            UnknownPolicy::Allow => Lookup::Found(Outbound::allow_any()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_comes_and_goes_has_not_said_that_a_name_is_unknown() {
        let (state, _demands) = State::new(UnknownPolicy::Refuse);
        let name = ListenerName::exact("nobody:80");
        let flap = async {
            for connected in [true, false].into_iter().cycle() {
                state.set_connected(connected);
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
        };
        tokio::select! {
            found = state.outbound(&name) => assert!(matches!(found, Lookup::Disconnected)),
            () = flap => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_name_is_waited_for_once_while_the_control_plane_is_away() {
        let (state, mut demands) = State::new(UnknownPolicy::Refuse);
        let name = ListenerName::exact("nobody:80");
        let start = Instant::now();
        assert!(matches!(state.outbound(&name).await, Lookup::Disconnected));
        assert_eq!(start.elapsed(), DISCONNECTED_WAIT);
        assert!(matches!(state.outbound(&name).await, Lookup::Disconnected));
        assert_eq!(start.elapsed(), DISCONNECTED_WAIT);

        state.set_connected(true);
        drop(demands.recv().await);
        let (found, ()) = tokio::join!(state.outbound(&name), async {
            let demand = demands.recv().await.unwrap();
            let _ = demand.reply.send(Lookup::Unknown);
        });
        assert!(matches!(found, Lookup::Unknown));
    }
}
