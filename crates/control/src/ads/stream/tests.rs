//! When a stream looks for reasons of its own.

use super::*;
use crate::snapshot::tests::{SHOP, mesh, sidecar};

/// Without UIDs, a Pod that is declared again is the same to its sidecar, whose stream goes on.
#[tokio::test(start_paused = true)]
async fn each_departure_of_a_pod_is_told() {
    let deleting = "name: cart-v1\n  deletionTimestamp: 2026-01-01T00:00:00Z";
    let there = mesh(&[SHOP]);
    let leaving = mesh(&[&SHOP.replacen("name: cart-v1", deleting, 1)]);
    let departures = Arc::new(Departures::default());
    tokio::spawn(departures.clone().run(Arc::new(Clients::new())));
    let client = sidecar(&there, "shop", "cart-v1");
    let mut departed = Departed::of(Some(&departures), &client);
    let minute = Duration::from_secs(60);
    for generation in [2, 4] {
        departures.follow(Some(&there), &leaving, generation);
        departed.looks();
        let told = timeout(minute, departed.acknowledged()).await;
        assert!(told.is_ok(), "acknowledged in {generation}");
        departed.looks();
        let again = timeout(minute, departed.acknowledged()).await;
        assert!(again.is_err(), "once is enough");
        departures.follow(Some(&leaving), &there, generation + 1);
        departed.looks();
    }
}
