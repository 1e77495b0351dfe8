//! An object as the API server sends it, on its way to `tasuki_resources::parse_json`. It is dropped once it is read.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tasuki_kubernetes::watched::Watched;
use tasuki_resources::{Document, NamespacedName, parse_json};

/// The whole object as JSON, and of its metadata what a watch needs.
#[derive(Clone, Debug)]
pub struct Wire {
    metadata: ObjectMeta,
    document: Value,
}

impl<'de> Deserialize<'de> for Wire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut document = Value::deserialize(deserializer)?;
        // Often most of an object, and of no use here.
        if let Some(Value::Object(metadata)) = document.get_mut("metadata") {
            metadata.remove("managedFields");
        }
        let text = |name: &str| {
            let value = document.get("metadata")?.get(name)?;
            Some(value.as_str()?.to_owned())
        };
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, document })
    }
}

impl Resource for Wire {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.kind)
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.group)
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.version)
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        Cow::Borrowed(&of.plural)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Wire {
    /// The namespace is empty for what has none.
    pub fn name(&self) -> NamespacedName {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        NamespacedName::new(text(&self.metadata.namespace), text(&self.metadata.name))
    }

    /// What it declares. The items of a list do not say what they are, so that is said for them.
    pub fn read(mut self, watched: &Watched, version: &str) -> Option<Document> {
        if let Value::Object(fields) = &mut self.document {
            fields
                .entry("apiVersion")
                .or_insert_with(|| watched.api_version(version).into());
            fields
                .entry("kind")
                .or_insert_with(|| watched.kind.as_str().into());
        }
        parse_json(&self.document).into_iter().next()
    }
}

/// The resource in that version, as requests need it.
pub fn api_resource(watched: &Watched, version: &str) -> ApiResource {
    ApiResource {
        group: watched.group.to_owned(),
        version: version.to_owned(),
        api_version: watched.api_version(version),
        kind: watched.kind.as_str().to_owned(),
        plural: watched.plural.to_owned(),
    }
}
