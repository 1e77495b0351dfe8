//! The process: threads, listeners, signals, the end.
//!
//! The main thread is the control thread: xDS, identity, admin, metrics. Each worker has a thread of its own.

use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tasuki_runtime::admin::Limits;
use tasuki_runtime::signals::Termination;
use tasuki_runtime::{admin as server, logging};
use tasuki_xds::client::{AdsClient, NodeInfo};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use crate::admin::{Admin, HEALTH_LIMITS};
use crate::application::Application;
use crate::control::ControlPlane;
use crate::departure::Leave;
use crate::drain::Drain;
use crate::identity::renew::{ControlSigner, Renewal};
use crate::loop_guard::LoopGuard;
use crate::observe::clusters::Clusters;
use crate::observe::{AccessLog, Metrics, SharedMode};
use crate::probe::Prober;
use crate::settings::{Command, CommandLine, Role, Settings};
use crate::state::manager::Manager;
use crate::state::{Demand, State, client, link};
use crate::{redirect, wait, worker};

/// Waited for when everything has ended: the last lines of the access log.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs what the command line says; returns when the process may end.
///
/// # Errors
/// What stops a process from starting: ports in use, flags that make no sense.
pub fn run(line: CommandLine) -> anyhow::Result<()> {
    match line.command {
        Command::Sidecar(args) => serve(Settings::sidecar(*args)?),
        Command::Gateway(args) => serve(Settings::gateway(args)),
        Command::Redirect(args) => redirect::run(&args),
        Command::Wait(args) => wait::wait(&args),
    }
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    logging::init(&settings.log, false)?;
    let settings = Arc::new(settings);
    // Served without, too: what cannot be kept is told by whoever fails to keep it.
    if let Err(error) = std::fs::create_dir_all(&settings.state_dir) {
        tracing::warn!(folder = %settings.state_dir.display(), %error, "the state dir cannot be made");
    }
    let metrics = Arc::new(Metrics::new()?);
    let log_mode = SharedMode::new(settings.access_log.unwrap_or_default());
    let (access_log, written) =
        AccessLog::stdout(log_mode.clone(), metrics.access_log_dropped.clone())?;
    let (state, demands) = State::new(settings.unknown_when_disconnected);
    metrics
        .registry()
        .register(Box::new(Clusters::new(Arc::clone(&state))?))?;
    let drain = Drain::new();
    let (stop, stopped) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;

    let mut workers = Vec::new();
    let (bound, results) = std_mpsc::channel();
    for index in 0..settings.workers {
        let start = worker::Start {
            index,
            settings: Arc::clone(&settings),
            state: Arc::clone(&state),
            drain: drain.watch(),
            metrics: Arc::clone(&metrics),
            access_log: access_log.clone(),
            stopped: stopped.clone(),
            bound: bound.clone(),
        };
        let name = format!("worker-{index}");
        workers.push(
            std::thread::Builder::new()
                .name(name)
                .spawn(move || worker::run(start))?,
        );
    }
    drop((access_log, bound));
    for result in results {
        result?;
    }
    if settings.access_log.is_none() {
        runtime.spawn(log_mode.follow(state.settings()));
    }
    let ended =
        LocalSet::new().block_on(&runtime, control(settings, state, metrics, drain, demands));
    // Workers drop their tasks, which writes their last records.
    stop.send_replace(true);
    for worker in workers {
        let _ = worker.join();
    }
    let _ = written.recv_timeout(LAST_WORDS);
    // Resolvers may sit in getaddrinfo.
    runtime.shutdown_background();
    ended
}

/// The control thread, until the drain is over.
async fn control(
    settings: Arc<Settings>,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    drain: Drain,
    demands: mpsc::Receiver<Demand>,
) -> anyhow::Result<()> {
    let mut signals = Termination::new()?;
    let control = Arc::new(ControlPlane::new(&settings)?);
    serve_admin(&settings, &state, &metrics, &drain).await?;

    let ads = AdsClient::new(&node(&settings.role));
    let manager = Manager::new(
        ads,
        &settings.role,
        &settings.state_dir,
        Arc::clone(&state),
        Arc::clone(&metrics),
        Instant::now(),
    );
    let (happenings, happened) = mpsc::channel(32);
    let (new_certificates, certificates) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel();
    let renewal = Renewal {
        signer: ControlSigner {
            control: Arc::clone(&control),
            state: Arc::clone(&state),
            role: settings.role.clone(),
        },
        clock: SystemTime::now,
        state_dir: settings.state_dir.clone(),
        trust: state.trust_changes(),
        certificates: new_certificates,
        metrics: Arc::clone(&metrics),
    };
    spawn_local(renewal.run());
    spawn_local(link::run(control, Arc::clone(&state), happenings));
    let manager = spawn_local(client::run(
        manager,
        client::Inputs {
            demands,
            happened,
            certificates,
            stop: stopped,
        },
    ));

    tokio::select! {
        signal = signals.wait() => {
            tracing::info!(signal, "draining");
            drain.start();
        }
        () = drain.started() => tracing::info!("draining"),
    }
    tokio::select! {
        cut_off = drain.finished(settings.drain_time) => tracing::info!(cut_off, "drained"),
        signal = signals.wait() => tracing::info!(signal, "ending at once"),
    }
    let _ = stop.send(());
    let _ = manager.await;
    Ok(())
}

async fn serve_admin(
    settings: &Arc<Settings>,
    state: &Arc<State>,
    metrics: &Arc<Metrics>,
    drain: &Drain,
) -> anyhow::Result<()> {
    let application = settings
        .in_pod
        .ip
        .map(|ip| Application::new(ip, LoopGuard::of(settings)));
    let leave = Leave {
        state: Arc::clone(state),
        drain: drain.clone(),
        limit: settings.in_pod.prestop_limit,
        minimum: settings.in_pod.drain_minimum,
    };
    spawn_local(leave.clone().watch());
    let admin = Admin {
        settings: Arc::clone(settings),
        state: Arc::clone(state),
        metrics: Arc::clone(metrics),
        drain: drain.clone(),
        prober: Prober::new(application.clone(), &settings.in_pod.probes),
        leave,
        application,
    };
    let few = Limits::default();
    // A gateway has no application beside it, and its port is often within strangers' reach.
    let health = match settings.role {
        Role::Sidecar { .. } => admin.pod_routes(),
        Role::Gateway { .. } => admin.health_routes(),
    };
    let servers = [
        ("admin", settings.admin, admin.routes(), few),
        ("metrics", settings.metrics, admin.metrics_routes(), few),
        ("health", settings.health, health, HEALTH_LIMITS),
    ];
    for (name, address, routes, limits) in servers {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("{name} on {address}"))?;
        tracing::info!(name, address = %listener.local_addr()?, "listening");
        let never = std::future::pending();
        spawn_local(server::serve_with(listener, routes, limits, never));
    }
    Ok(())
}

fn node(role: &Role) -> NodeInfo {
    let version = env!("CARGO_PKG_VERSION");
    match role {
        Role::Sidecar { pod } => NodeInfo::sidecar(&pod.namespace, &pod.name, version),
        Role::Gateway { gateway } => NodeInfo::gateway(&gateway.namespace, &gateway.name, version),
    }
}
