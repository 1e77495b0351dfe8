//! Which endpoint: priorities, then round robin, power of two choices or random, with weights. Pure but for the draw.
//!
//! Priorities work as in Envoy: a level takes its share of usable endpoints times 1.4, the rest spills to the next.
//! Below `panic_percent` of endpoints that are healthy and not ejected all are used, as far as they can be reached.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tasuki_xds::model::ClusterLoadAssignment;
use tasuki_xds::model::cluster::{Balance, Cluster};
use tasuki_xds::model::endpoint::{self, Health};

use crate::cluster::Endpoint;
use crate::error::Error;

/// Envoy's overprovisioning factor, in percent.
const OVERPROVISIONING: u64 = 140;
/// Draws that look for an endpoint not tried before (Envoy `host_selection_retry_max_attempts`, Istio sets 5).
const SELECTIONS: usize = 5;

/// Endpoints that are left out of a choice. While there are none, nobody looks at a clock or at any endpoint's state.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeftOut {
    /// Those that are ejected at this time.
    pub ejected: Option<u64>,
    /// Those that cannot be connected to.
    pub unreachable: bool,
}

impl LeftOut {
    fn is_empty(self) -> bool {
        self.ejected.is_none() && !self.unreachable
    }

    pub fn has(self, endpoint: &Endpoint) -> bool {
        self.ejected
            .is_some_and(|now| endpoint.ejection.is_out(now))
            || self.unreachable && endpoint.reach.is_out()
    }
}

/// The endpoints of a cluster by priority.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Most preferred first; none is empty.
    levels: Vec<Level>,
    count: usize,
}

/// Endpoints of one priority.
#[derive(Debug, Default)]
struct Level {
    /// All of them, for panic and for dumps.
    all: Vec<Arc<Endpoint>>,
    /// Those that the control plane calls healthy.
    healthy: Weighted,
}

/// Endpoints with running sums of their weights.
#[derive(Debug, Default)]
struct Weighted {
    endpoints: Vec<Arc<Endpoint>>,
    /// Empty when all weigh the same.
    sums: Vec<u64>,
}

impl EndpointSet {
    /// Builds the set of `assignment`; `make` gives the run-time form of an endpoint, old or new.
    pub fn build(
        assignment: &ClusterLoadAssignment,
        mut make: impl FnMut(&endpoint::Endpoint) -> Arc<Endpoint>,
    ) -> Self {
        let mut levels: BTreeMap<u32, Vec<(Arc<Endpoint>, u64)>> = BTreeMap::new();
        for locality in &assignment.localities {
            let total: u64 = locality
                .endpoints
                .iter()
                .map(|e| u64::from(e.weight.max(1)))
                .sum();
            let level = levels.entry(locality.priority).or_default();
            for model in &locality.endpoints {
                let own = u64::from(model.weight.max(1));
                // A locality's weight is shared out among its endpoints; the factor keeps the fractions.
                let weight = locality
                    .weight
                    .map_or(own, |share| u64::from(share) * 1_000 * own / total.max(1));
                if weight > 0 {
                    level.push((make(model), weight));
                }
            }
        }
        let levels: Vec<Level> = levels
            .into_values()
            .filter(|level| !level.is_empty())
            .map(Level::new)
            .collect();
        let count = levels.iter().map(|level| level.all.len()).sum();
        Self { levels, count }
    }

    /// Every endpoint, most preferred first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.levels.iter().flat_map(|level| &level.all)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Level {
    fn new(endpoints: Vec<(Arc<Endpoint>, u64)>) -> Self {
        let all = endpoints
            .iter()
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        let healthy = endpoints
            .into_iter()
            .filter(|(endpoint, _)| endpoint.health == Health::Healthy);
        Self {
            all,
            healthy: Weighted::new(healthy),
        }
    }

    /// How many are healthy and not left out.
    fn usable(&self, out: LeftOut) -> usize {
        let healthy = &self.healthy.endpoints;
        if out.is_empty() {
            return healthy.len();
        }
        healthy.iter().filter(|e| !out.has(e)).count()
    }

    /// Share of usable endpoints in percent, with the overprovisioning factor, at most 100.
    fn health(&self, out: LeftOut) -> u64 {
        let all = self.all.len().max(1) as u64;
        (self.usable(out) as u64 * OVERPROVISIONING / all).min(100)
    }
}

impl Weighted {
    fn new(endpoints: impl Iterator<Item = (Arc<Endpoint>, u64)>) -> Self {
        let (endpoints, weights): (Vec<_>, Vec<u64>) = endpoints.unzip();
        let even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let running = |sum: &mut u64, weight: u64| {
            *sum += weight;
            Some(*sum)
        };
        let sums = if even {
            Vec::new()
        } else {
            weights.into_iter().scan(0, running).collect()
        };
        Self { endpoints, sums }
    }

    /// One endpoint by weight.
    fn draw(&self, number: u64) -> Option<&Arc<Endpoint>> {
        match self.sums.last() {
            None if self.endpoints.is_empty() => None,
            None => self
                .endpoints
                .get((number % self.endpoints.len() as u64) as usize),
            Some(total) => {
                let point = number % total;
                self.endpoints
                    .get(self.sums.partition_point(|sum| *sum <= point))
            }
        }
    }

