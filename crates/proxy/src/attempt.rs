//! Attempts: pick an endpoint, send, and decide whether to try again, within the route's timeout and the retry budget.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::HeaderValue;
use http::{Request, Response, request};
use smallvec::SmallVec;
use tokio::time::Sleep;

use crate::body::Body;
use crate::body::replay::Source;
use crate::breaker::{Kind, Permit};
use crate::cluster::{Cluster, Endpoint, Picked};
use crate::eject::Outcome;
use crate::error::{Error, Flag};
use crate::headers::{self, OrigProto};
use crate::http::{HttpVersion, Interim};
use crate::observe::RequestRecord;
use crate::observe::peer;
use crate::upstream::{self, Target};
use crate::worker::Worker;

pub mod retry;
pub mod timeout;

use self::retry::Plan;
use self::timeout::Deadline;

/// What the attempts of one request have in common.
pub struct Attempts<'a> {
    pub worker: &'a Rc<Worker>,
    pub cluster: &'a Arc<Cluster>,
    /// Where the client was going; for original-destination clusters.
    pub original: Option<SocketAddr>,
    /// What the client spoke, and what a plain endpoint is spoken to where the cluster leaves it open.
    pub version: HttpVersion,
    pub orig_proto: OrigProto,
    pub is_grpc: bool,
    pub plan: Plan<'a>,
    pub deadline: Deadline,
    pub interim: &'a Interim,
}

/// What a request holds until its response has ended, and what its end says about the endpoint.
pub struct Held {
    cluster: Arc<Cluster>,
    picked: Picked,
    _request: Permit,
    _retry: Option<Permit>,
    /// What the response's head said; a gRPC response may still say otherwise in its trailers.
    outcome: Option<Outcome>,
}

