//! Who holds a server's connections. A newcomer is never refused for what others do: when all places are taken, whoever
//! has the most gives one up. So neither one address nor several can keep the kubelet's probes out, which come one at a time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The places of one server.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    most: usize,
    per_address: usize,
    table: Mutex<Table>,
}

/// Every connection that has a place, in the order in which they came, and how many there are with those that have
/// just been told to go.
#[derive(Default)]
struct Table {
    next: u64,
    alive: usize,
    seated: usize,
    by_address: HashMap<IpAddr, Vec<Seat>>,
}

struct Seat {
    number: u64,
    held: bool,
    /// Dropped: the connection is to end.
    _stay: oneshot::Sender<()>,
}

/// One connection's place, until it is dropped.
pub struct Place {
    places: Places,
    address: IpAddr,
    number: u64,
    taken: oneshot::Receiver<()>,
}

/// By which a handler keeps its connection's place.
#[derive(Clone)]
pub struct Hold {
    places: Places,
    address: IpAddr,
    number: u64,
}

impl Places {
    /// At most `most` in all, and `per_address` from each.
    pub fn new(most: usize, per_address: usize) -> Self {
        Self(Arc::new(Shared {
            most,
            per_address,
            table: Mutex::default(),
        }))
    }

    /// A place for a connection from `address`, if need be another's. `None`: all are held.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = peer(address);
        let mut table = self.table();
        // Those that were told to go have not gone yet: a flood comes faster than that.
        if table.alive >= 2 * self.0.most {
            return None;
        }
        if table.unheld(address) >= self.0.per_address {
            table.end_oldest(address);
        } else if table.seated >= self.0.most {
            let greediest = table.greediest()?;
            table.end_oldest(greediest);
        }
        let number = table.next;
        let (stay, taken) = oneshot::channel();
        table.next += 1;
        table.alive += 1;
        table.seated += 1;
        table.by_address.entry(address).or_default().push(Seat {
            number,
            held: false,
            _stay: stay,
        });
        Some(Place {
            places: self.clone(),
            address,
            number,
            taken,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        let table = self.0.table.lock();
        table.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn unheld(&self, address: IpAddr) -> usize {
        let seats = self.by_address.get(&address);
        seats.map_or(0, |seats| seats.iter().filter(|seat| !seat.held).count())
    }

    /// The address with the most that can be ended; of several the one whose oldest is the oldest.
    fn greediest(&self) -> Option<IpAddr> {
        let ends = self.by_address.iter().filter_map(|(address, seats)| {
            let mut unheld = seats.iter().filter(|seat| !seat.held);
            let oldest = unheld.next()?.number;
            Some((unheld.count(), std::cmp::Reverse(oldest), *address))
        });
        ends.max().map(|(_, _, address)| address)
    }

    fn end_oldest(&mut self, address: IpAddr) {
        let seats = self.by_address.get(&address);
        let oldest = seats.and_then(|seats| seats.iter().find(|seat| !seat.held));
        if let Some(number) = oldest.map(|seat| seat.number) {
            self.leave(address, number);
        }
    }

    fn leave(&mut self, address: IpAddr, number: u64) {
        let Some(seats) = self.by_address.get_mut(&address) else {
            return;
        };
        if let Some(at) = seats.iter().position(|seat| seat.number == number) {
            seats.remove(at);
            self.seated -= 1;
        }
        if seats.is_empty() {
            self.by_address.remove(&address);
        }
    }
}

impl Place {
    /// Resolves when somebody else gets this place.
    pub async fn lost(&mut self) {
        let _ = (&mut self.taken).await;
    }

    pub fn hold(&self) -> Hold {
        Hold {
            places: self.places.clone(),
            address: self.address,
            number: self.number,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.table();
        table.alive -= 1;
        table.leave(self.address, self.number);
    }
}

impl Hold {
    /// Nobody else gets the place any more, and it does not count among its address's: for clients that have proven who
    /// they are.
    pub fn keep(&self) {
        let mut table = self.places.table();
        let seats = table.by_address.get_mut(&self.address);
        let seat = seats.and_then(|seats| seats.iter_mut().find(|s| s.number == self.number));
        if let Some(seat) = seat {
            seat.held = true;
        }
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hold({} of {})", self.number, self.address)
    }
}

/// Whom an address stands for, where peers are counted: one host has all addresses of an IPv6 network of 64 bits.
pub fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let network = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_lost(place: &mut Place) -> bool {
        place.taken.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn an_address_with_too_many_loses_its_oldest() {
        let places = Places::new(8, 2);
        let mut all: Vec<_> = (0..3).filter_map(|_| places.enter(address(1))).collect();
        let lost: Vec<_> = all.iter_mut().map(is_lost).collect();
        assert_eq!(lost, [true, false, false]);
    }

    #[test]
    fn who_has_the_most_makes_room_for_who_has_none() {
        let places = Places::new(6, 4);
        let mut few: Vec<_> = (0..2).filter_map(|_| places.enter(address(1))).collect();
        let mut most: Vec<_> = (0..4).filter_map(|_| places.enter(address(2))).collect();
        let mut kubelet = places.enter(address(3)).unwrap();
        assert!(!few.iter_mut().any(is_lost) && !is_lost(&mut kubelet));
        assert_eq!(
            most.iter_mut().map(is_lost).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        // Its own newcomers cost the greedy one its own places.
        let mut more = places.enter(address(2)).unwrap();
        assert!(is_lost(&mut most[1]) && !is_lost(&mut more) && !is_lost(&mut kubelet));
    }

    #[test]
    fn many_addresses_with_one_each_keep_nobody_out() {
        let places = Places::new(4, 2);
        let mut all: Vec<_> = (0..4).filter_map(|n| places.enter(address(n))).collect();
        let mut kubelet = places.enter(address(9)).unwrap();
        assert!(is_lost(&mut all[0]) && !is_lost(&mut kubelet));
    }

    #[test]
    fn a_place_that_is_held_stays() {
        let places = Places::new(2, 1);
        let mut hooks = Vec::new();
        for _ in 0..2 {
            let hook = places.enter(address(1)).unwrap();
            hook.hold().keep();
            hooks.push(hook);
        }
        assert!(places.enter(address(2)).is_none(), "all are held");
        assert!(!hooks.iter_mut().any(is_lost));
        hooks.pop();
        assert!(places.enter(address(2)).is_some());
    }

    #[test]
    fn who_was_told_to_go_counts_until_it_has_gone() {
        let places = Places::new(2, 2);
        let flood: Vec<_> = (0..10).filter_map(|_| places.enter(address(1))).collect();
        assert_eq!(flood.len(), 4);
        drop(flood);
        let table = places.table();
        assert!(table.by_address.is_empty() && table.alive == 0 && table.seated == 0);
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let peer = |text: &str| peer(text.parse().unwrap());
        assert_eq!(peer("fd00::1"), peer("fd00::2"));
        assert_ne!(peer("fd00::1"), peer("fd00:0:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_eq!(peer("::1"), IpAddr::from(Ipv6Addr::LOCALHOST));
    }
}
