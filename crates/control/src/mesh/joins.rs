//! The endpoints of every service, each joined from its own parts. A part that changes - a Pod, an EndpointSlice - leads to the
//! services that it may concern, and those alone are joined anew; a mesh from nothing is a change of all parts.
//!
//! A join depends on its declaration and on the rules for mTLS, which are configuration, and on
//! - its EndpointSlices, by their label;
//! - the Pods that its selector selects;
//! - the Pods that its slices name, and for endpoints without a Pod, those at their addresses ([`Reference`]);
//! - of a ServiceEntry, the Pods at its endpoints' addresses.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tasuki_resources::{EndpointSlice, NamespacedName, Object};

use super::config::{Config, Declaration};
use super::mentions::{Reference, meant, references};
use super::services::{Backend, JoinId};
use super::shared_map::SharedMap;
use super::touched::Touched;
use super::workloads::{Workload, Workloads};
use super::{endpoints, service_entries};

/// Endpoints by service port.
type ByPort = BTreeMap<u16, Vec<Backend>>;

/// All joins, for one configuration.
#[derive(Clone, Debug)]
pub(super) struct Joins {
    all: Vec<Arc<Join>>,
    /// Where endpoints are spoken of: the service, and the slice's name.
    mentions: SharedMap<Reference, Vec<(JoinId, Arc<str>)>>,
    /// Who has a backend at an address.
    serving: SharedMap<IpAddr, Vec<JoinId>>,
}

/// One service's.
#[derive(Debug, Default)]
pub struct Join {
    /// In order of their names; every one an EndpointSlice.
    slices: Vec<Arc<Object>>,
    /// The pods that it selects, in order of their names.
    selected: Vec<Arc<Workload>>,
    backends: ByPort,
}

/// A pod that is not what it was.
pub(super) struct PodChange {
    pub before: Option<Arc<Workload>>,
    pub now: Option<Arc<Workload>>,
}

/// What is being changed: copies of the joins that it concerns.
struct Draft<'a> {
    config: &'a Config,
    workloads: &'a Workloads,
    joins: &'a mut Joins,
    open: BTreeMap<JoinId, Join>,
    touched: Touched,
}

impl Joins {
    /// Takes over changes of pods that `workloads` knows already, and of slices.
    pub fn apply<'o>(
        &mut self,
        config: &Config,
        workloads: &Workloads,
        pods: &[PodChange],
        gone: impl Iterator<Item = &'o Arc<Object>>,
        new: impl Iterator<Item = &'o Arc<Object>>,
    ) -> Touched {
        let mut draft = Draft::of(config, workloads, self);
        draft.change(pods, gone, new);
        draft.close()
    }

    /// From nothing.
    pub fn build<'o>(
        config: &Config,
        workloads: &Workloads,
        objects: impl Iterator<Item = &'o Arc<Object>>,
    ) -> Self {
        let mut joins = Self {
            all: config.joins.all().map(|_| Arc::default()).collect(),
            mentions: SharedMap::default(),
            serving: SharedMap::default(),
        };
        let is_new = |workload: &Arc<Workload>| PodChange {
            before: None,
            now: Some(workload.clone()),
        };
        let pods: Vec<PodChange> = workloads.iter().map(is_new).collect();
        let mut draft = Draft::of(config, workloads, &mut joins);
        // Also those that have neither pods nor slices.
        for join in config.joins.all() {
            draft.open(join);
        }
        draft.change(&pods, std::iter::empty(), objects);
        draft.close();
        joins
    }

    pub fn get(&self, join: JoinId) -> Option<&Arc<Join>> {
        self.all.get(join.0)
    }

    /// Services with a backend at this address.
    pub fn serving(&self, address: IpAddr) -> &[JoinId] {
        self.serving.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Slices that have the pod as an endpoint, or what is at one of its addresses.
    pub fn slices_of(&self, workload: &Workload) -> impl Iterator<Item = (JoinId, &EndpointSlice)> {
        let addresses = workload.addresses.iter().copied();
        let references = [Reference::Pod(workload.id.clone())]
            .into_iter()
            .chain(addresses.map(Reference::Address));
        let places = references.flat_map(|reference| self.mentions.get(&reference));
        places.flatten().filter_map(|(join, name)| {
            let slice = self.get(*join)?.slice(name)?;
            Some((*join, slice))
        })
    }
}

