//! The request as its tries are given it: once, or again from the start.

use http::Request;
use http::request::Parts;

use crate::body::Body;
use crate::body::replay::Source;
use crate::error::Error;

/// What the tries of one request are made of.
pub struct Original<'a> {
    head: &'a mut Parts,
    /// The body where no second try is foreseen, or where there is none.
    body: Body,
    /// The body where it must be readable again.
    source: Option<Source>,
}

impl<'a> Original<'a> {
    /// `repeated`: it may have to be sent more than once.
    pub fn new(head: &'a mut Parts, mut body: Body, repeated: bool) -> Self {
        let source = (repeated && !body.is_end()).then(|| Source::new(std::mem::take(&mut body)));
        Self { head, body, source }
    }

    /// The request for one try. The last takes the head, which others only copy.
    pub fn take(&mut self, last: bool) -> Result<Request<Body>, Error> {
        let head = if last {
            std::mem::replace(self.head, empty_head())
        } else {
            self.head.clone()
        };
        let body = match &self.source {
            None => std::mem::take(&mut self.body),
            Some(source) => source
                .reading()
                .map(Body::replay)
                .ok_or(Error::DownstreamProtocol)?,
        };
        Ok(Request::from_parts(head, body))
    }

    /// Whether another try would have the whole request.
    pub fn can_repeat(&self) -> bool {
        self.source.as_ref().is_none_or(Source::can_repeat)
    }

    /// There will be no further try: nothing more is kept for one.
    pub fn commit(&self) {
        if let Some(source) = &self.source {
            source.commit();
        }
    }
}

fn empty_head() -> Parts {
    Request::new(()).into_parts().0
}
