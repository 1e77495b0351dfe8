//! Documents that users write, as YAML and as JSON: whatever the bytes, parsing returns, and an object comes without errors.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tasuki_resources::check::check_texts;
use tasuki_resources::parse_documents;

fuzz_target!(|text: &str| {
    for path in ["fuzz.yaml", "fuzz.json"] {
        for document in parse_documents(path, text) {
            let errors = document.problems.iter().any(|problem| problem.is_error());
            assert_eq!(document.object.is_none(), errors);
            assert!(!document.unreadable || document.object.is_none());
            assert!(document.stand_in.is_none() || document.object.is_none());
        }
    }
    check_texts(&[("fuzz.yaml".to_owned(), text.to_owned())]);
});
