//! The process: opens the source and the authority, binds the ports, follows changes, ends when told.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use tasuki_identity::TrustDomain;
use tasuki_identity::proto::IstioCertificateServiceServer;
use tasuki_runtime::signals::Termination;
use tasuki_runtime::{admin, metrics, open_files};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Server;
use tracing::{error, info, warn};

use crate::ads::{AdsService, Authenticator, Catalog, Clients};
use crate::auth::incoming;
use crate::auth::incoming::Gate;
use crate::ca::replicas::Replica;
use crate::ca::rotation::Driver;
use crate::ca::server_tls::ServerTls;
use crate::ca::{Authority, CertificateService};
use crate::catalog::Published;
use crate::debug::{self, Metrics};
use crate::departures::replicas::{Asking, DeparturesServer, Replicas};
use crate::ending::{Ending, Life};
use crate::leader::while_leading;
use crate::limits::{self, Bound, Refused, StreamLimits};
use crate::mesh::{Mesh, MeshSettings};
use crate::platform::{self, Cluster, Platform};
use crate::settings::Settings;
use crate::source::Objects;
use crate::source::broken::is_loud;
use crate::timer::reach;
use crate::webhook::{self, Webhook};

/// Streams that are open at the end get this long; they would otherwise stay for ever.
const GRACE: Duration = Duration::from_secs(1);
/// How often certificates made for Envoys are looked at.
const SECRETS_EVERY: Duration = Duration::from_secs(1);
/// After a mesh that could not be built, which would fail again at once.
const AGAIN: Duration = Duration::from_secs(1);
/// A dead peer's stream is noticed after this.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls at a time on one connection: more than its ADS streams, so that those beyond them are told, and certificates besides.
const CALLS: u32 = 64;
/// Files that are not connections: resources that are read, the state dir, the admin port.
const OTHER_FILES: u64 = 128;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting, in words for the person who started it.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    settings.check().map_err(|reason| anyhow!(reason))?;
    let mut termination = Termination::new()?;
    let trust_domain = TrustDomain::new(&settings.trust_domain).context("--trust-domain")?;
    let registry = metrics::registry("control", env!("CARGO_PKG_VERSION"))?;
    let mut mesh_settings = MeshSettings::new(
        trust_domain.clone(),
        settings.root_namespace(),
        settings.outbound_traffic_policy,
        settings.certificate_ttl,
    );
    if settings.kubernetes {
        mesh_settings = mesh_settings.with_istio_label(settings.istio_injection_label);
    }
    let platform = if settings.kubernetes {
        // Which may wait long for the API server.
        tokio::select! {
            platform = platform::kubernetes::open(&settings, &trust_domain) => platform?,
            signal = termination.wait() => {
                info!(signal, "ended");
                return Ok(());
            }
        }
    } else {
        platform::embedded::open(&settings, &trust_domain)?
    };
    let Platform {
        objects,
        authority,
        authenticator,
        cluster,
    } = platform;
    let mesh = Mesh::build(&objects.borrow(), mesh_settings);
    let mut complaints = Complaints::default();
    complaints.about(&mesh);
    let published = Arc::new(Published::new(mesh, authority.clone()));
    let resource_metrics = Metrics::new(&registry)?;
    resource_metrics.describe(&published.mesh(), published.generation());
    tokio::spawn(follow(
        objects,
        published.clone(),
        resource_metrics,
        complaints,
    ));
    tokio::spawn(follow_trust(authority.clone(), published.clone()));

    let webhook = match &cluster {
        Some(cluster) => {
            let open = webhook::open(&settings, cluster, &authority, &published, &registry);
            Some(open.await?)
        }
        None => None,
    };
    let (ending, life) = Ending::new();
    let mut servers = Servers::bind(
        &settings,
        &authority,
        authenticator,
        cluster.as_ref(),
        &published,
        &registry,
        &life,
    )
    .await?;
    servers.webhook = webhook;
    let work = async {
        servers.run(life).await;
        if let Some(cluster) = cluster {
            cluster.campaign.release().await;
        }
    };
    ending
        .run(work, &mut termination, settings.drain_delay())
        .await;
    Ok(())
}

