//! How an injected Pod takes its leave (contract section 12): the preStop hook that every container without its own gets.
//!
//! The kubelet runs all preStop hooks of a Pod at once and ends the containers afterwards, the sidecar last. The hook is a
//! long poll that only waits: until nobody sends to this Pod any more, as the control plane hears from every client that
//! had it as an endpoint. Meanwhile the application serves, and clients are told with each answer to go elsewhere.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tasuki_xds::model::Departure;
use tokio::time::{Instant, sleep, sleep_until};

use crate::drain::Drain;
use crate::state::State;

/// The hook also runs when a container is restarted (liveness), and the news that the Pod is deleted may come after it.
const NEWS: Duration = Duration::from_secs(1);

/// After the last acknowledgement: who had chosen this endpoint just before may still be connecting to it.
const LAST_ARRIVALS: Duration = Duration::from_millis(250);

/// Clients outside the mesh that were served within this time may come again. Shorter, and a client that asks twice a minute
/// is cut off; longer, and one that came once keeps every rollout waiting.
const LATELY: Duration = Duration::from_secs(60);

/// How often the connection to the control plane is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What the hook needs to know.
#[derive(Clone)]
pub struct Leave {
    pub state: Arc<State>,
    pub drain: Drain,
    /// The longest wait.
    pub limit: Duration,
    /// The least when clients outside the mesh were served lately: kube-proxy tells nobody when it has stopped sending.
    pub minimum: Duration,
}

/// Why a hook returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The Pod stays: a container is restarted.
    Stays,
    /// Nobody in the mesh sends it anything new.
    Acknowledged,
    /// The limit, before that was known.
    TimedOut,
}

impl Leave {
    /// Tells clients to go elsewhere as soon as the Pod is being deleted. Never returns.
    pub async fn watch(self) {
        let mut departure = self.state.departure();
        let deleting =
            departure.wait_for(|departure| departure.as_ref().is_some_and(|d| d.deleting));
        if deleting.await.is_ok() {
            tracing::info!("the Pod is being deleted");
            self.drain.depart();
        }
        pending().await
    }

    /// The hook.
    pub async fn pre_stop(&self) -> Reason {
        let start = Instant::now();
        if self.deleting().is_none() {
            // Most hooks run because a Pod is deleted, and nobody is there who could say that this one is not.
            self.drain.depart();
        }
        let reason = tokio::select! {
            biased;
            reason = self.settled() => reason,
            () = sleep_until(start + self.limit) => Reason::TimedOut,
        };
        if reason == Reason::Stays {
            self.drain.stay();
            return reason;
        }
        if self.drain.served_outsiders(LATELY) {
            sleep_until(start + self.minimum.min(self.limit)).await;
        }
        self.drain.close_idle();
        if self.deleting() != Some(true) {
            tokio::spawn(self.clone().unless_deleted());
        }
        tracing::info!(?reason, waited = ?start.elapsed(), "the application may end");
        reason
    }

    /// Whether the Pod is being deleted, as far as can be known now.
    fn deleting(&self) -> Option<bool> {
        let departure = self.state.departure();
        let said = departure.borrow().as_ref().map(|d| d.deleting);
        // What was said before the control plane went away may be old, unless it was the last word.
        said.filter(|deleting| *deleting || self.state.connected())
    }

    /// It was only a container that was restarted, if the process is still there after a while.
    async fn unless_deleted(self) {
        sleep(LATELY).await;
        if self.deleting() != Some(true) {
            self.drain.stay();
        }
    }

    /// Resolves when it is known that the Pod stays, or that nobody sends to it.
    async fn settled(&self) -> Reason {
        tokio::select! {
            () = self.stays() => Reason::Stays,
            () = self.acknowledged() => {
                sleep(LAST_ARRIVALS).await;
                Reason::Acknowledged
            }
        }
    }

    async fn acknowledged(&self) {
        let mut departure = self.state.departure();
        let done =
            |departure: &Option<Departure>| departure.as_ref().is_some_and(|d| d.acknowledged);
        if departure.wait_for(done).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Resolves when the control plane, asked for as long as news may take, has not said that the Pod is being deleted.
    async fn stays(&self) {
        let mut heard = Duration::ZERO;
        while heard < NEWS {
            sleep(LOOK).await;
            match self.deleting() {
                Some(false) => heard += LOOK,
                Some(true) => return pending().await,
                None => heard = Duration::ZERO,
            }
        }
    }
}

#[cfg(test)]
mod tests;
