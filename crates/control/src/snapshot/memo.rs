//! Encoded resources that clients share: a thousand sidecars of a namespace cost one encoding of each, and a change costs those
//! that depend on it. Each is kept with what it was made of and used for as long as that is the same, so snapshots of one
//! configuration share what is remembered.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tasuki_xds::codec::{Dialect, Encoded};
use tasuki_xds::model::ResourceType;

use super::depends::Stamp;
use crate::ads::Client;
use crate::mesh::Mesh;

/// Encoded resources that are kept, most of them below a kilobyte: all four kinds of 500 services for 50 namespaces.
const REMEMBERED: usize = 100_000;

#[derive(Default)]
pub struct Memo {
    views: HashMap<Viewpoint, HashMap<ResourceType, HashMap<String, Kept>>>,
    kept: usize,
}

struct Kept {
    made_of: Stamp,
    encoded: Arc<Encoded>,
}

/// All of a client that a shared resource depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Viewpoint {
    dialect: Dialect,
    namespace: String,
    /// Those that `sourceLabels` name.
    labels: BTreeMap<String, String>,
}

impl Viewpoint {
    pub fn of(client: &Client, mesh: &Mesh) -> Self {
        Self {
            dialect: client.dialect.clone(),
            namespace: client.namespace.clone(),
            labels: mesh.virtual_services.of_interest(&client.labels),
        }
    }
}

impl Memo {
    /// What was made of exactly this.
    pub fn get(
        &self,
        viewpoint: &Viewpoint,
        ty: ResourceType,
        name: &str,
        made_of: &Stamp,
    ) -> Option<Arc<Encoded>> {
        let kept = self.views.get(viewpoint)?.get(&ty)?.get(name)?;
        (kept.made_of == *made_of).then(|| kept.encoded.clone())
    }

    pub fn put(&mut self, viewpoint: &Viewpoint, made_of: Stamp, encoded: Arc<Encoded>) {
        // Foreign clients choose their namespace and labels, and so any number of views.
        if self.kept >= REMEMBERED {
            *self = Self::default();
        }
        let view = self.views.entry(viewpoint.clone()).or_default();
        let names = view.entry(encoded.ty).or_default();
        let name = encoded.name.clone();
        let before = names.insert(name, Kept { made_of, encoded });
        self.kept += usize::from(before.is_none());
    }
}
