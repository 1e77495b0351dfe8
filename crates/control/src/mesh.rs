//! The mesh: what all resources say together. One file per join; building it is pure, and complete: a
//! change of the resources makes a new mesh.

pub mod authorization;
pub mod departed;
pub mod destination_rules;
pub mod endpoints;
pub mod gateways;
pub mod names;
pub mod peer_authentication;
pub mod protocol;
mod references;
pub mod service_entries;
pub mod services;
pub mod settings;
pub mod virtual_services;
pub mod workloads;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use tasuki_resources::core::service::{ServiceKind, Transport};
use tasuki_resources::{EndpointSlice, Host, NamespacedName, Object, ObjectKey, Problem, Severity};
use tasuki_xds::model::listener::DeclaredProtocol;
use tokio::time::Instant;

use crate::source::Objects;
use authorization::Authorization;
use departed::Departed;
use destination_rules::DestinationRules;
use gateways::Gateways;
use peer_authentication::PeerAuthentications;
use services::{Backends, Origin, Service, ServicePort, Services};
pub use settings::MeshSettings;
use virtual_services::VirtualServices;
use workloads::{Workload, Workloads};

/// Everything that is declared, joined.
#[derive(Debug)]
pub struct Mesh {
    pub settings: MeshSettings,
    pub workloads: Workloads,
    /// Pods that are gone, for their sidecars.
    pub departed: Departed,
    pub services: Services,
    pub virtual_services: VirtualServices,
    pub destination_rules: DestinationRules,
    pub authorization: Authorization,
    pub peer_authentication: PeerAuthentications,
    pub gateways: Gateways,
    /// Of the source, and what only the joins show.
    pub problems: Vec<Problem>,
    /// See [`Objects::pods_unseen`].
    pub pods_unseen: bool,
    /// What the ports of each pod are declared to speak by the services in front of it.
    ports: HashMap<NamespacedName, BTreeMap<u16, DeclaredProtocol>>,
    /// For the next mesh, in which nearly all of them are the same. They keep the objects, so that a pointer names one.
    made: Vec<Made>,
}

/// A pod's object and the workload made of it.
type Made = (Arc<Object>, Arc<Workload>);

/// The objects of each kind. What no join keeps is lent: most objects of a mesh are pods.
#[derive(Default)]
struct Kinds<'a> {
    services: Vec<&'a tasuki_resources::Service>,
    slices: HashMap<NamespacedName, Vec<&'a EndpointSlice>>,
    pods: Vec<(&'a Arc<Object>, &'a tasuki_resources::Pod)>,
    entries: Vec<&'a tasuki_resources::ServiceEntry>,
    virtual_services: Vec<Arc<tasuki_resources::VirtualService>>,
    destination_rules: Vec<Arc<tasuki_resources::DestinationRule>>,
    authorization: Vec<Arc<tasuki_resources::AuthorizationPolicy>>,
    peer_authentication: Vec<Arc<tasuki_resources::PeerAuthentication>>,
    gateways: Vec<Arc<tasuki_resources::Gateway>>,
    settings: Vec<&'a tasuki_resources::MeshSettings>,
}

impl Mesh {
    /// Joins what a source declares.
    pub fn build(source: &Objects, settings: MeshSettings) -> Self {
        Self::join(source, &settings, &[])
    }

    /// `known` are workloads and the very objects that they were made from.
    fn join(source: &Objects, settings: &MeshSettings, known: &[Made]) -> Self {
        let kinds = Kinds::of(source);
        let mut report = Report::new(source);
        let settings = settings.declared_by(&kinds.settings, &mut report);
        let known: HashMap<*const Object, &Arc<Workload>> = known
            .iter()
            .map(|(object, workload)| (Arc::as_ptr(object), workload))
            .collect();
        let make = |(object, pod): &(&Arc<Object>, &tasuki_resources::Pod)| {
            let workload = match known.get(&Arc::as_ptr(object)) {
                Some(workload) => Arc::clone(workload),
                None => Arc::new(Workload::from_pod(pod, &settings.trust_domain)),
            };
            (Arc::clone(object), workload)
        };
        let made: Vec<Made> = kinds.pods.iter().map(make).collect();
        let workloads = Workloads::new(made.iter().map(|(_, workload)| workload.clone()));
        let ports = declared_ports(&kinds, &workloads);
        let root = &settings.root_namespace;
        let modes = PeerAuthentications::new(kinds.peer_authentication.clone(), root);
        let services = registry(&kinds, &workloads, &modes, &settings, &mut report);
        let mut mesh = Self {
            virtual_services: VirtualServices::new(kinds.virtual_services),
            destination_rules: DestinationRules::new(kinds.destination_rules, root),
            authorization: Authorization::new(kinds.authorization, root),
            peer_authentication: modes,
            gateways: Gateways::new(kinds.gateways),
            problems: Vec::new(),
            pods_unseen: source.pods_unseen,
            departed: Departed::default(),
            made,
            workloads,
            services,
            ports,
            settings,
        };
        references::report(&mesh, &mut report);
        mesh.problems = report.problems;
        mesh
    }

