//! The tonic service: both methods of `AggregatedDiscoveryService`.

use std::sync::Arc;

use super::{Authenticator, Catalog, Clients};

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`.
pub struct AdsService {
    catalog: Arc<dyn Catalog>,
    authenticator: Arc<dyn Authenticator>,
    clients: Arc<Clients>,
}

impl AdsService {
    /// A service over `catalog`; connected clients are listed in `clients`.
    pub fn new(catalog: Arc<dyn Catalog>, authenticator: Arc<dyn Authenticator>, clients: Arc<Clients>) -> Self {
        Self { catalog, authenticator, clients }
    }
}
