//! `lb_policy` and its configuration.

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, OriginalDstLbConfig,
};

use crate::codec::Dialect;
use crate::codec::field::{Fault, Read, read_uint, refuse, uint};
use crate::model::cluster::{Balance, Discovery};

pub(super) fn write(
    message: &mut pb::Cluster,
    balance: Balance,
    discovery: &Discovery,
    dialect: &Dialect,
) {
    let policy = match (balance, discovery, dialect) {
        (_, Discovery::OriginalDestination { .. }, _) => LbPolicy::ClusterProvided,
        // gRPC refuses a cluster with any other policy that we have.
        (_, _, Dialect::Grpc { .. }) | (Balance::RoundRobin, _, _) => LbPolicy::RoundRobin,
        (Balance::Random, _, _) => LbPolicy::Random,
        (Balance::LeastRequest { choices }, _, _) => {
            message.lb_config = Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                choice_count: uint(choices.clamp(2, 10)),
                ..LeastRequestLbConfig::default()
            }));
            LbPolicy::LeastRequest
        }
    };
    message.lb_policy = policy as i32;
}

pub(super) fn read(policy: i32, config: Option<LbConfig>, discovery: &Discovery) -> Read<Balance> {
    let policy = LbPolicy::try_from(policy).map_err(|_| Fault::not_honoured("lb_policy"))?;
    let original = matches!(discovery, Discovery::OriginalDestination { .. });
    match (policy, config) {
        (LbPolicy::ClusterProvided, None) if original => Ok(Balance::Random),
        (LbPolicy::ClusterProvided, Some(LbConfig::OriginalDstLbConfig(config))) if original => {
            let OriginalDstLbConfig {
                use_http_header,
                http_header_name,
                upstream_port_override,
                metadata_key,
            } = config;
            refuse!(
                use_http_header,
                http_header_name,
                upstream_port_override,
                metadata_key
            );
            Ok(Balance::Random)
        }
        (_, _) if original => Err(Fault::new(
            "lb_policy",
            "ORIGINAL_DST needs CLUSTER_PROVIDED",
        )),
        (LbPolicy::RoundRobin, None) => Ok(Balance::RoundRobin),
        (LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            let pb::cluster::RoundRobinLbConfig { slow_start_config } = config;
            refuse!(slow_start_config);
            Ok(Balance::RoundRobin)
        }
        (LbPolicy::Random, None) => Ok(Balance::Random),
        (LbPolicy::LeastRequest, None) => Ok(Balance::LeastRequest { choices: 2 }),
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            read_least_request(config)
        }
        (_, Some(_)) => Err(Fault::not_honoured("lb_config")),
        (
            LbPolicy::RingHash
            | LbPolicy::Maglev
            | LbPolicy::ClusterProvided
            | LbPolicy::LoadBalancingPolicyConfig,
            None,
        ) => Err(Fault::not_honoured("lb_policy")),
    }
}

fn read_least_request(config: LeastRequestLbConfig) -> Read<Balance> {
    let LeastRequestLbConfig {
        choice_count,
        active_request_bias,
        slow_start_config,
    } = config;
    refuse!(active_request_bias, slow_start_config);
    match read_uint(choice_count).unwrap_or(2) {
        0 | 1 => Err(Fault::new(
            "least_request_lb_config.choice_count",
            "below 2",
        )),
        choices => Ok(Balance::LeastRequest {
            choices: choices.min(10),
        }),
    }
}