    /// What `source` declares once this mesh was in force: pods that it has lost are remembered for a while.
    pub fn successor(&self, source: &Objects, now: Instant) -> Self {
        let mut next = Self::join(source, &self.settings, &self.made);
        next.departed = self
            .departed
            .after(&self.workloads, &self.ports, &next.workloads, now);
        next
    }

    /// The pod of that name as its own sidecar needs it: declared, or gone a short while ago.
    pub fn workload(&self, id: &NamespacedName) -> Option<&Arc<Workload>> {
        self.workloads.get(id).or_else(|| self.departed.get(id))
    }

    /// The ports of a workload that anybody mentions, with what they are declared to speak.
    pub fn workload_ports(&self, workload: &Workload) -> BTreeMap<u16, DeclaredProtocol> {
        let mut ports = self.declared(workload).cloned().unwrap_or_default();
        for port in self
            .peer_authentication
            .ports(&workload.id.namespace, &workload.labels)
        {
            ports.entry(port).or_default();
        }
        ports
    }

    /// What one port of a workload is declared to speak.
    pub fn workload_port(&self, workload: &Workload, port: u16) -> DeclaredProtocol {
        self.declared(workload)
            .and_then(|ports| ports.get(&port))
            .copied()
            .unwrap_or_default()
    }

    fn declared(&self, workload: &Workload) -> Option<&BTreeMap<u16, DeclaredProtocol>> {
        let declared = self.ports.get(&workload.id);
        declared.or_else(|| self.departed.ports(&workload.id))
    }
}

impl<'a> Kinds<'a> {
    fn of(source: &'a Objects) -> Self {
        let mut kinds = Self::default();
        for sourced in &source.objects {
            match &*sourced.object {
                Object::Service(o) => kinds.services.push(o),
                Object::Pod(o) => kinds.pods.push((&sourced.object, o)),
                Object::EndpointSlice(o) => {
                    let service =
                        NamespacedName::new(o.meta.name.namespace.clone(), o.service.clone());
                    kinds.slices.entry(service).or_default().push(o);
                }
                Object::Namespace(_) => {}
                Object::VirtualService(o) => kinds.virtual_services.push(Arc::new(o.clone())),
                Object::DestinationRule(o) => kinds.destination_rules.push(Arc::new(o.clone())),
                Object::AuthorizationPolicy(o) => kinds.authorization.push(Arc::new(o.clone())),
                Object::PeerAuthentication(o) => {
                    kinds.peer_authentication.push(Arc::new(o.clone()))
                }
                Object::ServiceEntry(o) => kinds.entries.push(o),
                Object::Gateway(o) => kinds.gateways.push(Arc::new(o.clone())),
                Object::MeshSettings(o) => kinds.settings.push(o),
            }
        }
        kinds.services.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
        kinds
            .entries
            .sort_by(|a, b| a.meta.age_key().cmp(&b.meta.age_key()));
        kinds
    }

    fn slices(&self, service: &NamespacedName) -> &[&'a EndpointSlice] {
        self.slices.get(service).map_or(&[], Vec::as_slice)
    }
}

/// Kubernetes Services first, so that no ServiceEntry takes over a cluster's own host.
fn registry(
    kinds: &Kinds<'_>,
    workloads: &Workloads,
    modes: &PeerAuthentications,
    settings: &MeshSettings,
    report: &mut Report,
) -> Services {
    let mut all: Vec<Service> = Vec::new();
    for service in &kinds.services {
        all.extend(kubernetes_service(
            service,
            kinds.slices(&service.meta.name),
            workloads,
            modes,
        ));
    }
    for entry in &kinds.entries {
        let (services, left_out) =
            service_entries::services(entry, &settings.trust_domain, workloads, modes);
        all.extend(services);
        let key = ObjectKey {
            kind: tasuki_resources::Kind::ServiceEntry,
            namespace: entry.meta.name.namespace.clone(),
            name: entry.meta.name.name.clone(),
        };
        for (field, reason) in left_out {
            report.add(Severity::Error, &key, field, reason);
        }
    }
    let (services, duplicates) = Services::new(all);
    for duplicate in duplicates {
        report.duplicate_host(&duplicate);
    }
    services
}

