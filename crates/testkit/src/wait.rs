//! Waiting for something to become true, with a deadline and the last reason in the failure.

use std::time::{Duration, Instant};

/// Polls `check` until it returns `Ok`, at most for `limit`; the last error tells why it failed.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("not within {limit:?}: {what}")));
            }
            // Polling another process: there is nothing to be woken by.
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
