//! Bounds on what clients may hold open at one time.

use std::cell::Cell;
use std::rc::Rc;

use tasuki_runtime::open_files;
use tokio::sync::Notify;

/// File descriptors that the process keeps for itself.
const RESERVED: u64 = 256;

/// A connection costs a socket and a task; more than this many are nobody's honest clients.
const MOST: u64 = 100_000;

/// Clients' connections of one worker.
#[derive(Debug)]
pub struct Connections {
    open: Cell<usize>,
    most: usize,
    freed: Notify,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct Open {
    connections: Rc<Connections>,
}

impl Connections {
    /// At most `most`, at least one.
    pub fn new(most: usize) -> Self {
        Self {
            open: Cell::new(0),
            most: most.max(1),
            freed: Notify::new(),
        }
    }

    /// What one of `workers` may hold, by the process's limit of open files: three quarters of them. Raw bytes need
    /// another one each to their upstream, HTTP shares its upstream connections.
    pub fn per_worker(workers: usize) -> Self {
        let files = open_files::raise_limit().saturating_sub(RESERVED) / 4 * 3;
        let share = files.min(MOST) / u64::try_from(workers.max(1)).unwrap_or(1);
        Self::new(usize::try_from(share).unwrap_or(usize::MAX))
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Waits for room and takes it.
    pub async fn room(self: &Rc<Self>) -> Open {
        while self.open.get() >= self.most {
            self.freed.notified().await;
        }
        self.open.set(self.open.get() + 1);
        Open {
            connections: self.clone(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let connections = &self.connections;
        connections.open.set(connections.open.get() - 1);
        connections.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_back() {
        let connections = Rc::new(Connections::new(1));
        let first = connections.room().await;
        assert!(
            tokio::time::timeout(std::time::Duration::from_secs(1), connections.room())
                .await
                .is_err()
        );
        drop(first);
        let second = connections.room().await;
        assert_eq!(connections.open(), 1);
        drop(second);
        assert_eq!(connections.open(), 0);
    }

    #[test]
    fn the_share_of_a_worker_is_never_nothing() {
        assert!(Connections::per_worker(usize::MAX).most >= 1);
        assert!(Connections::per_worker(2).most >= Connections::per_worker(4).most);
    }
}
