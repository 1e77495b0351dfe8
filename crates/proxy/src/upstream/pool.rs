//! What the HTTP/1 and HTTP/2 pools have in common: waiting for a connection under the cluster's limits, and giving
//! back what was taken.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::{h1, h2};
use crate::breaker::{Kind, Permit};
use crate::cluster::Cluster;
use crate::error::{Error, Refusal};

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
    /// How many of them wait no more.
    gone: Cell<usize>,
    opening: Cell<usize>,
}

/// Those who left may stay in the queue in this number, and then as long as they are fewer than those who wait.
const GONE: usize = 32;

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiters: RefCell::default(),
            gone: Cell::new(0),
            opening: Cell::new(0),
        }
    }
}

impl<T> Queue<T> {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiters.borrow().len() - self.gone.get()
    }

    pub fn opening(&self) -> usize {
        self.opening.get()
    }

    /// A place for one more connection, if those being opened, with room for `each`, are not enough for those who wait, and the
    /// cluster's limits allow. `held` are open. [`Queue::end_opening`] says when it is open or will not be.
    pub fn begin_opening(
        &self,
        cluster: &Arc<Cluster>,
        held: usize,
        each: usize,
    ) -> Option<Permit> {
        let opening = self.opening();
        if opening * each >= self.waiting() {
            return None;
        }
        let permit = connection_permit(cluster, held + opening)?;
        self.opening.set(opening + 1);
        Some(permit)
    }

    pub fn end_opening(&self) {
        self.opening.set(self.opening() - 1);
    }

    /// Takes a place in the queue.
    pub fn enter(&self) -> Waiting<'_, T> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.borrow_mut().push_back(sender);
        Waiting {
            queue: self,
            receiver,
        }
    }

    /// The first that still waits.
    pub fn next(&self) -> Option<oneshot::Sender<Result<T, Error>>> {
        let mut waiters = self.waiters.borrow_mut();
        while let Some(waiter) = waiters.pop_front() {
            if !waiter.is_closed() {
                return Some(waiter);
            }
            self.gone.set(self.gone.get() - 1);
        }
        None
    }

    /// The first again: there was nothing for it after all.
    pub fn put_back(&self, waiter: oneshot::Sender<Result<T, Error>>) {
        self.waiters.borrow_mut().push_front(waiter);
    }

    /// Tells everybody that it failed.
    pub fn fail(&self, error: &Error) {
        let waiters = self.waiters.take();
        self.gone.set(0);
        for waiter in waiters {
            // Gone meanwhile: nobody to tell.
            drop(waiter.send(Err(error.clone())));
        }
    }

    fn left(&self) {
        let mut waiters = self.waiters.borrow_mut();
        let gone = self.gone.get() + 1;
        if gone > GONE && gone > waiters.len() / 2 {
            waiters.retain(|waiter| !waiter.is_closed());
            self.gone.set(0);
        } else {
            self.gone.set(gone);
        }
    }
}

/// A place in the queue. Whoever leaves without an answer gives it up; what was already on its way to it is dropped, and a `T`
/// knows then where it belongs.
pub struct Waiting<'a, T> {
    queue: &'a Queue<T>,
    receiver: oneshot::Receiver<Result<T, Error>>,
}

impl<T> Future for Waiting<'_, T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The other end goes only when the worker ends.
        let served = ready!(Pin::new(&mut self.receiver).poll(cx));
        Poll::Ready(served.unwrap_or(Err(Error::Refused(Refusal::Connection("worker ends")))))
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        // Empty: neither served nor told of a failure, so still in the queue.
        if matches!(self.receiver.try_recv(), Err(TryRecvError::Empty)) {
            self.receiver.close();
            self.queue.left();
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

/// How many raw connections this worker has under way, by cluster.
#[derive(Debug, Default)]
pub struct Raw(Rc<RefCell<HashMap<usize, usize>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct RawPlace {
    counts: Rc<RefCell<HashMap<usize, usize>>>,
    cluster: usize,
}

impl Raw {
    /// Counts one more, and says how many there were already.
    pub fn enter(&self, cluster: &Cluster) -> (RawPlace, usize) {
        // The address is the same for all definitions of a cluster, and nobody else's while a connection keeps it alive.
        let cluster = std::ptr::from_ref(cluster.breaker()) as usize;
        let mut counts = self.0.borrow_mut();
        let count = counts.entry(cluster).or_default();
        *count += 1;
        let place = RawPlace {
            counts: self.0.clone(),
            cluster,
        };
        (place, *count - 1)
    }
}

impl Drop for RawPlace {
    fn drop(&mut self) {
        let mut counts = self.counts.borrow_mut();
        if let Some(count) = counts.get_mut(&self.cluster) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.cluster);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_left_is_not_waited_for() {
        let queue = Queue::<u32>::default();
        let mut waiting: Vec<_> = (0..1_000).map(|_| queue.enter()).collect();
        waiting.drain(1..);
        assert_eq!(queue.waiting(), 1);
        assert!(queue.waiters.borrow().len() <= 2 * GONE);
        let late = queue.enter();
        for value in [1, 2] {
            queue.next().unwrap().send(Ok(value)).unwrap();
        }
        assert!(queue.next().is_none() && queue.is_empty());
        assert_eq!(waiting.remove(0).await, Ok(1));
        assert_eq!(late.await, Ok(2));
        assert!(queue.is_empty());
    }

    #[test]
    fn raw_connections_are_counted_by_cluster() {
        let cluster = |name: &str| Cluster::new(&crate::http::tests::cluster(name));
        let (a, b) = (cluster("a"), cluster("b"));
        let raw = Raw::default();
        let first = raw.enter(&a);
        assert_eq!((first.1, raw.enter(&b).1), (0, 0));
        let second = raw.enter(&a.updated(&a.config));
        assert_eq!(second.1, 1);
        drop((first, second));
        assert!(raw.0.borrow().is_empty());
    }

    #[test]
    fn a_worker_may_always_hold_one_connection() {
        let mut config = crate::http::tests::cluster("a");
        config.limits.max_connections = 1;
        let cluster = Arc::new(Cluster::new(&config));
        let elsewhere = connection_permit(&cluster, 0).unwrap();
        let own = connection_permit(&cluster, 0).unwrap();
        assert!(connection_permit(&cluster, 1).is_none());
        drop((elsewhere, own));
        assert!(connection_permit(&cluster, 1).is_some());
    }

    #[tokio::test]
    async fn a_failure_is_everybodys() {
        let queue = Queue::<u32>::default();
        let (first, second) = (queue.enter(), queue.enter());
        drop(first);
        queue.fail(&Error::ConnectTimeout);
        assert!(queue.is_empty());
        assert_eq!(second.await, Err(Error::ConnectTimeout));
        assert!(queue.is_empty());
    }
}
