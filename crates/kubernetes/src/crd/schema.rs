//! A notation for structural schemas: types and the words that are allowed, nothing that our own validation says better.
//!
//! Every object keeps the fields that it does not know. The API server would otherwise drop a misspelt field, or refuse it in
//! words of its own, before our validation can name the object, the field and the one that was meant. For the same reason no
//! field is required and no number bounded here.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// The schema of one value.
pub type Schema = JSONSchemaProps;

/// A mapping with these fields, and any others.
pub fn object<const N: usize>(fields: [(&str, Schema); N]) -> Schema {
    let properties = fields.map(|(name, schema)| (name.to_owned(), schema));
    Schema {
        properties: (N > 0).then(|| BTreeMap::from(properties)),
        x_kubernetes_preserve_unknown_fields: Some(true),
        ..typed("object")
    }
}

/// An object with further fields.
pub fn extended<const N: usize>(base: Schema, fields: [(&str, Schema); N]) -> Schema {
    let mut properties = base.properties.unwrap_or_default();
    properties.extend(fields.map(|(name, schema)| (name.to_owned(), schema)));
    Schema {
        properties: Some(properties),
        ..base
    }
}

/// A mapping whose keys are the user's own.
pub fn map(value: Schema) -> Schema {
    Schema {
        additional_properties: Some(JSONSchemaPropsOrBool::Schema(Box::new(value))),
        ..typed("object")
    }
}

pub fn list(item: Schema) -> Schema {
    Schema {
        items: Some(JSONSchemaPropsOrArray::Schema(Box::new(item))),
        ..typed("array")
    }
}

pub fn text() -> Schema {
    typed("string")
}

pub fn texts() -> Schema {
    list(text())
}

/// A map of strings: labels, headers.
pub fn text_map() -> Schema {
    map(text())
}

/// `300ms`, `5s`, `1h30m`.
pub fn duration() -> Schema {
    text()
}

/// One of several words.
pub fn choice(words: &[&str]) -> Schema {
    let word = |word: &&str| JSON(serde_json::Value::String((*word).to_owned()));
    Schema {
        enum_: Some(words.iter().map(word).collect()),
        ..text()
    }
}

pub fn boolean() -> Schema {
    typed("boolean")
}

pub fn integer() -> Schema {
    typed("integer")
}

pub fn number() -> Schema {
    typed("number")
}

/// `2`, `0.5`, `100m`, `128Mi`: a number is as good as a string, as in Kubernetes' own kinds. A structural schema has no words
/// for that (`x-kubernetes-int-or-string` refuses `0.5`), so here is anything, and our own validation names what is wrong.
pub fn quantity() -> Schema {
    Schema {
        x_kubernetes_preserve_unknown_fields: Some(true),
        ..Schema::default()
    }
}

/// The same with a sentence for `kubectl explain`.
pub fn says(description: &str, schema: Schema) -> Schema {
    Schema {
        description: Some(description.to_owned()),
        ..schema
    }
}

fn typed(name: &str) -> Schema {
    Schema {
        type_: Some(name.to_owned()),
        ..Schema::default()
    }
}
