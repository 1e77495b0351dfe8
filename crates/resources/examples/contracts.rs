//! How the documents that other projects publish fare: `TASUKI_CONTRACTS=DIR cargo run -p tasuki-resources --example contracts`.
//! Under DIR, documents with a top-level `_err` must be refused; all others must be accepted, or refused as not honoured yet only.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tasuki_resources::{Document, parse_documents};

fn main() -> ExitCode {
    let Some(root) = std::env::var_os("TASUKI_CONTRACTS").map(PathBuf::from) else {
        eprintln!("set TASUKI_CONTRACTS to a folder of YAML files");
        return ExitCode::FAILURE;
    };
    let mut tally = Tally::default();
    for file in files(&root) {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        let name = file
            .strip_prefix(&root)
            .unwrap_or(&file)
            .display()
            .to_string();
        for chunk in chunks(&text) {
            tally.document(&name, &chunk);
        }
    }
    println!("{tally:?}");
    if tally.wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[derive(Debug, Default)]
struct Tally {
    accepted: usize,
    not_honoured: usize,
    refused_as_wanted: usize,
    skipped: usize,
    wrong: usize,
}

impl Tally {
    fn document(&mut self, file: &str, text: &str) {
        let wanted = text.lines().find_map(|line| line.strip_prefix("_err:"));
        let without: String = text
            .lines()
            .filter(|line| !line.starts_with("_err:"))
            .map(|line| format!("{line}\n"))
            .collect();
        let documents: Vec<Document> = parse_documents(file, &without);
        let errors: Vec<_> = documents
            .iter()
            .flat_map(|d| &d.problems)
            .filter(|p| p.is_error())
            .collect();
        match wanted {
            Some(wanted) => match errors.first() {
                Some(first) => {
                    self.refused_as_wanted += 1;
                    println!("refused: {first}   [wanted:{wanted}]");
                }
                None => self.wrong(file, &format!("should be refused:{wanted}\n{text}")),
            },
            None if documents.is_empty() => self.skipped += 1,
            None if errors.is_empty() => self.accepted += 1,
            None => match errors.iter().find(|p| !p.is_not_honoured()) {
                Some(problem) => self.wrong(file, &problem.to_string()),
                None => {
                    self.not_honoured += 1;
                    errors.iter().for_each(|p| println!("not honoured: {p}"));
                }
            },
        }
    }

    fn wrong(&mut self, file: &str, what: &str) {
        self.wrong += 1;
        println!("WRONG {file}: {what}");
    }
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(root) else {
        return vec![root.to_owned()];
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Documents, by their separators; those of comments only are left out by the parser.
fn chunks(text: &str) -> Vec<String> {
    let mut chunks = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("---") {
            chunks.push(String::new());
        } else if let Some(last) = chunks.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    chunks.retain(|chunk| {
        chunk
            .lines()
            .any(|l| !l.trim().is_empty() && !l.starts_with('#'))
    });
    chunks
}
