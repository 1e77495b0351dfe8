//! What changes seldom: everything that is declared but Pods and EndpointSlices, joined. A change of any of it makes all of it
//! anew.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use tasuki_resources::core::service::{ServiceKind, Transport};
use tasuki_resources::labels::selects;
use tasuki_resources::{
    EndpointSlice, Host, NamespacedName, Object, ObjectKey, Problem, ServiceEntry, Severity,
};

use super::authorization::Authorization;
use super::destination_rules::DestinationRules;
use super::gateways::Gateways;
use super::peer_authentication::PeerAuthentications;
use super::report::Report;
use super::services::{Backends, JoinId, Origin, Service, ServicePort, Services};
use super::settings::MeshSettings;
use super::virtual_services::VirtualServices;
use super::workloads::Workload;
use super::{protocol, references, service_entries};
use crate::source::Objects;

/// The part of a mesh that no Pod and no endpoint changes.
#[derive(Debug)]
pub struct Config {
    pub settings: MeshSettings,
    pub services: Services,
    pub virtual_services: VirtualServices,
    pub destination_rules: DestinationRules,
    pub authorization: Authorization,
    pub peer_authentication: PeerAuthentications,
    pub gateways: Gateways,
    /// What only the joins show to be wrong.
    pub(super) problems: Vec<Problem>,
    pub(super) joins: Joined,
}

/// What has endpoints to be joined, by [`JoinId`]: Services in order of their names, then ServiceEntries.
#[derive(Debug, Default)]
pub(super) struct Joined {
    all: Vec<Declared>,
    services: HashMap<NamespacedName, JoinId>,
    /// Services by namespace and the first label of their selectors.
    selecting: HashMap<(String, String, String), Vec<JoinId>>,
    /// ServiceEntries by addresses that may be pods'.
    entries: HashMap<IpAddr, Vec<JoinId>>,
}

/// What declared endpoints.
#[derive(Clone, Copy, Debug)]
pub(super) enum Declaration<'a> {
    Service(&'a tasuki_resources::Service),
    Entry(&'a ServiceEntry),
}

/// The same, owned: always a Service or a ServiceEntry.
#[derive(Debug)]
struct Declared(Arc<Object>);

/// The objects of each kind. What no join keeps is lent.
#[derive(Default)]
struct Kinds<'a> {
    services: Vec<(&'a Arc<Object>, &'a tasuki_resources::Service)>,
    entries: Vec<(&'a Arc<Object>, &'a ServiceEntry)>,
    virtual_services: Vec<Arc<tasuki_resources::VirtualService>>,
    destination_rules: Vec<Arc<tasuki_resources::DestinationRule>>,
    authorization: Vec<Arc<tasuki_resources::AuthorizationPolicy>>,
    peer_authentication: Vec<Arc<tasuki_resources::PeerAuthentication>>,
    gateways: Vec<Arc<tasuki_resources::Gateway>>,
    settings: Vec<&'a tasuki_resources::MeshSettings>,
}

impl Config {
    /// `flags` are the settings under what `source` says of them.
    pub(super) fn join(source: &Objects, flags: &MeshSettings) -> Self {
        let kinds = Kinds::of(source);
        let mut report = Report::new(source);
        let settings = flags.declared_by(&kinds.settings, &mut report);
        let root = &settings.root_namespace;
        let mut joins = Joined::default();
        let services = registry(&kinds.services, &kinds.entries, &mut joins, &mut report);
        let mut config = Self {
            services,
            virtual_services: VirtualServices::new(kinds.virtual_services),
            destination_rules: DestinationRules::new(kinds.destination_rules, root),
            authorization: Authorization::new(kinds.authorization, root),
            peer_authentication: PeerAuthentications::new(kinds.peer_authentication, root),
            gateways: Gateways::new(kinds.gateways),
            problems: Vec::new(),
            joins,
            settings,
        };
        references::report(&config, &mut report);
        config.problems = report.problems;
        config
    }
}

impl<'a> Kinds<'a> {
    fn of(source: &'a Objects) -> Self {
        let mut kinds = Self::default();
        for object in source.objects.iter().map(|sourced| &sourced.object) {
            match &**object {
                Object::Service(o) => kinds.services.push((object, o)),
                Object::ServiceEntry(o) => kinds.entries.push((object, o)),
                Object::VirtualService(o) => kinds.virtual_services.push(Arc::new(o.clone())),
                Object::DestinationRule(o) => kinds.destination_rules.push(Arc::new(o.clone())),
                Object::AuthorizationPolicy(o) => kinds.authorization.push(Arc::new(o.clone())),
                Object::PeerAuthentication(o) => {
                    kinds.peer_authentication.push(Arc::new(o.clone()))
                }
                Object::Gateway(o) => kinds.gateways.push(Arc::new(o.clone())),
                Object::MeshSettings(o) => kinds.settings.push(o),
                Object::Pod(_) | Object::EndpointSlice(_) | Object::Namespace(_) => {}
            }
        }
        kinds
            .services
            .sort_by(|(_, a), (_, b)| a.meta.name.cmp(&b.meta.name));
        kinds
            .entries
            .sort_by(|(_, a), (_, b)| a.meta.age_key().cmp(&b.meta.age_key()));
        kinds
    }
}

