//! How much strangers, and friends gone mad, may have open at a time.
//!
//! | what | in all | of one peer address, while nothing shows whose it is | beyond it |
//! |---|---|---|---|
//! | connections of a port | [`CONNECTIONS`] | [`PEER_CONNECTIONS`] | closed at once |
//! | time until a connection has proven itself | [`crate::auth::incoming`] | | closed |
//! | ADS streams of a connection | [`CONNECTION_STREAMS`] | | RESOURCE_EXHAUSTED |
//! | ADS streams | [`STREAMS`] | [`PEER_STREAMS`] | RESOURCE_EXHAUSTED |
//! | ADS streams without identity | [`STRANGERS`] | [`PEER_STRANGERS`] | RESOURCE_EXHAUSTED |
//!
//! Everything beyond is counted in `tasuki_xds_refused_total`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{IntCounterVec, Opts, Registry};
use tasuki_runtime::places;
use tonic::Status;

/// A proxy has one connection, or two while it reconnects: several times what one replica can serve.
pub const CONNECTIONS: usize = 16_384;
/// All pods of a large node may come from one address (host network, source NAT): kubelets run at most 500.
pub const PEER_CONNECTIONS: usize = 1_024;
/// Clients have one; gRPC clients may share a connection between a few channels.
pub const CONNECTION_STREAMS: usize = 8;
/// As connections.
pub const STREAMS: usize = 16_384;
/// As connections.
pub const PEER_STREAMS: usize = 1_024;
/// Few, so that those who do not say who they are never take the places of those who do.
pub const STRANGERS: usize = 2_048;
/// Foreign clients of a node.
pub const PEER_STRANGERS: usize = 256;

/// Bounds that tests make small.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub all: usize,
    pub each_peer: usize,
}

/// Why there was no place: labels of `tasuki_xds_refused_total`.
#[derive(Clone, Debug)]
pub struct Refused(IntCounterVec);

impl Refused {
    /// # Errors
    /// When the registry already has it.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let opts = Opts::new(
            "tasuki_xds_refused_total",
            "Connections and streams over a bound, by what there was too much of.",
        );
        let counter = IntCounterVec::new(opts, &["reason"])?;
        registry.register(Box::new(counter.clone()))?;
        Ok(Self(counter))
    }

    pub fn count(&self, reason: &str) {
        self.0.with_label_values(&[reason]).inc();
    }

    #[cfg(test)]
    pub fn get(&self, reason: &str) -> u64 {
        self.0.with_label_values(&[reason]).get()
    }
}

/// Places for what may be open at a time.
#[derive(Debug)]
pub struct Places {
    bound: Bound,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    peers: HashMap<IpAddr, usize>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    peer: Option<IpAddr>,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    All,
    Peer,
}

impl Places {
    pub fn new(bound: Bound) -> Arc<Self> {
        Arc::new(Self {
            bound,
            taken: Mutex::default(),
        })
    }

