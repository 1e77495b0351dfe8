//! Names that the parts of Tasuki, users and other programs know each other by in a cluster (contract section 12).

/// Where the control plane lives; also the default root namespace.
pub const SYSTEM_NAMESPACE: &str = "tasuki-system";
/// The control plane's Deployment, Service, ServiceAccount and Lease.
pub const CONTROL: &str = "tasuki-control";
/// Server-side apply's field manager.
pub const FIELD_MANAGER: &str = "tasuki";

/// The Secret with the certificate authority.
pub const CA_SECRET: &str = "tasuki-ca";
/// The Secret by which a root of one's own is plugged in; name and keys are Istio's.
pub const PLUGIN_SECRET: &str = "cacerts";
/// Annotation of [`CA_SECRET`]: somebody wants the root replaced.
pub const ROTATION_REQUEST: &str = "tasuki.dev/rotation-request";
/// Annotation of [`CA_SECRET`]: how far that is.
pub const ROTATION_PROGRESS: &str = "tasuki.dev/rotation";
/// The ConfigMap with the trusted roots in each namespace: what a sidecar trusts before xDS tells it more.
pub const ROOTS_CONFIG_MAP: &str = "tasuki-root-ca";
/// Its key.
pub const ROOTS_KEY: &str = "root-cert.pem";
/// The audience of the tokens that sidecars show.
pub const TOKEN_AUDIENCE: &str = "tasuki-ca";
/// Where a sidecar finds its token.
pub const TOKEN_FILE: &str = "/var/run/secrets/tasuki/token";
/// Where a sidecar finds [`ROOTS_CONFIG_MAP`]'s file.
pub const ROOTS_FILE: &str = "/var/run/config/tasuki/root-cert.pem";

/// Label of a namespace or a Pod: `enabled` or `disabled`.
pub const INJECT_LABEL: &str = "tasuki.dev/inject";
/// Istio's, of a namespace, honoured when told to.
pub const ISTIO_INJECTION_LABEL: &str = "istio-injection";
/// Istio's, of a namespace that one of its revisions serves.
pub const ISTIO_REVISION_LABEL: &str = "istio.io/rev";
/// Label by which a workload takes part in mesh TLS (contract section 5); its value is [`TLS_MODE`].
pub const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";
pub const TLS_MODE: &str = "istio";
/// Annotation that says the sidecar is ours, not Istio's: its version.
pub const PROXY_ANNOTATION: &str = "tasuki.dev/proxy";
/// Annotation with the probes and hooks as they were before injection.
pub const PROBES_ANNOTATION: &str = "tasuki.dev/probes";

/// The sidecar's container.
pub const PROXY_CONTAINER: &str = "tasuki-proxy";
/// The init container that redirects traffic.
pub const REDIRECT_CONTAINER: &str = "tasuki-redirect";
/// The sidecar's user; no application container may be it.
pub const PROXY_UID: i64 = 1337;
/// The sidecar's port for health, probes and hooks.
pub const HEALTH_PORT: u16 = 15021;
/// The sidecar's port for Prometheus.
pub const METRICS_PORT: u16 = 15020;

/// Annotations by which a Pod changes what is injected into it.
pub const EXCLUDE_INBOUND_PORTS: &str = "tasuki.dev/exclude-inbound-ports";
pub const EXCLUDE_OUTBOUND_PORTS: &str = "tasuki.dev/exclude-outbound-ports";
pub const EXCLUDE_OUTBOUND_CIDRS: &str = "tasuki.dev/exclude-outbound-cidrs";
pub const LOG_LEVEL: &str = "tasuki.dev/log-level";
pub const WORKERS: &str = "tasuki.dev/workers";
pub const CPU: &str = "tasuki.dev/cpu";
pub const MEMORY: &str = "tasuki.dev/memory";
pub const CPU_LIMIT: &str = "tasuki.dev/cpu-limit";
pub const MEMORY_LIMIT: &str = "tasuki.dev/memory-limit";
pub const DRAIN_TIME: &str = "tasuki.dev/drain-time";
pub const DRAIN_MINIMUM: &str = "tasuki.dev/drain-minimum";
pub const NATIVE_SIDECAR: &str = "tasuki.dev/native-sidecar";
/// What all of the above begin with.
pub const ANNOTATION_PREFIX: &str = "tasuki.dev/";

/// Label of everything that `tasuki install` and the charts make; its value is [`PART_OF`].
pub const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";
pub const PART_OF: &str = "tasuki";

/// The control plane's name for the API server and the sidecars.
pub const CONTROL_HOST: &str = "tasuki-control.tasuki-system.svc";
/// The control plane's ports: xDS and certificates over TLS, and administration.
pub const XDS_PORT: u16 = 15012;
pub const CONTROL_ADMIN_PORT: u16 = 15014;
/// The paths of its webhooks.
pub const INJECT_PATH: &str = "/inject";
pub const VALIDATE_PATH: &str = "/validate";
