//! The mesh: what all resources say together. One file per join; building it is pure, and complete.
//!
//! A mesh is its configuration, which few changes touch and which is joined as a whole, and what Pods and their endpoints make
//! of it, where each change leads to what depends on it:
//!
//! | part | depends on | kept while |
//! |---|---|---|
//! | `config` | everything but Pods and EndpointSlices | none of it changes |
//! | `workloads` | one Pod each | its object is the same |
//! | `joins` | the configuration; one Service's slices and pods | none of those changes |
//! | `ports` | the Services and slices of one Pod | looked up when asked for |
//!
//! A mesh from nothing is a change of everything from an empty one, by the same code, and `tests/incremental.rs` holds both
//! against each other over random changes. What a change has touched goes with the mesh, for those who remember
//! what they were told of the one before ([`Touched`]).

pub mod authorization;
pub mod config;
pub mod departed;
pub mod destination_rules;
mod difference;
pub mod endpoints;
pub mod gateways;
mod joins;
mod mentions;
pub mod names;
pub mod peer_authentication;
pub mod ports;
pub mod protocol;
mod references;
mod report;
pub mod service_entries;
pub mod services;
pub mod settings;
mod shared_map;
mod touched;
pub mod virtual_services;
pub mod workloads;

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use tasuki_resources::{NamespacedName, Problem};
use tasuki_xds::model::listener::DeclaredProtocol;
use tokio::time::Instant;

use crate::source::Objects;
use config::Config;
use departed::Departed;
use difference::Difference;
pub use joins::Join;
use joins::{Joins, PodChange};
use ports::Ports;
use services::{Backend, Backends, JoinId, Service};
pub use settings::MeshSettings;
pub use touched::Touched;
use workloads::{State, Workload, Workloads};

/// Everything that is declared, joined. What is configured is read through it: `mesh.services`.
#[derive(Debug)]
pub struct Mesh {
    config: Arc<Config>,
    pub workloads: Workloads,
    /// Pods that are gone, for their sidecars.
    pub departed: Departed,
    /// Of the source, and what only the joins show.
    pub problems: Arc<Vec<Problem>>,
    /// See [`Objects::pods_unseen`].
    pub pods_unseen: bool,
    joins: Joins,
    /// What it is made of, to be compared with the next; its objects are kept, so that a pointer names one.
    source: Arc<Objects>,
    id: Arc<Id>,
    change: Change,
}

/// Tells one mesh from another.
#[derive(Debug)]
struct Id;

/// What is different from another mesh.
#[derive(Debug)]
struct Change {
    since: Weak<Id>,
    touched: Arc<Touched>,
}

impl Deref for Mesh {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

impl Mesh {
    /// Joins what a source declares.
    pub fn build(source: &Objects, settings: MeshSettings) -> Self {
        let nothing = Objects::default();
        let config = Arc::new(Config::join(&nothing, &settings));
        let empty = Self {
            workloads: Workloads::default(),
            departed: Departed::default(),
            problems: Arc::default(),
            pods_unseen: false,
            joins: Joins::build(&config, &Workloads::default(), std::iter::empty()),
            source: Arc::new(nothing),
            config,
            id: Arc::new(Id),
            change: Change {
                since: Weak::new(),
                touched: Arc::new(Touched::everything()),
            },
        };
        // Nothing departs from an empty mesh.
        let built = empty.with_config(&Arc::new(source.clone()), Instant::now(), true);
        Self {
            change: empty.change,
            ..built
        }
    }

    /// What `source` declares once this mesh was in force: pods that it has lost are remembered for a while.
    pub fn successor(&self, source: &Arc<Objects>, now: Instant) -> Self {
        self.with_config(source, now, false)
    }

    /// `anew`: the configuration is joined even if it has not changed.
    fn with_config(&self, source: &Arc<Objects>, now: Instant, anew: bool) -> Self {
        let difference = Difference::between(&self.source.objects, &source.objects);
        let mut next = Self {
            config: self.config.clone(),
            workloads: self.workloads.clone(),
            departed: self.departed.clone(),
            problems: self.problems.clone(),
            pods_unseen: source.pods_unseen,
            joins: self.joins.clone(),
            source: source.clone(),
            id: Arc::new(Id),
            change: Change {
                since: Arc::downgrade(&self.id),
                touched: Arc::default(),
            },
        };
        let pods = next.change_pods(&difference);
        let mut touched = if !anew && difference.is_of_endpoints() {
            let (gone, new) = (difference.gone.iter(), difference.new.iter());
            let (config, workloads) = (&next.config, &next.workloads);
            next.joins
                .apply(config, workloads, &pods, gone.copied(), new.copied())
        } else {
            next.config = Arc::new(Config::join(source, &self.settings));
            let objects = source.objects.iter().map(|sourced| &sourced.object);
            next.joins = Joins::build(&next.config, &next.workloads, objects);
            Touched::everything()
        };
        next.depart(self, &pods, now, &mut touched);
        if !Arc::ptr_eq(&next.config, &self.config) || self.source.problems != source.problems {
            let all = source.problems.iter().chain(&next.config.problems);
            next.problems = Arc::new(all.cloned().collect());
        }
        touched.everything |= next.pods_unseen != self.pods_unseen;
        next.change.touched = Arc::new(touched);
        next
    }

