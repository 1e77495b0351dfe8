//! Follows one kind at the API server for ever: lists it, watches it, lists it again where the history has been compacted away, waits
//! for an API server that is gone and for a kind that is not there yet. What it sees it tells the store; it decides only when
//! to ask again.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use rand::Rng;
use tasuki_kubernetes::watched::Watched;
use tasuki_resources::NamespacedName;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::definition::{Definition, look};
use super::store::{Change, Trouble};
use super::wire::{Wire, api_resource};

/// A watch is asked for anew after this many seconds; a connection that has died silently is noticed 5 s later, by the watcher.
pub const WATCH_SECONDS: u32 = 15;
/// After the first failure, doubled after each further one.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Nothing is longer out of date than this once the API server is back.
const RETRY_AT_LAST: Duration = Duration::from_secs(5);
/// How often a kind that is not there is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A watch that has been tried again and is silent for this long is asked whether it works.
const SILENT: Duration = Duration::from_secs(1);
/// And that question may take this long.
const ANSWER: Duration = Duration::from_secs(5);

/// One kind's watch.
pub struct Watch {
    pub client: Client,
    pub watched: Watched,
    /// The kind's place in the store.
    pub place: usize,
    pub changes: mpsc::Sender<(usize, Change)>,
}

/// Nobody listens any more.
struct Unheard;

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The watcher goes on from where it was.
    GoOn(Trouble),
    /// List anew, after looking whether the kind is there.
    Anew(Option<Trouble>),
    /// This API server has no streaming lists.
    NoStreaming,
}

/// What one run remembers.
struct Following {
    watch: Watch,
    streaming: bool,
    trouble: Option<Trouble>,
    failures: u32,
    /// The store knows what there is, or was.
    listed: bool,
}

impl Watch {
    /// Runs until nobody listens.
    pub async fn run(self) {
        let mut following = Following {
            watch: self,
            streaming: true,
            trouble: None,
            failures: 0,
            listed: false,
        };
        while following.once().await.is_ok() {}
    }
}

impl Following {
    /// From the question whether the kind is there to where that has to be asked again.
    async fn once(&mut self) -> Result<(), Unheard> {
        match self.definition().await? {
            Definition::Served(version) => self.follow(version).await,
            Definition::Absent => {
                self.trouble = None;
                self.listed = true;
                self.tell(Change::Absent).await?;
                sleep(jittered(LOOK_AGAIN)).await;
                Ok(())
            }
            Definition::Leaving(version) => {
                if !self.listed && !self.remainder(version).await? {
                    return Ok(());
                }
                self.removed().await?;
                sleep(jittered(LOOK_AGAIN)).await;
                Ok(())
            }
        }
    }

