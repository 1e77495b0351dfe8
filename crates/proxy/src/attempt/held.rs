//! What a request holds until its response has ended.

use std::sync::Arc;

use crate::breaker::Permit;
use crate::cluster::{Cluster, Picked};
use crate::eject::Outcome;
use crate::error::Error;

/// Places in load and limits, and what the response's end says about the endpoint.
pub struct Held {
    cluster: Arc<Cluster>,
    picked: Picked,
    _request: Permit,
    _retry: Option<Permit>,
    /// The trailers' verdict. What the head says has been counted already.
    outcome: Option<Outcome>,
}

impl Held {
    pub fn new(
        cluster: &Arc<Cluster>,
        picked: Picked,
        request: Permit,
        retry: Option<Permit>,
    ) -> Self {
        Self {
            cluster: cluster.clone(),
            picked,
            _request: request,
            _retry: retry,
            outcome: None,
        }
    }

    /// What the trailers say.
    pub fn grpc_status(&mut self, status: u16) {
        self.outcome = Some(Outcome::of_grpc(status));
    }

    /// The response has ended.
    pub fn end(self, result: Result<(), &Error>) {
        let outcome = match result {
            Ok(()) => self.outcome,
            Err(error) => Outcome::of_error(error),
        };
        if let Some(outcome) = outcome {
            self.cluster.observe(&self.picked.endpoint, outcome);
        }
    }
}