    fn change_pods(&mut self, difference: &Difference<'_>) -> Vec<PodChange> {
        let trust_domain = &self.config.settings.trust_domain;
        let mut changes = Vec::new();
        for (name, pod) in difference.pods() {
            let now = pod.map(|pod| Arc::new(Workload::from_pod(pod, trust_domain)));
            // A Pod says more than the mesh reads.
            if now.is_some() && self.workloads.get(name) == now.as_ref() {
                continue;
            }
            let before = self.workloads.put(name, now.as_ref());
            changes.push(PodChange { before, now });
        }
        changes
    }

    /// Remembers pods that are gone.
    fn depart(&mut self, before: &Self, pods: &[PodChange], now: Instant, touched: &mut Touched) {
        for change in pods {
            match (&change.before, &change.now) {
                (_, Some(present)) => self.departed.remove(&present.id),
                (Some(gone), None) => {
                    let ports = ports::of(before, gone);
                    self.departed.add(gone.clone(), ports, now);
                }
                (None, None) => {}
            }
        }
        touched.pods.extend(self.departed.forget(now));
    }

    /// What may be different from `other`; `None` if this mesh did not come from it.
    pub fn touched_since(&self, other: &Self) -> Option<&Arc<Touched>> {
        let is_it = self.change.since.ptr_eq(&Arc::downgrade(&other.id));
        is_it.then_some(&self.change.touched)
    }

    /// Whether nothing is configured differently than in `other`.
    pub fn has_config_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }

    /// The pod of that name as its own sidecar needs it: declared, or gone a short while ago.
    pub fn workload(&self, id: &NamespacedName) -> Option<&Arc<Workload>> {
        self.workloads.get(id).or_else(|| self.departed.get(id))
    }

    /// The pod, if it leaves: it is being deleted, or gone a short while ago.
    pub fn leaving(&self, id: &NamespacedName) -> Option<&Arc<Workload>> {
        match self.workloads.get(id) {
            Some(workload) => (workload.state == State::Draining).then_some(workload),
            None => self.departed.get(id),
        }
    }

    /// The endpoints of a service, where they are known here.
    pub fn join(&self, service: &Service) -> Option<&Arc<Join>> {
        match service.backends {
            Backends::Known(join) => self.joins.get(join),
            Backends::Dns { .. } => None,
        }
    }

    /// The join of this number.
    pub fn join_of(&self, id: JoinId) -> Option<&Arc<Join>> {
        self.joins.get(id)
    }

    /// Known endpoints of a port; empty for names that the proxy resolves.
    pub fn backends(&self, service: &Service, port: u16) -> &[Backend] {
        self.join(service).map_or(&[], |join| join.backends(port))
    }

    /// Services that have an endpoint at this address, and all endpoints of each.
    pub fn serving(&self, address: IpAddr) -> impl Iterator<Item = (&Arc<Service>, &Join)> {
        let joins = self.joins.serving(address).iter();
        joins.flat_map(|id| {
            let services = self.services.of_join(*id).iter();
            services.filter_map(|service| Some((service, &**self.joins.get(*id)?)))
        })
    }

    /// The ports of a workload that anybody mentions, with what they are declared to speak.
    pub fn workload_ports(&self, workload: &Workload) -> Ports {
        let mut ports = self.declared(workload);
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
        match self.remembered(workload) {
            Some(ports) => ports.get(&port).copied().unwrap_or_default(),
            None => ports::one_of(self, workload, port),
        }
    }

    fn declared(&self, workload: &Workload) -> Ports {
        match self.remembered(workload) {
            Some(ports) => ports.clone(),
            None => ports::of(self, workload),
        }
    }

    /// The ports of a pod that is gone.
    fn remembered(&self, workload: &Workload) -> Option<&Ports> {
        let present = self.workloads.get(&workload.id).is_some();
        let ports = self.departed.ports(&workload.id);
        ports.filter(|_| !present)
    }
}

#[cfg(test)]
mod tests;