/// Kubernetes Services first, so that no ServiceEntry takes over a cluster's own host.
fn registry(
    services: &[(&Arc<Object>, &tasuki_resources::Service)],
    entries: &[(&Arc<Object>, &ServiceEntry)],
    joins: &mut Joined,
    report: &mut Report<'_>,
) -> Services {
    let mut all: Vec<Service> = Vec::new();
    for (object, service) in services {
        // A DNS alias: its target is called by its own name.
        if !matches!(service.kind, ServiceKind::ExternalName(_)) {
            let join = joins.add_service(object, service);
            all.push(kubernetes_service(service, join));
        }
    }
    for (object, entry) in entries {
        let join = joins.add_entry(object, entry);
        let (services, left_out) = service_entries::services(entry, join);
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

fn kubernetes_service(service: &tasuki_resources::Service, join: JoinId) -> Service {
    let addresses: Vec<IpAddr> = match &service.kind {
        ServiceKind::ClusterIp(addresses) => addresses.clone(),
        ServiceKind::Headless | ServiceKind::ExternalName(_) => Vec::new(),
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
    Service {
        pattern: Host::Exact(host.clone()),
        host,
        name: name.name.clone(),
        namespace: name.namespace.clone(),
        origin: Origin::Kubernetes,
        addresses,
        ranges: Vec::new(),
        ports: ports.collect(),
        exported: tasuki_resources::ExportTo::Everywhere,
        backends: Backends::Known(join),
        literals: Vec::new(),
    }
}

impl Joined {
    fn add(&mut self, object: &Arc<Object>) -> JoinId {
        self.all.push(Declared(object.clone()));
        JoinId(self.all.len() - 1)
    }

    fn add_service(&mut self, object: &Arc<Object>, service: &tasuki_resources::Service) -> JoinId {
        let join = self.add(object);
        let name = &service.meta.name;
        self.services.insert(name.clone(), join);
        let first = service.selector.iter().flatten().next();
        if let Some((label, value)) = first {
            let key = (name.namespace.clone(), label.clone(), value.clone());
            self.selecting.entry(key).or_default().push(join);
        }
        join
    }

    fn add_entry(&mut self, object: &Arc<Object>, entry: &ServiceEntry) -> JoinId {
        let join = self.add(object);
        for address in service_entries::pod_addresses(entry) {
            self.entries.entry(address).or_default().push(join);
        }
        join
    }

    pub fn all(&self) -> impl Iterator<Item = JoinId> + use<> {
        (0..self.all.len()).map(JoinId)
    }

    pub fn declaration(&self, join: JoinId) -> Option<Declaration<'_>> {
        match &*self.all.get(join.0)?.0 {
            Object::Service(service) => Some(Declaration::Service(service)),
            Object::ServiceEntry(entry) => Some(Declaration::Entry(entry)),
            _ => None,
        }
    }

    /// The Service that a slice is of.
    pub fn of_slice(&self, slice: &EndpointSlice) -> Option<JoinId> {
        let namespace = slice.meta.name.namespace.clone();
        let name = NamespacedName::new(namespace, slice.service.clone());
        self.services.get(&name).copied()
    }

    /// The Services that select a pod.
    pub fn selecting(&self, workload: &Workload) -> Vec<JoinId> {
        let labels = workload.labels.iter();
        let with_label = labels.filter_map(|(name, value)| {
            let namespace = workload.id.namespace.clone();
            self.selecting
                .get(&(namespace, name.clone(), value.clone()))
        });
        let selects = |join: &JoinId| match self.declaration(*join) {
            Some(Declaration::Service(service)) => service
                .selector
                .as_ref()
                .is_some_and(|selector| selects(selector, &workload.labels)),
            _ => false,
        };
        with_label.flatten().copied().filter(selects).collect()
    }

    /// The ServiceEntries to which a pod at this address makes a difference.
    pub fn entries_at(&self, address: IpAddr) -> &[JoinId] {
        self.entries.get(&address).map_or(&[], Vec::as_slice)
    }
}
