//! Drives a rotation: asked for by `tasuki ca rotate`, or by another plug-in root, phase by phase, across restarts. Of several
//! replicas the leader alone drives.
//!
//! | phase | what happens | goes on when |
//! |---|---|---|
//! | steady | one root | somebody asks for it |
//! | adding | the new root is in the trust bundle, the old one signs | every connected client has acknowledged the bundle, and every voice |
//! | switched | the new root signs | the last certificate of the old root has expired |
//! | steady | the old root is gone | |

use std::time::SystemTime;

use tasuki_identity::ca::rotation::{Progress, Request};
use tasuki_identity::ca::{KeyRing, Phase};
use tasuki_xds::model::TrustBundle;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::Authority;

/// How often the state dir and the clients are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Everybody must trust the new root for this long without interruption: a client that connects just now is listed first.
const SETTLED: Duration = Duration::from_secs(2);
/// After a start of the control plane its clients are given this long to return before "all of them" means anything.
pub(super) const RETURN: Duration = Duration::from_secs(15);
/// Peers' clocks may be behind: old certificates live this much longer for them.
const SKEW: Duration = Duration::from_secs(2);

/// Says which connected clients have not acknowledged a trust bundle: `Clients::lacking`.
pub type Lacking = Box<dyn Fn(&TrustBundle) -> Vec<String> + Send + Sync>;

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
            match self.tick(SystemTime::now()).await {
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

    async fn tick(&mut self, now: SystemTime) -> anyhow::Result<()> {
        self.authority.restore().await?;
        let request = self.authority.requested()?;
        match (self.authority.phase(), request) {
            (Phase::Steady { .. }, request) => self.begin(request, now).await,
            (Phase::Adding { .. }, request) => self.switch_when_trusted(request, now).await,
            (Phase::Switched { .. }, request) => self.retire_when_expired(request, now).await,
        }
    }

    async fn begin(&mut self, request: Option<Request>, now: SystemTime) -> anyhow::Result<()> {
        let plugin = self.authority.awaiting();
        if let Some(request) = &request {
            let last = self.authority.progress()?;
            if last.is_some_and(|last| last.request == request.id) {
                // Progress is reported only after the root was added: this request's rotation is over, and a crash kept the last
                // report from being written. It must not start another one.
                let detail = "the old root is retired".to_owned();
                return self.report(Some(request.clone()), detail, true).await;
            }
            if plugin.is_none() && self.authority.plugged() {
                let detail = "nothing was done: the root is plugged in, and rotates when it is replaced where it comes from (Secret cacerts)";
                return self
                    .report(Some(request.clone()), detail.to_owned(), true)
                    .await;
            }
        } else if plugin.is_none() {
            return Ok(());
        }
        self.trusted_since = None;
        let step = |keys: &KeyRing| keys.add_root(plugin.as_ref(), now);
        self.authority.step(step).await?;
        let detail = "a new root is in the trust bundle".to_owned();
        self.report(request, detail, false).await
    }

    async fn switch_when_trusted(
        &mut self,
        request: Option<Request>,
        now: SystemTime,
    ) -> anyhow::Result<()> {
        let bundle = self.authority.bundle();
        let mut lacking = (self.lacking)(&bundle);
        lacking.extend(self.authority.0.voices.lacking(&bundle));
        if !lacking.is_empty() {
            self.trusted_since = None;
            return self.report(request, waiting(&lacking), false).await;
        }
        let since = *self.trusted_since.get_or_insert_with(Instant::now);
        if since.elapsed() < SETTLED || self.started.elapsed() < RETURN {
            let detail = "every connected client trusts the new root".to_owned();
            return self.report(request, detail, false).await;
        }
        let ttl = self.authority.ttl();
        let step = |keys: &KeyRing| keys.switch_signer(ttl, now);
        self.authority.step(step).await?;
        let detail = "the new root signs".to_owned();
        self.report(request, detail, false).await
    }

    async fn retire_when_expired(
        &mut self,
        request: Option<Request>,
        now: SystemTime,
    ) -> anyhow::Result<()> {
        let phase = self.authority.phase();
        let Some(end) = phase.old_leaves_end().map(|end| end + SKEW) else {
            return Ok(());
        };
        let end = end + self.authority.lag();
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
            return self.report(request, detail, false).await;
        }
        self.authority.step(|keys| keys.retire_old(now)).await?;
        let detail = "the old root is retired".to_owned();
        self.report(request, detail, true).await
    }

    /// For whoever waits in `tasuki ca rotate`; without a request, or when it was deleted, for the log only.
    async fn report(
        &mut self,
        request: Option<Request>,
        detail: String,
        done: bool,
    ) -> anyhow::Result<()> {
        let asked = request.is_some();
        let progress = Progress {
            request: request.map(|request| request.id).unwrap_or_default(),
            done,
            detail,
        };
        if self.reported.as_ref() == Some(&progress) {
            return Ok(());
        }
        tracing::info!(detail = progress.detail, "rotation");
        if asked {
            self.authority.report(&progress).await?;
        }
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
