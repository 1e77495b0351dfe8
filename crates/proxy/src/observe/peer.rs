//! Who is at either end of a request, as metric labels say it, and the header `x-tasuki-peer` by which a mesh peer
//! tells its labels (contract section 7).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tasuki_xds::model::cluster::ServiceRef;
use tasuki_xds::model::endpoint::WorkloadRef;

/// The header in which a sidecar tells its peer who it is.
pub const PEER_HEADER: &str = "x-tasuki-peer";

/// Longest header value that is read.
const LONGEST: usize = 256;

/// Distinct peers that are told apart; everybody after them is `other`.
const MOST_PEERS: usize = 1_000;

/// One end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Party {
    /// Empty fields are unknown.
    pub workload: WorkloadRef,
    /// The verified SPIFFE id.
    pub principal: Option<Arc<str>>,
}

/// The far end of a request: an endpoint of a service. Built once per endpoint, shared by its requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Destination {
    pub party: Party,
    pub service: Option<ServiceRef>,
}

/// What this proxy puts into `x-tasuki-peer`: name, namespace, app, version, canonical service and revision, cluster,
/// separated by `;`. Cut short rather than longer than [`LONGEST`].
pub fn encode(workload: &WorkloadRef) -> String {
    let fields = [
        &workload.name,
        &workload.namespace,
        &workload.app,
        &workload.version,
        &workload.canonical_service,
        &workload.canonical_revision,
        &workload.cluster,
    ];
    let mut value = String::new();
    for (i, field) in fields.into_iter().enumerate() {
        if value.len() + field.len() + 1 > LONGEST {
            break;
        }
        if i > 0 {
            value.push(';');
        }
        value.extend(field.chars().filter(|c| c.is_ascii_graphic() && *c != ';'));
    }
    value
}

/// The peers that have been seen, so that one peer is one `Arc` and metric handles can be cached by it.
#[derive(Default)]
pub struct Peers(Mutex<HashMap<Shown, Arc<Party>>>);

/// What a peer showed: its verified id and its header.
type Shown = (Option<Arc<str>>, Box<[u8]>);

impl Peers {
    /// The party with this verified id that sent this header; `other` once there are too many.
    pub fn intern(&self, principal: Option<&str>, header: Option<&[u8]>) -> Arc<Party> {
        let header = header.filter(|h| h.len() <= LONGEST).unwrap_or_default();
        let key = (principal.map(Arc::from), Box::from(header));
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(party) = peers.get(&key) {
            return Arc::clone(party);
        }
        if peers.len() >= MOST_PEERS {
            let other = (None, Box::from(&b"other"[..]));
            return Arc::clone(
                peers
                    .entry(other)
                    .or_insert_with(|| Arc::new(named("other"))),
            );
        }
        let party = Arc::new(Party {
            workload: decode(header, principal),
            principal: key.0.clone(),
        });
        peers.insert(key, Arc::clone(&party));
        party
    }
}

fn named(name: &str) -> Party {
    Party {
        workload: WorkloadRef {
            name: name.into(),
            ..WorkloadRef::default()
        },
        principal: None,
    }
}

/// The namespace and service account are those of the verified id, whatever the header says.
fn decode(header: &[u8], principal: Option<&str>) -> WorkloadRef {
    let mut fields = header
        .split(|b| *b == b';')
        .map(|f| String::from_utf8_lossy(f).into_owned());
    let mut next = || fields.next().unwrap_or_default();
    let mut workload = WorkloadRef {
        name: next(),
        namespace: next(),
        app: next(),
        version: next(),
        canonical_service: next(),
        canonical_revision: next(),
        cluster: next(),
        service_account: String::new(),
    };
    if let Some((_, path)) = principal.and_then(|id| id.split_once("/ns/"))
        && let Some((namespace, account)) = path.split_once("/sa/")
    {
        workload.namespace = namespace.to_owned();
        workload.service_account = account.to_owned();
    }
    workload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_travel_and_the_verified_id_wins() {
        let workload = WorkloadRef {
            name: "cart-v1".into(),
            namespace: "lies".into(),
            app: "cart".into(),
            version: "v1".into(),
            ..WorkloadRef::default()
        };
        let peers = Peers::default();
        let header = encode(&workload);
        let id = Some("spiffe://cluster.local/ns/shop/sa/cart");
        let party = peers.intern(id, Some(header.as_bytes()));
        assert_eq!(party.workload.name, "cart-v1");
        assert_eq!(party.workload.namespace, "shop");
        assert_eq!(party.workload.service_account, "cart");
        assert!(Arc::ptr_eq(
            &party,
            &peers.intern(id, Some(header.as_bytes()))
        ));
    }

    #[test]
    fn too_many_peers_are_other() {
        let peers = Peers::default();
        for i in 0..MOST_PEERS {
            peers.intern(None, Some(format!("p{i}").as_bytes()));
        }
        assert_eq!(peers.intern(None, Some(b"one-more")).workload.name, "other");
        assert_eq!(peers.intern(None, Some(b"p1")).workload.name, "p1");
    }
}
