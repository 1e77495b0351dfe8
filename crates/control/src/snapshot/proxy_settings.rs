//! What the mesh's settings say to every proxy of ours.

use tasuki_resources::mesh_settings::AccessLog;
use tasuki_xds::codec::Dialect;
use tasuki_xds::model::ProxySettings;
use tasuki_xds::model::proxy_settings::{self, PROXY_SETTINGS};

use super::viewer::Viewer;

/// Of that name; there is one.
pub fn named(viewer: &Viewer<'_>, name: &str) -> Option<ProxySettings> {
    let known = name == PROXY_SETTINGS && viewer.client.dialect == Dialect::Tasuki;
    known.then(|| ProxySettings {
        name: name.to_owned(),
        access_log: viewer.mesh.settings.access_log().map(|which| match which {
            AccessLog::Off => proxy_settings::AccessLog::Off,
            AccessLog::Errors => proxy_settings::AccessLog::Errors,
            AccessLog::All => proxy_settings::AccessLog::All,
        }),
    })
}
