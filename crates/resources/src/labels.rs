//! Labels and what selects by them.

use std::collections::BTreeMap;

/// Whether all labels of the selector are there with the same values. An empty selector selects everything.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}
