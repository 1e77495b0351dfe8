//! The control thread's loop: one select over the stream, the workers' demands, new certificates and the clock.

use tasuki_identity::WorkloadCertificate;
use tasuki_xds::proto::DeltaDiscoveryRequest;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::Demand;
use super::link::Happened;
use super::manager::Manager;

/// Messages that are taken over before a snapshot is published.
const BATCH: usize = 64;

/// What the loop listens to.
pub struct Inputs {
    pub demands: mpsc::Receiver<Demand>,
    pub happened: mpsc::Receiver<Happened>,
    pub certificates: mpsc::Receiver<WorkloadCertificate>,
    /// Ends the loop; what is not saved yet is.
    pub stop: oneshot::Receiver<()>,
}

/// Runs until told to stop.
pub async fn run(mut manager: Manager, mut inputs: Inputs) {
    let mut outgoing: Option<mpsc::Sender<DeltaDiscoveryRequest>> = None;
    let mut pending: Option<DeltaDiscoveryRequest> = None;
    loop {
        if outgoing.is_some() && pending.is_none() {
            pending = manager.next_request();
        }
        let deadline = manager.next_deadline();
        tokio::select! {
            Some(what) = inputs.happened.recv() => {
                happened(&mut manager, what, &mut outgoing, &mut pending);
                for _ in 0..BATCH {
                    let Ok(more) = inputs.happened.try_recv() else { break };
                    happened(&mut manager, more, &mut outgoing, &mut pending);
                }
                manager.settle(Instant::now());
            }
            sent = send(&outgoing, &pending), if pending.is_some() => {
                pending = None;
                if !sent {
                    // The link says `Closed` next.
                    outgoing = None;
                }
            }
            Some(demand) = inputs.demands.recv() => manager.on_demand(demand, Instant::now()),
            Some(certificate) = inputs.certificates.recv() => manager.on_certificate(certificate, Instant::now()),
            () = sleep_until(deadline) => manager.tick(Instant::now()),
            _ = &mut inputs.stop => break,
        }
    }
    manager.save();
}

fn happened(
    manager: &mut Manager,
    what: Happened,
    outgoing: &mut Option<mpsc::Sender<DeltaDiscoveryRequest>>,
    pending: &mut Option<DeltaDiscoveryRequest>,
) {
    match what {
        Happened::Opening(requests) => {
            manager.on_opening();
            *outgoing = Some(requests);
            *pending = None;
        }
        Happened::Open => manager.on_connected(Instant::now()),
        Happened::Response(response) => manager.on_response(*response, Instant::now()),
        Happened::Closed => {
            *outgoing = None;
            *pending = None;
            manager.on_disconnected();
        }
    }
}

/// False when the stream is gone.
async fn send(
    outgoing: &Option<mpsc::Sender<DeltaDiscoveryRequest>>,
    pending: &Option<DeltaDiscoveryRequest>,
) -> bool {
    let (Some(outgoing), Some(request)) = (outgoing, pending) else {
        return std::future::pending().await;
    };
    match outgoing.reserve().await {
        Ok(permit) => {
            permit.send(request.clone());
            true
        }
        Err(_) => false,
    }
}
