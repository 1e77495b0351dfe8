//! The patterns of AuthorizationPolicy values.

/// A value: exact, `abc*`, `*abc`, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// `*`: anything but empty.
    Present,
}

/// A path: a value, or a template with `{*}` (one segment) and `{**}` (zero or more segments, last operator).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    Text(Pattern),
    /// Known to be well formed.
    Template(String),
}
