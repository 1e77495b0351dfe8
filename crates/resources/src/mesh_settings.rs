//! `MeshSettings` of `tasuki.dev/v1alpha1`: what is the same for the whole mesh unless something closer says otherwise.
//!
//! A mesh has one: the object called [`NAME`] in the root namespace. Every field is optional; what is left out is as the
//! control plane's and the proxies' own flags have it.

use std::time::Duration;

use crate::destination_rule::{ConnectionPool, RetryBudget, read as destination_rule};
use crate::fields::Fields;
use crate::object::Metadata;

mod injection;

pub use injection::{Amounts, Injection, is_log_filter};

/// The only name under which settings are used.
pub const NAME: &str = "default";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeshSettings {
    pub meta: Metadata,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub access_log: Option<AccessLog>,
    /// At least [`SHORTEST_LIFE`].
    pub certificate_ttl: Option<Duration>,
    /// For every service, where its DestinationRule does not say otherwise, field by field.
    pub connection_pool: ConnectionPool,
    /// For every service whose DestinationRule has none.
    pub retry_budget: Option<RetryBudget>,
    pub injection: Injection,
}

/// What sidecars do with destinations that nobody has declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutboundTrafficPolicy {
    /// Pass them through as bytes or HTTP to where the application meant.
    #[default]
    AllowAny,
    /// Refuse them.
    RegistryOnly,
}

/// Which requests proxies write to their log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessLog {
    Off,
    /// Those that failed.
    Errors,
    All,
}

/// Proxies renew at half of a certificate's life, and one identity may ask only so often.
pub const SHORTEST_LIFE: Duration = Duration::from_secs(60);

pub(crate) fn read(spec: Option<Fields<'_>>, meta: Metadata) -> Option<MeshSettings> {
    let mut settings = MeshSettings {
        meta,
        ..MeshSettings::default()
    };
    let Some(spec) = spec else {
        return Some(settings);
    };
    settings.outbound_traffic_policy = spec.get("outboundTrafficPolicy").and_then(|v| {
        v.choice(&[
            ("allow-any", OutboundTrafficPolicy::AllowAny),
            ("registry-only", OutboundTrafficPolicy::RegistryOnly),
        ])
    });
    settings.access_log = spec.get("accessLog").and_then(|v| {
        v.choice(&[
            ("off", AccessLog::Off),
            ("errors", AccessLog::Errors),
            ("all", AccessLog::All),
        ])
    });
    settings.certificate_ttl = spec.get("certificateTtl").and_then(|v| {
        let ttl = v.duration()?;
        if ttl < SHORTEST_LIFE {
            v.error(
                "is shorter than 1m",
                "certificates are renewed at half of it",
            );
        }
        Some(ttl)
    });
    settings.connection_pool = spec
        .get("connectionPool")
        .and_then(|v| destination_rule::connection_pool(&v))
        .unwrap_or_default();
    settings.retry_budget = spec
        .get("retryBudget")
        .and_then(|v| destination_rule::retry_budget(&v));
    settings.injection = spec
        .get("injection")
        .and_then(|v| injection::read(&v))
        .unwrap_or_default();
    spec.finish();
    Some(settings)
}

/// What is called otherwise is kept, so that it can be renamed, and does nothing.
pub(crate) fn warn_of_name(root: &Fields<'_>, meta: &Metadata) {
    if meta.name.name != NAME
        && let Some(value) = root.get("metadata")
    {
        value.warn(
            "not used",
            format!("a mesh's settings are called {NAME:?} and live in the root namespace"),
        );
    }
}

#[cfg(test)]
mod tests;
