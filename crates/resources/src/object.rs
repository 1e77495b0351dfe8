//! Objects and their identity, whatever their kind.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use crate::{
    AuthorizationPolicy, DestinationRule, EndpointSlice, Gateway, MeshSettings, Namespace,
    PeerAuthentication, Pod, Service, ServiceEntry, VirtualService,
};

/// The namespace of a namespaced object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A validated object of one of the kinds the mesh reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Service(Service),
    Pod(Pod),
    EndpointSlice(EndpointSlice),
    Namespace(Namespace),
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
    AuthorizationPolicy(AuthorizationPolicy),
    PeerAuthentication(PeerAuthentication),
    ServiceEntry(ServiceEntry),
    Gateway(Gateway),
    MeshSettings(MeshSettings),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Object::Service(_) => Kind::Service,
            Object::Pod(_) => Kind::Pod,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Namespace(_) => Kind::Namespace,
            Object::VirtualService(_) => Kind::VirtualService,
            Object::DestinationRule(_) => Kind::DestinationRule,
            Object::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Object::PeerAuthentication(_) => Kind::PeerAuthentication,
            Object::ServiceEntry(_) => Kind::ServiceEntry,
            Object::Gateway(_) => Kind::Gateway,
            Object::MeshSettings(_) => Kind::MeshSettings,
        }
    }

    pub fn meta(&self) -> &Metadata {
        match self {
            Object::Service(o) => &o.meta,
            Object::Pod(o) => &o.meta,
            Object::EndpointSlice(o) => &o.meta,
            Object::Namespace(o) => &o.meta,
            Object::VirtualService(o) => &o.meta,
            Object::DestinationRule(o) => &o.meta,
            Object::AuthorizationPolicy(o) => &o.meta,
            Object::PeerAuthentication(o) => &o.meta,
            Object::ServiceEntry(o) => &o.meta,
            Object::Gateway(o) => &o.meta,
            Object::MeshSettings(o) => &o.meta,
        }
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            kind: self.kind(),
            namespace: self.meta().name.namespace.clone(),
            name: self.meta().name.name.clone(),
        }
    }
}

/// The kinds that [`Object`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Service,
    Pod,
    EndpointSlice,
    Namespace,
    VirtualService,
    DestinationRule,
    AuthorizationPolicy,
    PeerAuthentication,
    ServiceEntry,
    Gateway,
    MeshSettings,
}

impl Kind {
    /// The kind's name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::Pod => "Pod",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Namespace => "Namespace",
            Kind::VirtualService => "VirtualService",
            Kind::DestinationRule => "DestinationRule",
            Kind::AuthorizationPolicy => "AuthorizationPolicy",
            Kind::PeerAuthentication => "PeerAuthentication",
            Kind::ServiceEntry => "ServiceEntry",
            Kind::Gateway => "Gateway",
            Kind::MeshSettings => "MeshSettings",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What makes an object the same object: kind, namespace (empty for a Namespace) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectKey {
    /// `VirtualService shop/cart`, `Namespace shop`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A name in a namespace; written `NAMESPACE/NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    pub namespace: String,
    pub name: String,
}

impl NamespacedName {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Reads `NAMESPACE/NAME`; `None` unless both are there and there is one slash.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        let well_formed = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
        well_formed.then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What every object carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Namespace (empty only for a Namespace object) and name.
    pub name: NamespacedName,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `creationTimestamp`; files usually have none.
    pub created: Option<SystemTime>,
    pub uid: Option<String>,
    /// `deletionTimestamp` is set: the object is on its way out.
    pub deleting: bool,
}

impl Metadata {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// Orders by age, oldest first; those without a timestamp after those with one; ties by namespace, then name.
    pub fn age_key(&self) -> (bool, Option<SystemTime>, &NamespacedName) {
        (self.created.is_none(), self.created, &self.name)
    }
}