impl Held {
    /// The trailers' verdict.
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

impl Attempts<'_> {
    /// Sends the request until an attempt succeeds or nothing more may be tried.
    pub async fn run(
        self,
        request: Request<Body>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Error> {
        let under_way = UnderWay::default();
        let mut deadline = self.deadline.sleep();
        let response = {
            let mut attempts = pin!(self.attempts(request, record, &under_way));
            poll_fn(|cx| match (attempts.as_mut().poll(cx), &mut deadline) {
                (Poll::Pending, Some(deadline)) => deadline
                    .as_mut()
                    .poll(cx)
                    .map(|()| Err(Error::RouteTimeout)),
                (result, _) => result,
            })
            .await
        };
        if matches!(response, Err(Error::RouteTimeout))
            && let Some((endpoint, upload)) = under_way.take()
            && upload.is_none_or(|upload| upload.has_ended())
        {
            // The attempt was dropped before it could say so itself. A client that is slow to send is not the endpoint's fault.
            self.cluster.observe(&endpoint, Outcome::LocalOrigin);
        }
        let mut response = response?;
        if deadline.is_some() {
            // The route's timeout covers the response's body too (Envoy `timeout`).
            response.body_mut().tail().deadline = deadline;
        }
        Ok(response)
    }

    async fn attempts(
        &self,
        request: Request<Body>,
        record: &mut RequestRecord,
        under_way: &UnderWay,
    ) -> Result<Response<Body>, Error> {
        let mut request_permit = Some(Permit::acquire(self.cluster, Kind::Request)?);
        self.cluster.endpoints_known().await;
        let (mut parts, mut body) = request.into_parts();
        let whole = body.is_end();
        let source = if whole || self.plan.retries() == 0 {
            None
        } else {
            Some(Source::new(std::mem::take(&mut body)))
        };
        let mut tried: SmallVec<[u64; 4]> = SmallVec::new();
        let mut retry_permit = None;
        for number in 0_u32.. {
            let avoid: &[u64] = if self.plan.avoids_previous() {
                &tried
            } else {
                &[]
            };
            let picked = self.cluster.pick(avoid, self.original)?;
            tried.push(picked.endpoint.id);
            note(record, self.cluster, &picked);
            let last = number >= self.plan.retries();
            let attempt_parts = if last {
                std::mem::replace(&mut parts, empty_parts())
            } else {
                parts.clone()
            };
            let attempt_body = match &source {
                None => std::mem::take(&mut body),
                Some(source) => source
                    .reading()
                    .map(Body::replay)
                    .ok_or(Error::DownstreamProtocol)?,
            };
            if self.cluster.config.outliers.is_some() && (whole || source.is_some()) {
                under_way.set(Some((picked.endpoint.clone(), source.clone())));
            }
            let result = self
                .once(&picked, attempt_parts, attempt_body, record)
                .await;
            under_way.take();
            let repeatable = source.as_ref().is_none_or(Source::can_repeat);
            let wanted = self.plan.wants_retry(&record.method, &result);
            if wanted && last && number > 0 {
                record.flag(Flag::RetryLimitExceeded.as_str());
            }
            if !wanted || last || !repeatable {
                if let Some(source) = &source {
                    source.commit();
                }
                return self.finish(result, picked, request_permit.take(), retry_permit.take());
            }
            // One budget for the whole chain of retries of a request: it is one retry at a time.
            if retry_permit.is_none() {
                match Permit::acquire(self.cluster, Kind::Retry) {
                    Ok(permit) => retry_permit = Some(permit),
                    Err(_) => {
                        if let Some(source) = &source {
                            source.commit();
                        }
                        record.reason.get_or_insert("retry_budget_exceeded".into());
                        self.count_retry("refused");
                        return self.finish(result, picked, request_permit.take(), None);
                    }
                }
            }
            self.observe(&picked, &result);
            self.count_retry("made");
            let backoff = self.plan.backoff(number, &result);
            drop(result);
            drop(picked);
            if !backoff.is_zero() {
                tokio::time::sleep(backoff).await;
            }
        }
        Err(Error::NoHealthyUpstream)
    }

    fn count_retry(&self, outcome: &str) {
        let retries = &self.worker.metrics.retries;
        retries
            .with_label_values(&[self.cluster.name(), outcome])
            .inc();
    }

    /// One attempt, within the per-try timeout.
    async fn once(
        &self,
        picked: &Picked,
        mut parts: request::Parts,
        body: Body,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Error> {
        let target = Target {
            cluster: self.cluster,
            endpoint: &picked.endpoint,
            version: self.version,
            is_grpc: self.is_grpc,
        };
        record.mutual_tls = target.is_mutual_tls();
        if target.is_mesh() {
            parts
                .headers
                .insert(headers::ORIG_PROTO, self.orig_proto.header());
            parts.headers.insert(headers::PEER, own_labels(self.worker));
        }
        if self.is_grpc
            && let Some(left) = self.deadline.left()
        {
            let left = self
                .plan
                .per_try_timeout()
                .map_or(left, |per_try| left.min(per_try));
            parts
                .headers
                .insert(headers::GRPC_TIMEOUT, headers::grpc_timeout_value(left));
        }
        // Pinned here and only lent to the timeout: either arm would move two kilobytes otherwise.
        let mut sending = pin!(upstream::send(
            self.worker,
            &target,
            Request::from_parts(parts, body),
            self.interim,
        ));
        match self.plan.per_try_timeout() {
            None => sending.as_mut().await,
            Some(limit) => tokio::time::timeout(limit, sending.as_mut())
                .await
                .unwrap_or(Err(Error::PerTryTimeout)),
        }
    }

    /// What an attempt that is not the request's answer says about its endpoint.
    fn observe(&self, picked: &Picked, result: &Result<Response<Body>, Error>) {
        let outcome = match result {
            Ok(response) => head_outcome(response, self.is_grpc),
            Err(error) => Outcome::of_error(error),
        };
        if let Some(outcome) = outcome {
            self.cluster.observe(&picked.endpoint, outcome);
        }
    }

    /// The request's answer: it takes along what it holds.
    fn finish(
        &self,
        result: Result<Response<Body>, Error>,
        picked: Picked,
        request: Option<Permit>,
        retry: Option<Permit>,
    ) -> Result<Response<Body>, Error> {
        self.observe_now(&picked, &result);
        let mut response = result?;
        if let Some(request) = request {
            // What the head says has been counted; only trailers or a broken body may add to it.
            let held = Held {
                cluster: self.cluster.clone(),
                picked,
                _request: request,
                _retry: retry,
                outcome: None,
            };
            response.body_mut().tail().held = Some(held);
        }
        Ok(response)
    }

    fn observe_now(&self, picked: &Picked, result: &Result<Response<Body>, Error>) {
        if self.cluster.config.outliers.is_some() {
            self.observe(picked, result);
        }
    }
}

/// A head's verdict; `None` when a gRPC response's trailers have the word.
fn head_outcome(response: &Response<Body>, is_grpc: bool) -> Option<Outcome> {
    if is_grpc && response.status() == http::StatusCode::OK {
        return headers::grpc_status(response.headers()).map(Outcome::of_grpc);
    }
    Some(Outcome::of_status(response.status()))
}

fn note(record: &mut RequestRecord, cluster: &Cluster, picked: &Picked) {
    record.upstream = Some(picked.endpoint.address);
    record.destination = Some(picked.endpoint.destination(cluster));
}

fn empty_parts() -> request::Parts {
    Request::new(()).into_parts().0
}

/// `x-tasuki-peer` of this proxy's workload. Encoded anew only when the workload's labels have changed.
fn own_labels(worker: &Worker) -> HeaderValue {
    use std::cell::RefCell;

    use tasuki_xds::model::endpoint::WorkloadRef;
    type Known = Option<(Arc<WorkloadRef>, HeaderValue)>;
    thread_local! {
        static KNOWN: RefCell<Known> = const { RefCell::new(None) };
    }
    let workload = worker.state.snapshot().workload.clone();
    KNOWN.with_borrow_mut(|known| match known {
        Some((of, value)) if Arc::ptr_eq(of, &workload) => value.clone(),
        _ => {
            let value = HeaderValue::from_str(&peer::encode(&workload))
                .unwrap_or(HeaderValue::from_static(""));
            *known = Some((workload, value.clone()));
            value
        }
    })
}

/// The endpoint whose answer is awaited and the body that it is sent, where ejection wants to know.
type UnderWay = Cell<Option<(Arc<Endpoint>, Option<Source>)>>;

/// A deadline that lives on with the response.
pub type Timer = Pin<Box<Sleep>>;
