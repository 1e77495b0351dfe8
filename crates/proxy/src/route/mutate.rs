//! Header changes that a route or one of its clusters makes.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use tasuki_xds::model::route::{AppendAction, HeaderMutations};

/// Compiled changes: remove, then set or append, in order.
#[derive(Debug, Default)]
pub struct Mutations {
    remove: Vec<HeaderName>,
    add: Vec<(HeaderName, HeaderValue, AppendAction)>,
    /// `:authority` or `host`.
    pub authority: Option<Authority>,
}

impl Mutations {
    pub(super) fn compile(model: &HeaderMutations) -> Self {
        let mut mutations = Self {
            remove: model
                .remove
                .iter()
                .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
                .collect(),
            ..Self::default()
        };
        for add in &model.add {
            if add.name == ":authority" || add.name == "host" {
                mutations.authority = add.value.parse().ok();
                continue;
            }
            let name = HeaderName::from_bytes(add.name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&add.value)) {
                mutations.add.push((name, value, add.append));
            }
        }
        mutations
    }

    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty() && self.authority.is_none()
    }

    /// Changes `headers`; the authority is the caller's.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value, action) in &self.add {
            let present = headers.contains_key(name);
            match (action, present) {
                (AppendAction::AppendIfExistsOrAdd, _) => {
                    headers.append(name, value.clone());
                }
                (AppendAction::OverwriteIfExistsOrAdd, _)
                | (AppendAction::AddIfAbsent, false)
                | (AppendAction::OverwriteIfExists, true) => {
                    headers.insert(name, value.clone());
                }
                (AppendAction::AddIfAbsent, true) | (AppendAction::OverwriteIfExists, false) => {}
            }
        }
    }
}
