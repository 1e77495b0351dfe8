//! On what of the mesh a resource depends, besides its configuration: of all that Pods and endpoints change, on one thing, which
//! its name says. What is remembered of a resource ([`super::memo`]) and which streams look again after a change
//! ([`Interest`]) both follow from this, and a test holds every resource against one made of nothing, after each of many random
//! changes (`crate::mesh`).

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use tasuki_resources::NamespacedName;
use tasuki_xds::model::ResourceType;
use tasuki_xds::model::listener::DeclaredProtocol;

use super::{Name, is_gateway};
use crate::ads::{Client, ClientKind, NsName};
use crate::mesh::names::split_host_port;
use crate::mesh::services::{Backends, JoinId};
use crate::mesh::workloads::Workload;
use crate::mesh::{Join, Mesh, Touched};

/// What a resource depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depends {
    /// Nothing that Pods change.
    Config,
    /// The endpoints of a service.
    Join(JoinId),
    /// The pod at this address, and what its port speaks if one is given.
    Address(IpAddr, Option<u16>),
    /// The client's own pod, and the services that lead to it.
    Own,
}

impl Depends {
    /// Of a resource that is no gateway's own.
    pub fn of(mesh: &Mesh, namespace: &str, ty: ResourceType, name: &str) -> Self {
        match ty {
            ResourceType::Cluster => Self::of_cluster(mesh, namespace, name),
            // Endpoints are the same whatever they speak.
            ResourceType::Endpoint => match Self::of_cluster(mesh, namespace, name) {
                Self::Address(address, _) => Self::Address(address, None),
                other => other,
            },
            ResourceType::Listener if name == "inbound" => Self::Own,
            ResourceType::Listener => match split_host_port(name) {
                Some((host, port)) => host
                    .parse()
                    .map_or(Self::Config, |ip| Self::Address(ip, Some(port))),
                None => Self::Config,
            },
            ResourceType::Departure => Self::Own,
            ResourceType::Route
            | ResourceType::ProxySettings
            | ResourceType::TrustBundle
            | ResourceType::Secret => Self::Config,
        }
    }

    fn of_cluster(mesh: &Mesh, namespace: &str, name: &str) -> Self {
        match Name::parse(name) {
            Some(Name::Outbound { host, .. } | Name::Plain { host, .. }) => {
                match mesh.services.exact(host, namespace).map(|s| &s.backends) {
                    Some(Backends::Known(join)) => Self::Join(*join),
                    Some(Backends::Dns { .. }) | None => Self::Config,
                }
            }
            Some(Name::Pod { address, port }) => Self::Address(address, Some(port)),
            Some(Name::Inbound { .. }) => Self::Own,
            Some(Name::Passthrough | Name::BlackHole) | None => Self::Config,
        }
    }

    /// What it is in this mesh. `None` for what only one client has.
    pub fn stamp(self, mesh: &Mesh) -> Option<Stamp> {
        Some(match self {
            Self::Config => Stamp::Config,
            Self::Join(join) => Stamp::Join(mesh.join_of(join).map(Arc::downgrade)),
            Self::Address(address, port) => {
                let workload = mesh.workloads.at(address);
                let asked = workload.zip(port);
                let protocol = asked.map(|(workload, port)| mesh.workload_port(workload, port));
                Stamp::Pod(workload.map(Arc::downgrade), protocol)
            }
            Self::Own => return None,
        })
    }
}

/// The very thing that a resource was made of. Weak: it is compared, and need not live for that; its place is not used again.
#[derive(Clone, Debug)]
pub enum Stamp {
    Config,
    Join(Option<Weak<Join>>),
    Pod(Option<Weak<Workload>>, Option<DeclaredProtocol>),
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Stamp::Config, Stamp::Config) => true,
            (Stamp::Join(one), Stamp::Join(other)) => is(one, other),
            (Stamp::Pod(one, this), Stamp::Pod(other, that)) => is(one, other) && this == that,
            (Stamp::Config | Stamp::Join(_) | Stamp::Pod(..), _) => false,
        }
    }
}

fn is<T>(one: &Option<Weak<T>>, other: &Option<Weak<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.ptr_eq(other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// All that one client follows.
#[derive(Debug, Default)]
pub struct Interest {
    /// What a gateway is sent are lists, and it routes to many services.
    everything: bool,
    joins: HashSet<JoinId>,
    addresses: HashSet<IpAddr>,
    pods: Vec<NamespacedName>,
}

impl Interest {
    /// Of a client that has asked for these names.
    pub fn of(mesh: &Mesh, client: &Client, names: &[(ResourceType, &str)]) -> Self {
        let mut interest = Self {
            everything: is_gateway(client),
            ..Self::default()
        };
        let own = match &client.kind {
            ClientKind::Sidecar { pod } => Some(pod),
            ClientKind::TasukiGateway { .. } | ClientKind::EnvoyGateway | ClientKind::Grpc => None,
        };
        let proven = client.proven.as_ref().map(|proven| &proven.name);
        for pod in own.into_iter().chain(&client.follows).chain(proven) {
            interest.add_pod(mesh, pod);
        }
        for (ty, name) in names {
            match Depends::of(mesh, &client.namespace, *ty, name) {
                Depends::Join(join) => drop(interest.joins.insert(join)),
                Depends::Address(address, _) => drop(interest.addresses.insert(address)),
                Depends::Config | Depends::Own => {}
            }
        }
        interest
    }

    fn add_pod(&mut self, mesh: &Mesh, pod: &NsName) {
        let name = NamespacedName::new(pod.namespace.clone(), pod.name.clone());
        if let Some(workload) = mesh.workload(&name) {
            self.addresses.extend(&workload.addresses);
        }
        self.pods.push(name);
    }

    /// Whether every change is one of interest.
    pub fn is_of_everything(&self) -> bool {
        self.everything
    }

    /// Whether a change may be one of what is followed.
    pub fn meets(&self, touched: &Touched) -> bool {
        self.everything
            || touched.everything
            || !touched.joins.is_disjoint(&self.joins)
            || self.pods.iter().any(|pod| touched.pods.contains(pod))
            || !touched.addresses.is_disjoint(&self.addresses)
    }
}
