//! Our own `tasuki.xds.v1.ProxySettings`.

use super::field::{Fault, Read};
use crate::model::proxy_settings::{AccessLog, ProxySettings};
use crate::proto;
use crate::proto::ProxyAccessLog;

pub(super) fn write(of: &ProxySettings) -> proto::ProxySettings {
    let ProxySettings { name, access_log } = of;
    let access_log = match access_log {
        None => ProxyAccessLog::Unspecified,
        Some(AccessLog::Off) => ProxyAccessLog::Off,
        Some(AccessLog::Errors) => ProxyAccessLog::Errors,
        Some(AccessLog::All) => ProxyAccessLog::All,
    };
    proto::ProxySettings {
        name: name.clone(),
        access_log: access_log.into(),
    }
}

pub(super) fn read(message: proto::ProxySettings) -> Read<ProxySettings> {
    let proto::ProxySettings { name, access_log } = message;
    let access_log = match ProxyAccessLog::try_from(access_log) {
        Ok(ProxyAccessLog::Unspecified) => None,
        Ok(ProxyAccessLog::Off) => Some(AccessLog::Off),
        Ok(ProxyAccessLog::Errors) => Some(AccessLog::Errors),
        Ok(ProxyAccessLog::All) => Some(AccessLog::All),
        Err(_) => return Err(Fault::new("access_log", "not a value that is known")),
    };
    Ok(ProxySettings { name, access_log })
}
