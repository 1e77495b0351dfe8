//! The stream to the control plane: opens it, reopens it, and moves messages. Decides nothing.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tasuki_runtime::Backoff;
use tasuki_xds::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::State;
use crate::control::ControlPlane;

/// Messages in either direction that wait.
const QUEUE: usize = 32;

/// Largest message. The control plane cuts its answers at 2 MiB, so only a single resource can be larger. A message that
/// announces more is not even read, and ends the stream.
const LARGEST: usize = 64 * 1024 * 1024;

/// A stream that lived this long was a success, so the next failure waits little.
const GOOD: Duration = Duration::from_secs(10);

/// The same news is logged again after this long, or a control plane that comes and goes fills the log.
const NEWS: Duration = Duration::from_secs(300);

/// What happened to the stream.
pub enum Happened {
    /// A stream is being opened: its first messages may be written.
    Opening(mpsc::Sender<DeltaDiscoveryRequest>),
    /// The control plane accepted it.
    Open,
    Response(Box<DeltaDiscoveryResponse>),
    /// It is gone.
    Closed,
}

/// Keeps a stream open for ever; ends when nobody listens any more.
pub async fn run(control: Arc<ControlPlane>, state: Arc<State>, happened: mpsc::Sender<Happened>) {
    let told = Cell::new(None);
    keep_open(&happened, async || {
        stream(&control, &state, &happened, &told).await
    })
    .await;
}

/// Opens a stream, lives with it to its end, and waits longer before the next the less it held.
async fn keep_open(
    happened: &mpsc::Sender<Happened>,
    mut stream: impl AsyncFnMut() -> anyhow::Result<()>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5), 0.5);
    let mut said: Option<(String, Instant)> = None;
    loop {
        let start = Instant::now();
        let reason = match stream().await {
            Ok(()) => "the control plane closed the stream".to_owned(),
            Err(error) => error.to_string(),
        };
        if happened.send(Happened::Closed).await.is_err() {
            return;
        }
        if start.elapsed() >= GOOD {
            backoff.reset();
            said = None;
        }
        let known = |(before, at): &(String, Instant)| *before == reason && at.elapsed() < NEWS;
        if !said.as_ref().is_some_and(known) {
            tracing::warn!(
                reason,
                "no stream to the control plane; going on with what is known"
            );
            said = Some((reason, Instant::now()));
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn stream(
    control: &ControlPlane,
    state: &State,
    happened: &mpsc::Sender<Happened>,
    told: &Cell<Option<Instant>>,
) -> anyhow::Result<()> {
    let identity = state.snapshot().identity.clone();
    let certificate = identity.as_ref().map(|identity| &identity.certificate);
    let roots = state.roots();
    let channel = control.connect(certificate, roots).await?;
    let (requests, outgoing) = mpsc::channel(QUEUE);
    let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
    control.authorize(&mut request, certificate);
    happened.send(Happened::Opening(requests)).await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST);
    let mut incoming = client
        .delta_aggregated_resources(request)
        .await?
        .into_inner();
    happened.send(Happened::Open).await?;
    if told.get().is_none_or(|at: Instant| at.elapsed() >= NEWS) {
        tracing::info!("stream to the control plane is open");
        told.set(Some(Instant::now()));
    }
    while let Some(response) = incoming.message().await? {
        happened
            .send(Happened::Response(Box::new(response)))
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a stream is opened within `time` if each holds for `life`.
    async fn opened(time: Duration, life: Duration) -> usize {
        let (happened, mut closed) = mpsc::channel(1);
        let count = Cell::new(0);
        let open = keep_open(&happened, async || {
            count.set(count.get() + 1);
            tokio::time::sleep(life).await;
            anyhow::bail!("gone again")
        });
        let drain = async { while closed.recv().await.is_some() {} };
        tokio::select! {
            () = open => unreachable!(),
            () = drain => unreachable!(),
            () = tokio::time::sleep(time) => count.get(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_comes_and_goes_is_left_in_peace() {
        let minute = Duration::from_secs(60);
        for life in [
            Duration::ZERO,
            Duration::from_millis(500),
            Duration::from_secs(1),
        ] {
            let opened = opened(minute, life).await;
            // At most 5 s apart and never less than half of that, but for the first few.
            assert!((9..=32).contains(&opened), "{opened} with {life:?} each");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_good_stream_the_next_comes_soon() {
        assert_eq!(opened(Duration::from_millis(20_500), GOOD).await, 3);
    }
}
