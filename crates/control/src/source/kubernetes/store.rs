//! What the API server declares, kept up to date by the events of one watch per kind. Pure.
//!
//! - Nothing is declared before every kind has been listed or is known not to exist: what is absent is deleted at proxies.
//! - A list replaces a kind's objects at once, when it is complete.
//! - An object that reads as before is the same `Arc` as before, and no news: most changes of Pods are of fields that the mesh does
//!   not use.
//! - Broken objects keep their last good version, as in `super::super::folder`.
//! - A kind that can no longer be watched keeps what it had, and that is said.

use std::collections::BTreeMap;
use std::sync::Arc;

use tasuki_kubernetes::watched::{WATCHED, Watched};
use tasuki_resources::{Document, Kind, NamespacedName, Object, Problem, Severity};

use crate::source::broken::{fails_closed, kept};
use crate::source::{Objects, Sourced};

/// What a watch has to tell of its kind.
#[derive(Debug)]
pub enum Change {
    /// A list begins.
    Begin,
    /// An object of the list.
    Listed(NamespacedName, Box<Document>),
    /// The list is complete: what is not in it is gone.
    Complete,
    Applied(NamespacedName, Box<Document>),
    Deleted(NamespacedName),
    /// The cluster has no such kind.
    Absent,
    /// Why the kind cannot be watched, or that it can be again.
    Trouble(Option<Trouble>),
}

/// Why a kind cannot be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// 403.
    Forbidden,
    /// The kind's definition was there, and is going or gone.
    Removed,
    /// No answer.
    Unreachable,
    /// Another status than success.
    Refused(u16),
}

/// All kinds.
#[derive(Debug)]
pub struct Store {
    kinds: Vec<Held>,
}

/// The objects of one kind.
#[derive(Debug)]
struct Held {
    watched: Watched,
    entries: Entries,
    /// The objects of a list that is not complete yet.
    listed: Option<Entries>,
    synced: Synced,
    trouble: Option<Trouble>,
}

type Entries = BTreeMap<NamespacedName, Entry>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Synced {
    Not,
    /// There is no such kind.
    Absent,
    Listed,
}

/// One object, if it is or was good.
#[derive(Clone, Debug)]
struct Entry {
    object: Option<Arc<Object>>,
    /// Instead of an object that has never been good: no version to keep.
    stand_in: bool,
    problems: Vec<Problem>,
    file: Arc<str>,
}

impl Default for Store {
    fn default() -> Self {
        let held = |watched: &Watched| Held {
            watched: *watched,
            entries: BTreeMap::new(),
            listed: None,
            synced: Synced::Not,
            trouble: None,
        };
        Self {
            kinds: WATCHED.iter().map(held).collect(),
        }
    }
}

impl Store {
    /// A change of the kind at this place in [`WATCHED`]. True when it is news.
    pub fn change(&mut self, place: usize, change: Change) -> bool {
        self.kinds
            .get_mut(place)
            .is_some_and(|held| held.change(change))
    }

    /// Kinds that have to be listed before anything is declared, and what is in the way.
    pub fn waiting(&self) -> Vec<(Watched, Option<Trouble>)> {
        let waiting = self.kinds.iter().filter(|held| held.synced == Synced::Not);
        waiting.map(|held| (held.watched, held.trouble)).collect()
    }

    /// Everything declared; only to be asked when nothing is waited for.
    pub fn objects(&self) -> Objects {
        let count = self.kinds.iter().map(|held| held.entries.len()).sum();
        let mut all = Objects {
            objects: Vec::with_capacity(count),
            problems: Vec::new(),
            pods_unseen: self.kinds.iter().any(Held::hides_pods),
        };
        for held in &self.kinds {
            all.problems.extend(held.problem());
            for entry in held.entries.values() {
                all.problems.extend_from_slice(&entry.problems);
                all.objects
                    .extend(entry.object.as_ref().map(|object| Sourced {
                        object: object.clone(),
                        file: entry.file.clone(),
                    }));
            }
        }
        all
    }
}

impl Held {
    fn hides_pods(&self) -> bool {
        self.trouble.is_some() && matches!(self.watched.kind, Kind::Pod | Kind::EndpointSlice)
    }

    fn change(&mut self, change: Change) -> bool {
        match change {
            Change::Begin => {
                self.listed = Some(Entries::new());
                false
            }
            Change::Listed(name, document) => {
                let (entry, _) = self.entry(&name, *document);
                self.listed.get_or_insert_default().insert(name, entry);
                false
            }
            Change::Complete => self.complete(),
            Change::Applied(name, document) => {
                let (entry, news) = self.entry(&name, *document);
                if news {
                    self.entries.insert(name, entry);
                }
                news
            }
            Change::Deleted(name) => self.entries.remove(&name).is_some(),
            Change::Absent => self.absent(),
            Change::Trouble(trouble) => {
                let news = self.trouble != trouble;
                self.trouble = trouble;
                news
            }
        }
    }

