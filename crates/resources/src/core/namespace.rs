//! `v1 Namespace`.

use crate::fields::Fields;
use crate::object::Metadata;

/// Label by which a namespace has sidecars injected into its pods.
const INJECT_LABEL: &str = "tasuki.dev/inject";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub meta: Metadata,
}

/// Never refuses one. A label that nobody acts on is told: pods would come without a sidecar, and without a word.
pub(crate) fn read(root: &Fields<'_>, meta: Metadata) -> Namespace {
    let metadata = root.get("metadata").and_then(|v| v.fields());
    let labels = metadata.and_then(|fields| fields.get("labels")?.fields());
    if let Some(value) = labels.and_then(|labels| labels.get(INJECT_LABEL)) {
        let said = meta.labels.get(INJECT_LABEL).map(String::as_str);
        if !matches!(said, Some("enabled" | "disabled")) {
            value.warn(
                format!(
                    "{:?} has no effect: pods get no sidecar by it",
                    said.unwrap_or_default()
                ),
                "write enabled or disabled",
            );
        }
    }
    Namespace { meta }
}

#[cfg(test)]
mod tests {
    use crate::parse_json;

    #[test]
    fn a_label_that_nobody_acts_on_is_told() {
        for (value, told) in [
            ("enabled", false),
            ("disabled", false),
            ("true", true),
            ("", true),
        ] {
            let documents = parse_json(&serde_json::json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": "shop", "labels": {"tasuki.dev/inject": value, "a": "b"}},
            }));
            assert!(documents[0].object.is_some());
            let problems: Vec<String> = documents[0]
                .problems
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(problems.len(), usize::from(told), "{value}: {problems:?}");
            if let Some(problem) = problems.first() {
                for part in [
                    "Namespace shop",
                    "metadata.labels",
                    "tasuki.dev/inject",
                    value,
                    "write enabled or disabled",
                ] {
                    assert!(problem.contains(part), "{problem}");
                }
                assert!(!documents[0].problems[0].is_error());
            }
        }
    }
}
