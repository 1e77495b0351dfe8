//! The registry of hosts: Kubernetes Services and ServiceEntries in one form, found by host and by address.
//!
//! A host may be declared several times as long as no client sees two: private ServiceEntries of different
//! namespaces, or a private one beside the public one. A client's own namespace comes first.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
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
    /// Addresses of a ServiceEntry's endpoints, each with the port of which it is one.
    pub literals: Vec<(SocketAddr, u16)>,
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
    /// Known endpoints: `Mesh::backends`.
    Known(JoinId),
    /// Names that the proxy resolves, by service port.
    Dns {
        hosts: BTreeMap<u16, Vec<(String, u16)>>,
        refresh: Duration,
    },
}

/// Which of the joins of endpoints; a number of one configuration (`super::config`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JoinId(pub(super) usize);

/// One endpoint of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub endpoint: Endpoint,
    /// What subsets select by.
    pub labels: BTreeMap<String, String>,
    /// `region/zone/subzone`.
    pub locality: String,
    /// Its sidecar takes nothing but mesh TLS on this port.
    pub strict: bool,
}

impl Service {
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
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
    /// In the order in which they were declared; never empty.
    by_host: BTreeMap<String, Vec<Arc<Service>>>,
    wildcards: Vec<Arc<Service>>,
    by_address: HashMap<IpAddr, Vec<Arc<Service>>>,
    ranges: Vec<(Cidr, Arc<Service>)>,
    /// Endpoints of ServiceEntries that have no address of their own.
    by_endpoint: HashMap<(IpAddr, u16), Vec<EntryPort>>,
    /// The hosts of a ServiceEntry have the same endpoints.
    by_join: HashMap<JoinId, Vec<Arc<Service>>>,
}

/// A service, and its port.
type EntryPort = (Arc<Service>, u16);

/// Why a service could not be registered as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    pub host: String,
    pub loser: String,
    pub winner: String,
}

impl Services {
    /// The first to claim a host has it, wherever it is visible.
    pub fn new(services: impl IntoIterator<Item = Service>) -> (Self, Vec<Duplicate>) {
        let mut all = Self::default();
        let mut duplicates = Vec::new();
        for service in services {
            if let Some(winner) = all.rival(&service) {
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

    /// A service of the same host that leaves no room for this one.
    fn rival(&self, service: &Service) -> Option<&Arc<Service>> {
        let mut declared = self.by_host.get(&service.host).into_iter().flatten();
        declared.find(|other| {
            other.origin == Origin::Kubernetes || competes(&other.exported, &service.exported)
        })
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
            for (address, port) in &service.literals {
                self.by_endpoint
                    .entry((address.ip(), address.port()))
                    .or_default()
                    .push((service.clone(), *port));
            }
        }
        if let Backends::Known(join) = service.backends {
            self.by_join.entry(join).or_default().push(service.clone());
        }
        if service.pattern.is_wildcard() {
            self.wildcards.push(service.clone());
        }
        self.by_host
            .entry(service.host.clone())
            .or_default()
            .push(service);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_host.values().flatten()
    }

    /// The services that have the endpoints of one join.
    pub fn of_join(&self, join: JoinId) -> &[Arc<Service>] {
        self.by_join.get(&join).map_or(&[], Vec::as_slice)
    }

    /// The service whose host is exactly this one, for a client in `viewer`; one that is not exported there only if
    /// there is no other, since rules of other namespaces may lead to it.
    pub fn exact(&self, host: &str, viewer: &str) -> Option<&Arc<Service>> {
        self.visible(host, viewer)
            .or_else(|| self.by_host.get(host)?.first())
    }

    /// The service of exactly this host that `viewer` sees.
    fn visible(&self, host: &str, viewer: &str) -> Option<&Arc<Service>> {
        let declared = || {
            let all = self.by_host.get(host).into_iter().flatten();
            all.filter(|service| service.exported.includes(viewer))
        };
        declared()
            .find(|service| service.namespace == viewer)
            .or_else(|| declared().next())
    }

    /// The service with the longest wildcard for the host that `viewer` sees.
    fn covering(&self, host: &str, viewer: &str) -> Option<&Arc<Service>> {
        let found = self
            .wildcards
            .iter()
            .find(|service| service.exported.includes(viewer) && service.pattern.matches(host))?;
        self.visible(&found.host, viewer)
    }

    /// The service that a resource of `namespace` means by its fully qualified destination `host`.
    pub fn destination(&self, host: &str, namespace: &str) -> Option<&Arc<Service>> {
        self.visible(host, namespace)
            .or_else(|| self.covering(host, namespace))
    }

    /// The service that an application in the namespace `viewer` means by `host`.
    pub fn find(&self, host: &str, viewer: &str) -> Option<&Arc<Service>> {
        names::candidates(host, viewer)
            .iter()
            .find_map(|candidate| self.visible(candidate, viewer))
            .or_else(|| self.covering(host, viewer))
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
            .get(&(address, port))?
            .iter()
            .find(|(service, _)| service.exported.includes(viewer))
            .map(|(service, port)| (service, *port))
    }
}

/// Whether a client may see both. One for everybody leaves room for those that are for some namespaces only.
pub(super) fn competes(a: &ExportTo, b: &ExportTo) -> bool {
    match (a, b) {
        (ExportTo::Everywhere, ExportTo::Everywhere) => true,
        (ExportTo::Namespaces(a), ExportTo::Namespaces(b)) => !a.is_disjoint(b),
        (ExportTo::Everywhere, ExportTo::Namespaces(_))
        | (ExportTo::Namespaces(_), ExportTo::Everywhere) => false,
    }
}
