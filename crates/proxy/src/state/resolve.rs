//! Names that the proxy resolves itself: one task per `Dns` cluster, on the control thread.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tasuki_xds::model::cluster::Discovery;
use tokio::task::AbortHandle;

use crate::cluster::Cluster;

/// Addresses of one cluster; a name with more is cut short.
const MOST_ADDRESSES: usize = 1_024;

/// Between tries while a name does not resolve.
const RETRY: Duration = Duration::from_secs(5);

/// Never more often than this, whatever the definition says.
const FASTEST: Duration = Duration::from_secs(1);

/// The tasks, by cluster name.
#[derive(Default)]
pub struct Resolvers {
    tasks: HashMap<String, Task>,
}

struct Task {
    cluster: Arc<Cluster>,
    handle: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Resolvers {
    /// Starts and ends tasks so that exactly these clusters are resolved. Needs a tokio runtime if any is to be.
    pub fn follow(&mut self, clusters: &HashMap<String, Arc<Cluster>>) {
        self.tasks.retain(|name, task| {
            clusters
                .get(name)
                .is_some_and(|cluster| Arc::ptr_eq(cluster, &task.cluster))
        });
        for (name, cluster) in clusters {
            if let Discovery::Dns { hosts, refresh } = &cluster.config.discovery
                && !self.tasks.contains_key(name)
            {
                let work = resolve(Arc::clone(cluster), hosts.clone(), (*refresh).max(FASTEST));
                let handle = tokio::spawn(work).abort_handle();
                self.tasks.insert(
                    name.clone(),
                    Task {
                        cluster: Arc::clone(cluster),
                        handle,
                    },
                );
            }
        }
    }
}

async fn resolve(cluster: Arc<Cluster>, hosts: Vec<(String, u16)>, refresh: Duration) {
    loop {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for (host, port) in &hosts {
            // getaddrinfo on a thread of the runtime: it honours /etc/hosts and resolv.conf as the application does.
            match tokio::net::lookup_host((host.as_str(), *port)).await {
                Ok(found) => addresses.extend(found),
                Err(error) => tracing::debug!(host, %error, "name does not resolve"),
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        if addresses.is_empty() {
            // What was resolved before stays; only a cluster that never had an address fails at once.
            cluster.resolution_failed();
            tokio::time::sleep(RETRY.min(refresh)).await;
        } else {
            let assignment = cluster.assignment();
            let known: Vec<SocketAddr> = assignment
                .localities
                .iter()
                .flat_map(|l| &l.endpoints)
                .map(|e| e.address)
                .collect();
            if known != addresses || !cluster.has_arrived() {
                cluster.set_addresses(&addresses);
            }
            tokio::time::sleep(refresh).await;
        }
    }
}
