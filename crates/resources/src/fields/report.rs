//! What has been found wrong in one document.

use std::cell::{Cell, RefCell};

use crate::problem::{Problem, Severity};

/// What a document's readers share: where it is, whose it is, and what has been found wrong.
pub struct Report<'a> {
    pub file: &'a str,
    /// `VirtualService shop/cart`.
    pub object: Option<String>,
    /// The object's namespace, in which short names are expanded.
    pub namespace: String,
    problems: RefCell<Vec<Problem>>,
    errors: Cell<usize>,
}

/// More problems than this in one document help nobody.
const MAX_PROBLEMS: usize = 100;

impl<'a> Report<'a> {
    pub fn new(file: &'a str, object: Option<String>, namespace: String) -> Self {
        Self {
            file,
            object,
            namespace,
            problems: RefCell::default(),
            errors: Cell::new(0),
        }
    }

    pub fn failed(&self) -> bool {
        self.errors() > 0
    }

    pub fn errors(&self) -> usize {
        self.errors.get()
    }

    /// Mistakes first, then what this version merely does not do.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(Problem::is_not_honoured);
        problems
    }

    pub fn add(
        &self,
        severity: Severity,
        line: usize,
        field: &str,
        reason: String,
        expected: String,
    ) {
        if severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(Problem {
                severity,
                file: self.file.to_owned(),
                line: (line > 0).then_some(line),
                object: self.object.clone(),
                field: field.to_owned(),
                reason,
                expected,
            });
        }
    }
}
