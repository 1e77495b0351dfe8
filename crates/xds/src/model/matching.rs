//! String, header and query matchers, shared by routes and RBAC (Envoy `type.matcher.v3.StringMatcher`,
//! `config.route.v3.HeaderMatcher`). Regexes are RE2 syntax and match the whole value.

/// How a string is matched. A regex has been compiled once by the codec, so it is known to be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringMatch {
    pub pattern: Pattern,
    /// ASCII case is ignored. Never set together with [`Pattern::Regex`], which Envoy leaves case-sensitive.
    pub ignore_case: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// RE2 syntax, anchored at both ends by whoever compiles it.
    Regex(String),
}

/// One header condition. `name` is lower case; pseudo headers `:method`, `:authority`, `:scheme`, `:path` are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    pub name: String,
    pub value: ValueMatch,
    pub invert: bool,
    /// A header that is absent is matched as if it were empty (Envoy `treat_missing_header_as_empty`).
    pub missing_as_empty: bool,
}

/// One query parameter condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    pub name: String,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// The name must be present, whatever its value.
    Present,
    String(StringMatch),
}
