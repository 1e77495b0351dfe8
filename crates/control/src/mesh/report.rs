//! Collects problems of joins, with the file of the object they are about.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use tasuki_resources::{NamespacedName, ObjectKey, Problem, Severity};

use super::services::Duplicate;
use crate::source::Objects;

pub(super) struct Report<'a> {
    pub problems: Vec<Problem>,
    source: &'a Objects,
    /// Most meshes have no problems, and many objects.
    files: OnceCell<HashMap<ObjectKey, Arc<str>>>,
}

impl<'a> Report<'a> {
    pub fn new(source: &'a Objects) -> Self {
        Self {
            problems: Vec::new(),
            source,
            files: OnceCell::new(),
        }
    }

    fn file(&self, object: &ObjectKey) -> &str {
        let all = || {
            let all = self.source.objects.iter();
            all.map(|sourced| (sourced.object.key(), sourced.file.clone()))
                .collect()
        };
        let files = self.files.get_or_init(all);
        files.get(object).map_or("", |file| &**file)
    }

    pub fn add(
        &mut self,
        severity: Severity,
        object: &ObjectKey,
        field: impl Into<String>,
        reason: impl Into<String>,
    ) {
        let mut problem = Problem::error(self.file(object), field, reason);
        problem.severity = severity;
        problem.object = Some(object.to_string());
        self.problems.push(problem);
    }

    pub fn duplicate_host(&mut self, duplicate: &Duplicate) {
        let Duplicate {
            host,
            loser,
            winner,
        } = duplicate;
        let name = NamespacedName::parse(loser).unwrap_or_default();
        let key = ObjectKey {
            kind: tasuki_resources::Kind::ServiceEntry,
            namespace: name.namespace,
            name: name.name,
        };
        let reason = format!("{host} is already declared by {winner}; this one is not used");
        self.add(Severity::Error, &key, "spec.hosts", reason);
    }
}
