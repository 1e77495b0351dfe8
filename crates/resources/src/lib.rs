//! What users write: the Kubernetes core kinds that the mesh reads, Istio's kinds and our own, as types that cannot be wrong.
//!
//! Text enters through [`parse_documents`] (YAML or JSON, many documents a file) or [`parse_json`] (one object of the
//! Kubernetes API); each document becomes a validated [`Object`] or [`Problem`]s that name file, line, object, field, reason
//! and what would be right. [`check`] adds what only several objects together show. Nothing here knows of xDS or sockets.

pub mod authorization_policy;
pub mod check;
pub mod cidr;
pub mod core;
pub mod destination_rule;
pub mod documents;
mod duration;
pub mod export;
mod fields;
pub mod gateway;
pub mod host;
pub mod labels;
pub mod mesh_settings;
mod node;
pub mod object;
pub mod peer_authentication;
pub mod problem;
pub mod protocol;
pub mod quantity;
pub mod service_entry;
pub mod virtual_service;

pub use authorization_policy::AuthorizationPolicy;
pub use cidr::Cidr;
pub use core::endpoint_slice::EndpointSlice;
pub use core::namespace::Namespace;
pub use core::pod::Pod;
pub use core::service::Service;
pub use destination_rule::DestinationRule;
pub use documents::{Document, parse_documents, parse_json};
pub use export::ExportTo;
pub use gateway::Gateway;
pub use host::Host;
pub use mesh_settings::MeshSettings;
pub use object::{Kind, Metadata, NamespacedName, Object, ObjectKey};
pub use peer_authentication::PeerAuthentication;
pub use problem::{Problem, Severity};
pub use protocol::PortProtocol;
pub use quantity::Quantity;
pub use service_entry::ServiceEntry;
pub use virtual_service::VirtualService;
