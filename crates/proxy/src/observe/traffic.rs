//! Metric handles of one pair of ends, resolved once and then only incremented.
//!
//! A look-up by 25 label values costs microseconds; a cached handle costs nanoseconds. The cache belongs to one
//! worker, is keyed by the addresses of the shared ends (which it keeps alive), and is bounded.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter};
use smallvec::SmallVec;

use super::metrics::{ENDS_LEN, Metrics, end_labels};
use super::peer::{Destination, Party};
use super::record::{Direction, Flags, Protocol};
use crate::fast_map::FastMap;

/// Pairs of ends that one worker keeps handles of. Beyond it the cache starts anew; the series stay.
const CACHED: usize = 4_096;

/// Pairs of ends per worker with series of their own; more are counted as unknown to unknown.
const MOST_PAIRS: usize = 8_192;

/// How a request ended.
pub struct Response<'a> {
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub flags: &'a Flags,
    pub duration: Duration,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    direction: Direction,
    source: usize,
    destination: usize,
    protocol: Protocol,
    mutual_tls: bool,
}

/// The handles of one worker.
#[derive(Default)]
pub struct TrafficCache {
    entries: FastMap<Key, Entry>,
    /// Who this proxy was when the cache was filled.
    own: Option<Arc<Party>>,
    /// The same handles by what they say: ends that are equal but not the same share them.
    series: HashMap<[String; ENDS_LEN], Rc<Traffic>>,
}

struct Entry {
    traffic: Rc<Traffic>,
    /// Kept so that the addresses in the key stay theirs.
    _source: Option<Arc<Party>>,
    _destination: Option<Arc<Destination>>,
}

impl TrafficCache {
    pub fn get(
        &mut self,
        metrics: &Arc<Metrics>,
        direction: Direction,
        source: &Option<Arc<Party>>,
        destination: &Option<Arc<Destination>>,
        protocol: Protocol,
        mutual_tls: bool,
    ) -> Rc<Traffic> {
        let own = metrics.own();
        if self.entries.len() >= CACHED || self.own.as_ref().is_none_or(|o| !Arc::ptr_eq(o, &own)) {
            self.entries.clear();
            self.own = Some(Arc::clone(&own));
        }
        let key = Key {
            direction,
            source: source.as_ref().map_or(0, |s| Arc::as_ptr(s) as usize),
            destination: destination.as_ref().map_or(0, |d| Arc::as_ptr(d) as usize),
            protocol,
            mutual_tls,
        };
        if let Some(entry) = self.entries.get(&key) {
            return Rc::clone(&entry.traffic);
        }
        let (from, to) = ends(
            direction,
            source.as_deref(),
            destination.as_deref(),
            mutual_tls,
            &own,
        );
        let traffic = self.series(
            metrics,
            labels(direction, &from, &to, protocol, mutual_tls),
            || {
                labels(
                    direction,
                    &Party::default(),
                    &Destination::default(),
                    protocol,
                    mutual_tls,
                )
            },
        );
        let entry = Entry {
            traffic: Rc::clone(&traffic),
            _source: source.clone(),
            _destination: destination.clone(),
        };
        self.entries.insert(key, entry);
        traffic
    }

    /// The handles with these labels, or with the anonymous ones if there are too many series already.
    fn series(
        &mut self,
        metrics: &Arc<Metrics>,
        mut labels: [String; ENDS_LEN],
        anonymous: impl FnOnce() -> [String; ENDS_LEN],
    ) -> Rc<Traffic> {
        if self.series.len() >= MOST_PAIRS && !self.series.contains_key(&labels) {
            metrics.label_sets_dropped.inc();
            labels = anonymous();
        }
        let traffic = self.series.entry(labels).or_insert_with_key(|labels| {
            Rc::new(Traffic {
                metrics: Arc::clone(metrics),
                labels: labels.clone(),
                responses: RefCell::default(),
                tcp: RefCell::default(),
            })
        });
        Rc::clone(traffic)
    }
}

fn labels(
    direction: Direction,
    source: &Party,
    destination: &Destination,
    protocol: Protocol,
    mutual_tls: bool,
) -> [String; ENDS_LEN] {
    let (reporter, security) = match (direction, mutual_tls) {
        (Direction::Inbound, true) => ("destination", "mutual_tls"),
        (Direction::Inbound, false) => ("destination", "none"),
        // As Istio: only the destination can say for sure.
        (Direction::Outbound | Direction::Gateway, _) => ("source", "unknown"),
    };
    end_labels(reporter, source, destination, protocol.label(), security)
}

/// An end that the record leaves open is this proxy's own.
fn ends(
    direction: Direction,
    source: Option<&Party>,
    destination: Option<&Destination>,
    mutual_tls: bool,
    own: &Party,
) -> (Party, Destination) {
    let mut to = destination.cloned().unwrap_or_default();
    if direction != Direction::Inbound && !mutual_tls {
        // Expected of the endpoint, but nobody has shown it.
        to.party.principal = None;
    }
    let from = match (source, direction) {
        (Some(source), _) => source.clone(),
        (None, Direction::Outbound | Direction::Gateway) => own.clone(),
        (None, Direction::Inbound) => Party::default(),
    };
    if direction == Direction::Inbound && to.party == Party::default() {
        to.party = own.clone();
    }
    (from, to)
}

