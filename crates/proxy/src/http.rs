//! HTTP on a client's connection: HTTP/2 on the `h2` crate, HTTP/1 on hyper. Both hand each request to
//! [`crate::request::run`] and send what it answers.

use std::cell::RefCell;
use std::rc::Rc;

use http::Response;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::Connection;
use crate::worker::Worker;

pub mod h1;
pub mod h2;
mod unsent;

use self::unsent::Unsent;

/// What detection or ALPN said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    Http2,
}

/// Serves a connection until it ends.
pub async fn serve<IO>(worker: Rc<Worker>, conn: Rc<Connection>, io: IO, version: HttpVersion)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = Unsent::new(io, &worker.drain);
    match version {
        HttpVersion::Http1 => h1::serve(worker, conn, io).await,
        // Boxed by itself: connections of HTTP/1 are many and wait, and would all be as large as one of HTTP/2.
        HttpVersion::Http2 => Box::pin(h2::serve(worker, conn, io)).await,
    }
}

/// Marks a response whose upgrade was granted: its body is the other half of the tunnel. The status alone does not tell, because
/// an upstream may ignore an upgrade and answer with 200.
#[derive(Clone, Copy, Debug)]
pub struct Switched;

/// 1xx answers on their way down: the upstream puts them in, the connection's own code takes them out. Both are polled by one
/// task, so nobody needs to be woken.
#[derive(Debug)]
pub struct Interim {
    waiting: RefCell<Vec<Response<()>>>,
    /// HTTP/1 clients get no 1xx but the 100 that hyper makes when their body is read.
    wanted: bool,
}

impl Interim {
    /// At most this many wait to be sent; an upstream that floods loses the rest.
    pub const MOST: usize = 8;

    /// For a client that is sent what comes, or for one that is not.
    pub fn new(wanted: bool) -> Self {
        Self {
            waiting: RefCell::default(),
            wanted,
        }
    }

    /// Whether anybody will take what is pushed.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    pub fn push(&self, mut response: Response<()>) {
        if !self.wanted {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() < Self::MOST {
            crate::headers::strip_hop_by_hop(response.headers_mut());
            crate::headers::strip_mesh(response.headers_mut());
            waiting.push(response);
        }
    }

    /// What has come since the last call.
    pub fn take(&self) -> Vec<Response<()>> {
        self.waiting.take()
    }
}

#[cfg(test)]
pub(crate) mod tests;
