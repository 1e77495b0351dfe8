//! How long a request may take: the route's timeout, and `grpc-timeout` as far as the route believes it.
//!
//! The route's timeout and the timeout of one try count from the moment at which the client was last waited for. So they start
//! when the client has sent everything, as Envoy's `RouteAction.timeout` does, and neither a slow upload nor a stream of messages is
//! cut by them; but time that goes by with connecting, queueing or an upstream that does not read counts, whatever
//! of the request is still unread. A client's own deadline counts from the request's arrival (gRFC A31).

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, Sleep};

use crate::body::upload::Upload;
use crate::headers;
use crate::route::Forward;

/// The bounds of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The client's own deadline.
    deadline: Option<Instant>,
    /// From the end of the request to the end of the response, all tries included.
    route: Option<Duration>,
}

impl Timeouts {
    pub const NONE: Self = Self {
        deadline: None,
        route: None,
    };

    /// The bounds of a request that came at `now`.
    pub fn of(forward: &Forward, headers: &HeaderMap, is_grpc: bool, now: Instant) -> Self {
        let asked = if is_grpc {
            headers::grpc_timeout(headers)
        } else {
            None
        };
        Self {
            // A deadline beyond the clock's range is none.
            deadline: believed(forward.grpc_timeout_max, asked)
                .and_then(|timeout| now.checked_add(timeout)),
            route: forward.timeout,
        }
    }

    /// What is left of the client's deadline; `None` without one.
    pub fn left(self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The timer for both; `upload` is the request's body if it has one.
    pub fn start(self, upload: Option<Rc<Upload>>) -> Option<Timer> {
        let mut timer = self.route.map(|route| Timer::after(upload, route));
        if let Some(deadline) = self.deadline {
            timer.get_or_insert_default().no_later_than(deadline);
        }
        timer
    }
}

/// What of the deadline that a client asks for is believed; a maximum of zero is none.
fn believed(max: Option<Duration>, asked: Option<Duration>) -> Option<Duration> {
    match (max?, asked?) {
        (Duration::ZERO, asked) => Some(asked),
        (max, asked) => Some(asked.min(max)),
    }
}

/// Goes off at a deadline that may move. Boxed, because it lives on with the response, and only there where a timeout is
/// configured.
#[derive(Debug, Default)]
pub struct Timer {
    /// Does not move.
    deadline: Option<Pin<Box<Sleep>>>,
    span: Option<Span>,
}

/// A timeout that stands still while the client is waited for.
#[derive(Debug)]
struct Span {
    timeout: Duration,
    sleep: Pin<Box<Sleep>>,
    upload: Option<Rc<Upload>>,
}

impl Timer {
    /// Goes off after `timeout`, in which `upload` was not waited for.
    pub fn after(upload: Option<Rc<Upload>>, timeout: Duration) -> Self {
        if let Some(upload) = &upload {
            upload.time();
        }
        // Beyond the clock's range it never goes off.
        let deadline = Instant::now().checked_add(timeout);
        Self {
            deadline: None,
            span: deadline.map(|deadline| Span {
                timeout,
                sleep: Box::pin(tokio::time::sleep_until(deadline)),
                upload,
            }),
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(());
        }
        match &mut self.span {
            Some(span) => span.poll(cx),
            None => Poll::Pending,
        }
    }

    fn no_later_than(&mut self, deadline: Instant) {
        self.deadline = Some(Box::pin(tokio::time::sleep_until(deadline)));
    }
}

impl Span {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let Some(upload) = &self.upload else {
                return Poll::Ready(());
            };
            ready!(upload.poll_resumed(cx));
            // It has been running since then, if that was not before it was set.
            let due = upload
                .resumed()
                .and_then(|resumed| resumed.checked_add(self.timeout));
            match due {
                Some(due) if due > self.sleep.deadline() => self.sleep.as_mut().reset(due),
                _ => return Poll::Ready(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn grpc_timeout_as_far_as_it_is_believed() {
        assert_eq!(believed(None, Some(S)), None);
        assert_eq!(believed(Some(Duration::ZERO), Some(9 * S)), Some(9 * S));
        assert_eq!(believed(Some(5 * S), Some(9 * S)), Some(5 * S));
        assert_eq!(believed(Some(5 * S), Some(S)), Some(S));
        assert_eq!(believed(Some(Duration::ZERO), None), None);
    }

    async fn elapsed(mut timer: Timer) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| timer.poll(cx)).await;
        // Virtual time, rounded up to the timer's millisecond.
        Duration::from_secs(start.elapsed().as_secs())
    }

    fn timeouts(route: Option<Duration>, deadline: Option<Duration>) -> Timeouts {
        let deadline = deadline.map(|deadline| Instant::now() + deadline);
        Timeouts { deadline, route }
    }

    /// A client that is waited for and has sent everything after `after`.
    fn upload(after: Duration) -> Rc<Upload> {
        let upload = Rc::<Upload>::default();
        upload.waits();
        let sent = upload.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            sent.end();
        });
        upload
    }

    #[tokio::test(start_paused = true)]
    async fn the_routes_timeout_starts_at_the_requests_end() {
        let test = async {
            let route = timeouts(Some(5 * S), None);
            assert_eq!(elapsed(route.start(None).unwrap()).await, 5 * S);
            let sending = Some(upload(20 * S));
            assert_eq!(elapsed(route.start(sending).unwrap()).await, 25 * S);
            assert!(Timeouts::NONE.start(None).is_none());
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn time_counts_in_which_nobody_reads_what_the_client_has_sent() {
        let test = async {
            let unread = Rc::<Upload>::default();
            let route = timeouts(Some(5 * S), None);
            assert_eq!(elapsed(route.start(Some(unread)).unwrap()).await, 5 * S);
            // Waited for from the third second to the ninth, and not read on then.
            let stalled = Rc::<Upload>::default();
            let client = stalled.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(3 * S).await;
                client.waits();
                tokio::time::sleep(6 * S).await;
                client.resume();
            });
            assert_eq!(elapsed(route.start(Some(stalled)).unwrap()).await, 14 * S);
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_clients_deadline_starts_at_its_arrival() {
        let test = async {
            let both = || timeouts(Some(5 * S), Some(12 * S));
            let sending = Some(upload(20 * S));
            assert_eq!(elapsed(both().start(sending).unwrap()).await, 12 * S);
            let sent = Some(upload(2 * S));
            assert_eq!(elapsed(both().start(sent).unwrap()).await, 7 * S);
            let deadline = timeouts(None, Some(3 * S));
            let sending = Some(upload(20 * S));
            assert_eq!(elapsed(deadline.start(sending).unwrap()).await, 3 * S);
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }
}
