//! `filter_metadata`: the plain structs in which our facts travel where Envoy has no field for them.
//!
//! Never `typed_filter_metadata`: an `Any` that Envoy does not know empties its `/config_dump`.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};

use super::field::{Fault, Read};
use crate::model::endpoint::WorkloadRef;

/// Key of what only Tasuki reads.
pub(super) const TASUKI: &str = "tasuki";

#[derive(Default)]
pub(super) struct Builder(HashMap<String, Struct>);

impl Builder {
    pub(super) fn set(&mut self, key: &str, field: &str, value: Value) {
        self.0
            .entry(key.to_owned())
            .or_default()
            .fields
            .insert(field.to_owned(), value);
    }

    pub(super) fn build(self) -> Option<Metadata> {
        if self.0.is_empty() {
            return None;
        }
        Some(Metadata {
            filter_metadata: self.0,
            ..Metadata::default()
        })
    }
}

pub(super) fn text(value: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.into())),
    }
}

pub(super) fn number(value: u32) -> Value {
    Value {
        kind: Some(Kind::NumberValue(f64::from(value))),
    }
}

pub(super) fn list(values: impl IntoIterator<Item = Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue {
            values: values.into_iter().collect(),
        })),
    }
}

/// Empty strings are left out; they mean unknown.
pub(super) fn record<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let fields = fields
        .into_iter()
        .filter(|(_, v)| !v.is_empty())
        .map(|(k, v)| (k.to_owned(), text(v)))
        .collect();
    Value {
        kind: Some(Kind::StructValue(Struct { fields })),
    }
}

/// The value at `metadata[key].field`. Metadata of other owners is none of our business.
pub(super) fn find<'a>(
    metadata: Option<&'a Metadata>,
    key: &str,
    field: &str,
) -> Option<&'a Value> {
    metadata?.filter_metadata.get(key)?.fields.get(field)
}

pub(super) fn read_text(field: &str, value: &Value) -> Read<String> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Ok(text.clone()),
        _ => Err(Fault::new(field, "not a string")),
    }
}

pub(super) fn read_number(field: &str, value: &Value) -> Read<u32> {
    match value.kind {
        Some(Kind::NumberValue(n))
            if n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&n) =>
        {
            Ok(n as u32)
        }
        _ => Err(Fault::new(field, "not an unsigned integer")),
    }
}

pub(super) fn read_list<'a>(field: &str, value: &'a Value) -> Read<&'a [Value]> {
    match &value.kind {
        Some(Kind::ListValue(ListValue { values })) => Ok(values),
        _ => Err(Fault::new(field, "not a list")),
    }
}

/// A string field of a struct value; empty when absent.
pub(super) fn member(value: &Value, field: &str) -> Read<String> {
    match &value.kind {
        Some(Kind::StructValue(Struct { fields })) => fields
            .get(field)
            .map_or(Ok(String::new()), |v| read_text(field, v)),
        _ => Err(Fault::new("", "not a struct")),
    }
}

pub(super) fn workload(of: &WorkloadRef) -> Value {
    let WorkloadRef {
        name,
        namespace,
        service_account,
        app,
        version,
        canonical_service,
        canonical_revision,
        cluster,
    } = of;
    record([
        ("name", name.as_str()),
        ("namespace", namespace),
        ("serviceAccount", service_account),
        ("app", app),
        ("version", version),
        ("canonicalService", canonical_service),
        ("canonicalRevision", canonical_revision),
        ("cluster", cluster),
    ])
}

pub(super) fn read_workload(value: &Value) -> Read<WorkloadRef> {
    Ok(WorkloadRef {
        name: member(value, "name")?,
        namespace: member(value, "namespace")?,
        service_account: member(value, "serviceAccount")?,
        app: member(value, "app")?,
        version: member(value, "version")?,
        canonical_service: member(value, "canonicalService")?,
        canonical_revision: member(value, "canonicalRevision")?,
        cluster: member(value, "cluster")?,
    })
}
