//! What the proxy says about its traffic: Istio's standard metrics, `tasuki_*` metrics and the access log (contract section 10).
//!
//! An itinerary fills a [`RequestRecord`] or [`TcpRecord`]; dropping the record counts and logs it, so that a request
//! which is cancelled half-way is recorded as well.

pub mod access_log;
pub mod clusters;
pub mod metrics;
pub mod peer;
pub mod record;
pub mod traffic;

pub use self::access_log::{AccessLog, SharedMode};
pub use self::metrics::Metrics;
pub use self::peer::{Destination, Party, Peers};
pub use self::record::{Direction, Protocol, Recorder, RequestRecord, TcpRecord};
