//! `exportTo`: which namespaces see an object.

use std::collections::BTreeSet;

use crate::fields::{Value, is_dns_label};

/// Where an object is visible. `.` has been replaced by the object's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExportTo {
    /// `*`, and what an absent `exportTo` means.
    #[default]
    Everywhere,
    /// Only there; empty (`~`) is nowhere.
    Namespaces(BTreeSet<String>),
}

impl ExportTo {
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            ExportTo::Everywhere => true,
            ExportTo::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}

/// Reads an `exportTo` list of an object in the report's namespace.
pub(crate) fn read(value: Option<Value<'_>>) -> ExportTo {
    let Some(value) = value else {
        return ExportTo::Everywhere;
    };
    let items = value.list();
    let mut namespaces = BTreeSet::new();
    let mut everywhere = items.is_empty();
    for item in &items {
        match item.text() {
            Some("*") => everywhere = true,
            Some("~") | None => {}
            Some(".") => {
                namespaces.insert(item.report.namespace.clone());
            }
            Some(namespace) if is_dns_label(namespace) => {
                namespaces.insert(namespace.to_owned());
            }
            Some(other) => item.error(
                format!("{other:?} is not a namespace"),
                "write a namespace, \".\" or \"*\"",
            ),
        }
    }
    if items.len() > 1
        && items
            .iter()
            .any(|item| matches!(item.node.as_str(), Some("*" | "~")))
    {
        value.error("\"*\" and \"~\" stand alone", "");
    }
    if everywhere {
        ExportTo::Everywhere
    } else {
        ExportTo::Namespaces(namespaces)
    }
}
