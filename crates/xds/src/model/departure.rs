//! A Pod's departure: our own resource `tasuki.xds.v1.Departure`, subscribed to by the Pod's own sidecar.

/// How far the mesh knows that a Pod leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The Pod, `NAMESPACE/NAME`.
    pub name: String,
    /// It is being deleted, or gone.
    pub deleting: bool,
    /// Nobody sends it anything new; only of one that is being deleted.
    pub acknowledged: bool,
}
