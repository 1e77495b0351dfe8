//! What is different between two states of the source: found by pointers, since a source hands out the same object again where
//! it has not changed.

use std::collections::HashSet;
use std::sync::Arc;

use tasuki_resources::{NamespacedName, Object};

use crate::source::Sourced;

/// Where lists differ, the place from which they agree again is looked for so far ahead; beyond it both are searched as a whole.
const AHEAD: usize = 32;

/// An object that was changed is in both.
#[derive(Debug, Default)]
pub(super) struct Difference<'a> {
    pub gone: Vec<&'a Arc<Object>>,
    pub new: Vec<&'a Arc<Object>>,
}

impl<'a> Difference<'a> {
    pub fn between(before: &'a [Sourced], after: &'a [Sourced]) -> Self {
        let mut found = Self::default();
        let (mut before, mut after) = (before, after);
        loop {
            let same = before.iter().zip(after).take_while(|(a, b)| is(a, b));
            let same = same.count();
            (before, after) = (&before[same..], &after[same..]);
            if before.is_empty() && after.is_empty() {
                return found;
            }
            let Some((skipped, added)) = agree_again(before, after) else {
                found.rest(before, after);
                return found;
            };
            found.gone.extend(objects(&before[..skipped]));
            found.new.extend(objects(&after[..added]));
            (before, after) = (&before[skipped..], &after[added..]);
        }
    }

    /// In whatever order.
    fn rest(&mut self, before: &'a [Sourced], after: &'a [Sourced]) {
        let pointers = |list: &[Sourced]| -> HashSet<*const Object> {
            list.iter().map(|s| Arc::as_ptr(&s.object)).collect()
        };
        let (had, has) = (pointers(before), pointers(after));
        let lost = objects(before).filter(|object| !has.contains(&Arc::as_ptr(object)));
        self.gone.extend(lost);
        let won = objects(after).filter(|object| !had.contains(&Arc::as_ptr(object)));
        self.new.extend(won);
    }

    /// Whether nothing else is different than Pods and their endpoints; the mesh reads nothing of Namespaces.
    pub fn is_of_endpoints(&self) -> bool {
        let of_endpoints = |object: &&Arc<Object>| {
            matches!(
                object.as_ref(),
                Object::Pod(_) | Object::EndpointSlice(_) | Object::Namespace(_)
            )
        };
        self.gone.iter().chain(&self.new).all(of_endpoints)
    }

    /// Pods that are not what they were, by name: what each is now.
    pub fn pods(&self) -> Vec<(&'a NamespacedName, Option<&'a tasuki_resources::Pod>)> {
        let pod = |object: &&'a Arc<Object>| match &***object {
            Object::Pod(pod) => Some((&pod.meta.name, pod)),
            _ => None,
        };
        let new: Vec<_> = self.new.iter().filter_map(pod).collect();
        let kept: HashSet<&NamespacedName> = new.iter().map(|(name, _)| *name).collect();
        let gone = self.gone.iter().filter_map(pod).map(|(name, _)| name);
        let gone = gone.filter(|name| !kept.contains(name));
        let gone: Vec<_> = gone.map(|name| (name, None)).collect();
        let new = new.into_iter().map(|(name, pod)| (name, Some(pod)));
        new.chain(gone).collect()
    }
}

fn is(one: &Sourced, other: &Sourced) -> bool {
    Arc::ptr_eq(&one.object, &other.object)
}

fn objects(list: &[Sourced]) -> impl Iterator<Item = &Arc<Object>> {
    list.iter().map(|sourced| &sourced.object)
}

/// After how many of each both lists agree again: the nearest such place.
fn agree_again(before: &[Sourced], after: &[Sourced]) -> Option<(usize, usize)> {
    for steps in 1..=AHEAD {
        for skipped in 0..=steps {
            let added = steps - skipped;
            match (before.get(skipped), after.get(added)) {
                (Some(a), Some(b)) if is(a, b) => return Some((skipped, added)),
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tasuki_resources::parse_documents;

    use super::*;

    fn list(names: &[usize], pool: &[Sourced]) -> Vec<Sourced> {
        names.iter().map(|index| pool[*index].clone()).collect()
    }

    #[test]
    fn what_is_gone_and_what_is_new() {
        let object = |index: usize| {
            let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{index}}}\n");
            let object = parse_documents("f", &text).remove(0).object.unwrap();
            Sourced {
                object: Arc::new(object),
                file: Arc::from("f"),
            }
        };
        let pool: Vec<Sourced> = (0..300).map(object).collect();
        let place = |object: &&Arc<Object>| {
            pool.iter()
                .position(|sourced| Arc::ptr_eq(&sourced.object, object))
        };
        let check = |before: &[usize], after: &[usize], gone: &[usize], new: &[usize]| {
            let (before, after) = (list(before, &pool), list(after, &pool));
            let found = Difference::between(&before, &after);
            let lost: Vec<_> = found.gone.iter().filter_map(place).collect();
            let won: Vec<_> = found.new.iter().filter_map(place).collect();
            assert_eq!((&lost[..], &won[..]), (gone, new));
        };
        check(&[], &[1, 2], &[], &[1, 2]);
        check(&[1, 2, 3], &[1, 9, 3], &[2], &[9]);
        check(&[1, 2, 3], &[2, 3], &[1], &[]);
        check(&[1, 2, 3], &[1, 2, 8, 3, 7], &[], &[8, 7]);
        check(&[1, 2, 3, 4, 5], &[9, 2, 3, 4], &[1, 5], &[9]);
        let all: Vec<usize> = (0..200).collect();
        let later: Vec<usize> = (150..300).collect();
        check(&all, &later, &all[..150], &later[50..]);
        let backwards: Vec<usize> = all.iter().rev().copied().collect();
        check(&all, &backwards, &[], &[]);
    }
}
