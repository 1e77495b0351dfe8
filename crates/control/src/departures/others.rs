//! What the other replicas have told of their clients. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;

use tokio::time::Instant;

use super::RETURNING;
use super::proto::SettledResponse;

/// Pods of one replica; as many as a mesh has, and more than are remembered after they have gone.
const MOST: usize = 65_536;

/// All replicas, by where they serve xDS.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Those that the control plane's own Service has.
    declared: BTreeSet<SocketAddr>,
    /// This process.
    oneself: Option<SocketAddr>,
    /// Those that are being listened to. One that is ending is no longer declared, but has clients to its end.
    telling: BTreeMap<SocketAddr, HashSet<String>>,
    /// When the clients of one that has gone are back, here or elsewhere.
    returned: Option<Instant>,
}

/// What a message leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    News,
    /// It was this process that answered.
    Oneself,
    /// More than any replica would have to say.
    TooMuch,
}

impl Others {
    /// False: as before.
    pub(super) fn declare(&mut self, addresses: BTreeSet<SocketAddr>) -> bool {
        let news = self.declared != addresses;
        self.declared = addresses;
        news
    }

    /// Takes a message of the replica there, with what it has said before in `coming` until that is whole.
    pub(super) fn told(
        &mut self,
        address: SocketAddr,
        me: &str,
        coming: &mut Option<HashSet<String>>,
        message: SettledResponse,
    ) -> Told {
        if message.replica == me {
            self.oneself = Some(address);
            return Told::Oneself;
        }
        let settled = match coming {
            Some(settled) => settled,
            None => self.telling.entry(address).or_default(),
        };
        settled.extend(message.settled);
        for pod in &message.forgotten {
            settled.remove(pod);
        }
        if settled.len() > MOST {
            return Told::TooMuch;
        }
        if message.complete
            && let Some(settled) = coming.take()
        {
            self.telling.insert(address, settled);
        }
        Told::News
    }

    /// It has ended, or cannot be heard any more.
    pub(super) fn lost(&mut self, address: SocketAddr, now: Instant) {
        if self.telling.remove(&address).is_some() {
            self.returned = Some(now + RETURNING);
        }
    }

    /// Whether all clients of all others know that this Pod leaves. Those of one that cannot be asked are taken to know it at
    /// `guessed`.
    pub(super) fn know(&self, pod: &str, guessed: Instant, now: Instant) -> bool {
        let unheard = |address: &&SocketAddr| {
            Some(**address) != self.oneself && !self.telling.contains_key(address)
        };
        self.returned.is_none_or(|returned| now >= returned)
            && self.telling.values().all(|settled| settled.contains(pod))
            && (now >= guessed || !self.declared.iter().any(|address| unheard(&address)))
    }

    #[cfg(test)]
    pub(super) fn hears(&self, address: SocketAddr) -> bool {
        self.telling.contains_key(&address)
    }

    /// When clients of one that has gone are back.
    pub(super) fn returned(&self) -> Option<Instant> {
        self.returned
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn message(replica: &str, settled: &[&str], complete: bool) -> SettledResponse {
        SettledResponse {
            replica: replica.to_owned(),
            settled: settled.iter().map(|pod| (*pod).to_owned()).collect(),
            forgotten: Vec::new(),
            complete,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_replica_that_has_clients_is_heard() {
        let mut others = Others::default();
        let now = Instant::now();
        let late = now + Duration::from_secs(3);
        assert!(others.know("p", late, now), "there are none");
        assert!(others.declare([address(1), address(2)].into()));
        assert!(!others.know("p", late, now) && others.know("p", late, late));
        let me = others.told(
            address(1),
            "me",
            &mut Some(HashSet::new()),
            message("me", &[], true),
        );
        assert_eq!(me, Told::Oneself);
        assert!(!others.know("p", late, now), "the other has not been asked");

        let mut coming = Some(HashSet::new());
        others.told(address(2), "me", &mut coming, message("b", &["p"], false));
        assert!(!others.know("p", late, now), "there may be more to it");
        others.told(address(2), "me", &mut coming, message("b", &["q"], true));
        assert!(others.know("p", late, now) && !others.know("r", late, late));
        others.told(address(2), "me", &mut coming, message("b", &["r"], false));
        assert!(others.know("r", late, now));
        let mut forgets = message("b", &[], false);
        forgets.forgotten.push("r".to_owned());
        others.told(address(2), "me", &mut coming, forgets);
        assert!(!others.know("r", late, late));

        // It ends: its endpoint goes first, its clients last.
        others.declare([address(1)].into());
        assert!(!others.know("new", late, late));
        others.lost(address(2), now);
        assert!(
            !others.know("p", late, late),
            "its clients are on their way"
        );
        assert!(others.know("p", late, now + RETURNING));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_does_not_cease_is_not_listened_to() {
        let mut others = Others::default();
        let mut endless = message("b", &[], false);
        endless.settled = (0..=MOST).map(|n| n.to_string()).collect();
        let told = others.told(address(2), "me", &mut Some(HashSet::new()), endless);
        assert_eq!(told, Told::TooMuch);
    }
}