impl Join {
    /// Of a port of the service.
    pub fn backends(&self, port: u16) -> &[Backend] {
        self.backends.get(&port).map_or(&[], Vec::as_slice)
    }

    /// Of all ports.
    pub fn all_backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.values().flatten()
    }

    fn slice(&self, name: &str) -> Option<&EndpointSlice> {
        let place = self
            .slices
            .binary_search_by(|s| name_of(s).cmp(name))
            .ok()?;
        slice(&self.slices[place])
    }

    fn put_slice(&mut self, name: &str, new: Option<&Arc<Object>>) -> Option<Arc<Object>> {
        let place = self.slices.binary_search_by(|s| name_of(s).cmp(name));
        match (place, new) {
            (Ok(place), Some(new)) => Some(std::mem::replace(&mut self.slices[place], new.clone())),
            (Ok(place), None) => Some(self.slices.remove(place)),
            (Err(place), Some(new)) => {
                self.slices.insert(place, new.clone());
                None
            }
            (Err(_), None) => None,
        }
    }

    fn select(&mut self, id: &NamespacedName, now: Option<&Arc<Workload>>) {
        let place = self.selected.binary_search_by(|w| w.id.cmp(id));
        match (place, now) {
            (Ok(place), Some(now)) => self.selected[place] = now.clone(),
            (Ok(place), None) => drop(self.selected.remove(place)),
            (Err(place), Some(now)) => self.selected.insert(place, now.clone()),
            (Err(_), None) => {}
        }
    }

    fn sockets(&self) -> HashSet<SocketAddr> {
        let backends = self.all_backends();
        backends.map(|b| b.endpoint.address).collect()
    }
}

impl<'a> Draft<'a> {
    fn of(config: &'a Config, workloads: &'a Workloads, joins: &'a mut Joins) -> Self {
        Self {
            config,
            workloads,
            joins,
            open: BTreeMap::new(),
            touched: Touched::default(),
        }
    }

