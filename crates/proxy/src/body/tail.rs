//! What lives as long as a response body.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;

use super::pump::{Ended, Pump};
use super::upload::Upload;
use crate::attempt::Held;
use crate::attempt::timeout::Timer;
use crate::drain::Activity;
use crate::error::Error;
use crate::headers;
use crate::http::h1::Answering;
use crate::observe::RequestRecord;
use crate::upstream::Lease;
use crate::upstream::h2::Slot;

/// Companions of a response body, in the order in which they are let go.
#[derive(Default)]
pub struct Tail {
    /// The request's body on its way up.
    pub upload: Option<Pump>,
    /// An HTTP/1 connection, which goes back to its pool if the exchange ended whole.
    pub lease: Option<Lease>,
    /// Places in the endpoint's load and the cluster's limits.
    pub held: Option<Held>,
    /// The route's timeout, which covers the whole response.
    pub timer: Option<Timer>,
    /// The request's body, for the record.
    pub uploaded: Option<Rc<Upload>>,
    pub record: Option<Box<RequestRecord>>,
    /// The response's declared length.
    pub expected: Option<u64>,
    passed: u64,
    /// Keeps a drain from ending the process.
    pub activity: Option<Activity>,
    /// Keeps an HTTP/1 connection from being timed as idle.
    pub answering: Option<Answering>,
}

impl Tail {
    /// Drives the upload and looks at the clock.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        if let Some(upload) = &mut self.upload {
            match upload.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ended::Complete | Ended::SinkClosed(_)) => self.upload = None,
                Poll::Ready(Ended::SourceFailed(error)) => return Err(error),
            }
        }
        if let Some(timer) = &mut self.timer
            && timer.poll(cx).is_ready()
        {
            return Err(Error::RouteTimeout);
        }
        Ok(())
    }

    /// The stream's place on an HTTP/2 connection.
    pub(super) fn take_slot(&mut self) -> Option<Slot> {
        match self.lease.take()? {
            Lease::H2(slot) => Some(slot),
            lease @ Lease::H1(_) => {
                self.lease = Some(lease);
                None
            }
        }
    }

    pub(super) fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.passed += data.len() as u64;
        }
        if let Some(trailers) = frame.trailers_ref()
            && let Some(status) = headers::grpc_status(trailers)
        {
            if let Some(record) = &mut self.record {
                record.grpc_status = Some(status);
            }
            if let Some(held) = &mut self.held {
                held.grpc_status(status);
            }
        }
    }

    /// Everything that was declared has passed.
    pub(super) fn is_complete(&self) -> bool {
        self.expected
            .is_some_and(|expected| self.passed >= expected)
    }

    /// The body has ended, whole or not.
    pub(super) fn end(&mut self, result: Result<(), &Error>) {
        if let Some(lease) = self.lease.take()
            && result.is_ok()
        {
            lease.give_back();
        }
        if let Some(held) = self.held.take() {
            held.end(result);
        }
        if let Some(mut record) = self.record.take() {
            record.bytes_out = self.passed;
            if let Some(uploaded) = &self.uploaded {
                record.bytes_in = uploaded.bytes();
            }
            if let Err(error) = result {
                record.flag(error.flag().as_str());
                record.reason.get_or_insert_with(|| error.reason());
            }
            record.finish();
        }
        self.upload = None;
    }
}
