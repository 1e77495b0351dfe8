//! One value of a document and the ways to read it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use super::{Fields, Report, join};
use crate::node::{Node, Tree};
use crate::problem::{NOT_HONOURED, Severity};
use crate::quantity::Quantity;

/// Longest list or mapping within an object; an object of the Kubernetes API has no room for more. Readers compare entries with
/// each other, so there has to be an end.
const MAX_ENTRIES: usize = 10_000;

/// A value at its path. Never null: absent and null are the same, as for Kubernetes.
#[derive(Clone)]
pub struct Value<'a> {
    pub report: &'a Report<'a>,
    pub node: &'a Node,
    pub path: String,
}

impl<'a> Value<'a> {
    pub fn error(&self, reason: impl Into<String>, expected: impl Into<String>) {
        self.report.add(
            Severity::Error,
            self.node.line,
            &self.path,
            reason.into(),
            expected.into(),
        );
    }

    pub fn warn(&self, reason: impl Into<String>, expected: impl Into<String>) {
        self.report.add(
            Severity::Warning,
            self.node.line,
            &self.path,
            reason.into(),
            expected.into(),
        );
    }

    pub fn not_honoured(&self, detail: &str) {
        let reason = if detail.is_empty() {
            NOT_HONOURED.to_owned()
        } else {
            format!("{NOT_HONOURED}: {detail}")
        };
        self.error(reason, "");
    }

    fn wrong_type(&self, wanted: &str) {
        let hint = match (&self.node.tree, wanted) {
            (Tree::Bool(_) | Tree::Integer(_) | Tree::Float(_), "a string") => "put it in quotes",
            _ => "",
        };
        self.error(
            format!("{wanted} is wanted, this is {}", self.node.tree.kind()),
            hint,
        );
    }

