//! One request or one TCP connection, from its arrival to its last byte.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method};
use smallvec::SmallVec;

pub use crate::connection::Direction;

use super::access_log::{AccessLog, Line};
use super::metrics::Metrics;
use super::peer::{Destination, Party};
use super::traffic::{Response, Traffic, TrafficCache};

/// What was spoken by the downstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    #[default]
    Http10,
    Http11,
    Http2,
    Grpc,
    Tcp,
}

impl Protocol {
    /// The label `request_protocol`.
    pub fn label(self) -> &'static str {
        match self {
            Protocol::Http10 | Protocol::Http11 | Protocol::Http2 => "http",
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
        }
    }

    /// How the access log says it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
            Protocol::Grpc => "gRPC",
            Protocol::Tcp => "TCP",
        }
    }
}

/// Response flags by Envoy's short names, plus `LOOP`. Usually none or one.
pub type Flags = SmallVec<[&'static str; 2]>;

/// Makes the records of one worker and keeps their metric handles.
pub struct Recorder {
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    cache: RefCell<TrafficCache>,
}

impl Recorder {
    pub fn new(metrics: Arc<Metrics>, access_log: AccessLog) -> Rc<Recorder> {
        Rc::new(Recorder {
            metrics,
            access_log,
            cache: RefCell::default(),
        })
    }

    /// A request that has just arrived.
    pub fn request(self: &Rc<Self>, direction: Direction) -> RequestRecord {
        RequestRecord {
            recorder: Rc::clone(self),
            started: Instant::now(),
            direction,
            protocol: Protocol::Http11,
            method: Method::GET,
            authority: None,
            path: None,
            status: 0,
            grpc_status: None,
            flags: Flags::new(),
            reason: None,
            bytes_in: 0,
            bytes_out: 0,
            upstream: None,
            cluster: None,
            route: None,
            tries: 0,
            source: None,
            destination: None,
            mutual_tls: false,
            request_id: None,
            traceparent: None,
        }
    }

    /// A connection whose bytes are copied.
    pub fn tcp(self: &Rc<Self>, direction: Direction) -> TcpRecord {
        TcpRecord {
            recorder: Rc::clone(self),
            started: Instant::now(),
            direction,
            bytes_in: 0,
            bytes_out: 0,
            counted_in: 0,
            counted_out: 0,
            opened: None,
            flags: Flags::new(),
            reason: None,
            upstream: None,
            cluster: None,
            source: None,
            destination: None,
            server_name: None,
            mutual_tls: false,
        }
    }

    fn traffic(
        &self,
        direction: Direction,
        source: &Option<Arc<Party>>,
        destination: &Option<Arc<Destination>>,
        protocol: Protocol,
        mutual_tls: bool,
    ) -> Rc<Traffic> {
        self.cache.borrow_mut().get(
            &self.metrics,
            direction,
            source,
            destination,
            protocol,
            mutual_tls,
        )
    }
}

/// One HTTP request. Fields are filled as they become known; dropping it counts and logs.
pub struct RequestRecord {
    recorder: Rc<Recorder>,
    started: Instant,
    pub direction: Direction,
    pub protocol: Protocol,
    pub method: Method,
    pub authority: Option<Authority>,
    pub path: Option<PathAndQuery>,
    /// 0 while no response was sent.
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub flags: Flags,
    /// Why the proxy itself answered.
    pub reason: Option<Cow<'static, str>>,
    /// Body bytes from the downstream.
    pub bytes_in: u64,
    /// Body bytes to the downstream.
    pub bytes_out: u64,
    pub upstream: Option<SocketAddr>,
    pub cluster: Option<Arc<str>>,
    pub route: Option<Arc<str>>,
    /// How often it was sent on.
    pub tries: u32,
    /// Who asked: the peer when inbound; `None` is this proxy's own workload.
    pub source: Option<Arc<Party>>,
    /// Who answered: the endpoint when outbound; `None` is this proxy's own workload when inbound, else unknown.
    pub destination: Option<Arc<Destination>>,
    /// The downstream connection (inbound) or the upstream one (outbound) is mutual TLS.
    pub mutual_tls: bool,
    pub request_id: Option<HeaderValue>,
    pub traceparent: Option<HeaderValue>,
}

impl RequestRecord {
    /// When the request arrived.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Adds a response flag once.
    pub fn flag(&mut self, flag: &'static str) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    /// The request is over.
    pub fn finish(self) {}

    fn is_error(&self) -> bool {
        self.status >= 500
            || self.status == 0
            || !self.flags.is_empty()
            || self.grpc_status.is_some_and(|s| s != 0)
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        // Nobody answered: the downstream went away first.
        if self.status == 0 && self.flags.is_empty() {
            self.flags.push("DC");
        }
        let recorder = Rc::clone(&self.recorder);
        let traffic = recorder.traffic(
            self.direction,
            &self.source,
            &self.destination,
            self.protocol,
            self.mutual_tls,
        );
        let duration = self.started.elapsed();
        traffic.request(&Response {
            status: self.status,
            grpc_status: self.grpc_status,
            flags: &self.flags,
            duration,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        });
        if recorder.access_log.wants(self.is_error()) {
            let identity = recorder.metrics.own_principal();
            recorder.access_log.write(&Line {
                time: SystemTime::now(),
                direction: self.direction,
                protocol: self.protocol,
                method: Some(self.method.as_str()),
                authority: self.authority.as_ref().map(Authority::as_str),
                path: self.path.as_ref().map(PathAndQuery::as_str),
                status: self.status,
                grpc_status: self.grpc_status,
                flags: &self.flags,
                reason: self.reason.as_deref(),
                bytes_in: self.bytes_in,
                bytes_out: self.bytes_out,
                duration,
                upstream: self.upstream,
                cluster: self.cluster.as_deref(),
                route: self.route.as_deref(),
                source: principal_of_source(self.direction, &self.source, &identity),
                destination: principal_of_destination(
                    self.direction,
                    &self.destination,
                    self.mutual_tls,
                    &identity,
                ),
                request_id: self.request_id.as_ref().map(HeaderValue::as_bytes),
                traceparent: self.traceparent.as_ref().map(HeaderValue::as_bytes),
            });
        }
    }
}

/// One TCP connection. Dropping it counts and logs.
pub struct TcpRecord {
    recorder: Rc<Recorder>,
    started: Instant,
    pub direction: Direction,
    /// Bytes from the downstream.
    pub bytes_in: u64,
    /// Bytes to the downstream.
    pub bytes_out: u64,
    counted_in: u64,
    counted_out: u64,
    opened: Option<Rc<Traffic>>,
    pub flags: Flags,
    pub reason: Option<Cow<'static, str>>,
    pub upstream: Option<SocketAddr>,
    pub cluster: Option<Arc<str>>,
    pub source: Option<Arc<Party>>,
    pub destination: Option<Arc<Destination>>,
    pub server_name: Option<Arc<str>>,
    pub mutual_tls: bool,
}

impl TcpRecord {
    /// Both ends are known: counts the connection as opened.
    pub fn opened(&mut self) {
        if self.opened.is_none() {
            let recorder = &self.recorder;
            let traffic = recorder.traffic(
                self.direction,
                &self.source,
                &self.destination,
                Protocol::Tcp,
                self.mutual_tls,
            );
            traffic.tcp_opened();
            self.opened = Some(traffic);
        }
    }

    /// Brings the byte counters up to now; for connections that live long.
    pub fn flush(&mut self) {
        self.opened();
        if let Some(traffic) = &self.opened {
            traffic.tcp_bytes(
                self.bytes_in - self.counted_in,
                self.bytes_out - self.counted_out,
            );
            self.counted_in = self.bytes_in;
            self.counted_out = self.bytes_out;
        }
    }

    /// Adds a response flag once.
    pub fn flag(&mut self, flag: &'static str) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    /// The connection is over.
    pub fn finish(self) {}
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        self.flush();
        if let Some(traffic) = &self.opened {
            traffic.tcp_closed(&self.flags);
        }
        let recorder = &self.recorder;
        if recorder.access_log.wants(!self.flags.is_empty()) {
            let identity = recorder.metrics.own_principal();
            recorder.access_log.write(&Line {
                time: SystemTime::now(),
                direction: self.direction,
                protocol: Protocol::Tcp,
                method: None,
                authority: self.server_name.as_deref(),
                path: None,
                status: 0,
                grpc_status: None,
                flags: &self.flags,
                reason: self.reason.as_deref(),
                bytes_in: self.bytes_in,
                bytes_out: self.bytes_out,
                duration: self.started.elapsed(),
                upstream: self.upstream,
                cluster: self.cluster.as_deref(),
                route: None,
                source: principal_of_source(self.direction, &self.source, &identity),
                destination: principal_of_destination(
                    self.direction,
                    &self.destination,
                    self.mutual_tls,
                    &identity,
                ),
                request_id: None,
                traceparent: None,
            });
        }
    }
}

fn principal_of_source<'a>(
    direction: Direction,
    source: &'a Option<Arc<Party>>,
    own: &'a Option<Arc<str>>,
) -> Option<&'a str> {
    match (source, direction) {
        (Some(party), _) => party.principal.as_deref(),
        (None, Direction::Outbound) => own.as_deref(),
        (None, Direction::Inbound | Direction::Gateway) => None,
    }
}

fn principal_of_destination<'a>(
    direction: Direction,
    destination: &'a Option<Arc<Destination>>,
    mutual_tls: bool,
    own: &'a Option<Arc<str>>,
) -> Option<&'a str> {
    match (direction, destination) {
        (Direction::Inbound, _) => own.as_deref(),
        (_, Some(destination)) if mutual_tls => destination.party.principal.as_deref(),
        (Direction::Outbound | Direction::Gateway, _) => None,
    }
}
