//! Problems: one line that lets a person mend a document.

use std::fmt;

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object is refused.
    Error,
    /// The object is accepted, but probably does not do what its author hopes.
    Warning,
    /// Worth knowing: the object is accepted or is not for the mesh.
    Info,
}

/// What is wrong where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// As given to the parser; empty when the object came from the Kubernetes API.
    pub file: String,
    /// 1-based, when known.
    pub line: Option<usize>,
    /// `VirtualService shop/cart`; also for kinds that are not read.
    pub object: Option<String>,
    /// `spec.http[0].route[1].weight`; empty when the document as a whole is meant.
    pub field: String,
    pub reason: String,
    /// What would be right; empty when the reason says it already.
    pub expected: String,
}

/// The reason given for what Istio knows and this version does not act on.
pub const NOT_HONOURED: &str = "not honoured yet";

impl Problem {
    pub fn error(file: &str, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            line: None,
            object: None,
            field: field.into(),
            reason: reason.into(),
            expected: String::new(),
        }
    }

    /// The same, as a warning.
    pub fn warning(file: &str, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(file, field, reason)
        }
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Refused only because this version does not act on it.
    pub fn is_not_honoured(&self) -> bool {
        self.reason.starts_with(NOT_HONOURED)
    }
}

impl fmt::Display for Problem {
    /// `mesh.yaml:12: error: VirtualService shop/cart: spec.http[0].timeout: "5" is not a duration; write 300ms, 5s or 1h30m`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}", self.file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": ")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        write!(f, "{severity}: ")?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)?;
        if !self.expected.is_empty() {
            write!(f, "; {}", self.expected)?;
        }
        Ok(())
    }
}
