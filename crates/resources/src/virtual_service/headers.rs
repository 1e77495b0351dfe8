//! Changes to headers, on the way up and on the way back.

use crate::fields::{Value, header_name};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub request: HeaderOperations,
    pub response: HeaderOperations,
}

/// Applied in the order remove, set, add. Names are lower case; `:authority` stands for `host` too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOperations {
    /// Replaces what is there.
    pub set: Vec<(String, String)>,
    /// Appended beside what is there.
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

impl HeaderOperations {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

pub(super) fn read(value: &Value<'_>) -> Headers {
    let Some(fields) = value.fields() else {
        return Headers::default();
    };
    let headers = Headers {
        request: fields
            .get("request")
            .map(|v| read_operations(&v, true))
            .unwrap_or_default(),
        response: fields
            .get("response")
            .map(|v| read_operations(&v, false))
            .unwrap_or_default(),
    };
    fields.finish();
    headers
}

fn read_operations(value: &Value<'_>, request: bool) -> HeaderOperations {
    let Some(fields) = value.fields() else {
        return HeaderOperations::default();
    };
    let pairs = |name: &'static str, authority: bool| {
        let entries = fields.get(name).map(|v| v.entries()).unwrap_or_default();
        let pair = |(name, value): &(&str, Value<'_>)| read_pair(name, value, authority);
        entries.iter().filter_map(pair).collect::<Vec<_>>()
    };
    let operations = HeaderOperations {
        set: pairs("set", request),
        add: pairs("add", false),
        remove: fields
            .get("remove")
            .iter()
            .flat_map(Value::list)
            .filter_map(|v| removable(&v, &header_name(&v, v.text()?)?))
            .collect(),
    };
    fields.finish();
    operations
}

/// `host` cannot be removed: every request has one.
fn removable(value: &Value<'_>, name: &str) -> Option<String> {
    if name == "host" {
        value.error("host cannot be removed", "set it, or use rewrite.authority");
        return None;
    }
    Some(name.to_owned())
}

fn read_pair(name: &str, value: &Value<'_>, authority: bool) -> Option<(String, String)> {
    let is_authority = name == ":authority" || name.eq_ignore_ascii_case("host");
    let text = match value.node.tree {
        crate::node::Tree::Null => "",
        _ => value.string()?,
    };
    if http::HeaderValue::from_str(text).is_err() {
        value.error("is not a header value", "leave out control characters");
        return None;
    }
    if is_authority && !authority {
        value.error(
            format!("{name} can only be set, and only in requests"),
            "use request.set or rewrite.authority",
        );
        return None;
    }
    if is_authority {
        return Some((":authority".to_owned(), text.to_owned()));
    }
    Some((header_name(value, name)?, text.to_owned()))
}
