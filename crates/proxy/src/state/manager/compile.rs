//! From resources to what the request path reads: compiles roots that are ready and publishes snapshots.

use std::sync::Arc;

use tasuki_identity::Roots;
use tasuki_xds::model::endpoint::WorkloadRef;
use tasuki_xds::model::{Listener, Resource};

use super::Manager;
use crate::authorize::Authorizer;
use crate::inbound::Inbound;
use crate::state::dependencies::{INBOUND, PASSTHROUGH, Parts, https_of};
use crate::state::{GatewayListener, Outbound};

impl Manager {
    /// A root is ready: it is compiled anew.
    pub(super) fn compile(&mut self, name: &str, parts: &Parts) {
        self.changed = true;
        let find = |cluster: &str| parts.cluster(cluster);
        if name == INBOUND {
            match Inbound::compile(&parts.listener, &find, self.next.inbound.as_deref()) {
                Ok(inbound) => {
                    self.next.inbound = Some(Arc::new(inbound));
                    self.next.inbound_source = Some(Arc::clone(&parts.listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "inbound could not be compiled; the last form stays")
                }
            }
            self.works_for(&parts.listener);
            return;
        }
        let outbound = Arc::new(Outbound::compile(&parts.listener, parts.routes(), &find));
        if name == PASSTHROUGH {
            self.next.passthrough = outbound;
        } else if self.gateway_role {
            self.compile_gateway(&parts.listener, outbound);
        } else {
            self.next.outbound.insert(outbound.name.clone(), outbound);
        }
    }

    fn compile_gateway(&mut self, listener: &Listener, outbound: Arc<Outbound>) {
        let rbac: Vec<_> = https_of(listener)
            .next()
            .map(|http| http.rbac.clone())
            .unwrap_or_default();
        let (Some(address), Ok(authorizer)) = (listener.address, Authorizer::compile(&rbac)) else {
            tracing::warn!(
                name = listener.name,
                "a gateway's listener needs an address and valid policies"
            );
            return;
        };
        self.works_for(listener);
        let name = outbound.name.clone();
        let compiled = GatewayListener {
            name: name.clone(),
            address,
            outbound,
            authorizer,
        };
        self.next.gateway.insert(name, Arc::new(compiled));
    }

    fn works_for(&mut self, listener: &Listener) {
        if let Some(workload) = listener
            .workload
            .as_ref()
            .filter(|w| **w != *self.next.workload)
        {
            self.next.workload = Arc::new(WorkloadRef::clone(workload));
        }
    }

    /// Publishes a snapshot if anything in it has changed.
    pub(super) fn publish(&mut self) {
        if !self.changed {
            return;
        }
        self.changed = false;
        self.resolvers.follow(self.deps.clusters());
        self.next.generation += 1;
        self.next.clusters = self
            .deps
            .clusters()
            .iter()
            .map(|(name, c)| (Arc::from(name.as_str()), Arc::clone(c)))
            .collect();
        let principal = self
            .next
            .identity
            .as_ref()
            .map(|identity| identity.id().to_string());
        self.metrics
            .set_own(&self.next.workload, principal.as_deref());
        self.metrics
            .snapshot_generation
            .set(self.next.generation as i64);
        self.state.publish(self.next.clone());
    }
}

/// Refuses what the codec can read but this proxy cannot compile.
pub(super) fn check(resource: &Resource) -> Result<(), String> {
    match resource {
        Resource::Listener(listener) if listener.name == INBOUND => {
            Inbound::compile(listener, &|_| None, None)
                .map(drop)
                .map_err(|error| error.to_string())
        }
        Resource::Listener(listener) => https_of(listener).try_for_each(|http| {
            Authorizer::compile(&http.rbac)
                .map(drop)
                .map_err(|error| error.to_string())
        }),
        Resource::TrustBundle(bundle) => Roots::from_der(bundle.roots.clone())
            .map(drop)
            .map_err(|error| error.to_string()),
        Resource::ProxySettings(_)
        | Resource::Cluster(_)
        | Resource::Endpoint(_)
        | Resource::Route(_)
        | Resource::Departure(_) => Ok(()),
    }
}
