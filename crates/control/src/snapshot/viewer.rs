//! One client's view of the mesh.

use std::collections::BTreeMap;

use tasuki_resources::{NamespacedName, VirtualService};

use super::rules::{self, Caller};
use crate::ads::{Client, ClientKind};
use crate::mesh::Mesh;
use crate::mesh::workloads::Workload;

/// A mesh, and who looks at it.
#[derive(Clone, Copy)]
pub struct Viewer<'a> {
    pub mesh: &'a Mesh,
    pub client: &'a Client,
}

impl<'a> Viewer<'a> {
    /// The namespace whose rules apply.
    pub fn namespace(&self) -> &'a str {
        &self.client.namespace
    }

    /// What `sourceLabels` and selectors are compared with.
    pub fn labels(&self) -> &'a BTreeMap<String, String> {
        &self.client.labels
    }

    /// The pod behind an authenticated sidecar.
    pub fn workload(&self) -> Option<&'a Workload> {
        match &self.client.kind {
            ClientKind::Sidecar { pod } if self.client.identity.is_some() => self
                .mesh
                .workload(&NamespacedName::new(
                    pod.namespace.clone(),
                    pod.name.clone(),
                ))
                .map(|w| &**w),
            _ => None,
        }
    }

    /// The host under which VirtualServices visible to this client know `host` on this port, when the registry does not.
    pub fn virtual_host_name(&self, host: &str, port: u16) -> Option<String> {
        let speaks = |vs: &VirtualService| rules::speaks(self, vs, Caller::Sidecar, port);
        self.mesh
            .virtual_services
            .knows(host, self.namespace(), &speaks)
    }
}
