//! The list of connected clients: who has which version, who refused what (`/debug/clients`), and
//! whether a trust bundle has reached everyone (CA rotation).

use serde::Serialize;
use tasuki_xds::model::TrustBundle;

/// All connected clients.
#[derive(Debug, Default)]
pub struct Clients {}

/// One client as `/debug/clients` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ClientStatus {
    /// `node.id`.
    pub node: String,
}

impl Clients {
    /// No clients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every client, by node id.
    pub fn list(&self) -> Vec<ClientStatus> {
        Vec::new()
    }

    /// Clients subscribed to trust bundles that have not acknowledged exactly this one. Empty: all trust it.
    pub fn lacking(&self, bundle: &TrustBundle) -> Vec<String> {
        let _ = bundle;
        Vec::new()
    }
}
