//! Which endpoint: weights, priorities, panic.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tasuki_xds::model::cluster::OutlierDetection;
use tasuki_xds::model::endpoint::{Endpoint as Model, Locality, WorkloadRef};

use super::*;
use crate::cluster;
use crate::eject::Outcome;

fn config(balance: Balance) -> Cluster {
    Cluster {
        balance,
        ..Cluster::eds("c")
    }
}

fn address(last: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], last))
}

fn locality(priority: u32, endpoints: &[(u16, u32, Health)]) -> Locality {
    let endpoints = endpoints
        .iter()
        .map(|(port, weight, health)| Model {
            address: address(*port),
            weight: *weight,
            health: *health,
            tls_mode: None,
            identities: Vec::new(),
            workload: WorkloadRef::default(),
        })
        .collect();
    Locality {
        priority,
        endpoints,
        ..Locality::default()
    }
}

fn cluster(config: &Cluster, localities: Vec<Locality>) -> cluster::Cluster {
    let cluster = cluster::Cluster::new(config);
    cluster.update(&ClusterLoadAssignment {
        cluster: "c".into(),
        localities,
    });
    cluster
}

fn shares(cluster: &cluster::Cluster, picks: usize) -> HashMap<u16, usize> {
    let mut shares = HashMap::new();
    for _ in 0..picks {
        let picked = cluster.pick(&[], None).unwrap();
        *shares.entry(picked.endpoint.address.port()).or_default() += 1;
    }
    shares
}

const UP: Health = Health::Healthy;

#[test]
fn round_robin_is_even_and_honours_weights() {
    let even = cluster(
        &config(Balance::RoundRobin),
        vec![locality(0, &[(1, 1, UP), (2, 1, UP), (3, 1, UP)])],
    );
    assert!(shares(&even, 300).values().all(|n| *n == 100));
    let weighted = cluster(
        &config(Balance::RoundRobin),
        vec![locality(0, &[(1, 70, UP), (2, 30, UP)])],
    );
    let shares = shares(&weighted, 10_000);
    assert!(shares[&1].abs_diff(7_000) < 20, "{shares:?}");
}

#[test]
fn random_and_least_request_honour_weights() {
    for balance in [Balance::Random, Balance::LeastRequest { choices: 2 }] {
        let cluster = cluster(
            &config(balance),
            vec![locality(0, &[(1, 3, UP), (2, 1, UP)])],
        );
        let shares = shares(&cluster, 40_000);
        assert!(
            shares[&1].abs_diff(30_000) < 1_000,
            "{balance:?} {shares:?}"
        );
    }
}

#[test]
fn least_request_avoids_the_busy_one() {
    let cluster = cluster(
        &config(Balance::LeastRequest { choices: 2 }),
        vec![locality(0, &[(1, 1, UP), (2, 1, UP)])],
    );
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(cluster.pick(&[], None).unwrap());
    }
    let first = held
        .iter()
        .filter(|picked| picked.endpoint.address.port() == 1)
        .count();
    assert_eq!(first, 50);
}

#[test]
fn unhealthy_and_draining_get_nothing() {
    let endpoints = [
        (1, 1, UP),
        (2, 1, Health::Draining),
        (3, 1, Health::Unhealthy),
    ];
    let cluster = cluster(&config(Balance::Random), vec![locality(0, &endpoints)]);
    assert_eq!(shares(&cluster, 100), HashMap::from([(1, 100)]));
}

#[test]
fn priorities_spill_over() {
    let half = [(1, 1, UP), (2, 1, Health::Unhealthy)];
    let half = cluster(
        &config(Balance::Random),
        vec![locality(0, &half), locality(1, &[(3, 1, UP)])],
    );
    let spilled = shares(&half, 10_000);
    // 50 % healthy x 1.4 = 70 %.
    assert!(spilled[&1].abs_diff(7_000) < 300, "{spilled:?}");
    let down = vec![
        locality(0, &[(1, 1, Health::Unhealthy)]),
        locality(1, &[(3, 1, UP)]),
    ];
    assert_eq!(
        shares(&cluster(&config(Balance::Random), down), 10),
        HashMap::from([(3, 10)])
    );
}

#[test]
fn panic_uses_all() {
    let endpoints = [(1, 1, Health::Unhealthy), (2, 1, Health::Unhealthy)];
    let off = cluster(&config(Balance::Random), vec![locality(0, &endpoints)]);
    assert_eq!(off.pick(&[], None).unwrap_err(), Error::NoHealthyUpstream);
    let on = Cluster {
        panic_percent: 50,
        ..config(Balance::Random)
    };
    assert_eq!(
        shares(&cluster(&on, vec![locality(0, &endpoints)]), 100).len(),
        2
    );
}

#[test]
fn tried_endpoints_are_avoided() {
    let cluster = cluster(
        &config(Balance::RoundRobin),
        vec![locality(0, &[(1, 1, UP), (2, 1, UP)])],
    );
    let first = cluster.pick(&[], None).unwrap().endpoint.clone();
    for _ in 0..20 {
        assert_ne!(
            cluster.pick(&[first.id], None).unwrap().endpoint.id,
            first.id
        );
    }
}

