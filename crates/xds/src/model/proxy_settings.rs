//! What the mesh says to every proxy: our own resource `tasuki.xds.v1.ProxySettings`. There is one, and it is never removed.

/// The resource's only name.
pub const PROXY_SETTINGS: &str = "default";

/// A proxy whose flags say otherwise keeps to its flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// [`PROXY_SETTINGS`].
    pub name: String,
    /// `None`: the proxy's own default.
    pub access_log: Option<AccessLog>,
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    /// Those that failed.
    Errors,
    All,
}