/// Each change of the resources becomes a mesh; changes that come while one is built are built together. So does the
/// time at which a departed pod is forgotten.
async fn follow(
    mut objects: watch::Receiver<Arc<Objects>>,
    published: Arc<Published>,
    metrics: Metrics,
    mut complaints: Complaints,
) {
    loop {
        let present = published.mesh();
        tokio::select! {
            changed = objects.changed() => match changed {
                Ok(()) => metrics.changes.inc(),
                Err(_) => return,
            },
            () = reach(present.departed.next_end()) => {}
        }
        let source = objects.borrow_and_update().clone();
        let timer = metrics.build_seconds.start_timer();
        let now = Instant::now();
        let built = tokio::task::spawn_blocking(move || present.successor(&source, now)).await;
        timer.observe_duration();
        match built {
            Ok(mesh) => {
                complaints.about(&mesh);
                published.publish(Arc::new(mesh));
                metrics.describe(&published.mesh(), published.generation());
            }
            Err(error) => {
                warn!(%error, "the mesh could not be built; the last one stays");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// New roots go to everybody; so do renewed certificates.
async fn follow_trust(authority: Authority, published: Arc<Published>) {
    let mut bundles = authority.bundles();
    let mut ticks = tokio::time::interval(SECRETS_EVERY);
    loop {
        tokio::select! {
            changed = bundles.changed() => match changed {
                Ok(()) => published.refresh_trust(),
                Err(_) => return,
            },
            _ = ticks.tick() => published.renew_secrets(SystemTime::now()),
        }
    }
}

/// Errors that have been logged; each is, once.
#[derive(Default)]
struct Complaints(HashSet<String>);

impl Complaints {
    fn about(&mut self, mesh: &Mesh) {
        let mut present = HashSet::new();
        for problem in mesh.problems.iter().filter(|problem| problem.is_error()) {
            let text = problem.to_string();
            match (self.0.contains(&text), is_loud(problem)) {
                (true, _) => {}
                (false, true) => error!("{text}"),
                (false, false) => warn!("{text}"),
            }
            present.insert(text);
        }
        self.0 = present;
    }
}

/// The connections of one of the two ports, given how many files the process may have open.
fn connections(files: u64) -> Bound {
    let half = usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX);
    let all = half.clamp(1, limits::CONNECTIONS);
    Bound {
        all,
        // Nobody takes more than half, however few there are.
        each_peer: limits::PEER_CONNECTIONS.min(all.div_ceil(2)),
    }
}

/// All ports, bound.
struct Servers {
    plain: TcpListener,
    tls: TcpListener,
    admin: TcpListener,
    routes: admin::Routes,
    server_tls: ServerTls,
    ads: Arc<AdsService>,
    refused: Refused,
    ca: IstioCertificateServiceServer<CertificateService>,
    webhook: Option<(TcpListener, Webhook)>,
    /// What the other replicas are told.
    replicas: Option<DeparturesServer<Replicas>>,
    replica: Option<Replica>,
}

impl Servers {
    async fn bind(
        settings: &Settings,
        authority: &Authority,
        authenticator: Arc<dyn Authenticator>,
        cluster: Option<&Cluster>,
        published: &Arc<Published>,
        registry: &prometheus::Registry,
        life: &Life,
    ) -> anyhow::Result<Self> {
        let catalog: Arc<dyn Catalog> = published.clone();
        let clients = Arc::new(Clients::new());
        let lacking = clients.clone();
        let driven = authority.clone();
        let drive = move || {
            let lacking = lacking.clone();
            Driver::new(
                driven.clone(),
                Box::new(move |bundle| lacking.lacking(bundle)),
            )
            .run()
        };
        let replica = match cluster {
            Some(cluster) => {
                tokio::spawn(while_leading(cluster.campaign.leadership(), drive));
                Some(Self::replica(cluster, authority, clients.clone()))
            }
            None => {
                tokio::spawn(drive());
                None
            }
        };
        let replicas = Self::departures(cluster, authority, &catalog, &clients)?;
        let mut names = settings.xds_tls_name.clone();
        if !settings.xds_tls.ip().is_unspecified() {
            names.push(settings.xds_tls.ip().to_string());
        }
        let ca = CertificateService::new(
            authority.clone(),
            authenticator.clone(),
            catalog.clone(),
            registry,
        )?;
        let refused = Refused::new(registry)?;
        let streams = StreamLimits::new(refused.clone());
        let bind = |flag: &'static str, address| async move {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("{flag} {address}"))
        };
        let servers = Self {
            plain: bind("--xds", settings.xds).await?,
            tls: bind("--xds-tls", settings.xds_tls).await?,
            admin: bind("--admin", settings.admin).await?,
            routes: debug::routes(published, &clients, registry, life.clone())?,
            server_tls: ServerTls::new(authority.clone(), &names)?,
            ads: Arc::new(AdsService::new(catalog, authenticator, clients, streams)),
            refused,
            ca: ca.into_server(),
            webhook: None,
            replicas,
            replica,
        };
        // Who starts this with port 0 reads here what it became.
        info!(
            xds = %servers.plain.local_addr()?,
            xds_tls = %servers.tls.local_addr()?,
            admin = %servers.admin.local_addr()?,
            "serving"
        );
        Ok(servers)
    }

    fn replica(cluster: &Cluster, authority: &Authority, clients: Arc<Clients>) -> Replica {
        Replica::start(
            cluster.client.clone(),
            &cluster.namespace,
            &cluster.campaign,
            authority.clone(),
            Box::new(move |bundle| clients.lacking(bundle)),
        )
    }

    /// Watches over departures; in a cluster together with the other replicas.
    fn departures(
        cluster: Option<&Cluster>,
        authority: &Authority,
        catalog: &Arc<dyn Catalog>,
        clients: &Arc<Clients>,
    ) -> anyhow::Result<Option<DeparturesServer<Replicas>>> {
        let Some(departures) = catalog.departures() else {
            return Ok(None);
        };
        tokio::spawn(departures.clone().run(clients.clone()));
        let Some(cluster) = cluster else {
            return Ok(None);
        };
        let me = cluster.campaign.identity();
        tokio::spawn(Asking::new(departures.clone(), me, authority).run());
        Ok(Some(
            Replicas::new(departures, me, authority)?.into_server(),
        ))
    }

    /// Serves until told to stop, then lets what is under way finish, each port within its bound.
    async fn run(self, life: Life) {
        let config = self.server_tls.config();
        let bound = connections(open_files::raise_limit());
        let gate = || Gate::new(bound, self.refused.clone());
        let (plain, tls) = (
            incoming::plaintext(self.plain, gate()),
            incoming::tls(self.tls, gate(), config.clone()),
        );
        tokio::spawn(self.server_tls.keep_fresh());
        let router = |ads: &Arc<AdsService>,
                      ca: &IstioCertificateServiceServer<CertificateService>| {
            Server::builder()
                .http2_keepalive_interval(Some(KEEPALIVE))
                .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
                .max_concurrent_streams(CALLS)
                .add_service(ads.clone().into_server())
                .add_service(ca.clone())
        };
        let router = || router(&self.ads, &self.ca);
        let plain = router().serve_with_incoming_shutdown(plain, life.clone().stopping());
        let router = router().add_optional_service(self.replicas);
        let tls = router.serve_with_incoming_shutdown(tls, life.clone().stopping());
        let mut tasks = JoinSet::new();
        tasks.spawn(until_ended("plaintext xDS", life.clone(), plain));
        tasks.spawn(until_ended("xDS over TLS", life.clone(), tls));
        let admin = admin::serve(self.admin, self.routes, life.clone().stopping());
        tasks.spawn(until_ended("admin", life.clone(), async {
            admin.await;
            Ok::<_, Infallible>(())
        }));
        if let Some((listener, webhook)) = self.webhook {
            let end = life.clone().stopping();
            tasks.spawn(webhook::serve::serve(listener, config, webhook, end));
        }
        life.stopping().await;
        while tasks.join_next().await.is_some() {}
        if let Some(replica) = self.replica {
            replica.leave().await;
        }
    }
}

/// Runs a port until it has ended by itself, or its last streams have been given their time.
async fn until_ended<E: std::error::Error + Send>(
    port: &str,
    life: Life,
    serving: impl Future<Output = Result<(), E>> + Send,
) {
    let late = async {
        life.stopping().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = serving => drop(ended.inspect_err(|error| warn!(%error, "{port}"))),
        () = late => {}
    }
}
