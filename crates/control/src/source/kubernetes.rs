//! The Kubernetes source: one watch for each kind, one store, and what it declares as often as that changes.
//!
//! | file | does |
//! |---|---|
//! | `watch.rs` | follows one kind at the API server, whatever becomes of either |
//! | `definition.rs` | asks whether a kind is there |
//! | `wire.rs` | an object as it comes |
//! | `store.rs` | what all of them declare; pure |

pub mod definition;
pub mod store;
pub mod watch;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tasuki_kubernetes::watched::WATCHED;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{Instant, interval, timeout};
use tracing::info;

use super::Objects;
use store::{Change, Store};
use watch::Watch;

/// Changes on their way to the store; a watch that is faster waits.
const QUEUED: usize = 1_024;
/// Changes that come together are declared together, once there has been none for this long.
const SETTLE: Duration = Duration::from_millis(10);
/// But where they never cease, this often.
const SETTLED_AT_LAST: Duration = Duration::from_millis(100);
/// How often it is said what is waited for at the start.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Follows all kinds until nobody listens. Returns when each has been listed once, or is known not to exist; an API server that
/// is away is waited for.
pub async fn follow(client: &Client) -> channel::Receiver<Arc<Objects>> {
    let (sender, mut changes) = mpsc::channel(QUEUED);
    for (place, watched) in WATCHED.iter().enumerate() {
        let watch = Watch {
            client: client.clone(),
            watched: *watched,
            place,
            changes: sender.clone(),
        };
        tokio::spawn(watch.run());
    }
    let mut store = Store::default();
    wait_for_all(&mut store, &mut changes).await;
    let (publish, receiver) = channel::channel(Arc::new(store.objects()));
    tokio::spawn(keep(store, changes, publish));
    receiver
}

/// Until nothing is missing: what is absent from the first declaration would be deleted at proxies that have it.
async fn wait_for_all(store: &mut Store, changes: &mut mpsc::Receiver<(usize, Change)>) {
    let began = Instant::now();
    let mut say = interval(SAY_EVERY);
    say.reset();
    while !store.waiting().is_empty() {
        tokio::select! {
            change = changes.recv() => match change {
                Some((place, change)) => drop(store.change(place, change)),
                // Watches end only after their listener.
                None => return,
            },
            _ = say.tick() => {
                let of = |(watched, trouble): &(tasuki_kubernetes::watched::Watched, _)| match trouble {
                    None => watched.full_name(),
                    Some(trouble) => format!("{} ({trouble:?})", watched.full_name()),
                };
                let kinds: Vec<String> = store.waiting().iter().map(of).collect();
                info!(kinds = %kinds.join(", "), "waiting for the API server to list them");
            }
        }
    }
    info!(
        objects = store.objects().objects.len(),
        seconds = began.elapsed().as_secs_f64(),
        "every kind has been listed"
    );
}

/// Declares what the store has after each burst of changes.
async fn keep(
    mut store: Store,
    mut changes: mpsc::Receiver<(usize, Change)>,
    publish: channel::Sender<Arc<Objects>>,
) {
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = publish.closed() => return,
        };
        let Some((place, change)) = change else {
            return;
        };
        if !store.change(place, change) {
            continue;
        }
        settle(&mut store, &mut changes).await;
        let objects = store.objects();
        tracing::debug!(
            objects = objects.objects.len(),
            problems = objects.problems.len(),
            "resources changed"
        );
        publish.send_replace(Arc::new(objects));
    }
}

/// Takes what comes until there is nothing for a moment.
async fn settle(store: &mut Store, changes: &mut mpsc::Receiver<(usize, Change)>) {
    let last = Instant::now() + SETTLED_AT_LAST;
    let mut quiet_at = Instant::now() + SETTLE;
    loop {
        let left = quiet_at.min(last).saturating_duration_since(Instant::now());
        match timeout(left, changes.recv()).await {
            Ok(Some((place, change))) => {
                if store.change(place, change) {
                    quiet_at = Instant::now() + SETTLE;
                }
            }
            Ok(None) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
