//! The registry of hosts: Kubernetes Services and ServiceEntries in one form, found by host and by address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tasuki_resources::{Cidr, ExportTo, Host};
use tasuki_xds::model::cluster::ServiceRef;
use tasuki_xds::model::endpoint::Endpoint;
use tasuki_xds::model::listener::DeclaredProtocol;

use super::names;

/// Something with a host name that can be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Canonical host; may start with `*` for a ServiceEntry.
    pub host: String,
    pub pattern: Host,
    pub name: String,
    pub namespace: String,
    pub origin: Origin,
    /// Virtual addresses: ClusterIPs, or the ServiceEntry's `addresses`. Empty for headless services.
    pub addresses: Vec<IpAddr>,
    /// Address ranges of a ServiceEntry.
    pub ranges: Vec<Cidr>,
    pub ports: Vec<ServicePort>,
    pub exported: ExportTo,
    pub backends: Backends,
}

/// What declared the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Kubernetes,
    ServiceEntry,
}

/// One port, by the number that clients use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub number: u16,
    pub name: String,
    pub protocol: DeclaredProtocol,
}

/// Where the service runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Backends {
    /// Known endpoints, by service port.
    Known(BTreeMap<u16, Vec<Backend>>),
    /// Names that the proxy resolves, by service port.
    Dns {
        hosts: BTreeMap<u16, Vec<(String, u16)>>,
        refresh: Duration,
    },
}

/// One endpoint of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub endpoint: Endpoint,
    /// What subsets select by.
    pub labels: BTreeMap<String, String>,
    /// `region/zone/subzone`.
    pub locality: String,
}

impl Service {
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Known endpoints of a port; empty for names that the proxy resolves.
    pub fn backends(&self, port: u16) -> &[Backend] {
        match &self.backends {
            Backends::Known(by_port) => by_port.get(&port).map_or(&[], Vec::as_slice),
            Backends::Dns { .. } => &[],
        }
    }

    /// For metrics.
    pub fn reference(&self) -> ServiceRef {
        ServiceRef {
            host: self.host.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
        }
    }
}

/// All services.
#[derive(Clone, Debug, Default)]
pub struct Services {
    by_host: BTreeMap<String, Arc<Service>>,
    wildcards: Vec<Arc<Service>>,
    by_address: HashMap<IpAddr, Vec<Arc<Service>>>,
    ranges: Vec<(Cidr, Arc<Service>)>,
    /// Endpoints of ServiceEntries that have no address of their own.
    by_endpoint: HashMap<(IpAddr, u16), (Arc<Service>, u16)>,
}

/// Why a service could not be registered as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    pub host: String,
    pub loser: String,
    pub winner: String,
}

impl Services {
    /// The first to claim a host has it.
    pub fn new(services: impl IntoIterator<Item = Service>) -> (Self, Vec<Duplicate>) {
        let mut all = Self::default();
        let mut duplicates = Vec::new();
        for service in services {
            if let Some(winner) = all.by_host.get(&service.host) {
                duplicates.push(Duplicate {
                    host: service.host.clone(),
                    loser: format!("{}/{}", service.namespace, service.name),
                    winner: format!("{}/{}", winner.namespace, winner.name),
                });
                continue;
            }
            all.insert(Arc::new(service));
        }
        // The longest suffix is the most specific.
        all.wildcards.sort_by(|a, b| {
            b.host
                .len()
                .cmp(&a.host.len())
                .then_with(|| a.host.cmp(&b.host))
        });
        all.ranges
            .sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len));
        (all, duplicates)
    }

    fn insert(&mut self, service: Arc<Service>) {
        for address in &service.addresses {
            self.by_address
                .entry(*address)
                .or_default()
                .push(service.clone());
        }
        for range in &service.ranges {
            self.ranges.push((*range, service.clone()));
        }
        if service.origin == Origin::ServiceEntry
            && service.addresses.is_empty()
            && service.ranges.is_empty()
        {
            for port in &service.ports {
                for backend in service.backends(port.number) {
                    let address = backend.endpoint.address;
                    self.by_endpoint
                        .entry((address.ip(), address.port()))
                        .or_insert_with(|| (service.clone(), port.number));
                }
            }
        }
        if service.pattern.is_wildcard() {
            self.wildcards.push(service.clone());
        }
        self.by_host.insert(service.host.clone(), service);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_host.values()
    }

    /// The service whose host is exactly this one.
    pub fn exact(&self, host: &str) -> Option<&Arc<Service>> {
        self.by_host.get(host)
    }

    /// The service that a resource of `namespace` means by its fully qualified destination `host`.
    pub fn destination(&self, host: &str, namespace: &str) -> Option<&Arc<Service>> {
        let visible = |service: &&Arc<Service>| service.exported.includes(namespace);
        self.by_host.get(host).filter(visible).or_else(|| {
            self.wildcards
                .iter()
                .filter(visible)
                .find(|s| s.pattern.matches(host))
        })
    }

    /// The service that an application in the namespace `viewer` means by `host`.
    pub fn find(&self, host: &str, viewer: &str) -> Option<&Arc<Service>> {
        for candidate in names::candidates(host, viewer) {
            if let Some(service) = self
                .by_host
                .get(&candidate)
                .filter(|s| s.exported.includes(viewer))
            {
                return Some(service);
            }
        }
        self.wildcards
            .iter()
            .find(|s| s.exported.includes(viewer) && s.pattern.matches(host))
    }

    /// The service that owns a virtual address and listens on this port.
    pub fn at(&self, address: IpAddr, port: u16, viewer: &str) -> Option<&Arc<Service>> {
        let usable = |service: &&Arc<Service>| {
            service.exported.includes(viewer) && service.port(port).is_some()
        };
        if let Some(found) = self
            .by_address
            .get(&address)
            .and_then(|list| list.iter().find(usable))
        {
            return Some(found);
        }
        self.ranges
            .iter()
            .filter(|(range, _)| range.contains(address))
            .map(|(_, service)| service)
            .find(usable)
    }

    /// The external service, and its port, one of whose endpoints this address is.
    pub fn at_endpoint(
        &self,
        address: IpAddr,
        port: u16,
        viewer: &str,
    ) -> Option<(&Arc<Service>, u16)> {
        self.by_endpoint
            .get(&(address, port))
            .filter(|(service, _)| service.exported.includes(viewer))
            .map(|(service, port)| (service, *port))
    }
}
