//! Every document under `tests/faulty` is refused, with one line that names file, line, object and field, and says what would be right.
//! The line is in the document's first comment. `TASUKI_BLESS=1` writes it there anew, for a person to read before committing.

use std::path::{Path, PathBuf};

use tasuki_resources::check::check;
use tasuki_resources::{Severity, parse_documents};

fn documents() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faulty");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn each_document_yields_its_line() {
    let files = documents();
    assert!(files.len() >= 40);
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let problems: Vec<_> = parse_documents(name, &text)
            .into_iter()
            .flat_map(|d| d.problems)
            .collect();
        let found = problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" | ");
        let (first, rest) = text.split_once('\n').unwrap();
        if std::env::var_os("TASUKI_BLESS").is_some() {
            std::fs::write(&file, format!("# expect: {found}\n{rest}")).unwrap();
            continue;
        }
        if first.strip_prefix("# expect: ") != Some(&found) {
            wrong.push(format!(
                "{name}\n  expected {first}\n  found    # expect: {found}"
            ));
        }
        assert_eq!(problems.len(), 1, "{name}: one mistake, one line: {found}");
        let problem = &problems[0];
        assert_eq!(problem.severity, Severity::Error, "{name}");
        assert!(
            problem.line.is_some_and(|line| line > 1),
            "{name}: the comment is line 1"
        );
        let nameless = ["syntax-", "document-"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        assert!(
            nameless || (problem.object.is_some() && !problem.field.is_empty()),
            "{name}"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The folder as a whole, as `tasuki check` sees it: as many lines as files, one of each.
#[test]
fn the_folder_yields_a_line_per_document() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faulty");
    let problems: Vec<_> = check(&[folder])
        .into_iter()
        .filter(|p| p.severity == Severity::Error)
        .collect();
    let files: Vec<_> = documents()
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let reported: Vec<_> = problems.iter().map(|p| p.file.clone()).collect();
    assert_eq!(reported, files);
}
