//! Reading a document field by field: every value knows its path, every mistake becomes a problem, and what nobody asked for is
//! an unknown field. Readers report and go on, so that one run names all that is wrong; an object with an error is refused as a whole.

use std::cell::RefCell;

use crate::node::{Node, Tree};
use crate::object::Metadata;
use crate::problem::Severity;

mod names;
mod report;
mod suggest;
mod value;

pub use report::Report;
use suggest::closest;
pub use value::Value;

pub use names::{
    header_name, host, is_dns_label, is_dns_subdomain, label_map, port_name, regex_problem,
};

fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (path.is_empty(), plain) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (false, false) => format!("{path}[{key:?}]"),
    }
}

/// A message's fields. Those never asked for are unknown, and [`Fields::finish`] says so.
pub struct Fields<'a> {
    pub value: Value<'a>,
    entries: &'a [(String, Node)],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    pub fn get(&self, name: &'static str) -> Option<Value<'a>> {
        self.known.borrow_mut().push(name);
        let (_, node) = self.entries.iter().find(|(key, _)| key == name)?;
        if node.tree == Tree::Null {
            return None;
        }
        Some(Value {
            report: self.value.report,
            node,
            path: join(&self.value.path, name),
        })
    }

    pub fn require(&self, name: &'static str) -> Option<Value<'a>> {
        let value = self.get(name);
        if value.is_none() {
            self.error_at(name, "is missing", "");
        }
        value
    }

    /// An error about a field that may be absent.
    pub fn error_at(&self, name: &str, reason: &str, expected: &str) {
        let path = join(&self.value.path, name);
        self.value.report.add(
            Severity::Error,
            self.value.node.line,
            &path,
            reason.to_owned(),
            expected.to_owned(),
        );
    }

    /// Nothing is set.
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(|(_, node)| node.tree == Tree::Null)
    }

    pub fn has(&self, name: &str) -> bool {
        self.entries
            .iter()
            .any(|(key, node)| key == name && node.tree != Tree::Null)
    }

    /// How many of these are set.
    pub fn count(&self, names: &[&str]) -> usize {
        names.iter().filter(|name| self.has(name)).count()
    }

    /// Fields that Istio knows and this version does not act on. `false` asks for nothing, so it is let pass.
    pub fn not_honoured(&self, names: &[&'static str]) {
        for name in names {
            if let Some(value) = self.get(name).filter(|v| v.node.tree != Tree::Bool(false)) {
                value.not_honoured("");
            }
        }
    }

    /// Reports every field that was never asked for.
    pub fn finish(self) {
        let known = self.known.into_inner();
        for (key, node) in self.entries {
            if known.contains(&key.as_str()) {
                continue;
            }
            let expected = match closest(key, &known) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.value.report.add(
                Severity::Error,
                node.line,
                &join(&self.value.path, key),
                "unknown field".to_owned(),
                expected,
            );
        }
    }
}

/// Annotations that say something to a mesh. The others are most of the bytes of many objects (`kubectl` keeps a copy of the object
/// in one, controllers the time of each change), and one that changes would make another object of the same.
fn is_for_the_mesh(name: &str) -> bool {
    let Some((domain, name)) = name.split_once('/') else {
        return false;
    };
    match domain {
        // What the injector keeps for itself.
        "tasuki.dev" => name != "probes",
        domain => domain == "istio.io" || domain.ends_with(".istio.io"),
    }
}

/// `metadata` of an object whose name and namespace have been read.
pub fn metadata(root: &Fields<'_>, name: crate::NamespacedName) -> Metadata {
    let mut meta = Metadata {
        name,
        ..Metadata::default()
    };
    let Some(fields) = root.get("metadata").and_then(|v| v.fields()) else {
        return meta;
    };
    let map = |value: Option<Value<'_>>| value.map(|v| v.string_map()).unwrap_or_default();
    meta.labels = map(fields.get("labels"));
    meta.annotations = map(fields.get("annotations"));
    meta.annotations.retain(|name, _| is_for_the_mesh(name));
    meta.uid = fields
        .get("uid")
        .and_then(|v| v.string().map(str::to_owned));
    meta.deleting = fields.has("deletionTimestamp");
    meta.created = fields.get("creationTimestamp").and_then(|value| {
        let text = value.string()?;
        let time =
            time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        if time.is_err() {
            value.error(
                format!("{text:?} is not a time"),
                "write it like 2026-01-31T12:00:00Z",
            );
        }
        time.ok().map(Into::into)
    });
    meta
}
