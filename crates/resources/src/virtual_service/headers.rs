//! Changes to headers, on the way up and on the way back.

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
