//! Watches for those who want an object or two: `kube`'s watcher, asked for anew often enough to notice a connection that has
//! died, and begun anew where it would go on asking for a past that the API server does not have. The source follows its
//! kinds more closely, in `source/kubernetes/watch.rs`.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::stream::{BoxStream, Stream, StreamExt, unfold};
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Error, Resource};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::source::kubernetes::watch::WATCH_SECONDS;

/// Before a watch is begun anew.
const PAUSE: Duration = Duration::from_secs(1);

/// Never ends.
pub fn watched<K>(
    api: Api<K>,
    config: Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.timeout(WATCH_SECONDS);
    let begin = move || -> BoxStream<'static, _> {
        watcher(api.clone(), config.clone())
            .default_backoff()
            .boxed()
    };
    unfold(None, move |events: Option<BoxStream<'static, _>>| {
        let mut events = events.unwrap_or_else(&begin);
        async move {
            let event = events.next().await?;
            let lost = matches!(&event, Err(error) if knows_no_such_time(error));
            if lost {
                sleep(PAUSE).await;
            }
            Some((event, (!lost).then_some(events)))
        }
    })
}

/// A store that was restored from a copy counts from an earlier time, and says 504 to whoever asks for a later one.
fn knows_no_such_time(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(Error::Api(status)) => matches!(status.code, 410 | 504),
        watcher::Error::WatchError(status) => matches!(status.code, 410 | 504),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}
