//! A map of which a copy costs little: it is divided into parts by hash, and two copies share every part that neither of them
//! has changed. So the next mesh takes over ten thousand pods and replaces one.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// A change copies one part: some twenty of ten thousand entries. A copy of the map copies so many pointers.
const PARTS: usize = 512;

/// Without an order.
#[derive(Clone, Debug)]
pub struct SharedMap<K, V> {
    parts: Vec<Arc<HashMap<K, V>>>,
    hasher: RandomState,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            parts: vec![Arc::default(); PARTS],
            hasher: RandomState::new(),
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // Of 64 bits, these say what the remainder is.
        self.hasher.hash_one(key) as usize % PARTS
    }

    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.parts[self.place(key)].get(key)
    }

    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = self.place(&key);
        Arc::make_mut(&mut self.parts[place]).insert(key, value)
    }

    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let place = self.place(key);
        // What is not there is not worth a copy.
        self.parts[place].get(key)?;
        Arc::make_mut(&mut self.parts[place]).remove(key)
    }

    /// Changes the list at `key`; one that becomes empty is not kept.
    pub fn edit<T>(&mut self, key: &K, change: impl FnOnce(&mut V))
    where
        V: Default + AsRef<[T]>,
    {
        let place = self.place(key);
        let part = Arc::make_mut(&mut self.parts[place]);
        let mut value = part.remove(key).unwrap_or_default();
        change(&mut value);
        if !value.as_ref().is_empty() {
            part.insert(key.clone(), value);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_goes_its_own_way() {
        let mut first: SharedMap<u32, Vec<u32>> = SharedMap::default();
        for key in 0..1_000 {
            first.insert(key, vec![key]);
        }
        let mut second = first.clone();
        second.edit(&1, |list| list.push(7));
        second.edit(&2, Vec::clear);
        second.remove(&3);
        second.remove(&5_000);
        assert_eq!((first.len(), second.len()), (1_000, 998));
        assert_eq!(first.get(&1), Some(&vec![1]));
        assert_eq!(second.get(&1), Some(&vec![1, 7]));
        assert!(second.get(&2).is_none() && second.get(&3).is_none());
        let shared = first.parts.iter().zip(&second.parts);
        let apart = shared
            .filter(|(one, other)| !Arc::ptr_eq(one, other))
            .count();
        assert!(apart <= 3, "{apart} parts were copied");
        assert_eq!(second.iter().count(), 998);
    }
}