    /// A definition that goes may be stuck for days, and a process that starts meanwhile must not wait for it: what is left of the
    /// kind now is what it knows. False: it could not be told.
    async fn remainder(&mut self, version: Option<&str>) -> Result<bool, Unheard> {
        let Some(version) = version else {
            self.listed = true;
            self.tell(Change::Absent).await?;
            return Ok(true);
        };
        let resource = api_resource(&self.watch.watched, version);
        let api = Api::<Wire>::all_with(self.watch.client.clone(), &resource);
        let left = match api.list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => {
                let trouble = why(&error);
                self.failed(trouble, &error).await?;
                return Ok(false);
            }
        };
        self.tell(Change::Begin).await?;
        for wire in left {
            self.read(wire, version, Change::Listed).await?;
        }
        self.listed = true;
        self.tell(Change::Complete).await?;
        Ok(true)
    }

    /// Asks until there is an answer.
    async fn definition(&mut self) -> Result<Definition, Unheard> {
        loop {
            match look(&self.watch.client, &self.watch.watched).await {
                Ok(definition) => return Ok(definition),
                Err(error) => {
                    let trouble = why(&error);
                    self.failed(trouble, &error).await?;
                }
            }
        }
    }

    /// Lists and watches until the kind has to be looked for again.
    async fn follow(&mut self, version: &str) -> Result<(), Unheard> {
        let resource = api_resource(&self.watch.watched, version);
        let api = Api::<Wire>::all_with(self.watch.client.clone(), &resource);
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        if self.streaming {
            config = config.streaming_lists();
        }
        let mut events = pin!(watcher(api.clone(), config));
        loop {
            let event = match self.trouble {
                None => events.next().await,
                // A watch that goes on where it was says nothing before something changes.
                Some(_) => match timeout(SILENT, events.next()).await {
                    Ok(event) => event,
                    Err(_) => {
                        self.probe(&api).await?;
                        continue;
                    }
                },
            };
            match event {
                None => return Ok(()),
                Some(Ok(event)) => self.event(event, version).await?,
                Some(Err(error)) => match next(&error, self.streaming) {
                    Next::GoOn(trouble) => self.failed(trouble, &error).await?,
                    Next::Anew(None) => return Ok(()),
                    Next::Anew(Some(trouble)) => return self.failed(trouble, &error).await,
                    Next::NoStreaming => {
                        self.streaming = false;
                        return Ok(());
                    }
                },
            }
        }
    }

    async fn event(&mut self, event: Event<Wire>, version: &str) -> Result<(), Unheard> {
        if !matches!(event, Event::Init) {
            self.works().await?;
        }
        match event {
            Event::Init => self.tell(Change::Begin).await,
            Event::InitApply(wire) => self.read(wire, version, Change::Listed).await,
            Event::InitDone => {
                if self.listed && self.is_leaving().await? {
                    return self.removed().await;
                }
                self.trouble = None;
                self.listed = true;
                self.tell(Change::Complete).await
            }
            Event::Apply(wire) => self.read(wire, version, Change::Applied).await,
            Event::Delete(wire) => {
                if self.is_leaving().await? {
                    return self.removed().await;
                }
                self.tell(Change::Deleted(wire.name())).await
            }
        }
    }

    async fn read(
        &self,
        wire: Wire,
        version: &str,
        change: fn(NamespacedName, Box<tasuki_resources::Document>) -> Change,
    ) -> Result<(), Unheard> {
        let name = wire.name();
        match wire.read(&self.watch.watched, version) {
            Some(document) => self.tell(change(name, Box::new(document))).await,
            None => Ok(()),
        }
    }

    /// Whether objects go because their definition does: it is marked before the first of them is deleted, so asking after each
    /// deletion is never too late.
    async fn is_leaving(&mut self) -> Result<bool, Unheard> {
        if !self.watch.watched.custom {
            return Ok(false);
        }
        let definition = self.definition().await?;
        Ok(!matches!(definition, Definition::Served(_)))
    }

    async fn removed(&mut self) -> Result<(), Unheard> {
        self.trouble = Some(Trouble::Removed);
        self.tell(Change::Trouble(self.trouble)).await
    }

    /// Says why, and waits before the next try.
    async fn failed(
        &mut self,
        trouble: Trouble,
        error: &(dyn std::error::Error + Sync),
    ) -> Result<(), Unheard> {
        if self.trouble != Some(trouble) {
            warn!(
                kind = %self.watch.watched.full_name(), %error,
                "cannot be watched; what is known is kept, and it is tried again"
            );
            self.trouble = Some(trouble);
            self.tell(Change::Trouble(self.trouble)).await?;
        }
        let doubled = RETRY_AFTER.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        sleep(jittered(doubled.min(RETRY_AT_LAST))).await;
        Ok(())
    }

    async fn works(&mut self) -> Result<(), Unheard> {
        self.failures = 0;
        match self.trouble {
            None | Some(Trouble::Removed) => Ok(()),
            Some(_) => {
                info!(kind = %self.watch.watched.full_name(), "is watched again");
                self.trouble = None;
                self.tell(Change::Trouble(None)).await
            }
        }
    }

    /// Whether the API server answers, with as little as it can.
    async fn probe(&mut self, api: &Api<Wire>) -> Result<(), Unheard> {
        let one = ListParams::default().limit(1).match_any();
        match timeout(ANSWER, api.list_metadata(&one)).await {
            Ok(Ok(_)) => self.works().await,
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    async fn tell(&self, change: Change) -> Result<(), Unheard> {
        let changes = &self.watch.changes;
        let told = changes.send((self.watch.place, change)).await;
        told.map_err(|_| Unheard)
    }
}

fn next(error: &watcher::Error, streaming: bool) -> Next {
    use kube::Error::Api;
    let (code, at_start) = match error {
        watcher::Error::InitialListFailed(Api(status))
        | watcher::Error::WatchStartFailed(Api(status)) => (status.code, true),
        watcher::Error::WatchError(status) | watcher::Error::WatchFailed(Api(status)) => {
            (status.code, false)
        }
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => return Next::GoOn(Trouble::Unreachable),
    };
    match code {
        // An API server that has started since, or has compacted, does not know where we were. The watcher begins anew by itself,
        // but only where it is told so within the watch.
        410 => Next::Anew(None),
        // Or does not know it yet: a store restored from a copy counts from an earlier time.
        504 if at_start => Next::Anew(Some(refusal(code))),
        404 => Next::Anew(Some(refusal(code))),
        400 | 422 if at_start && streaming => Next::NoStreaming,
        _ => Next::GoOn(refusal(code)),
    }
}

fn why(error: &kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) => refusal(status.code),
        _ => Trouble::Unreachable,
    }
}

fn refusal(code: u16) -> Trouble {
    match code {
        401 | 403 => Trouble::Forbidden,
        code => Trouble::Refused(code),
    }
}

/// Up to a quarter more: replicas that lost the same API server do not return at one moment.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(1.0..1.25))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_a_failure_leads_to() {
        let status = |code| Status::failure("no", "").with_code(code).boxed();
        let start = |code| watcher::Error::WatchStartFailed(kube::Error::Api(status(code)));
        assert_eq!(next(&start(403), true), Next::GoOn(Trouble::Forbidden));
        assert_eq!(next(&start(500), true), Next::GoOn(Trouble::Refused(500)));
        assert_eq!(next(&start(410), true), Next::Anew(None));
        assert_eq!(
            next(&start(404), true),
            Next::Anew(Some(Trouble::Refused(404)))
        );
        assert_eq!(
            next(&start(504), true),
            Next::Anew(Some(Trouble::Refused(504)))
        );
        assert_eq!(next(&start(422), true), Next::NoStreaming);
        assert_eq!(next(&start(422), false), Next::GoOn(Trouble::Refused(422)));
        let within = watcher::Error::WatchError(status(410));
        assert_eq!(next(&within, true), Next::Anew(None));
        let away = watcher::Error::NoResourceVersion;
        assert_eq!(next(&away, true), Next::GoOn(Trouble::Unreachable));
    }
}