#[tokio::test(start_paused = true)]
async fn five_failures_eject_and_the_endpoint_comes_back() {
    let outliers = OutlierDetection {
        consecutive_5xx: 5,
        consecutive_gateway_errors: 0,
        consecutive_local_origin: 0,
        split_local_origin: false,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        max_ejection_percent: 10,
    };
    let config = Cluster {
        outliers: Some(outliers),
        ..config(Balance::RoundRobin)
    };
    let cluster = cluster(
        &config,
        vec![locality(0, &[(1, 1, UP), (2, 1, UP), (3, 1, UP)])],
    );
    let bad = cluster.pick(&[], None).unwrap().endpoint.clone();
    for _ in 0..5 {
        cluster.observe(&bad, Outcome::ServerError);
    }
    assert!(!shares(&cluster, 300).contains_key(&bad.address.port()));
    // The others may not follow: 10 % of three is less than one more.
    let other = cluster.pick(&[], None).unwrap().endpoint.clone();
    for _ in 0..50 {
        cluster.observe(&other, Outcome::ServerError);
    }
    assert!(shares(&cluster, 300).contains_key(&other.address.port()));
    tokio::time::advance(Duration::from_secs(41)).await;
    assert_eq!(shares(&cluster, 300).len(), 3);
}

#[test]
fn updates_keep_load_and_identity() {
    let cluster = cluster(
        &config(Balance::RoundRobin),
        vec![locality(0, &[(1, 1, UP)])],
    );
    let held = cluster.pick(&[], None).unwrap();
    cluster.update(&ClusterLoadAssignment {
        cluster: "c".into(),
        localities: vec![locality(0, &[(1, 1, UP), (2, 1, UP)])],
    });
    let kept = cluster
        .endpoints()
        .all()
        .find(|e| e.address == address(1))
        .cloned()
        .unwrap();
    assert_eq!((kept.id, kept.active()), (held.endpoint.id, 1));
}

/// Says of these ports that no connection can be made.
fn unreachable(cluster: &cluster::Cluster, ports: &[u16]) {
    let set = cluster.endpoints();
    for endpoint in set.all().filter(|e| ports.contains(&e.address.port())) {
        cluster.connect_failed(endpoint, &Error::ConnectTimeout);
    }
}

#[test]
fn unreachable_ones_get_nothing_and_their_neighbours_no_more_than_others() {
    let all: Vec<_> = (1..=30).map(|port| (port, 1, UP)).collect();
    for balance in [
        Balance::RoundRobin,
        Balance::Random,
        Balance::LeastRequest { choices: 2 },
    ] {
        let cluster = cluster(&config(balance), vec![locality(0, &all)]);
        unreachable(&cluster, &(1..=20).collect::<Vec<_>>());
        let shares = shares(&cluster, 10_000);
        assert_eq!(shares.len(), 10, "{balance:?}: {shares:?}");
        for (port, share) in shares {
            assert!(port > 20 && share < 1_500, "{balance:?}: {port} {share}");
        }
    }
}

#[test]
fn a_level_out_of_reach_spills_over_and_the_last_resort_is_all() {
    let two = vec![
        locality(0, &[(1, 1, UP), (2, 1, UP)]),
        locality(1, &[(3, 1, UP)]),
    ];
    let cluster = cluster(&config(Balance::Random), two);
    unreachable(&cluster, &[1, 2]);
    assert_eq!(shares(&cluster, 100).into_keys().collect::<Vec<_>>(), [3]);
    unreachable(&cluster, &[3]);
    let mut used: Vec<u16> = shares(&cluster, 100).into_keys().collect();
    used.sort_unstable();
    assert_eq!(used, [1, 2], "as if nothing were known");
}

#[test]
fn unreachable_ones_are_no_reason_to_panic() {
    let mut config = config(Balance::Random);
    config.panic_percent = 50;
    let mixed = [
        (1, 1, UP),
        (2, 1, UP),
        (3, 1, UP),
        (4, 1, Health::Unhealthy),
    ];
    let cluster = cluster(&config, vec![locality(0, &mixed)]);
    unreachable(&cluster, &[1, 2]);
    assert_eq!(shares(&cluster, 100).into_keys().collect::<Vec<_>>(), [3]);
    unreachable(&cluster, &[3]);
    assert!(!shares(&cluster, 100).contains_key(&4));
}

#[tokio::test(start_paused = true)]
async fn each_is_tried_again_in_its_turn() {
    let all = [(1, 1, UP), (2, 1, UP), (3, 1, UP)];
    let cluster = cluster(&config(Balance::Random), vec![locality(0, &all)]);
    unreachable(&cluster, &[1, 2]);
    assert!(cluster.to_try_again().is_none());
    let mut tried = HashMap::new();
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(10)).await;
        let endpoint = cluster.to_try_again().unwrap();
        cluster.connect_failed_again(&endpoint);
        *tried.entry(endpoint.address.port()).or_insert(0) += 1;
    }
    assert_eq!((tried[&1], tried[&2]), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn the_first_that_is_back_is_not_alone_for_long() {
    let all = [(1, 1, UP), (2, 1, UP), (3, 1, UP)];
    let cluster = cluster(&config(Balance::Random), vec![locality(0, &all)]);
    unreachable(&cluster, &[1, 2, 3]);
    let first = cluster.endpoints().all().next().cloned().unwrap();
    cluster.connected(&first);
    let others = [cluster.to_try_again(), cluster.to_try_again()];
    assert!(others.iter().all(Option::is_some), "at once");
    assert!(cluster.to_try_again().is_none());
}

#[test]
fn an_update_keeps_what_is_known_of_an_endpoint_and_a_new_one_starts_clean() {
    let cluster = cluster(
        &config(Balance::Random),
        vec![locality(0, &[(1, 1, UP), (2, 1, UP)])],
    );
    unreachable(&cluster, &[1]);
    let update = |endpoints: &[(u16, u32, Health)]| {
        cluster.update(&ClusterLoadAssignment {
            cluster: "c".into(),
            localities: vec![locality(0, endpoints)],
        });
    };
    update(&[(1, 50, UP), (2, 1, UP)]);
    assert!(!shares(&cluster, 100).contains_key(&1));
    update(&[(2, 1, UP)]);
    update(&[(1, 1, UP), (2, 1, UP)]);
    assert!(shares(&cluster, 100).contains_key(&1));
}