/// Handles of one pair of ends.
pub struct Traffic {
    metrics: Arc<Metrics>,
    labels: [String; ENDS_LEN],
    responses: RefCell<SmallVec<[(ResponseKey, Responses); 1]>>,
    tcp: RefCell<Option<Tcp>>,
}

#[derive(Clone, PartialEq, Eq)]
struct ResponseKey {
    status: u16,
    grpc_status: Option<u16>,
    flags: Flags,
}

struct Responses {
    requests: IntCounter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

struct Tcp {
    opened: IntCounter,
    sent: IntCounter,
    received: IntCounter,
}

/// The first number that is no gRPC status.
const OTHER_STATUS: u16 = 17;

impl Traffic {
    /// Counts one request.
    pub fn request(&self, response: &Response<'_>) {
        let mut responses = self.responses.borrow_mut();
        // A peer can invent 65,519 more: they are one.
        let grpc_status = response.grpc_status.map(|status| status.min(OTHER_STATUS));
        let same = |key: &ResponseKey| {
            key.status == response.status
                && key.grpc_status == grpc_status
                && key.flags == *response.flags
        };
        let index = match responses.iter().position(|(key, _)| same(key)) {
            Some(index) => index,
            None => {
                let key = ResponseKey {
                    status: response.status,
                    grpc_status,
                    flags: response.flags.clone(),
                };
                let handles = self.responses(&key);
                responses.push((key, handles));
                responses.len() - 1
            }
        };
        let handles = &responses[index].1;
        handles.requests.inc();
        handles
            .duration
            .observe(response.duration.as_secs_f64() * 1e3);
        handles.request_bytes.observe(response.bytes_in as f64);
        handles.response_bytes.observe(response.bytes_out as f64);
    }

    fn responses(&self, key: &ResponseKey) -> Responses {
        // 3-digit codes and gRPC's 17 are few; anything else would be a peer's invention.
        let status = if key.status < 1_000 {
            key.status.to_string()
        } else {
            "other".into()
        };
        let grpc = match key.grpc_status {
            Some(status) if status < OTHER_STATUS => status.to_string(),
            Some(_) => "other".into(),
            None => String::new(),
        };
        let flags = flags_label(&key.flags);
        let mut values: SmallVec<[&str; 32]> = self.labels.iter().map(String::as_str).collect();
        values.extend([status.as_str(), flags.as_str(), grpc.as_str()]);
        Responses {
            requests: self.metrics.requests.with_label_values(&values),
            duration: self.metrics.duration.with_label_values(&values),
            request_bytes: self.metrics.request_bytes.with_label_values(&values),
            response_bytes: self.metrics.response_bytes.with_label_values(&values),
        }
    }

    /// Counts one connection as opened.
    pub fn tcp_opened(&self) {
        self.with_tcp(|tcp| tcp.opened.inc());
    }

    /// Counts bytes; `received` came from the downstream.
    pub fn tcp_bytes(&self, received: u64, sent: u64) {
        self.with_tcp(|tcp| {
            tcp.received.inc_by(received);
            tcp.sent.inc_by(sent);
        });
    }

    /// Counts one connection as closed.
    pub fn tcp_closed(&self, flags: &Flags) {
        self.tcp_counter(&self.metrics.tcp_closed, &flags_label(flags))
            .inc();
    }

    fn with_tcp(&self, act: impl FnOnce(&Tcp)) {
        let mut tcp = self.tcp.borrow_mut();
        act(tcp.get_or_insert_with(|| Tcp {
            opened: self.tcp_counter(&self.metrics.tcp_opened, "-"),
            sent: self.tcp_counter(&self.metrics.tcp_sent, "-"),
            received: self.tcp_counter(&self.metrics.tcp_received, "-"),
        }));
    }

    fn tcp_counter(&self, family: &prometheus::IntCounterVec, flags: &str) -> IntCounter {
        let mut values: SmallVec<[&str; 32]> = self.labels.iter().map(String::as_str).collect();
        values.push(flags);
        family.with_label_values(&values)
    }
}

fn flags_label(flags: &Flags) -> String {
    if flags.is_empty() {
        "-".into()
    } else {
        flags.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_that_a_peer_invents_are_one() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (direction, protocol) = (Direction::Outbound, Protocol::Grpc);
        let traffic =
            TrafficCache::default().get(&metrics, direction, &None, &None, protocol, false);
        for status in 0..1_000 {
            traffic.request(&Response {
                status: 200,
                grpc_status: Some(status),
                flags: &Flags::new(),
                duration: Duration::ZERO,
                bytes_in: 0,
                bytes_out: 0,
            });
        }
        assert_eq!(traffic.responses.borrow().len(), 18);
    }
}
