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

/// And of how many bytes: the endpoints of a service may be a thousand.
const BYTES: usize = 256 << 20;

/// What keeping a resource costs beside its name, which is there twice, and its message.
const OVERHEAD: usize = 256;

#[derive(Default)]
pub struct Memo {
    views: HashMap<View, HashMap<ResourceType, HashMap<String, Kept>>>,
    kept: usize,
    bytes: usize,
}

struct Kept {
    made_of: Stamp,
    encoded: Arc<Encoded>,
}

/// From where a client sees.
#[derive(Clone, Debug)]
pub struct Viewpoint {
    /// As all of its namespace do.
    common: View,
    /// As those with labels like its own do.
    labelled: View,
}

/// All of a client that a shared resource depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct View {
    dialect: Dialect,
    namespace: String,
    /// Those that `sourceLabels` name.
    labels: BTreeMap<String, String>,
}

impl Viewpoint {
    pub fn of(client: &Client, mesh: &Mesh) -> Self {
        let common = View {
            dialect: client.dialect.clone(),
            namespace: client.namespace.clone(),
            labels: BTreeMap::new(),
        };
        let labelled = View {
            labels: mesh.virtual_services.of_interest(&client.labels),
            ..common.clone()
        };
        Self { common, labelled }
    }

    /// Only rules for requests look at labels, and whether there is a listener for a host that nothing but rules know.
    fn of_type(&self, ty: ResourceType) -> &View {
        match ty {
            ResourceType::Cluster | ResourceType::Endpoint | ResourceType::ProxySettings => {
                &self.common
            }
            ResourceType::Route
            | ResourceType::Listener
            | ResourceType::TrustBundle
            | ResourceType::Secret
            | ResourceType::Departure => &self.labelled,
        }
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        OVERHEAD + 2 * self.encoded.name.len() + self.encoded.any.value.len()
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
        let kept = self.views.get(viewpoint.of_type(ty))?;
        let kept = kept.get(&ty)?.get(name)?;
        (kept.made_of == *made_of).then(|| kept.encoded.clone())
    }

    pub fn put(&mut self, viewpoint: &Viewpoint, made_of: Stamp, encoded: Arc<Encoded>) {
        let kept = Kept { made_of, encoded };
        let bytes = kept.bytes();
        // Foreign clients choose their namespace and labels, and so any number of views.
        if self.kept >= REMEMBERED || self.bytes + bytes > BYTES {
            *self = Self::default();
        }
        let ty = kept.encoded.ty;
        let view = self.views.entry(viewpoint.of_type(ty).clone()).or_default();
        let name = kept.encoded.name.clone();
        let before = view.entry(ty).or_default().insert(name, kept);
        self.kept += usize::from(before.is_none());
        self.bytes = self.bytes + bytes - before.map_or(0, |before| before.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::{SHOP, good_mesh, sidecar};
    use crate::snapshot::{PASSTHROUGH, Snapshot};

    const RULE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart]
  http:
  - match: [{sourceLabels: {app: storefront}}]
    route: [{destination: {host: cart}}]
";

    #[test]
    fn labels_divide_what_depends_on_them_alone() {
        let mesh = good_mesh(&[SHOP, RULE]);
        let snapshot = Snapshot::new(mesh.clone());
        let clients = ["storefront", "cart-v1"].map(|name| sidecar(&mesh, "shop", name));
        let shared = |ty, name: &str| {
            let [one, other] = clients
                .each_ref()
                .map(|client| snapshot.get(client, ty, name));
            Arc::ptr_eq(&one.unwrap(), &other.unwrap())
        };
        let cluster = "outbound|8080||cart.shop.svc.cluster.local";
        assert!(shared(ResourceType::Cluster, cluster));
        assert!(shared(ResourceType::Endpoint, cluster));
        assert!(shared(ResourceType::ProxySettings, "default"));
        assert!(!shared(
            ResourceType::Route,
            "cart.shop.svc.cluster.local:8080"
        ));
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let mesh = good_mesh(&[SHOP]);
        let client = sidecar(&mesh, "shop", "storefront");
        let snapshot = Snapshot::new(mesh.clone());
        let any = snapshot.get(&client, ResourceType::Cluster, PASSTHROUGH);
        let any = any.unwrap();
        let viewpoint = Viewpoint::of(&client, &mesh);
        let mut memo = Memo::default();
        let mut put = |name: &str, length| {
            let mut encoded = Encoded::clone(&any);
            encoded.name = name.to_owned();
            encoded.any.value = vec![0; length];
            memo.put(&viewpoint, Stamp::Config, Arc::new(encoded));
            (memo.kept, memo.bytes / (1 << 20))
        };
        let third = BYTES / 3;
        assert_eq!(put("a", third), (1, 85));
        assert_eq!(put("a", third), (1, 85), "in the place of the other");
        assert_eq!(put("b", third), (2, 170));
        assert_eq!(put("a", 1), (2, 85));
        assert_eq!(put("c", third), (3, 170));
        assert_eq!(put("d", third), (1, 85), "all is made anew");
    }
}
