//! The itinerary of raw bytes: authorize | balance > copy both ways.

use std::rc::Rc;
use std::sync::Arc;

use crate::connection::Connection;
use crate::state::TcpTarget;
use crate::stream::Stream;
use crate::worker::Worker;

/// Carries a connection's bytes to one endpoint of one of `target`'s clusters.
pub async fn proxy(worker: Rc<Worker>, conn: Rc<Connection>, stream: Stream, target: Arc<TcpTarget>) {
    let _ = (worker, conn, stream, target);
}
