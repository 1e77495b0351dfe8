//! `config.cluster.v3.OutlierDetection`, the consecutive kinds.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::google::protobuf::UInt32Value;

use crate::codec::Dialect;
use crate::codec::field::{
    Fault, Read, boolean, duration, optional_duration, read_bool, read_uint, refuse, uint,
};
use crate::model::cluster::OutlierDetection;

const ENVOY_CONSECUTIVE: u32 = 5;
const ENVOY_INTERVAL: Duration = Duration::from_secs(10);
const ENVOY_BASE: Duration = Duration::from_secs(30);
const ENVOY_MAX: Duration = Duration::from_secs(300);
const ENVOY_PERCENT: u32 = 10;

/// How often a detector that found something acts: always, or never.
fn enforcing(threshold: u32) -> Option<UInt32Value> {
    uint(if threshold == 0 { 0 } else { 100 })
}

fn threshold(value: u32) -> Option<UInt32Value> {
    (value != 0).then(|| uint(value)).flatten()
}

pub(super) fn write(of: &OutlierDetection, dialect: &Dialect) -> pb::OutlierDetection {
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_errors,
        consecutive_local_origin,
        split_local_origin,
        interval,
        base_ejection,
        max_ejection,
        max_ejection_percent,
    } = of;
    // Envoy refuses a maximum below the base.
    let max = if *dialect == Dialect::Tasuki {
        *max_ejection
    } else {
        (*max_ejection).max(*base_ejection)
    };
    pb::OutlierDetection {
        consecutive_5xx: threshold(*consecutive_5xx),
        enforcing_consecutive_5xx: enforcing(*consecutive_5xx),
        consecutive_gateway_failure: threshold(*consecutive_gateway_errors),
        enforcing_consecutive_gateway_failure: enforcing(*consecutive_gateway_errors),
        split_external_local_origin_errors: *split_local_origin,
        consecutive_local_origin_failure: threshold(*consecutive_local_origin),
        enforcing_consecutive_local_origin_failure: enforcing(*consecutive_local_origin),
        enforcing_success_rate: uint(0),
        enforcing_local_origin_success_rate: uint(0),
        interval: duration(*interval),
        base_ejection_time: duration(*base_ejection),
        max_ejection_time: duration(max),
        max_ejection_percent: uint(*max_ejection_percent),
        always_eject_one_host: boolean(true),
        ..pb::OutlierDetection::default()
    }
}

pub(super) fn read(message: pb::OutlierDetection) -> Read<OutlierDetection> {
    let pb::OutlierDetection {
        consecutive_5xx,
        interval,
        base_ejection_time,
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        success_rate_minimum_hosts: _, // success rates are never enforced
        success_rate_request_volume: _,
        success_rate_stdev_factor: _,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        failure_percentage_threshold: _, // nor are failure percentages
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
        failure_percentage_minimum_hosts: _,
        failure_percentage_request_volume: _,
        max_ejection_time,
        max_ejection_time_jitter,
        successful_active_health_check_uneject_host: _, // only with active health checks
        monitors,
        always_eject_one_host,
        detect_degraded_hosts,
    } = message;
    refuse!(max_ejection_time_jitter, monitors, detect_degraded_hosts);
    refuse_enforced("enforcing_success_rate", enforcing_success_rate)?;
    refuse_enforced(
        "enforcing_local_origin_success_rate",
        enforcing_local_origin_success_rate,
    )?;
    refuse_enforced("enforcing_failure_percentage", enforcing_failure_percentage)?;
    refuse_enforced(
        "enforcing_failure_percentage_local_origin",
        enforcing_failure_percentage_local_origin,
    )?;
    if read_bool(always_eject_one_host) == Some(false) {
        return Err(Fault::new(
            "always_eject_one_host",
            "`false` is not honoured",
        ));
    }
    let base_ejection =
        optional_duration("base_ejection_time", base_ejection_time)?.unwrap_or(ENVOY_BASE);
    let max_ejection_percent = read_uint(max_ejection_percent).unwrap_or(ENVOY_PERCENT);
    if max_ejection_percent > 100 {
        return Err(Fault::new("max_ejection_percent", "above 100"));
    }
    let local = enforcing_consecutive_local_origin_failure;
    Ok(OutlierDetection {
        consecutive_5xx: detector(
            "enforcing_consecutive_5xx",
            consecutive_5xx,
            enforcing_consecutive_5xx,
            100,
        )?,
        consecutive_gateway_errors: detector(
            "enforcing_consecutive_gateway_failure",
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            0,
        )?,
        consecutive_local_origin: detector(
            "enforcing_consecutive_local_origin_failure",
            consecutive_local_origin_failure,
            local,
            100,
        )?,
        split_local_origin: split_external_local_origin_errors,
        interval: optional_duration("interval", interval)?.unwrap_or(ENVOY_INTERVAL),
        base_ejection,
        max_ejection: optional_duration("max_ejection_time", max_ejection_time)?
            .unwrap_or(ENVOY_MAX.max(base_ejection)),
        max_ejection_percent,
    })
}

/// A detector's threshold; 0 where it is not enforced. Anything between never and always is refused.
fn detector(
    field: &str,
    threshold: Option<UInt32Value>,
    enforcing: Option<UInt32Value>,
    default: u32,
) -> Read<u32> {
    match read_uint(enforcing).unwrap_or(default) {
        0 => Ok(0),
        100 => Ok(read_uint(threshold).unwrap_or(ENVOY_CONSECUTIVE)),
        _ => Err(Fault::new(field, "only 0 and 100 are honoured")),
    }
}

fn refuse_enforced(field: &str, enforcing: Option<UInt32Value>) -> Read<()> {
    match read_uint(enforcing) {
        None | Some(0) => Ok(()),
        Some(_) => Err(Fault::not_honoured(field)),
    }
}