fn kubernetes_service(
    service: &tasuki_resources::Service,
    slices: &[&EndpointSlice],
    workloads: &Workloads,
    modes: &PeerAuthentications,
) -> Option<Service> {
    let addresses: Vec<IpAddr> = match &service.kind {
        ServiceKind::ClusterIp(addresses) => addresses.clone(),
        ServiceKind::Headless => Vec::new(),
        // A DNS alias: its target is called by its own name.
        ServiceKind::ExternalName(_) => return None,
    };
    let name = &service.meta.name;
    let host = tasuki_resources::host::service_host(&name.name, &name.namespace);
    let tcp = service
        .ports
        .iter()
        .filter(|port| port.transport == Transport::Tcp);
    let ports = tcp.map(|port| ServicePort {
        number: port.port,
        name: port.name.clone(),
        protocol: protocol::declared(port.protocol()),
    });
    Some(Service {
        pattern: Host::Exact(host.clone()),
        host,
        name: name.name.clone(),
        namespace: name.namespace.clone(),
        origin: Origin::Kubernetes,
        addresses,
        ranges: Vec::new(),
        ports: ports.collect(),
        exported: tasuki_resources::ExportTo::Everywhere,
        backends: Backends::Known(endpoints::backends(service, slices, workloads, modes)),
    })
}

/// What services say of the ports of the pods behind them, ready or not. The first service by name
/// that says anything is believed.
fn declared_ports(
    kinds: &Kinds<'_>,
    workloads: &Workloads,
) -> HashMap<NamespacedName, BTreeMap<u16, DeclaredProtocol>> {
    let mut all: HashMap<NamespacedName, BTreeMap<u16, DeclaredProtocol>> = HashMap::new();
    let mut say = |workload: &Workload, port: u16, protocol: DeclaredProtocol| {
        let known = all
            .entry(workload.id.clone())
            .or_default()
            .entry(port)
            .or_default();
        if *known == DeclaredProtocol::Auto {
            *known = protocol;
        }
    };
    for service in &kinds.services {
        for port in service
            .ports
            .iter()
            .filter(|port| port.transport == Transport::Tcp)
        {
            let protocol = protocol::declared(port.protocol());
            if let Some(selector) = &service.selector {
                for workload in workloads.selected(&service.meta.name.namespace, selector) {
                    if let Some(target) = endpoints::target_port(workload, port) {
                        say(workload, target, protocol);
                    }
                }
            }
            for slice in kinds.slices(&service.meta.name) {
                let numbers = slice
                    .ports
                    .iter()
                    .filter(|p| p.name == port.name)
                    .map(|p| p.port);
                for number in numbers {
                    for endpoint in &slice.endpoints {
                        // Nobody says what the ports of another namespace's pods speak.
                        let own = endpoints::workload_behind(endpoint, workloads)
                            .filter(|w| w.id.namespace == service.meta.name.namespace);
                        if let Some(workload) = own {
                            say(workload, number, protocol);
                        }
                    }
                }
            }
        }
    }
    all
}

/// Collects problems, with the file of the object they are about.
struct Report {
    problems: Vec<Problem>,
    files: HashMap<ObjectKey, Arc<str>>,
}

impl Report {
    fn new(source: &Objects) -> Self {
        let files = source
            .objects
            .iter()
            .map(|sourced| (sourced.object.key(), sourced.file.clone()))
            .collect();
        Self {
            problems: source.problems.clone(),
            files,
        }
    }

    fn add(
        &mut self,
        severity: Severity,
        object: &ObjectKey,
        field: impl Into<String>,
        reason: impl Into<String>,
    ) {
        let file = self.files.get(object).map_or("", |file| &**file);
        let mut problem = Problem::error(file, field, reason);
        problem.severity = severity;
        problem.object = Some(object.to_string());
        self.problems.push(problem);
    }

    fn duplicate_host(&mut self, duplicate: &services::Duplicate) {
        let services::Duplicate {
            host,
            loser,
            winner,
        } = duplicate;
        let mut problem = Problem::error(
            "",
            "spec.hosts",
            format!("{host} is already declared by {winner}; this one is not used"),
        );
        problem.object = Some(format!("ServiceEntry {loser}"));
        let name = NamespacedName::parse(loser).unwrap_or_default();
        let key = ObjectKey {
            kind: tasuki_resources::Kind::ServiceEntry,
            namespace: name.namespace,
            name: name.name,
        };
        problem.file = self
            .files
            .get(&key)
            .map_or_else(String::new, |file| file.to_string());
        self.problems.push(problem);
    }
}

#[cfg(test)]
mod tests;
