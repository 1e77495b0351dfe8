//! Paths of requests: the form that policies match is a fixed point, has no dot segments, and where it is unambiguous
//! no server can decode it into other segments.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tasuki_proxy::authorize::path::{Strictness, canonical};

fuzz_target!(|path: &str| {
    for strictness in [Strictness::Base, Strictness::Unambiguous] {
        let Ok(once) = canonical(path, strictness) else {
            continue;
        };
        let only_path = once.split('?').next().unwrap_or_default();
        if only_path.starts_with('/') {
            assert!(
                !only_path
                    .split('/')
                    .any(|segment| segment == "." || segment == ".."),
                "{path:?} became {once:?}"
            );
        }
        if strictness == Strictness::Unambiguous {
            assert_eq!(
                canonical(&once, strictness).as_deref(),
                Ok(&*once),
                "{path:?}"
            );
            assert!(
                !only_path.contains("//") && !only_path.contains(['\\', ';', '\0']),
                "{path:?} became {once:?}"
            );
            let upper = only_path.to_ascii_uppercase();
            assert!(
                !["%2F", "%5C", "%00", "%3B", "%2E"]
                    .iter()
                    .any(|code| upper.contains(code)),
                "{path:?} became {once:?}"
            );
        }
    }
});
