//! Workers' look-ups that wait for an answer, by name; bounded over all names.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::state::{ListenerName, Lookup};

/// Look-ups that wait for an answer at one time, over all names.
const MOST: usize = 8_192;

#[derive(Default)]
pub(super) struct Waiters {
    by_name: HashMap<ListenerName, Vec<oneshot::Sender<Lookup>>>,
    count: usize,
}

impl Waiters {
    pub fn is_full(&self) -> bool {
        self.count >= MOST
    }

    pub fn add(&mut self, name: ListenerName, reply: oneshot::Sender<Lookup>) {
        self.count += 1;
        self.by_name.entry(name).or_default().push(reply);
    }

    /// Tells everybody who waits for `name`.
    pub fn answer(&mut self, name: &ListenerName, answer: &Lookup) {
        let replies = self.by_name.remove(name).unwrap_or_default();
        self.count -= replies.len();
        for reply in replies {
            // A worker whose client has gone does not listen any more.
            let _ = reply.send(answer.clone());
        }
    }

    /// Those names that `found` knows an answer for.
    pub fn answerable<'a, T>(
        &'a self,
        found: impl Fn(&ListenerName) -> Option<T> + 'a,
    ) -> impl Iterator<Item = (ListenerName, T)> + 'a {
        let names = self.by_name.keys();
        names.filter_map(move |name| Some((name.clone(), found(name)?)))
    }

    /// Forgets those who have given up.
    pub fn prune(&mut self) {
        self.by_name.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
        self.count = self.by_name.values().map(Vec::len).sum();
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}
