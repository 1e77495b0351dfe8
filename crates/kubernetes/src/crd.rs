//! The CustomResourceDefinitions of the kinds that Tasuki reads: our own, and Istio's for clusters that do not have them.
//!
//! Istio's kinds have Istio's names, versions and fields, so that either's definitions can follow the other's. Where they
//! are defined already, they stay as they are: see [`may_apply`].

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, CustomResourceValidation,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tasuki_resources::Kind;

use crate::names;
use crate::watched::{WATCHED, Watched};

mod edges;
mod mesh_settings;
mod schema;
mod security;
mod traffic_policy;
mod virtual_service;

use schema::{Schema, object, says};

/// What sets a kind apart, beside its names and versions.
struct Definition {
    short_names: &'static [&'static str],
    description: &'static str,
    /// What `kubectl get` shows between name and age: title and path.
    columns: &'static [(&'static str, &'static str)],
    spec: Schema,
}

/// All definitions, in the order of [`WATCHED`].
pub fn all() -> Vec<CustomResourceDefinition> {
    let kinds = WATCHED.iter();
    kinds
        .filter_map(|watched| Some(built(watched, definition(watched.kind)?)))
        .collect()
}

/// Whether `install` may write a definition where `existing` is: those that another has brought stay.
pub fn may_apply(existing: Option<&CustomResourceDefinition>) -> bool {
    existing.is_none_or(|existing| {
        let labels = existing.metadata.labels.as_ref();
        labels.is_some_and(|labels| {
            let owner = labels.get(names::PART_OF_LABEL);
            owner.is_some_and(|owner| owner == names::PART_OF)
        })
    })
}

/// `None` for the kinds that Kubernetes has itself.
fn definition(kind: Kind) -> Option<Definition> {
    let (short_names, description, columns, spec): (_, _, &'static [_], _) = match kind {
        Kind::Service | Kind::Pod | Kind::EndpointSlice | Kind::Namespace => return None,
        Kind::VirtualService => (
            &["vs"][..],
            "Where requests for a host go.",
            &[("Gateways", ".spec.gateways"), ("Hosts", ".spec.hosts")],
            virtual_service::spec(),
        ),
        Kind::DestinationRule => (
            &["dr"][..],
            "How a host is spoken to once it is chosen, and its subsets.",
            &[("Host", ".spec.host")],
            traffic_policy::destination_rule(),
        ),
        Kind::ServiceEntry => (
            &["se"][..],
            "A host that Kubernetes does not know as a Service.",
            &[
                ("Hosts", ".spec.hosts"),
                ("Location", ".spec.location"),
                ("Resolution", ".spec.resolution"),
            ],
            edges::service_entry(),
        ),
        Kind::Gateway => (
            &["gw"][..],
            "Ports at which traffic enters or leaves the mesh.",
            &[],
            edges::gateway(),
        ),
        Kind::AuthorizationPolicy => (
            &["ap"][..],
            "Who may call a workload.",
            &[("Action", ".spec.action")],
            security::authorization_policy(),
        ),
        Kind::PeerAuthentication => (
            &["pa"][..],
            "Whether a workload asks its callers for mTLS.",
            &[("Mode", ".spec.mtls.mode")],
            security::peer_authentication(),
        ),
        Kind::MeshSettings => (
            &[][..],
            "What is the same for the whole mesh; the one called default in the root namespace counts.",
            &[
                ("Outbound", ".spec.outboundTrafficPolicy"),
                ("Certificates", ".spec.certificateTtl"),
            ],
            mesh_settings::spec(),
        ),
    };
    Some(Definition {
        short_names,
        description,
        columns,
        spec,
    })
}

fn built(watched: &Watched, definition: Definition) -> CustomResourceDefinition {
    let kind = watched.kind.as_str();
    let strings = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
    let short_names = (!definition.short_names.is_empty()).then(|| strings(definition.short_names));
    // The first version is stored, as Istio stores it: what one wrote the other's definitions read.
    let versions = watched.versions.iter().enumerate();
    CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(watched.full_name()),
            labels: Some(BTreeMap::from([(
                names::PART_OF_LABEL.to_owned(),
                names::PART_OF.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: watched.group.to_owned(),
            names: CustomResourceDefinitionNames {
                categories: None,
                kind: kind.to_owned(),
                list_kind: Some(format!("{kind}List")),
                plural: watched.plural.to_owned(),
                short_names,
                singular: Some(kind.to_lowercase()),
            },
            scope: "Namespaced".to_owned(),
            versions: versions
                .map(|(index, name)| version(name, index == 0, &definition))
                .collect(),
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    }
}

fn version(name: &str, storage: bool, definition: &Definition) -> CustomResourceDefinitionVersion {
    let status = says("Not read.", object([]));
    let schema = object([("spec", definition.spec.clone()), ("status", status)]);
    let column = |title: &str, path: &str, type_: &str| CustomResourceColumnDefinition {
        name: title.to_owned(),
        json_path: path.to_owned(),
        type_: type_.to_owned(),
        ..CustomResourceColumnDefinition::default()
    };
    let mut columns: Vec<_> = definition
        .columns
        .iter()
        .map(|(title, path)| column(title, path, "string"))
        .collect();
    columns.push(column("Age", ".metadata.creationTimestamp", "date"));
    CustomResourceDefinitionVersion {
        name: name.to_owned(),
        served: true,
        storage,
        schema: Some(CustomResourceValidation {
            open_api_v3_schema: Some(says(definition.description, schema)),
        }),
        subresources: Some(CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus(serde_json::json!({}))),
            scale: None,
        }),
        additional_printer_columns: Some(columns),
        ..CustomResourceDefinitionVersion::default()
    }
}

#[cfg(test)]
mod tests;
