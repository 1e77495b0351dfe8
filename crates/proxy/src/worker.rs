//! A worker: one OS thread with its own runtime, listeners and upstream pools.
//!
//! Nothing on the request path is shared between workers but atomics and the snapshot, so a request takes no lock and
//! wakes no other thread.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;

use anyhow::Context;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use crate::limit::Connections;
use crate::loop_guard::{self, LoopGuard};
use crate::observe::{AccessLog, Metrics, Recorder};
use crate::settings::{Role, Settings};
use crate::state::{ListenerName, State};
use crate::{accept, connection, drain, gateway, upstream};

/// What every connection of a worker can reach.
pub struct Worker {
    /// From 0.
    pub index: usize,
    pub settings: Arc<Settings>,
    pub state: Arc<State>,
    pub pools: upstream::Pools,
    pub drain: drain::Watch,
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    /// Makes the records of requests and connections.
    pub recorder: Rc<Recorder>,
    /// What the proxy listens on itself; [`LoopGuard::of`] the settings.
    pub guard: LoopGuard,
}

/// What a worker's thread is given.
pub struct Start {
    pub index: usize,
    pub settings: Arc<Settings>,
    pub state: Arc<State>,
    pub drain: drain::Watch,
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    /// Becomes true when the thread shall end.
    pub stopped: watch::Receiver<bool>,
    /// Told once whether all listeners are bound.
    pub bound: std_mpsc::Sender<anyhow::Result<()>>,
}

/// The thread of a worker; returns when told to stop.
pub fn run(start: Start) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = start.bound.send(Err(error.into()));
            return;
        }
    };
    let mut stopped = start.stopped.clone();
    let bound = start.bound.clone();
    LocalSet::new().block_on(&runtime, async move {
        let worker = Rc::new(Worker::new(&start));
        let result = listen(&worker);
        drop(start);
        let failed = result.is_err();
        let _ = bound.send(result);
        drop(bound);
        if !failed {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    });
}

impl Worker {
    fn new(start: &Start) -> Worker {
        Worker {
            index: start.index,
            settings: Arc::clone(&start.settings),
            state: Arc::clone(&start.state),
            pools: upstream::Pools::new(),
            drain: start.drain.clone(),
            metrics: Arc::clone(&start.metrics),
            access_log: start.access_log.clone(),
            recorder: Recorder::new(Arc::clone(&start.metrics), start.access_log.clone()),
            guard: LoopGuard::of(&start.settings),
        }
    }

    /// Whether dialling `address` would reach the proxy itself (flag `LOOP`).
    pub fn refuses(&self, address: SocketAddr) -> bool {
        let bound = &self.state.snapshot().gateway;
        self.guard.refuses(address)
            || loop_guard::is_bound(bound.values().map(|listener| listener.address), address)
    }
}

/// Binds everything that the settings name; a gateway's listeners come and go with its configuration.
fn listen(worker: &Rc<Worker>) -> anyhow::Result<()> {
    let settings = &worker.settings;
    let connections = Rc::new(Connections::per_worker(settings.workers));
    if let Some(address) = settings.outbound {
        accept_on(worker, &connections, address, connection::outbound)?;
    }
    if let Some(address) = settings.inbound {
        accept_on(worker, &connections, address, connection::inbound)?;
    }
    for explicit in &settings.listen {
        let name = ListenerName::host(&explicit.host, explicit.port)
            .with_context(|| format!("--listen: {:?} is not a host", explicit.host))?;
        accept_on(
            worker,
            &connections,
            explicit.address,
            move |worker, stream, peer| connection::outbound_to(worker, stream, peer, name.clone()),
        )?;
    }
    for explicit in &settings.inbound_listen {
        let port = explicit.port;
        accept_on(
            worker,
            &connections,
            explicit.address,
            move |worker, stream, peer| connection::inbound_to(worker, stream, peer, port),
        )?;
    }
    if let Role::Gateway { .. } = settings.role {
        spawn_local(gateway::run(Rc::clone(worker), connections));
    }
    Ok(())
}

fn accept_on<S, F>(
    worker: &Rc<Worker>,
    connections: &Rc<Connections>,
    address: SocketAddr,
    mut serve: S,
) -> anyhow::Result<()>
where
    S: FnMut(Rc<Worker>, TcpStream, SocketAddr) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let listener = accept::bind(address).with_context(|| format!("listening on {address}"))?;
    let worker = Rc::clone(worker);
    let connections = Rc::clone(connections);
    let handle = move |stream, peer, open| {
        let counted = Counted::new(&worker.metrics);
        let served = serve(Rc::clone(&worker), stream, peer);
        async move {
            served.await;
            drop((open, counted));
        }
    };
    spawn_local(accept::serve(
        listener,
        connections,
        std::future::pending(),
        handle,
    ));
    Ok(())
}

/// One open downstream connection in the metrics.
pub struct Counted(Arc<Metrics>);

impl Counted {
    pub fn new(metrics: &Arc<Metrics>) -> Counted {
        metrics.downstream_accepted.inc();
        metrics.downstream_connections.inc();
        Counted(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.downstream_connections.dec();
    }
}