    /// # Errors
    /// Which bound leaves no place.
    pub fn take(self: &Arc<Self>, peer: Option<IpAddr>) -> Result<Place, Full> {
        let peer = peer.map(places::peer);
        let mut taken = self.lock();
        if taken.all >= self.bound.all {
            return Err(Full::All);
        }
        if let Some(peer) = peer {
            let of_peer = taken.peers.entry(peer).or_default();
            // An entry that was made just now is below any bound, so none is left behind at zero.
            if *of_peer >= self.bound.each_peer.max(1) {
                return Err(Full::Peer);
            }
            *of_peer += 1;
        }
        taken.all += 1;
        Ok(Place {
            places: self.clone(),
            peer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whoever holds it has shown who it is: it no longer counts against its address, which may be that of a load balancer, of a
    /// node, or one of a subnet of thousands of pods.
    pub fn known(&mut self) {
        if let Some(peer) = self.peer.take() {
            self.places.lock().leave(peer);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(peer) = self.peer {
            taken.leave(peer);
        }
    }
}

impl Taken {
    fn leave(&mut self, peer: IpAddr) {
        if let Some(of_peer) = self.peers.get_mut(&peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                self.peers.remove(&peer);
            }
        }
    }
}

/// What one connection has done so far; shared by its streams.
#[derive(Debug, Default)]
pub struct Standing {
    proven: AtomicBool,
    known: AtomicBool,
    streams: AtomicUsize,
}

impl Standing {
    /// One of its calls was from somebody who may make it: it may stay.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// One of its calls came with a credential that is good.
    pub fn know(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }
}

/// The bounds of ADS streams.
#[derive(Debug)]
pub struct StreamLimits {
    all: Arc<Places>,
    strangers: Arc<Places>,
    refused: Refused,
}

/// Held for as long as a stream is open.
#[derive(Debug)]
pub struct StreamPlace {
    standing: Arc<Standing>,
    all: Place,
    stranger: Option<Place>,
}

impl StreamLimits {
    pub fn new(refused: Refused) -> Self {
        Self::with(
            Bound {
                all: STREAMS,
                each_peer: PEER_STREAMS,
            },
            Bound {
                all: STRANGERS,
                each_peer: PEER_STRANGERS,
            },
            refused,
        )
    }

    pub fn with(all: Bound, strangers: Bound, refused: Refused) -> Self {
        Self {
            all: Places::new(all),
            strangers: Places::new(strangers),
            refused,
        }
    }

    /// Asked before anything is done for a stream, its authentication included.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED.
    pub fn open(
        &self,
        standing: &Arc<Standing>,
        peer: Option<IpAddr>,
    ) -> Result<StreamPlace, Status> {
        let all = self.all.take(peer).map_err(|full| match full {
            Full::All => self.refuse("streams", "too many ADS streams"),
            Full::Peer => self.refuse("peer_streams", "too many ADS streams from this address"),
        })?;
        let before = standing.streams.fetch_add(1, Ordering::Relaxed);
        // Made now, so that its drop takes back what was just added.
        let place = StreamPlace {
            standing: standing.clone(),
            all,
            stranger: None,
        };
        if before >= CONNECTION_STREAMS {
            return Err(self.refuse(
                "connection_streams",
                "too many ADS streams on one connection",
            ));
        }
        Ok(place)
    }

    /// It is known whose stream it is.
    pub fn known(&self, place: &mut StreamPlace) {
        place.all.known();
        place.standing.know();
    }

    /// Nobody said whose stream it is.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED.
    pub fn stranger(&self, place: &mut StreamPlace, peer: Option<IpAddr>) -> Result<(), Status> {
        let taken = self.strangers.take(peer).map_err(|full| match full {
            Full::All => self.refuse("strangers", "too many ADS streams without a token"),
            Full::Peer => self.refuse(
                "peer_strangers",
                "too many ADS streams without a token from this address",
            ),
        })?;
        place.stranger = Some(taken);
        Ok(())
    }

    fn refuse(&self, reason: &str, sentence: &str) -> Status {
        self.refused.count(reason);
        Status::resource_exhausted(sentence)
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.standing.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(all: usize, each_peer: usize, strangers: usize) -> (StreamLimits, Refused) {
        let refused = Refused::new(&Registry::new()).unwrap();
        let strangers = Bound {
            all: strangers,
            each_peer: strangers,
        };
        let limits = StreamLimits::with(Bound { all, each_peer }, strangers, refused.clone());
        (limits, refused)
    }

    fn peer(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn one_peer_cannot_take_all_places() {
        let places = Places::new(Bound {
            all: 5,
            each_peer: 2,
        });
        let mut held: Vec<Place> = (0..2)
            .map(|_| places.take(peer("10.0.0.1")).unwrap())
            .collect();
        assert_eq!(places.take(peer("10.0.0.1")).unwrap_err(), Full::Peer);
        assert_eq!(
            places.take(peer("::ffff:10.0.0.1")).unwrap_err(),
            Full::Peer
        );
        held.push(places.take(peer("2001:db8::1")).unwrap());
        held.push(places.take(peer("2001:db8::ffff:1")).unwrap());
        assert_eq!(places.take(peer("2001:db8::2")).unwrap_err(), Full::Peer);
        held.push(places.take(peer("2001:db8:0:1::1")).unwrap());
        assert_eq!(places.take(peer("10.0.0.2")).unwrap_err(), Full::All);
        held.clear();
        assert!(places.take(peer("10.0.0.2")).is_ok());
        assert!(places.taken.lock().unwrap().peers.is_empty());
    }

    #[test]
    fn who_is_known_does_not_count_against_its_address() {
        let places = Places::new(Bound {
            all: 3,
            each_peer: 1,
        });
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut place = places.take(peer("10.0.0.1")).unwrap();
            place.known();
            held.push(place);
        }
        assert_eq!(places.take(peer("10.0.0.1")).unwrap_err(), Full::All);
        held.clear();
        assert_eq!(places.lock().all, 0);
        assert!(places.lock().peers.is_empty());
    }

    #[test]
    fn streams_are_bounded_by_connection_by_peer_and_in_all() {
        let (limits, refused) = limits(20, 10, 1);
        let connection = Arc::new(Standing::default());
        let open = |connection| limits.open(connection, peer("10.0.0.1"));
        let mut held: Vec<StreamPlace> = (0..CONNECTION_STREAMS)
            .map(|_| open(&connection).unwrap())
            .collect();
        for _ in 0..3 {
            let status = open(&connection).unwrap_err();
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        }
        assert_eq!(refused.get("connection_streams"), 3);
        let second = Arc::new(Standing::default());
        while let Ok(place) = open(&second) {
            held.push(place);
        }
        assert_eq!((held.len(), refused.get("peer_streams")), (10, 1));
        held.truncate(1);
        held.push(open(&connection).unwrap());
    }

    #[test]
    fn strangers_leave_room_for_those_who_say_who_they_are() {
        let (limits, refused) = limits(10, 10, 1);
        let connection = Arc::new(Standing::default());
        let mut first = limits.open(&connection, peer("10.0.0.1")).unwrap();
        limits.stranger(&mut first, peer("10.0.0.1")).unwrap();
        let mut second = limits.open(&connection, peer("10.0.0.2")).unwrap();
        assert!(limits.stranger(&mut second, peer("10.0.0.2")).is_err());
        assert_eq!(refused.get("strangers"), 1);
        drop(first);
        assert!(limits.stranger(&mut second, peer("10.0.0.2")).is_ok());
    }
}