    fn change<'o>(
        &mut self,
        pods: &[PodChange],
        gone: impl Iterator<Item = &'o Arc<Object>>,
        new: impl Iterator<Item = &'o Arc<Object>>,
    ) {
        for change in pods {
            self.pod(change);
        }
        self.slices(gone, new);
    }

    fn open(&mut self, join: JoinId) -> &mut Join {
        let all = &self.joins.all;
        let parts = || match all.get(join.0) {
            Some(join) => Join {
                slices: join.slices.clone(),
                selected: join.selected.clone(),
                // About to be made, and large.
                backends: ByPort::new(),
            },
            None => Join::default(),
        };
        self.open.entry(join).or_insert_with(parts)
    }

    fn pod(&mut self, change: &PodChange) {
        let versions = || change.before.iter().chain(&change.now);
        for workload in versions() {
            self.touch_all_of(workload);
            // An endpoint without a Pod means whoever has its address, and that may be another now, or may no longer be.
            for address in &workload.addresses {
                for claimant in self.workloads.claiming(*address) {
                    self.touch_all_of(claimant);
                }
            }
            for join in self.config.joins.selecting(workload) {
                self.open(join).select(&workload.id, None);
            }
        }
        if let Some(now) = &change.now {
            for join in self.config.joins.selecting(now) {
                self.open(join).select(&now.id, Some(now));
            }
        }
        let mut concerned: BTreeSet<JoinId> = BTreeSet::new();
        for workload in versions() {
            self.mentioning(Reference::Pod(workload.id.clone()), &mut concerned);
            for address in &workload.addresses {
                self.mentioning(Reference::Address(*address), &mut concerned);
                concerned.extend(self.config.joins.entries_at(*address));
            }
        }
        for join in concerned {
            self.open(join);
        }
    }

    fn mentioning(&self, reference: Reference, joins: &mut BTreeSet<JoinId>) {
        let places = self.joins.mentions.get(&reference).into_iter().flatten();
        joins.extend(places.map(|(join, _)| *join));
    }

    /// A slice that was changed is in both.
    fn slices<'o>(
        &mut self,
        gone: impl Iterator<Item = &'o Arc<Object>>,
        new: impl Iterator<Item = &'o Arc<Object>>,
    ) {
        let mut changed: BTreeMap<(JoinId, &str), Option<&Arc<Object>>> = BTreeMap::new();
        let place = |object: &'o Arc<Object>| {
            let slice = slice(object)?;
            let join = self.config.joins.of_slice(slice)?;
            Some((join, slice.meta.name.name.as_str()))
        };
        changed.extend(gone.filter_map(place).map(|place| (place, None)));
        changed.extend(new.filter_map(|new| Some((place(new)?, Some(new)))));
        for ((join, name), new) in changed {
            let before = self.open(join).put_slice(name, new);
            let before = before.as_deref().and_then(slice);
            self.mention(join, name, before, new.and_then(|new| slice(new)));
        }
    }

    /// Whom the endpoints of a slice mean, and for whom that is news.
    fn mention(
        &mut self,
        join: JoinId,
        name: &str,
        before: Option<&EndpointSlice>,
        now: Option<&EndpointSlice>,
    ) {
        let (had, has) = (references(before), references(now));
        let name: Arc<str> = Arc::from(name);
        for lost in had.difference(&has) {
            self.joins.mentions.edit(lost, |places| {
                places.retain(|(other, slice)| (*other, slice) != (join, &name));
            });
        }
        for won in has.difference(&had) {
            let place = (join, name.clone());
            self.joins.mentions.edit(won, |places| places.push(place));
        }
        let same_ports = match (before, now) {
            (Some(before), Some(now)) => before.ports == now.ports,
            _ => false,
        };
        let (had, has) = (meant(before), meant(now));
        for (reference, address) in had.union(&has) {
            let place = (reference.clone(), *address);
            if !same_ports || had.contains(&place) != has.contains(&place) {
                self.touch(reference, *address);
            }
        }
    }

    /// What the ports of the pod behind an endpoint speak may be another thing now.
    fn touch(&mut self, reference: &Reference, address: IpAddr) {
        self.touched.addresses.insert(address);
        let workload = match reference {
            Reference::Pod(name) => self.workloads.get(name),
            Reference::Address(address) => self.workloads.at(*address),
        };
        if let Some(workload) = workload {
            self.touch_all_of(workload);
        }
    }

    fn touch_all_of(&mut self, workload: &Workload) {
        self.touched.pods.insert(workload.id.clone());
        self.touched.addresses.extend(&workload.addresses);
    }

    /// Joins what is open.
    fn close(mut self) -> Touched {
        for (id, mut join) in std::mem::take(&mut self.open) {
            let had = self.joins.get(id).map(|join| join.sockets());
            let had = had.unwrap_or_default();
            join.backends = self.backends(id, &join);
            let has = join.sockets();
            self.serve(id, &had, &has);
            // A pod's own metrics name the service that leads to its port.
            let changed = had.symmetric_difference(&has);
            self.touched.addresses.extend(changed.map(SocketAddr::ip));
            self.touched.joins.insert(id);
            if let Some(place) = self.joins.all.get_mut(id.0) {
                *place = Arc::new(join);
            }
        }
        self.touched
    }

    fn serve(&mut self, id: JoinId, had: &HashSet<SocketAddr>, has: &HashSet<SocketAddr>) {
        let ips = |sockets: &HashSet<SocketAddr>| -> HashSet<IpAddr> {
            sockets.iter().map(SocketAddr::ip).collect()
        };
        let (had, has) = (ips(had), ips(has));
        let serving = &mut self.joins.serving;
        for address in had.difference(&has) {
            serving.edit(address, |all| all.retain(|other| *other != id));
        }
        for address in has.difference(&had) {
            serving.edit(address, |all| all.push(id));
        }
    }

    fn backends(&self, id: JoinId, join: &Join) -> ByPort {
        let modes = &self.config.peer_authentication;
        match self.config.joins.declaration(id) {
            Some(Declaration::Service(service)) => {
                let slices = join.slices.iter().filter_map(|object| slice(object));
                endpoints::backends(service, slices, &join.selected, self.workloads, modes)
            }
            Some(Declaration::Entry(entry)) => {
                let domain = &self.config.settings.trust_domain;
                service_entries::backends(entry, domain, self.workloads, modes)
            }
            None => ByPort::new(),
        }
    }
}

fn slice(object: &Object) -> Option<&EndpointSlice> {
    match object {
        Object::EndpointSlice(slice) => Some(slice),
        _ => None,
    }
}

fn name_of(object: &Arc<Object>) -> &str {
    &object.meta().name.name
}
