//! One HTTP hop without a control plane: `static_hop LISTEN UPSTREAM [h1|h2|as-is]`. For measuring and for trying things out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tasuki_proxy::cluster::Cluster;
use tasuki_proxy::drain::Drain;
use tasuki_proxy::observe::{AccessLog, Metrics};
use tasuki_proxy::settings::{AccessLogMode, Listen, ObjectName, Role, Settings, UnknownPolicy};
use tasuki_proxy::state::{ListenerName, Outbound, Snapshot, State};
use tasuki_proxy::worker;
use tasuki_xds::model;
use tasuki_xds::model::cluster::{Balance, Discovery, HttpProtocol, Limits};
use tasuki_xds::model::listener::{DeclaredProtocol, HttpConnection, RouteSource};
use tasuki_xds::model::route::{
    Forward, HeaderMutations, PathMatch, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, WeightedCluster,
};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let listen: SocketAddr = args.next().context("LISTEN")?.parse()?;
    let upstream: SocketAddr = args.next().context("UPSTREAM")?.parse()?;
    let http = match args.next().as_deref() {
        Some("h1") => HttpProtocol::Http1,
        Some("h2") => HttpProtocol::Http2,
        _ => HttpProtocol::Downstream,
    };
    let settings = Arc::new(settings(listen));
    let metrics = Arc::new(Metrics::new()?);
    let (access_log, _written) =
        AccessLog::stdout(settings.access_log, metrics.access_log_dropped.clone())?;
    let (state, _demands) = State::new(settings.unknown_when_disconnected);
    state.publish(snapshot(upstream, http));
    let drain = Drain::new();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let (bound, _bound) = std::sync::mpsc::channel();
    worker::run(worker::Start {
        index: 0,
        settings,
        state,
        drain: drain.watch(),
        metrics,
        access_log,
        stopped,
        bound,
    });
    Ok(())
}

fn settings(listen: SocketAddr) -> Settings {
    let unused = SocketAddr::from(([127, 0, 0, 1], 0));
    Settings {
        role: Role::Sidecar {
            pod: ObjectName {
                namespace: "default".into(),
                name: "hop".into(),
            },
        },
        control: String::new(),
        control_ca: None,
        token_file: None,
        state_dir: PathBuf::new(),
        outbound: None,
        inbound: None,
        admin: unused,
        metrics: unused,
        health: unused,
        workers: 1,
        drain_time: Duration::from_secs(1),
        access_log: AccessLogMode::Off,
        reason_header: true,
        unknown_when_disconnected: UnknownPolicy::Refuse,
        listen: vec![Listen {
            address: listen,
            host: "hop.test".into(),
            port: 80,
        }],
        inbound_listen: Vec::new(),
        log: "info".into(),
    }
}

fn snapshot(upstream: SocketAddr, http: HttpProtocol) -> Snapshot {
    let cluster = Arc::new(Cluster::new(&model::Cluster {
        name: "hop".into(),
        discovery: Discovery::Static(vec![upstream]),
        connect_timeout: Duration::from_secs(5),
        balance: Balance::LeastRequest { choices: 2 },
        limits: Limits::default(),
        retry_budget: None,
        outliers: None,
        tls: Vec::new(),
        http,
        panic_percent: 0,
        service: None,
        keepalive: None,
        idle_timeout: None,
    }));
    let listener = model::Listener {
        name: "hop.test:80".into(),
        address: None,
        protocol: DeclaredProtocol::Http,
        workload: None,
        api: Some(HttpConnection {
            stat_prefix: String::new(),
            routes: RouteSource::Rds("hop.test:80".into()),
            rbac: Vec::new(),
            forward_client_cert: Default::default(),
        }),
        chains: Vec::new(),
        default_chain: None,
    };
    let outbound = Outbound::compile(&Arc::new(listener), Some(Arc::new(routes())), &|_| {
        Some(cluster.clone())
    });
    let mut snapshot = Snapshot::empty();
    snapshot.generation = 1;
    snapshot
        .outbound
        .insert(ListenerName::exact("hop.test:80"), Arc::new(outbound));
    snapshot
}

fn routes() -> RouteConfiguration {
    let forward = Forward {
        clusters: vec![WeightedCluster {
            name: "hop".into(),
            weight: 1,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
        }],
        timeout: None,
        grpc_timeout_max: None,
        retry: None,
        path_rewrite: None,
        host_rewrite: None,
    };
    let route = Route {
        name: "all".into(),
        matches: RouteMatch {
            path: PathMatch::Prefix("/".into()),
            ignore_path_case: false,
            headers: Vec::new(),
            query: Vec::new(),
            fraction_per_million: None,
            grpc: false,
        },
        action: RouteAction::Forward(forward),
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
    };
    let host = VirtualHost {
        name: "all".into(),
        domains: vec!["*".into()],
        routes: vec![route],
    };
    RouteConfiguration {
        name: "hop.test:80".into(),
        virtual_hosts: vec![host],
    }
}
