//! Attempts: pick an endpoint, send, and decide whether to try again, within the route's timeout and the retry budget.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::HeaderValue;
use http::request::Parts;
use http::{Request, Response};
use smallvec::SmallVec;

use crate::body::Body;
use crate::body::upload::Upload;
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

mod held;
mod original;
pub mod retry;
pub mod timeout;

pub use self::held::Held;
use self::original::Original;
use self::retry::Plan;
use self::timeout::{Timeouts, Timer};

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
    pub timeouts: Timeouts,
    pub interim: &'a Interim,
}

impl Attempts<'_> {
    /// Sends the request until an attempt succeeds or nothing more may be tried.
    pub async fn run(
        self,
        head: &mut Parts,
        mut body: Body,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Error> {
        let upload = (!body.is_end()).then(|| body.upload());
        let original = Original::new(head, body, self.plan.retries() > 0);
        let under_way = UnderWay::default();
        let mut timer = self.timeouts.start(upload.clone());
        // Whether the endpoint was waited for when the time was up; giving the attempt up ends its body.
        let mut waited = false;
        let response = {
            let mut attempts = pin!(self.attempts(original, upload.as_ref(), record, &under_way));
            poll_fn(|cx| match (attempts.as_mut().poll(cx), &mut timer) {
                (Poll::Pending, Some(timer)) => timer.poll(cx).map(|()| {
                    waited = upload.as_ref().is_none_or(|upload| !upload.is_awaited());
                    Err(Error::RouteTimeout)
                }),
                (result, _) => result,
            })
            .await
        };
        if waited && let Some(endpoint) = under_way.take() {
            // The attempt was dropped before it could say so itself. A client that is slow to send is not the endpoint's fault.
            self.cluster.observe(&endpoint, Outcome::LocalOrigin);
        }
        let mut response = response?;
        if timer.is_some() {
            // The route's timeout covers the response's body too (Envoy `timeout`).
            response.body_mut().tail().timer = timer;
        }
        Ok(response)
    }

    async fn attempts(
        &self,
        mut original: Original<'_>,
        upload: Option<&Rc<Upload>>,
        record: &mut RequestRecord,
        under_way: &UnderWay,
    ) -> Result<Response<Body>, Error> {
        let permit = Permit::acquire(self.cluster, Kind::Request)?;
        self.cluster.endpoints_known().await;
        let mut tried: SmallVec<[u64; 4]> = SmallVec::new();
        let mut retry_permit = None;
        let mut number = 0;
        let mut request = original.take(self.plan.retries() == 0)?;
        loop {
            let picked = self.pick(&tried)?;
            tried.push(picked.endpoint.id);
            note(record, self.cluster, &picked);
            if self.cluster.config.outliers.is_some() {
                under_way.set(Some(picked.endpoint.clone()));
            }
            let result = self.once(&picked, request, upload, record).await;
            under_way.take();
            record.tries += 1;
            let repeatable = original.can_repeat();
            let is_free = self.is_free(&result, &picked, &tried);
            let permit_wanted = (!is_free).then_some(&mut retry_permit);
            if !self.goes_again(number, &result, repeatable, permit_wanted, record) {
                original.commit();
                return self.finish(result, picked, permit, retry_permit);
            }
            self.observe(&picked, &result);
            self.count_retry("made");
            let backoff = if is_free {
                Duration::ZERO
            } else {
                self.plan.backoff(number, &result)
            };
            drop(result);
            drop(picked);
            number += 1;
            // Before the pause: while nothing else may read it, the whole request is still there.
            request = original.take(number >= self.plan.retries())?;
            if !backoff.is_zero() {
                tokio::time::sleep(backoff).await;
            }
        }
    }

    fn pick(&self, tried: &[u64]) -> Result<Picked, Error> {
        let avoid = if self.plan.avoids_previous() {
            tried
        } else {
            &[]
        };
        let purpose = |endpoint: &Arc<Endpoint>| self.target(endpoint).purpose();
        upstream::pick(self.worker, self.cluster, purpose, avoid, self.original)
    }

    fn target<'e>(&'e self, endpoint: &'e Arc<Endpoint>) -> Target<'e> {
        Target {
            cluster: self.cluster,
            endpoint,
            version: self.version,
            is_grpc: self.is_grpc,
        }
    }

    /// Whether the next try is no more load on anybody: the last one found nobody, its endpoint is left out by now, and another
    /// is there. The retry budget and pauses are for servers in trouble (gRFC A6 does not count such "transparent" retries
    /// either).
    fn is_free(
        &self,
        result: &Result<Response<Body>, Error>,
        picked: &Picked,
        tried: &[u64],
    ) -> bool {
        matches!(result, Err(error) if error.found_nobody())
            && picked.endpoint.reach.is_out()
            && self.cluster.has_others(tried)
    }

    /// Whether the request is sent once more after try `number` (from 0). Takes a place under the retry budget if so, where one is
    /// needed; one for the whole chain of retries of a request, as it is one retry at a time.
    fn goes_again(
        &self,
        number: u32,
        result: &Result<Response<Body>, Error>,
        repeatable: bool,
        permit: Option<&mut Option<Permit>>,
        record: &mut RequestRecord,
    ) -> bool {
        if !self.plan.wants_retry(&record.method, result) {
            return false;
        }
        if number >= self.plan.retries() {
            if number > 0 {
                record.flag(Flag::RetryLimitExceeded.as_str());
            }
            return false;
        }
        let Some(permit) = permit.filter(|_| repeatable) else {
            return repeatable;
        };
        if permit.is_none() {
            *permit = Permit::acquire(self.cluster, Kind::Retry).ok();
        }
        if permit.is_none() {
            record.reason.get_or_insert("retry_budget_exceeded".into());
            self.count_retry("refused");
        }
        permit.is_some()
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
        mut request: Request<Body>,
        upload: Option<&Rc<Upload>>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Error> {
        let target = self.target(&picked.endpoint);
        record.mutual_tls = target.is_mutual_tls();
        let headers = request.headers_mut();
        if target.is_mesh() {
            headers.insert(headers::ORIG_PROTO, self.orig_proto.header());
            headers.insert(headers::PEER, own_labels(self.worker));
        }
        // Only the client's own deadline: nobody can tell the upstream when a timeout that has not started yet will go off.
        if let Some(left) = self.timeouts.left() {
            headers.insert(headers::GRPC_TIMEOUT, headers::grpc_timeout_value(left));
        }
        // Pinned here and only lent to the timeout: either arm would move two kilobytes otherwise.
        let mut sending = pin!(upstream::send(self.worker, &target, request, self.interim));
        let Some(limit) = self.plan.per_try_timeout() else {
            return sending.await;
        };
        let mut timer = Timer::after(upload.cloned(), limit);
        poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Pending => timer.poll(cx).map(|()| Err(Error::PerTryTimeout)),
            result => result,
        })
        .await
    }

    /// What an attempt says about its endpoint, where ejection wants to know.
    fn observe(&self, picked: &Picked, result: &Result<Response<Body>, Error>) {
        if self.cluster.config.outliers.is_none() {
            return;
        }
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
        request: Permit,
        retry: Option<Permit>,
    ) -> Result<Response<Body>, Error> {
        self.observe(&picked, &result);
        let mut response = result?;
        let held = Held::new(self.cluster, picked, request, retry);
        response.body_mut().tail().held = Some(held);
        Ok(response)
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

/// The endpoint whose answer is awaited, where ejection wants to know.
type UnderWay = Cell<Option<Arc<Endpoint>>>;
