//! The trust bundle: our own resource `tasuki.xds.v1.TrustBundle`, subscribed to by every Tasuki proxy.

/// Roots of one trust domain. A rotation first adds a root here, waits for every client's ACK, and only then signs with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// The trust domain, `cluster.local`.
    pub name: String,
    /// DER certificates; never empty.
    pub roots: Vec<Vec<u8>>,
}