    fn complete(&mut self) -> bool {
        let Some(listed) = self.listed.take() else {
            return false;
        };
        let same = self.synced == Synced::Listed
            && self.trouble.is_none()
            && listed.len() == self.entries.len()
            && listed
                .iter()
                .zip(&self.entries)
                .all(|(new, old)| new.0 == old.0 && new.1.is(old.1));
        self.entries = listed;
        self.synced = Synced::Listed;
        self.trouble = None;
        !same
    }

    /// A definition that was there may have been deleted by mistake, and with it what keeps workloads closed.
    fn absent(&mut self) -> bool {
        self.listed = None;
        let (synced, trouble) = match self.synced {
            Synced::Listed if !self.entries.is_empty() => (Synced::Listed, Some(Trouble::Removed)),
            _ => (Synced::Absent, None),
        };
        let news = (self.synced, self.trouble) != (synced, trouble);
        (self.synced, self.trouble) = (synced, trouble);
        news
    }

    /// The entry that this document makes of the present one, and whether it is another.
    fn entry(&self, name: &NamespacedName, document: Document) -> (Entry, bool) {
        let earlier = self.entries.get(name);
        let entry = Entry::read(&self.watched, name, document, earlier);
        let news = earlier.is_none_or(|earlier| !entry.is(earlier));
        (entry, news)
    }

    fn problem(&self) -> Option<Problem> {
        let (severity, reason, expected) = match self.trouble? {
            Trouble::Forbidden => (
                Severity::Error,
                "the API server does not let the control plane watch them (403)".to_owned(),
                "bind its ClusterRole to its ServiceAccount",
            ),
            Trouble::Removed => (
                Severity::Error,
                "their CustomResourceDefinition was deleted, and they with it".to_owned(),
                "install it again with what is to be in force",
            ),
            Trouble::Unreachable => (
                Severity::Warning,
                "the API server cannot be reached".to_owned(),
                "",
            ),
            Trouble::Refused(status) => (
                Severity::Warning,
                format!("the API server answers {status}"),
                "",
            ),
        };
        let name = self.watched.full_name();
        let mut problem = Problem::error(&name, "", reason + "; what was known is kept");
        problem.severity = severity;
        problem.expected = expected.to_owned();
        Some(problem)
    }
}

impl Entry {
    fn read(
        watched: &Watched,
        name: &NamespacedName,
        document: Document,
        earlier: Option<&Entry>,
    ) -> Self {
        let file = match earlier {
            Some(earlier) => earlier.file.clone(),
            None => place(watched, name),
        };
        let mut problems = document.problems;
        for problem in &mut problems {
            file.as_ref().clone_into(&mut problem.file);
        }
        let good = earlier.filter(|earlier| !earlier.stand_in);
        let good = good.and_then(|earlier| earlier.object.clone());
        let (object, stand_in) = match (document.object, good) {
            (Some(object), Some(good)) if *good == object => (Some(good), false),
            (Some(object), _) => (Some(Arc::new(object)), false),
            (None, Some(good)) => {
                problems.push(kept(&file, &good.key()));
                (Some(good), false)
            }
            (None, None) => match document.stand_in {
                Some(object) => {
                    problems.extend(fails_closed(&file, &object));
                    (Some(stood_in(object, earlier)), true)
                }
                None => (None, false),
            },
        };
        Self {
            object,
            stand_in,
            problems,
            file,
        }
    }

    /// Whether both say the same; the object is the same one then.
    fn is(&self, other: &Self) -> bool {
        let same = match (&self.object, &other.object) {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (None, None) => true,
            _ => false,
        };
        same && self.problems == other.problems
    }
}

/// The stand-in, unless it is there already.
fn stood_in(object: Object, earlier: Option<&Entry>) -> Arc<Object> {
    let earlier = earlier.and_then(|earlier| earlier.object.clone());
    match earlier.filter(|earlier| **earlier == object) {
        Some(earlier) => earlier,
        None => Arc::new(object),
    }
}

/// `virtualservices/shop/cart`, `namespaces/shop`.
fn place(watched: &Watched, name: &NamespacedName) -> Arc<str> {
    let plural = watched.plural;
    if name.namespace.is_empty() {
        Arc::from(format!("{plural}/{}", name.name))
    } else {
        Arc::from(format!("{plural}/{name}"))
    }
}

#[cfg(test)]
mod tests;