    pub fn string(&self) -> Option<&'a str> {
        match &self.node.tree {
            Tree::String(text) => Some(text),
            _ => {
                self.wrong_type("a string");
                None
            }
        }
    }

    /// A string that is not empty.
    pub fn text(&self) -> Option<&'a str> {
        let text = self.string()?;
        if text.is_empty() {
            self.error("is empty", "");
            return None;
        }
        Some(text)
    }

    pub fn boolean(&self) -> Option<bool> {
        match &self.node.tree {
            Tree::Bool(value) => Some(*value),
            _ => {
                self.wrong_type("true or false");
                None
            }
        }
    }

    /// A whole number within bounds. A float without a fraction counts, as for Kubernetes.
    pub fn integer(&self, min: i128, max: i128) -> Option<i128> {
        let number = match &self.node.tree {
            Tree::Integer(number) => *number,
            Tree::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => *number as i128,
            _ => {
                self.wrong_type("a whole number");
                return None;
            }
        };
        if number < min || number > max {
            self.error(
                format!("{number} is out of range"),
                format!("write {min} to {max}"),
            );
            return None;
        }
        Some(number)
    }

    pub fn u32(&self) -> Option<u32> {
        self.integer(0, u32::MAX.into())
            .and_then(|n| u32::try_from(n).ok())
    }

    /// Kubernetes's `int32` where a negative number has no meaning.
    pub fn i32_positive(&self) -> Option<u32> {
        self.integer(0, i32::MAX.into())
            .and_then(|n| u32::try_from(n).ok())
    }

    pub fn percent(&self) -> Option<u32> {
        self.integer(0, 100).and_then(|n| u32::try_from(n).ok())
    }

    pub fn port(&self) -> Option<u16> {
        self.integer(1, 65_535).and_then(|n| u16::try_from(n).ok())
    }

    pub fn number(&self, min: f64, max: f64) -> Option<f64> {
        let number = match &self.node.tree {
            Tree::Integer(number) => *number as f64,
            Tree::Float(number) => *number,
            _ => {
                self.wrong_type("a number");
                return None;
            }
        };
        if !(min..=max).contains(&number) {
            let expected = if max.is_finite() {
                format!("write {min} to {max}")
            } else {
                format!("write {min} or more")
            };
            self.error(format!("{number} is out of range"), expected);
            return None;
        }
        Some(number)
    }

    /// The text of an address. `[2001:db8::]` without quotes is a mapping with an empty value to YAML 1.2 and a string to Kubernetes's
    /// parser; nothing else is meant.
    pub fn address(&self) -> Option<Cow<'a, str>> {
        match &self.node.tree {
            Tree::Map(entries) => match entries.as_slice() {
                [(key, value)] if value.tree == Tree::Null && key.ends_with(':') => {
                    Some(Cow::Owned(format!("{key}:")))
                }
                _ => self.text().map(Cow::Borrowed),
            },
            _ => self.text().map(Cow::Borrowed),
        }
    }

    /// A duration of at least 1 ms, as all of Istio's are.
    pub fn duration(&self) -> Option<Duration> {
        let duration = self.duration_or_zero()?;
        if duration < Duration::from_millis(1) {
            self.error("is shorter than 1ms", "leave it out to have no limit");
            return None;
        }
        Some(duration)
    }

    pub fn duration_or_zero(&self) -> Option<Duration> {
        if let Tree::Integer(number) = self.node.tree {
            self.error(
                format!("{number} is a number, not a duration"),
                "write 300ms, 5s or 1h30m",
            );
            return None;
        }
        let text = self.string()?;
        let duration = crate::duration::parse(text);
        if duration.is_none() {
            self.error(
                format!("{text:?} is not a duration"),
                "write 300ms, 5s or 1h30m",
            );
        }
        duration
    }

    /// An amount, which YAML takes for a number when it has no unit.
    pub fn quantity(&self) -> Option<Quantity> {
        let text = match &self.node.tree {
            Tree::Integer(number) => Cow::Owned(number.to_string()),
            Tree::Float(number) => Cow::Owned(number.to_string()),
            _ => Cow::Borrowed(self.text()?),
        };
        let quantity = Quantity::parse(&text);
        if quantity.is_none() {
            self.error(
                format!("{text:?} is not a quantity"),
                "write 100m, 0.5 or 128Mi",
            );
        }
        quantity
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.error(
                format!("unknown value {text:?}"),
                format!("write {}", names.join(", ")),
            );
        }
        found
    }

    pub fn list(&self) -> Vec<Value<'a>> {
        let Tree::List(items) = &self.node.tree else {
            self.wrong_type("a list");
            return Vec::new();
        };
        if self.too_many(items.len()) {
            return Vec::new();
        }
        let at = |(index, node)| Value {
            report: self.report,
            node,
            path: format!("{}[{index}]", self.path),
        };
        let (nulls, items): (Vec<_>, Vec<_>) = items
            .iter()
            .enumerate()
            .map(at)
            .partition(|v| v.node.tree == Tree::Null);
        nulls
            .iter()
            .for_each(|v| v.error("is empty", "remove it or fill it in"));
        items
    }

    /// A list of strings that are not empty.
    pub fn strings(&self) -> Vec<&'a str> {
        self.list().iter().filter_map(Value::text).collect()
    }

    /// A mapping whose keys are the user's own.
    pub fn entries(&self) -> Vec<(&'a str, Value<'a>)> {
        let Tree::Map(entries) = &self.node.tree else {
            self.wrong_type("a mapping");
            return Vec::new();
        };
        if self.too_many(entries.len()) {
            return Vec::new();
        }
        entries
            .iter()
            .map(|(key, node)| {
                (
                    key.as_str(),
                    Value {
                        report: self.report,
                        node,
                        path: join(&self.path, key),
                    },
                )
            })
            .collect()
    }

    /// A mapping of strings; null values are empty strings, as for Kubernetes.
    pub fn string_map(&self) -> BTreeMap<String, String> {
        let text = |value: &Value<'a>| match value.node.tree {
            Tree::Null => Some(String::new()),
            _ => value.string().map(str::to_owned),
        };
        self.entries()
            .iter()
            .filter_map(|(key, value)| Some(((*key).to_owned(), text(value)?)))
            .collect()
    }

    fn too_many(&self, count: usize) -> bool {
        let too_many = count > MAX_ENTRIES;
        if too_many {
            self.error(
                format!("has {count} entries"),
                format!("at most {MAX_ENTRIES} are read"),
            );
        }
        too_many
    }

    /// A mapping whose keys are fields.
    pub fn fields(&self) -> Option<Fields<'a>> {
        match &self.node.tree {
            Tree::Map(entries) if self.too_many(entries.len()) => None,
            Tree::Map(entries) => Some(Fields {
                value: self.clone(),
                entries,
                known: std::cell::RefCell::default(),
            }),
            _ => {
                self.wrong_type("a mapping");
                None
            }
        }
    }
}
