//! What a folder of documents declares, keeping the last good version of what is broken (contract section 11). Pure.
//!
//! - A document that is wrong but says what it is keeps the last good version of that object. Without one, a policy has a
//!   stand-in that lets nobody in (`tasuki_resources::authorization_policy`), unless the object is good elsewhere.
//! - A file with a document that cannot be read at all (half-written) keeps every object it had, beside
//!   the good ones it has now; an empty file likewise.
//! - A file that is gone takes its objects with it.
//! - Of two objects of one identity the first by path, then by place, wins; both are reported.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tasuki_resources::{Object, ObjectKey, Problem, parse_documents};

use super::broken::{fails_closed, kept};
use super::{Objects, Sourced};

/// The files of a folder by path.
#[derive(Debug, Default)]
pub struct Folder {
    files: BTreeMap<String, File>,
}

/// One file as last read.
#[derive(Debug)]
struct File {
    content: Result<String, String>,
    objects: Vec<Entry>,
    problems: Vec<Problem>,
    /// All of its documents could be read.
    is_good: bool,
}

/// A good object, of the file's present content or of an earlier one.
#[derive(Clone, Debug)]
struct Entry {
    key: ObjectKey,
    object: Arc<Object>,
    /// Instead of an object that has never been good: no version to keep.
    stand_in: bool,
}

impl Folder {
    /// A file's content, or why it cannot be read. True when that is news.
    pub fn put(&mut self, path: &str, content: Result<String, String>) -> bool {
        let before = self.files.get(path);
        if before.is_some_and(|file| file.content == content) {
            return false;
        }
        let earlier = before.map_or(&[][..], |file| &file.objects);
        let file = File::read(path, content, earlier);
        self.files.insert(path.to_owned(), file);
        true
    }

    /// The text of a file of which every document could be read.
    pub fn good(&self, path: &str) -> Option<&str> {
        let file = self.files.get(path).filter(|file| file.is_good)?;
        file.content.as_deref().ok()
    }

    /// Paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The file is gone. True when that is news.
    pub fn remove(&mut self, path: &str) -> bool {
        self.files.remove(path).is_some()
    }

    /// Everything declared, each object once.
    pub fn objects(&self) -> Objects {
        let mut all = Objects::default();
        let mut owners: HashMap<&ObjectKey, &str> = HashMap::new();
        let entries = self.files.values().flat_map(|file| &file.objects);
        let good: HashSet<&ObjectKey> = entries.filter(|e| !e.stand_in).map(|e| &e.key).collect();
        for (path, file) in &self.files {
            let name: Arc<str> = Arc::from(path.as_str());
            all.problems.extend(file.problems.iter().cloned());
            for entry in &file.objects {
                if entry.stand_in {
                    if good.contains(&entry.key) {
                        continue;
                    }
                    all.problems.extend(fails_closed(path, &entry.object));
                }
                match owners.get(&entry.key) {
                    Some(winner) => all.problems.extend(duplicate(&entry.key, winner, path)),
                    None => {
                        owners.insert(&entry.key, path);
                        all.objects.push(Sourced {
                            object: entry.object.clone(),
                            file: name.clone(),
                        });
                    }
                }
            }
        }
        all
    }
}

impl File {
    fn read(path: &str, content: Result<String, String>, earlier: &[Entry]) -> Self {
        let text = match &content {
            Ok(text) if text.trim().is_empty() => {
                return Self::unreadable(path, "is empty", content.clone(), earlier);
            }
            Ok(text) => text,
            Err(reason) => return Self::unreadable(path, &reason.clone(), content, earlier),
        };
        let mut objects = Vec::new();
        let mut problems = Vec::new();
        let mut broken = HashSet::new();
        let mut stand_ins = Vec::new();
        let mut unknown = false;
        for document in parse_documents(path, text) {
            problems.extend(document.problems);
            match (document.object, document.identity) {
                (Some(object), _) => objects.push(Entry {
                    key: object.key(),
                    object: Arc::new(object),
                    stand_in: false,
                }),
                (None, Some(key)) => {
                    stand_ins.extend(document.stand_in);
                    broken.insert(key);
                }
                (None, None) => unknown |= document.unreadable,
            }
        }
        let is_good = broken.is_empty() && !unknown;
        let good: HashSet<ObjectKey> = objects.iter().map(|entry| entry.key.clone()).collect();
        for entry in earlier {
            // A stand-in is no version: what the document says now has another one.
            let broken = broken.contains(&entry.key) && !entry.stand_in;
            let lost = !good.contains(&entry.key) && (unknown || broken);
            if lost {
                problems.extend((!entry.stand_in).then(|| kept(path, &entry.key)));
                objects.push(entry.clone());
            }
        }
        let known: HashSet<ObjectKey> = objects.iter().map(|entry| entry.key.clone()).collect();
        for object in stand_ins {
            let key = object.key();
            if !known.contains(&key) {
                objects.push(Entry {
                    key,
                    object: Arc::new(object),
                    stand_in: true,
                });
            }
        }
        Self {
            content,
            objects,
            problems,
            is_good,
        }
    }

    fn unreadable(
        path: &str,
        reason: &str,
        content: Result<String, String>,
        earlier: &[Entry],
    ) -> Self {
        let mut problem = Problem::error(path, "", format!("the file {reason}"));
        if !earlier.is_empty() {
            problem.reason.push_str("; what it declared before is kept");
            problem.expected = "delete the file to remove its objects".to_owned();
        }
        Self {
            content,
            objects: earlier.to_vec(),
            problems: vec![problem],
            is_good: false,
        }
    }
}

/// Both sides of a conflict, so that whoever looks at one file finds the other.
fn duplicate(key: &ObjectKey, winner: &str, loser: &str) -> [Problem; 2] {
    let problem = |file: &str, reason: String| {
        let mut problem = Problem::error(file, "metadata.name", reason);
        problem.object = Some(key.to_string());
        problem
    };
    [
        problem(
            loser,
            format!("is already declared in {winner}; this one is not used"),
        ),
        problem(
            winner,
            format!("is declared again in {loser}; this one is used"),
        ),
    ]
}

#[cfg(test)]
mod tests;
