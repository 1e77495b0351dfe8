//! Drives a rotation: asked for by `tasuki ca rotate` through the state dir, phase by phase, across restarts.
//!
//! | phase | what happens | goes on when |
//! |---|---|---|
//! | steady | one root | a request is in the state dir |
//! | adding | the new root is in the trust bundle, the old one signs | every connected client has acknowledged the bundle |
//! | switched | the new root signs | the last certificate of the old root has expired |
//! | steady | the old root is gone | |

use std::time::SystemTime;

use tasuki_identity::Error;
use tasuki_identity::ca::Phase;
use tasuki_identity::ca::rotation::{self, Progress, Request};
use tasuki_xds::model::TrustBundle;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::Authority;

/// How often the state dir and the clients are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Everybody must trust the new root for this long without interruption: a client that connects just now is listed first.
const SETTLED: Duration = Duration::from_secs(2);
/// After a start of the control plane its clients are given this long to return before "all of them" means anything.
const RETURN: Duration = Duration::from_secs(15);
/// Peers' clocks may be behind: old certificates live this much longer for them.
const SKEW: Duration = Duration::from_secs(2);

/// Says which connected clients have not acknowledged a trust bundle: `Clients::lacking`.
pub type Lacking = Box<dyn Fn(&TrustBundle) -> Vec<String> + Send>;

/// See the module. To be spawned with [`Driver::run`].
pub struct Driver {
    authority: Authority,
    lacking: Lacking,
    started: Instant,
    /// Since when nobody lacks the bundle.
    trusted_since: Option<Instant>,
    reported: Option<Progress>,
}

impl Driver {
    pub fn new(authority: Authority, lacking: Lacking) -> Self {
        Self {
            authority,
            lacking,
            started: Instant::now(),
            trusted_since: None,
            reported: None,
        }
    }

    /// Never ends. A failure is logged and tried again: every step can be repeated.
    pub async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = String::new();
        loop {
            ticks.tick().await;
            match self.tick(SystemTime::now()) {
                Ok(()) => failed.clear(),
                Err(error) => {
                    let text = error.to_string();
                    if text != failed {
                        tracing::error!(%error, "rotation");
                        failed = text;
                    }
                }
            }
        }
    }

    fn tick(&mut self, now: SystemTime) -> Result<(), Error> {
        let request = rotation::requested(self.authority.state_dir())?;
        match (self.authority.phase(), request) {
            (Phase::Steady { .. }, None) => Ok(()),
            (Phase::Steady { .. }, Some(request)) => self.begin(request, now),
            (Phase::Adding { .. }, request) => self.switch_when_trusted(request, now),
            (Phase::Switched { .. }, request) => self.retire_when_expired(request, now),
        }
    }

    fn begin(&mut self, request: Request, now: SystemTime) -> Result<(), Error> {
        let last = rotation::progress(self.authority.state_dir())?;
        if last.is_some_and(|last| last.request == request.id) {
            // Progress is reported only after the root was added: this request's rotation is over, and a crash kept the last
            // report from being written. It must not start another one.
            return self.report(Some(request), "the old root is retired".to_owned(), true);
        }
        self.trusted_since = None;
        self.authority.step(|ca| ca.add_root(now))?;
        self.report(
            Some(request),
            "a new root is in the trust bundle".to_owned(),
            false,
        )
    }

    fn switch_when_trusted(
        &mut self,
        request: Option<Request>,
        now: SystemTime,
    ) -> Result<(), Error> {
        let lacking = (self.lacking)(&self.authority.bundle());
        if !lacking.is_empty() {
            self.trusted_since = None;
            return self.report(request, waiting(&lacking), false);
        }
        let since = *self.trusted_since.get_or_insert_with(Instant::now);
        if since.elapsed() < SETTLED || self.started.elapsed() < RETURN {
            return self.report(
                request,
                "every connected client trusts the new root".to_owned(),
                false,
            );
        }
        self.authority.step(|ca| ca.switch_signer(now))?;
        self.report(request, "the new root signs".to_owned(), false)
    }

    fn retire_when_expired(
        &mut self,
        request: Option<Request>,
        now: SystemTime,
    ) -> Result<(), Error> {
        let phase = self.authority.phase();
        let Some(end) = phase.old_leaves_end().map(|end| end + SKEW) else {
            return Ok(());
        };
        if now < end {
            let detail = match end.duration_since(now) {
                // Rounded, so that the report is not rewritten four times a second for a day.
                Ok(left) if left > Duration::from_secs(120) => {
                    format!(
                        "the new root signs; certificates of the old one end in {} min",
                        left.as_secs() / 60
                    )
                }
                _ => "the new root signs; certificates of the old one are about to end".to_owned(),
            };
            return self.report(request, detail, false);
        }
        self.authority.step(|ca| ca.retire_old(now))?;
        self.report(request, "the old root is retired".to_owned(), true)
    }

    /// For whoever waits in `tasuki ca rotate`; a rotation whose request was deleted goes on silently.
    fn report(
        &mut self,
        request: Option<Request>,
        detail: String,
        done: bool,
    ) -> Result<(), Error> {
        let Some(request) = request else {
            return Ok(());
        };
        let progress = Progress {
            request: request.id,
            done,
            detail,
        };
        if self.reported.as_ref() == Some(&progress) {
            return Ok(());
        }
        tracing::info!(detail = progress.detail, "rotation");
        rotation::report(self.authority.state_dir(), &progress)?;
        self.reported = Some(progress);
        Ok(())
    }
}

fn waiting(lacking: &[String]) -> String {
    const SHOWN: usize = 3;
    let names = lacking
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let more = lacking.len().saturating_sub(SHOWN);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("waiting until the new root is trusted by {names}{rest}")
}

#[cfg(test)]
mod tests;
