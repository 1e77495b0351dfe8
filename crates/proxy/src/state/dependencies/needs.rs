//! Which root needs which resource, in both directions, so that a change costs what it concerns and not what is held.

use std::collections::{BTreeSet, HashMap};

use super::Key;

/// The needs of all roots. What at least one root needs is subscribed to.
#[derive(Default)]
pub(super) struct Needs {
    of_root: HashMap<String, BTreeSet<Key>>,
    roots: HashMap<Key, BTreeSet<String>>,
    subscribed: BTreeSet<Key>,
    /// Keys that got their first root or lost their last one since [`Needs::turns`].
    turned: BTreeSet<Key>,
}

impl Needs {
    /// From now on `root` needs exactly these.
    pub fn set(&mut self, root: &str, needs: BTreeSet<Key>) {
        let before = self.of_root.remove(root).unwrap_or_default();
        for key in before.difference(&needs) {
            self.release(root, key);
        }
        for key in needs.difference(&before) {
            let roots = self.roots.entry(key.clone()).or_default();
            if roots.is_empty() {
                self.turned.insert(key.clone());
            }
            roots.insert(root.to_owned());
        }
        if !needs.is_empty() {
            self.of_root.insert(root.to_owned(), needs);
        }
    }

    fn release(&mut self, root: &str, key: &Key) {
        let Some(roots) = self.roots.get_mut(key) else {
            return;
        };
        roots.remove(root);
        if roots.is_empty() {
            self.roots.remove(key);
            self.turned.insert(key.clone());
        }
    }

    /// The roots that need the resource.
    pub fn roots_of(&self, key: &Key) -> impl Iterator<Item = &String> {
        self.roots.get(key).into_iter().flatten()
    }

    /// Keys that are subscribed to.
    pub fn len(&self) -> usize {
        self.subscribed.len()
    }

    /// What is to be subscribed to and what no longer, since the last time.
    pub fn turns(&mut self) -> (Vec<Key>, Vec<Key>) {
        let (mut subscribe, mut unsubscribe) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.turned) {
            if !self.roots.contains_key(&key) {
                if self.subscribed.remove(&key) {
                    unsubscribe.push(key);
                }
            } else if self.subscribed.insert(key.clone()) {
                subscribe.push(key);
            }
        }
        (subscribe, unsubscribe)
    }
}
