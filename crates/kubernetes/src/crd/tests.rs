//! The definitions as such, and as the chart has them. `UPDATE=1 cargo test -p tasuki-kubernetes crd` writes the chart anew.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

/// Below the repository's root.
const CHART: &str = "deploy/tasuki-crds/templates";

fn templates() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(CHART)
}

/// A definition as the chart's template: rendered unless another has brought it; kept when the release goes.
fn template(definition: &CustomResourceDefinition) -> String {
    let name = definition.metadata.name.as_deref().unwrap();
    let mut kept = definition.clone();
    let annotation = ("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    kept.metadata.annotations = Some(BTreeMap::from([annotation]));
    let yaml = serde_saphyr::to_string(&kept).unwrap();
    format!(
        "{{{{- /* Generated from crates/kubernetes/src/crd.rs; do not edit. */}}}}\n\
         {{{{- if include \"tasuki-crds.ours\" \"{name}\" }}}}\n{}\n{{{{- end }}}}\n",
        yaml.trim_end()
    )
}

#[test]
fn the_chart_is_what_is_generated() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut expected = Vec::new();
    for definition in all() {
        let file = format!("{}.yaml", definition.metadata.name.as_deref().unwrap());
        let path = templates().join(&file);
        let text = template(&definition);
        if update {
            fs::write(&path, &text).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{CHART}/{file} is out of date: run with UPDATE=1"
        );
        expected.push(file);
    }
    let present = fs::read_dir(templates()).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.ends_with(".yaml").then_some(name)
    });
    let mut present: Vec<_> = present.collect();
    present.sort();
    expected.sort();
    assert_eq!(present, expected);
}

#[test]
fn names_are_those_of_the_kinds() {
    let names: Vec<_> = all()
        .iter()
        .map(|definition| definition.metadata.name.clone().unwrap())
        .collect();
    let custom = WATCHED.iter().filter(|watched| watched.custom);
    let wanted: Vec<_> = custom.map(Watched::full_name).collect();
    assert_eq!(names, wanted);
    for definition in all() {
        let stored = definition.spec.versions.iter().filter(|v| v.storage);
        assert_eq!(stored.count(), 1);
        assert!(definition.spec.versions[0].storage);
    }
}

/// What the API server checks of a structural schema, as far as this notation could get it wrong.
fn structural(schema: &Value, path: &str) {
    let is = |name: &str| schema["type"] == name;
    let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
    // A quantity: anything.
    if schema.get("type").is_none() && keeps {
        return;
    }
    assert!(schema["type"].is_string(), "{path} has no type");
    match (schema.get("properties"), schema.get("additionalProperties")) {
        (Some(_), Some(_)) => panic!("{path} has both"),
        (Some(properties), None) => {
            assert!(keeps, "{path} drops what it does not know");
            for (name, property) in properties.as_object().unwrap() {
                structural(property, &format!("{path}.{name}"));
            }
        }
        (None, Some(value)) => structural(value, &format!("{path}.*")),
        (None, None) => assert!(!is("object") || keeps, "{path} drops everything"),
    }
    assert_eq!(schema.get("items").is_some(), is("array"), "{path}");
    if let Some(items) = schema.get("items") {
        structural(items, &format!("{path}[]"));
    }
}

#[test]
fn schemas_are_structural_and_keep_what_they_do_not_know() {
    for definition in all() {
        for version in serde_json::to_value(&definition).unwrap()["spec"]["versions"]
            .as_array()
            .unwrap()
        {
            let schema = &version["schema"]["openAPIV3Schema"];
            structural(schema, definition.metadata.name.as_deref().unwrap());
            assert!(schema["properties"]["spec"]["properties"].is_object());
        }
    }
}

/// Every field that the schema has at `path`, with a value of its type.
fn sample(schema: &Value) -> Value {
    if let Some(words) = schema["enum"].as_array() {
        return words[0].clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            Value::Object(properties.map(|(k, v)| (k.clone(), sample(v))).collect())
        }
        Some("array") => json!([sample(&schema["items"])]),
        Some("boolean") => json!(true),
        Some("integer" | "number") => json!(1),
        _ => json!("1"),
    }
}

/// A name that the schema has and our validation does not know would be a slip in one of them.
#[test]
fn our_validation_knows_every_field() {
    for (definition, watched) in all().iter().zip(WATCHED.iter().filter(|w| w.custom)) {
        let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
        let object = json!({
            "apiVersion": watched.api_version(watched.versions[0]),
            "kind": watched.kind.as_str(),
            "metadata": {"name": "default"},
            "spec": sample(spec),
        });
        for problem in tasuki_resources::parse_json(&object).remove(0).problems {
            assert_ne!(problem.reason, "unknown field", "{problem}");
            assert!(!problem.reason.contains("is wanted"), "{problem}");
        }
    }
}

#[test]
fn what_another_has_brought_stays() {
    let mut definition = all().remove(0);
    assert!(may_apply(None));
    assert!(may_apply(Some(&definition)));
    definition.metadata.labels = None;
    assert!(!may_apply(Some(&definition)));
    let label = (names::PART_OF_LABEL.to_owned(), "istio".to_owned());
    definition.metadata.labels = Some(BTreeMap::from([label]));
    assert!(!may_apply(Some(&definition)));
}
