//! What the HTTP/1 and HTTP/2 pools have in common: waiting for a connection under the cluster's limits, and giving
//! back what was taken.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{h1, h2};
use crate::breaker::{Kind, Permit};
use crate::cluster::Cluster;
use crate::error::Error;

/// A connection or a stream on one, for the time of an exchange.
pub enum Lease {
    H1(h1::Checkout),
    H2(h2::Slot),
}

impl Lease {
    /// The exchange ended whole: the connection may be used again. Dropping an HTTP/1 lease closes it instead.
    pub fn give_back(self) {
        match self {
            Self::H1(checkout) => checkout.give_back(),
            Self::H2(slot) => drop(slot),
        }
    }
}

/// Requests that wait for a `T`, first come first served, and how many connections are being opened for them.
pub struct Queue<T> {
    waiters: RefCell<VecDeque<oneshot::Sender<Result<T, Error>>>>,
    opening: Cell<usize>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiters: RefCell::default(),
            opening: Cell::new(0),
        }
    }
}

impl<T> Queue<T> {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiters.borrow().is_empty()
    }

    /// How many wait, those that left thrown out.
    pub fn waiting(&self) -> usize {
        let mut waiters = self.waiters.borrow_mut();
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.len()
    }

    pub fn opening(&self) -> usize {
        self.opening.get()
    }

    pub fn set_opening(&self, opening: usize) {
        self.opening.set(opening);
    }

    /// Takes a place in the queue.
    pub fn enter(&self) -> oneshot::Receiver<Result<T, Error>> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.borrow_mut().push_back(sender);
        receiver
    }

    /// The first that still waits.
    pub fn next(&self) -> Option<oneshot::Sender<Result<T, Error>>> {
        let mut waiters = self.waiters.borrow_mut();
        while let Some(waiter) = waiters.pop_front() {
            if !waiter.is_closed() {
                return Some(waiter);
            }
        }
        None
    }

    /// The first again: there was nothing for it after all.
    pub fn put_back(&self, waiter: oneshot::Sender<Result<T, Error>>) {
        self.waiters.borrow_mut().push_front(waiter);
    }

    /// Tells everybody that it failed.
    pub fn fail(&self, error: &Error) {
        for waiter in self.waiters.borrow_mut().drain(..) {
            // Gone meanwhile: nobody to tell.
            drop(waiter.send(Err(error.clone())));
        }
    }
}

/// A place for one more connection: under the limit, or the one that each worker may always hold.
pub fn connection_permit(cluster: &Arc<Cluster>, held: usize) -> Option<Permit> {
    match Permit::acquire(cluster, Kind::Connection) {
        Ok(permit) => Some(permit),
        Err(_) if held == 0 => Some(Permit::force(cluster, Kind::Connection)),
        Err(_) => None,
    }
}
