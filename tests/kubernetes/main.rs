//! Scenarios on a real Kubernetes: what only its API server, kubelet and kube-proxy can show. Run by
//! `tests/cluster test [NAME]`, beside a cluster that it starts; each scenario has a namespace for itself.

mod app;
mod control;
mod injection;
mod install;
mod outage;
mod probes;
mod propagation;
mod rollout;
mod scale;
mod shop;
mod tokens;
mod workloads;

use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tasuki_testkit::cluster::Cluster;
use tasuki_testkit::require::{Need, have};

/// Who uses the installed mesh; who takes it away has it alone.
static MESH: RwLock<()> = RwLock::new(());

/// The cluster with an installed mesh, beside other scenarios; `None` where no cluster is running.
fn mesh(test: &str) -> Option<(Cluster, RwLockReadGuard<'static, ()>)> {
    let cluster = cluster(test)?;
    Some((cluster, MESH.read().unwrap_or_else(|e| e.into_inner())))
}

/// The same for a scenario that nothing else may run beside.
fn whole_mesh(test: &str) -> Option<(Cluster, RwLockWriteGuard<'static, ()>)> {
    let cluster = cluster(test)?;
    Some((cluster, MESH.write().unwrap_or_else(|e| e.into_inner())))
}

fn cluster(test: &str) -> Option<Cluster> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    if !have(test, &[Need::Cluster]) {
        return None;
    }
    let cluster = Cluster::find()?;
    // Once, whichever scenario is first, and without a try for each of the others when it fails.
    let installed = INSTALLED.get_or_init(|| {
        install::install(cluster).map_err(|error| {
            cluster.diagnose();
            format!("{error:#}")
        })
    });
    if let Err(error) = installed {
        panic!("the mesh is not installed: {error}");
    }
    Some(cluster)
}
