//! A gateway's listeners: bound, kept and closed as the Gateway resource says, on every worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::limit::Connections;
use crate::state::{ListenerName, Snapshot};
use crate::worker::{Counted, Worker};
use crate::{accept, connection};

/// Between tries to bind an address that somebody else holds.
const RETRY: Duration = Duration::from_secs(1);

/// Listeners of this worker, by address; dropping the sender closes one.
type Bound = HashMap<SocketAddr, (ListenerName, oneshot::Sender<()>)>;

/// Follows the configuration until the worker ends.
pub async fn run(worker: Rc<Worker>, connections: Rc<Connections>) {
    let mut changes = worker.state.changes();
    let mut bound = Bound::new();
    loop {
        changes.borrow_and_update();
        let snapshot = worker.state.snapshot();
        bound.retain(|address, (name, _)| {
            let stays = snapshot
                .gateway
                .get(name)
                .is_some_and(|listener| listener.address == *address);
            if !stays {
                tracing::info!(%address, listener = %name, "gateway listener closed");
            }
            stays
        });
        let all = bind_new(&worker, &connections, &snapshot, &mut bound);
        let retry = tokio::time::sleep(if all { Duration::MAX } else { RETRY });
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

/// False when an address could not be bound.
fn bind_new(
    worker: &Rc<Worker>,
    connections: &Rc<Connections>,
    snapshot: &Snapshot,
    bound: &mut Bound,
) -> bool {
    let mut all = true;
    for (name, listener) in &snapshot.gateway {
        let address = listener.address;
        if bound.contains_key(&address) {
            continue;
        }
        match accept::bind(address) {
            Ok(socket) => {
                tracing::info!(%address, listener = %name, "gateway listener open");
                let (keep, closed) = oneshot::channel::<()>();
                let handle = handler(worker, name);
                let stop = async { drop(closed.await) };
                spawn_local(accept::serve(socket, Rc::clone(connections), stop, handle));
                bound.insert(address, (name.clone(), keep));
            }
            Err(error) => {
                tracing::warn!(%address, listener = %name, %error, "gateway listener could not be bound");
                all = false;
            }
        }
    }
    all
}

/// Each connection is served by the listener's configuration of its own moment.
fn handler(
    worker: &Rc<Worker>,
    name: &ListenerName,
) -> impl FnMut(
    tokio::net::TcpStream,
    SocketAddr,
    crate::limit::Open,
) -> std::pin::Pin<Box<dyn Future<Output = ()>>>
+ use<> {
    let (worker, name) = (Rc::clone(worker), name.clone());
    move |stream, peer, open| {
        let listener = worker.state.snapshot().gateway.get(&name).cloned();
        let (worker, counted) = (Rc::clone(&worker), Counted::new(&worker.metrics));
        Box::pin(async move {
            if let Some(listener) = listener {
                connection::gateway(worker, stream, peer, listener).await;
            }
            drop((open, counted));
        })
    }
}