    /// The endpoint whose turn it is. With weights, turns are spread over the circle by the golden ratio, which keeps
    /// shares exact over a round and neighbours apart.
    fn turn(&self, turn: usize) -> Option<&Arc<Endpoint>> {
        match self.sums.last() {
            None => self.draw(turn as u64),
            Some(total) => {
                let point = u128::from((turn as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
                    * u128::from(*total);
                self.draw((point >> 64) as u64)
            }
        }
    }
}

/// Chooses an endpoint that is not left out. `avoid` lists ids that are taken only when several draws find nothing else.
pub fn pick(
    set: &EndpointSet,
    config: &Cluster,
    turn: &AtomicUsize,
    avoid: &[u64],
    out: LeftOut,
) -> Result<Arc<Endpoint>, Error> {
    let level = level(set, config, out).ok_or(Error::NoHealthyUpstream)?;
    if config.panic_percent > 0 && in_panic(set, level, config, out) {
        return in_spite_of_health(level, out).ok_or(Error::NoHealthyUpstream);
    }
    let mut chosen = None;
    for _ in 0..SELECTIONS {
        let Some(endpoint) = choose(&level.healthy, config.balance, turn, out) else {
            break;
        };
        if out.has(endpoint) {
            continue;
        }
        chosen = Some(endpoint);
        if !avoid.contains(&endpoint.id) {
            break;
        }
    }
    // Many left out: draws may have missed those that are not.
    let found = chosen.or_else(|| any(&level.healthy.endpoints, out));
    found.cloned().ok_or(Error::NoHealthyUpstream)
}

/// In panic neither health nor ejection counts.
fn in_spite_of_health(level: &Level, out: LeftOut) -> Option<Arc<Endpoint>> {
    let out = LeftOut {
        ejected: None,
        ..out
    };
    any(&level.all, out).cloned()
}

/// One of those that are not left out. Not the next after a random one: those of a zone that is lost stand side by side, and the one
/// behind them would get all that is theirs.
fn any(endpoints: &[Arc<Endpoint>], out: LeftOut) -> Option<&Arc<Endpoint>> {
    let usable = || endpoints.iter().filter(|e| !out.has(e));
    let count = usable().count();
    usable().nth(random() as usize % count.max(1))
}

/// The priority level for this request.
fn level<'a>(set: &'a EndpointSet, config: &Cluster, out: LeftOut) -> Option<&'a Level> {
    let first = set.levels.first()?;
    if set.levels.len() == 1 || first.health(out) >= 100 {
        return Some(first);
    }
    let total: u64 = set
        .levels
        .iter()
        .map(|level| level.health(out))
        .sum::<u64>()
        .min(100);
    if total == 0 {
        return (config.panic_percent > 0).then_some(first);
    }
    let mut point = random() % total;
    for level in &set.levels {
        let share = level.health(out);
        if point < share {
            return Some(level);
        }
        point -= share;
    }
    set.levels.last()
}

/// Endpoints that cannot be connected to are no reason: using the ejected ones would not help them.
fn in_panic(set: &EndpointSet, level: &Level, config: &Cluster, out: LeftOut) -> bool {
    let out = LeftOut {
        unreachable: false,
        ..out
    };
    let usable: usize = set.levels.iter().map(|level| level.usable(out)).sum();
    level.usable(out) == 0 || usable * 100 < set.len() * config.panic_percent as usize
}

fn choose<'a>(
    from: &'a Weighted,
    balance: Balance,
    turn: &AtomicUsize,
    out: LeftOut,
) -> Option<&'a Arc<Endpoint>> {
    match balance {
        Balance::RoundRobin => from.turn(turn.fetch_add(1, Ordering::Relaxed)),
        Balance::Random => from.draw(random()),
        Balance::LeastRequest { choices } => least_request(from, choices, out),
    }
}

/// Of some draws the one with the least under way. Weights decide how often an endpoint is drawn. What is left out has
/// nothing under way and would win each time.
fn least_request(from: &Weighted, choices: u32, out: LeftOut) -> Option<&Arc<Endpoint>> {
    let rank = |endpoint: &Endpoint| (out.has(endpoint), endpoint.active());
    let first = from.draw(random())?;
    if from.endpoints.len() == 1 {
        return Some(first);
    }
    let mut best = first;
    for _ in 1..choices.max(2) {
        let mut other = from.draw(random())?;
        // Two different ones, where all weigh the same: with few endpoints a repeated draw is common and chooses nothing.
        if from.sums.is_empty() && Arc::ptr_eq(other, best) {
            let step = 1 + random() as usize % (from.endpoints.len() - 1);
            let at = from
                .endpoints
                .iter()
                .position(|e| Arc::ptr_eq(e, best))
                .unwrap_or(0);
            other = &from.endpoints[(at + step) % from.endpoints.len()];
        }
        if rank(other) < rank(best) {
            best = other;
        }
    }
    Some(best)
}

/// A number good enough to balance with (xorshift64*); one state per thread, so no lock.
pub fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(rand::random::<u64>() | 1);
    }
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        // The high bits are the good ones; callers reduce with `%`.
        x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 1
    })
}

#[cfg(test)]
mod tests;
