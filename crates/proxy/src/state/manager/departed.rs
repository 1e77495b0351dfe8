//! Destinations that were in use when the control plane removed them.
//!
//! Their names stay subscribed to for a while, so that the control plane says when they are back. Without it the
//! negative cache would have traffic pass through, without mutual TLS and policy, for seconds after a Service was
//! deleted and made again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::state::ListenerName;

/// Names that are remembered; one more and the one that was asked for longest ago goes.
const MOST: usize = 1_024;

/// A name that nobody has asked for this long is let go, like a destination that exists.
const IDLE: Duration = Duration::from_secs(300);

/// The names, and when each was asked for last.
#[derive(Default)]
pub(super) struct Departed(HashMap<ListenerName, Instant>);

impl Departed {
    /// Remembers a name. Returns the one that had to make room.
    pub fn insert(&mut self, name: ListenerName, now: Instant) -> Option<ListenerName> {
        self.0.insert(name, now);
        (self.0.len() > MOST).then(|| self.take_oldest()).flatten()
    }

    pub fn contains(&self, name: &ListenerName) -> bool {
        self.0.contains_key(name)
    }

    /// Somebody asks for it. False if it is not among them.
    pub fn asked(&mut self, name: &ListenerName, now: Instant) -> bool {
        self.0.get_mut(name).map(|at| *at = now).is_some()
    }

    /// It is back, or given up.
    pub fn remove(&mut self, name: &ListenerName) -> bool {
        self.0.remove(name).is_some()
    }

    pub fn names(&self) -> impl Iterator<Item = &ListenerName> {
        self.0.keys()
    }

    /// The one that was asked for longest ago.
    pub fn take_oldest(&mut self) -> Option<ListenerName> {
        let oldest = self.0.iter().min_by_key(|(_, at)| **at);
        let name = oldest.map(|(name, _)| name.clone())?;
        self.0.remove(&name);
        Some(name)
    }

    /// Those that nobody asks for any more.
    pub fn take_idle(&mut self, now: Instant) -> Vec<ListenerName> {
        let is_idle = |at: &Instant| now.saturating_duration_since(*at) >= IDLE;
        let idle = self.0.extract_if(|_, at| is_idle(at));
        idle.map(|(name, _)| name).collect()
    }
}
