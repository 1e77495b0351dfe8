//! The stream to the control plane: opens it, reopens it, and moves messages. Decides nothing.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tasuki_runtime::Backoff;
use tasuki_xds::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::State;
use crate::control::ControlPlane;

/// Messages in either direction that wait.
const QUEUE: usize = 32;

/// Largest message: a gateway's first answer can hold every listener.
const LARGEST: usize = 256 * 1024 * 1024;

/// A stream that lived this long was a success, so the next failure waits little.
const GOOD: Duration = Duration::from_secs(10);

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
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5), 0.5);
    let mut said = String::new();
    loop {
        let start = tokio::time::Instant::now();
        let reason = match stream(&control, &state, &happened).await {
            Ok(()) => "the control plane closed the stream".to_owned(),
            Err(error) => error.to_string(),
        };
        if happened.send(Happened::Closed).await.is_err() {
            return;
        }
        if start.elapsed() >= GOOD {
            backoff.reset();
        }
        // Once per reason, or a long absence fills the log.
        if said != reason {
            tracing::warn!(
                reason,
                "no stream to the control plane; going on with what is known"
            );
            said = reason;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn stream(
    control: &ControlPlane,
    state: &State,
    happened: &mpsc::Sender<Happened>,
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
    tracing::info!("stream to the control plane is open");
    while let Some(response) = incoming.message().await? {
        happened
            .send(Happened::Response(Box::new(response)))
            .await?;
    }
    Ok(())
}
