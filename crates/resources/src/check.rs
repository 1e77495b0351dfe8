//! `tasuki check`: every problem of a set of files, those of single documents and those that only several together show.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::documents::parse_documents;
use crate::object::{Object, ObjectKey};
use crate::problem::{Problem, Severity};

mod references;

/// An object and where it was read.
pub struct Located {
    pub file: String,
    pub line: usize,
    pub object: Object,
}

/// Reads files and folders (every `*.yaml`, `*.yml` and `*.json` below them but hidden ones) and reports every problem, in order of
/// file and line. A path that cannot be read is a problem too.
pub fn check(paths: &[PathBuf]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        collect(path, true, MAX_DEPTH, &mut files, &mut problems);
    }
    files.sort();
    files.dedup();
    let mut texts = Vec::new();
    for file in files {
        let name = file.display().to_string();
        match std::fs::read_to_string(&file) {
            Ok(text) => texts.push((name, text)),
            Err(error) => problems.push(Problem::error(
                &name,
                "",
                format!("cannot be read: {error}"),
            )),
        }
    }
    problems.extend(check_texts(&texts));
    problems
}

/// The same for texts that have been read already: names and contents, in order of name.
pub fn check_texts(texts: &[(String, String)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut objects: Vec<Located> = Vec::new();
    let mut places: HashMap<ObjectKey, usize> = HashMap::new();
    for (file, text) in texts {
        for document in parse_documents(file, text) {
            problems.extend(document.problems);
            let Some(object) = document.object else {
                continue;
            };
            let key = object.key();
            let located = Located {
                file: file.clone(),
                line: document.line,
                object,
            };
            match places.get(&key) {
                Some(first) => problems.extend(duplicate(&objects[*first], &located)),
                None => {
                    places.insert(key, objects.len());
                    objects.push(located);
                }
            }
        }
    }
    problems.extend(references::check(&objects));
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    problems
}

/// Both sides of a conflict, so that whoever looks at one file finds the other.
fn duplicate(first: &Located, second: &Located) -> [Problem; 2] {
    let at = |l: &Located| format!("{}:{}", l.file, l.line);
    [
        problem(
            Severity::Warning,
            first,
            "metadata.name",
            format!("is declared again at {}; this one counts", at(second)),
        ),
        problem(
            Severity::Error,
            second,
            "metadata.name",
            format!("is already declared at {}; that one counts", at(first)),
        ),
    ]
}

/// A problem of an object as a whole or of one of its fields, whose line is no longer known.
fn problem(
    severity: Severity,
    at: &Located,
    field: impl Into<String>,
    reason: impl Into<String>,
) -> Problem {
    let mut problem = Problem::error(&at.file, field, reason);
    problem.severity = severity;
    problem.line = (at.line > 0).then_some(at.line);
    problem.object = Some(at.object.key().to_string());
    problem
}

/// Symlinks could lead round in circles.
const MAX_DEPTH: usize = 16;

fn collect(
    path: &Path,
    named: bool,
    depth: usize,
    files: &mut Vec<PathBuf>,
    problems: &mut Vec<Problem>,
) {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    if hidden && !named {
        return;
    }
    if !path.is_dir() {
        let readable = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if named || readable {
            files.push(path.to_owned());
        }
        return;
    }
    match std::fs::read_dir(path) {
        Ok(_) if depth == 0 => {}
        Ok(entries) => entries
            .flatten()
            .for_each(|entry| collect(&entry.path(), false, depth - 1, files, problems)),
        Err(error) => problems.push(Problem::error(
            &path.display().to_string(),
            "",
            format!("cannot be read: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests;
