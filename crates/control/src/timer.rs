//! Waiting for a time that may never come.

use tokio::time::{Instant, sleep_until};

/// Until that time; for ever without one.
pub async fn reach(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
