//! The tonic service: both methods of `AggregatedDiscoveryService`.

use std::pin::Pin;
use std::sync::Arc;

use tasuki_xds::proto::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer, DeltaDiscoveryRequest,
    DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::stream::{Protocol, serve};
use super::{Authenticator, Catalog, Clients, Presented, Purpose};
use crate::limits::StreamLimits;

/// Largest request: 4,096 names of 512 bytes with their versions fit.
const MAX_REQUEST: usize = 4 << 20;

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`.
pub struct AdsService {
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) authenticator: Arc<dyn Authenticator>,
    pub(super) clients: Arc<Clients>,
    limits: StreamLimits,
}

impl AdsService {
    /// A service over `catalog`; connected clients are listed in `clients`.
    pub fn new(
        catalog: Arc<dyn Catalog>,
        authenticator: Arc<dyn Authenticator>,
        clients: Arc<Clients>,
        limits: StreamLimits,
    ) -> Self {
        Self {
            catalog,
            authenticator,
            clients,
            limits,
        }
    }

    /// As a service for tonic's router; the same service may be put on several ports.
    pub fn into_server(self: Arc<Self>) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::from_arc(self)
            .max_decoding_message_size(MAX_REQUEST)
            // A state-of-the-world response is whole, however large.
            .max_encoding_message_size(usize::MAX)
    }

    /// Authenticates, then leaves the stream to a task of its own.
    async fn open<P: Protocol>(
        &self,
        request: Request<Streaming<P::Request>>,
    ) -> Result<Response<Responses<P::Response>>, Status> {
        let presented = Presented::of(&request);
        let connection = &presented.connection;
        let peer = connection.remote.map(|remote| remote.ip());
        let mut place = self.limits.open(&connection.standing, peer)?;
        let authenticated = self.authenticator.authenticate(&presented, Purpose::Stream);
        let caller = authenticated.await?;
        match &caller {
            Some(_) => self.limits.known(&mut place),
            None => self.limits.stranger(&mut place, peer)?,
        }
        // One outstanding response per type is all that a session sends, so this is never full for long.
        let (responses, receiver) = tokio::sync::mpsc::channel(8);
        let (catalog, clients) = (self.catalog.clone(), self.clients.clone());
        tokio::spawn(async move {
            let _place = place;
            let served = serve::<P>(
                catalog,
                clients,
                presented,
                caller,
                request.into_inner(),
                &responses,
            );
            if let Err(status) = served.await {
                tracing::info!(code = ?status.code(), reason = status.message(), "ADS stream refused");
                // Whoever has gone need not be told.
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The incremental protocol.
pub(super) struct Delta;
/// State of the world.
pub(super) struct Sotw;

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsService {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<Sotw>(request).await
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request).await
    }
}
