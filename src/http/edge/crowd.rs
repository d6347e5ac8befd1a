//! Limits the number of connections of one listener, and decides which one is closed when there are too
//! many.
//!
//! A connection is anonymous (a "stranger") until it has presented a valid key. Strangers may take half
//! of the places; the one that has been idle longest is closed for the next. Connections with a key are
//! never closed for others. They leave an eighth of the places to newcomers; beyond that, a sender with
//! a key is served but stays a stranger.
//!
//! The connections of a trusted proxy that carry requests of many senders are not counted by address, and
//! have the places of connections with a key: closed in the middle, one would break requests of others.
//! There the limit of an address counts the requests of a sender that are in progress.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::limits::Limits;
use super::listener::Peer;
use crate::metrics::{Metrics, TurnedAway};

/// All open connections.
#[derive(Debug)]
pub(super) struct Crowd {
    inside: Mutex<Inside>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Inside {
    total: usize,
    admitted: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Idle strangers, by the time when they became idle.
    idle: BTreeMap<u64, Arc<Stranger>>,
    /// Counter that orders the times at which connections became idle.
    clock: u64,
}

#[derive(Debug)]
struct Stranger {
    /// Empty for a connection that is not counted by address. Changed under the crowd's lock.
    address: OnceLock<IpAddr>,
    task: OnceLock<AbortHandle>,
    /// True once it was closed for another one. Changed under the crowd's lock.
    is_out: AtomicBool,
}

/// The requests that a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// The peer's own requests.
    Own,
    /// Requests of one client, whom the peer, a trusted proxy, names first: see [`Seat::is_of`].
    OneClient,
    /// Requests of many senders; the peer, a trusted proxy, names the sender with each.
    Many,
}

/// The place of one connection, released when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    crowd: Arc<Crowd>,
    stranger: Arc<Stranger>,
    is_admitted: AtomicBool,
    /// Its key in [`Inside::idle`]; 0 while a request is answered. Changed under the crowd's lock.
    idle_since: Mutex<u64>,
}

/// The place of one request that a trusted proxy passed on, released when dropped.
#[derive(Debug)]
pub(super) struct Visit {
    crowd: Arc<Crowd>,
    address: Option<IpAddr>,
}

/// Reports that the connection of a request has presented a valid key.
#[derive(Clone, Debug)]
pub struct Admission(pub(super) Arc<Seat>);

impl Admission {
    /// Marks the connection as one with a valid key, which is never closed for others.
    pub fn grant(&self) {
        self.0.admit();
    }
}

impl Crowd {
    pub(super) fn new(limits: Arc<Limits>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            inside: Mutex::default(),
            limits,
            metrics,
        })
    }

    /// A place for a new connection, if necessary that of the stranger who has been idle longest.
    pub(super) fn seat(
        self: &Arc<Self>,
        peer: Peer,
        carried: Carried,
    ) -> Result<Arc<Seat>, TurnedAway> {
        let address = peer.counted_as().filter(|_| carried == Carried::Own);
        let mut inside = self.inside.lock();
        if let Some(address) = address {
            self.make_room_at(&mut inside, address)?;
        }
        let is_admitted = carried == Carried::Many && inside.admitted < self.admitted_max();
        // A user of the socket file is no stranger.
        let is_stranger = !is_admitted && !matches!(peer, Peer::User(_));
        let strangers = inside.total - inside.admitted;
        let is_full = inside.total >= self.limits.connections_max;
        let is_crowded = is_stranger && strangers >= self.limits.connections_max.div_ceil(2);
        if (is_full || is_crowded) && !self.evict(&mut inside, |_| true) {
            return Err(TurnedAway::Total);
        }
        inside.total += 1;
        inside.admitted += usize::from(is_admitted);
        self.metrics.connections.inc();
        let stranger = Arc::new(Stranger {
            address: OnceLock::new(),
            task: OnceLock::new(),
            is_out: AtomicBool::new(false),
        });
        if let Some(address) = address {
            inside.count(address);
            let _ = stranger.address.set(address);
        }
        let since = match is_admitted {
            true => 0,
            false => inside.idles(&stranger),
        };
        Ok(Arc::new(Seat {
            crowd: self.clone(),
            stranger,
            is_admitted: AtomicBool::new(is_admitted),
            idle_since: Mutex::new(since),
        }))
    }

    /// Number of connections that may be kept from being closed for others.
    fn admitted_max(&self) -> usize {
        let places = self.limits.connections_max;
        places - places / 8
    }

    /// Ensures that an address is below its limit.
    fn make_room_at(&self, inside: &mut Inside, address: IpAddr) -> Result<(), TurnedAway> {
        let there = inside.by_address.get(&address).copied().unwrap_or(0);
        let is_of = |idle: &Stranger| idle.address.get() == Some(&address);
        match there < self.limits.per_address_max || self.evict(inside, is_of) {
            true => Ok(()),
            false => Err(TurnedAway::Address),
        }
    }

    /// Takes a place for a request that a trusted proxy passed on, and counts it for its sender.
    ///
    /// # Errors
    /// The sender has too many.
    pub(super) fn visit(self: &Arc<Self>, sender: Peer) -> Result<Visit, TurnedAway> {
        let address = sender.counted_as();
        if let Some(address) = address {
            let mut inside = self.inside.lock();
            let room = self.make_room_at(&mut inside, address);
            room.inspect_err(|reason| self.metrics.turned_away(*reason))?;
            inside.count(address);
        }
        Ok(Visit {
            crowd: self.clone(),
            address,
        })
    }

    /// Closes the connection of the longest idle stranger that `is_meant` accepts. Its place is free at
    /// once; its task ends soon after.
    fn evict(&self, inside: &mut Inside, is_meant: impl Fn(&Stranger) -> bool) -> bool {
        let longest = inside.idle.iter().find(|(_, idle)| is_meant(idle));
        let Some(since) = longest.map(|(since, _)| *since) else {
            return false;
        };
        if let Some(stranger) = inside.idle.remove(&since) {
            stranger.is_out.store(true, Relaxed);
            if let Some(task) = stranger.task.get() {
                task.abort();
            }
            self.leave(inside, stranger.address.get());
            self.metrics.connections_evicted.inc();
        }
        true
    }

    fn leave(&self, inside: &mut Inside, address: Option<&IpAddr>) {
        self.metrics.connections.dec();
        inside.total -= 1;
        if let Some(address) = address {
            inside.discount(*address);
        }
    }

    /// Number of connections in all, with a key, and idle without one; and number of addresses.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize, usize, usize) {
        let inside = self.inside.lock();
        (
            inside.total,
            inside.admitted,
            inside.idle.len(),
            inside.by_address.len(),
        )
    }
}

impl Inside {
    fn count(&mut self, address: IpAddr) {
        *self.by_address.entry(address).or_default() += 1;
    }

    fn discount(&mut self, address: IpAddr) {
        if let Entry::Occupied(mut same) = self.by_address.entry(address) {
            *same.get_mut() -= 1;
            if *same.get() == 0 {
                same.remove();
            }
        }
    }

    fn idles(&mut self, stranger: &Arc<Stranger>) -> u64 {
        self.clock += 1;
        self.idle.insert(self.clock, stranger.clone());
        self.clock
    }
}

impl Seat {
    /// The task to abort when the connection must make room.
    pub(super) fn served_by(&self, task: AbortHandle) {
        let _ = self.stranger.task.set(task);
    }

    /// Counts the connection by the address of this client, whom its proxy has named, from now on.
    ///
    /// # Errors
    /// The client has too many connections.
    pub(super) fn is_of(&self, client: Peer) -> Result<(), TurnedAway> {
        let Some(address) = client.counted_as() else {
            return Ok(());
        };
        let mut inside = self.crowd.inside.lock();
        if self.stranger.is_out.load(Relaxed) || self.stranger.address.get().is_some() {
            return Ok(());
        }
        self.crowd.make_room_at(&mut inside, address)?;
        inside.count(address);
        let _ = self.stranger.address.set(address);
        Ok(())
    }

    /// Notes that a request has arrived. False if the connection has already been closed for another one.
    pub(super) fn begins_request(&self) -> bool {
        if self.is_admitted.load(Relaxed) {
            return true;
        }
        let mut inside = self.crowd.inside.lock();
        let since = std::mem::take(&mut *self.idle_since.lock());
        inside.idle.remove(&since);
        !self.stranger.is_out.load(Relaxed)
    }

    /// Notes that the answer has been sent; the connection is idle now.
    pub(super) fn ends_request(&self) {
        if self.is_admitted.load(Relaxed) {
            return;
        }
        let mut inside = self.crowd.inside.lock();
        let mut since = self.idle_since.lock();
        if *since == 0 && !self.stranger.is_out.load(Relaxed) {
            *since = inside.idles(&self.stranger);
        }
    }

    fn admit(&self) {
        if self.is_admitted.load(Relaxed) {
            return;
        }
        let mut inside = self.crowd.inside.lock();
        if inside.admitted < self.crowd.admitted_max() && !self.stranger.is_out.load(Relaxed) {
            inside.admitted += 1;
            inside.idle.remove(&*self.idle_since.lock());
            self.is_admitted.store(true, Relaxed);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inside = self.crowd.inside.lock();
        if self.stranger.is_out.load(Relaxed) {
            return;
        }
        inside.idle.remove(&*self.idle_since.lock());
        inside.admitted -= usize::from(self.is_admitted.load(Relaxed));
        self.crowd.leave(&mut inside, self.stranger.address.get());
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.crowd.inside.lock().discount(address);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn crowd(connections_max: usize, per_address_max: usize) -> Arc<Crowd> {
        let limits = Limits {
            connections_max,
            per_address_max,
            ..Limits::default()
        };
        Crowd::new(limits.into(), Metrics::new())
    }

    fn from(address: &str) -> Peer {
        Peer::Address(address.parse().unwrap())
    }

    fn near() -> Peer {
        from("127.0.0.1:1")
    }

    #[test]
    fn users_of_the_socket_have_all_its_places_and_strangers_half() {
        let busy = |crowd: &Arc<Crowd>, peer| {
            let seat = crowd.seat(peer, Carried::Own);
            seat.inspect(|seat| assert!(seat.begins_request()))
        };
        let socket = crowd(8, 8);
        let users: Vec<_> = (0..8).map(|_| busy(&socket, Peer::User(0))).collect();
        assert!(users.iter().all(Result::is_ok));
        assert_eq!(busy(&socket, Peer::User(0)).err(), Some(TurnedAway::Total));
        let door = crowd(8, 8);
        let strangers: Vec<_> = (0..4).map(|_| busy(&door, near())).collect();
        assert!(strangers.iter().all(Result::is_ok));
        assert_eq!(busy(&door, near()).err(), Some(TurnedAway::Total));
    }

    #[test]
    fn an_address_has_its_cap_and_this_machine_has_none() {
        let crowd = crowd(10_240, 2);
        let busy = |address: &str| {
            let seat = crowd.seat(from(address), Carried::Own);
            seat.inspect(|seat| assert!(seat.begins_request()))
        };
        let first = busy("203.0.113.9:1").unwrap();
        let second = busy("203.0.113.9:2").unwrap();
        assert_eq!(busy("203.0.113.9:3").err(), Some(TurnedAway::Address));
        let other = busy("203.0.113.10:1").unwrap();
        drop(second);
        let again = busy("203.0.113.9:4").unwrap();
        let many: Vec<_> = (0..9)
            .map(|_| {
                [
                    crowd.seat(near(), Carried::Own),
                    crowd.seat(Peer::User(0), Carried::Own),
                ]
            })
            .collect();
        assert!(many.iter().flatten().all(Result::is_ok));
        assert_eq!(crowd.counts(), (3 + 18, 0, 18, 2));
        drop((first, other, again, many));
        assert_eq!(crowd.counts(), (0, 0, 0, 0), "nothing is kept");
        assert_eq!(crowd.metrics.connections.get(), 0);
    }

    #[test]
    fn the_stranger_who_has_been_idle_for_longest_makes_room() {
        let crowd = crowd(4, 9);
        let (first, second) = (
            crowd.seat(near(), Carried::Own).unwrap(),
            crowd.seat(near(), Carried::Own).unwrap(),
        );
        // The first connection sent a request after the second one came.
        assert!(first.begins_request());
        first.ends_request();
        let third = crowd.seat(near(), Carried::Own).unwrap();
        assert!(!second.begins_request(), "it has made room");
        assert!(first.begins_request());
        assert!(third.begins_request());
        assert_eq!(
            crowd.seat(near(), Carried::Own).err(),
            Some(TurnedAway::Total),
            "nobody idle"
        );
        third.ends_request();
        assert!(crowd.seat(near(), Carried::Own).is_ok());
        second.ends_request();
        drop((first, second, third));
        assert_eq!(crowd.counts(), (0, 0, 0, 0));
    }

    #[test]
    fn an_address_at_its_cap_makes_room_of_its_own() {
        let crowd = crowd(100, 1);
        let other = crowd.seat(from("203.0.113.10:1"), Carried::Own).unwrap();
        let first = crowd.seat(from("203.0.113.9:1"), Carried::Own).unwrap();
        let second = crowd.seat(from("203.0.113.9:2"), Carried::Own).unwrap();
        assert!(!first.begins_request() && second.begins_request() && other.begins_request());
    }

    #[test]
    fn senders_with_a_key_have_places_that_strangers_do_not_get() {
        let crowd = crowd(16, 99);
        let mut senders = Vec::new();
        for _ in 0..16 {
            let sender = crowd.seat(near(), Carried::Own).unwrap();
            assert!(sender.begins_request());
            sender.admit();
            sender.ends_request();
            senders.push(sender);
        }
        assert_eq!(crowd.counts(), (16, 14, 2, 0), "an eighth is for newcomers");
        let strangers: Vec<_> = (0..50)
            .map(|_| crowd.seat(near(), Carried::Own).unwrap())
            .collect();
        assert_eq!(crowd.counts(), (16, 14, 2, 0));
        let kept = senders.iter().filter(|sender| sender.begins_request());
        assert_eq!(kept.count(), 14);
        drop((strangers, senders));
        assert_eq!(crowd.counts(), (0, 0, 0, 0));
    }

    #[test]
    fn a_proxy_keeps_its_connections_and_its_senders_are_counted_by_their_requests() {
        let crowd = crowd(16, 2);
        let proxy: Vec<_> = (0..14)
            .map(|_| crowd.seat(from("203.0.113.1:1"), Carried::Many).unwrap())
            .collect();
        assert_eq!(
            crowd.counts(),
            (14, 14, 0, 0),
            "no address, and no stranger"
        );
        let strangers: Vec<_> = (0..20).map(|_| crowd.seat(near(), Carried::Own)).collect();
        assert!(strangers.iter().all(Result::is_ok));
        assert!(
            proxy.iter().all(|seat| seat.begins_request()),
            "none was closed"
        );
        assert_eq!(crowd.counts().1, 14);

        let sender = Peer::Behind("192.0.2.1".parse().unwrap());
        let first = crowd.visit(sender).unwrap();
        let second = crowd.visit(sender).unwrap();
        assert_eq!(crowd.visit(sender).err(), Some(TurnedAway::Address));
        let other = crowd.visit(Peer::Behind("192.0.2.2".parse().unwrap()));
        assert!(other.is_ok());
        drop(first);
        let third = crowd.visit(sender).unwrap();
        drop((second, third, other, strangers, proxy));
        assert_eq!(crowd.counts(), (0, 0, 0, 0));
    }

    #[test]
    fn a_connection_is_counted_for_the_client_that_its_proxy_tells() {
        let crowd = crowd(16, 1);
        let client = Peer::Behind("192.0.2.1".parse().unwrap());
        let seat = || {
            crowd
                .seat(from("203.0.113.1:1"), Carried::OneClient)
                .unwrap()
        };
        let (first, second) = (seat(), seat());
        assert_eq!(first.is_of(client), Ok(()));
        assert!(first.begins_request());
        assert_eq!(second.is_of(client), Err(TurnedAway::Address));
        drop(first);
        assert_eq!(second.is_of(client), Ok(()));
        drop(second);
        assert_eq!(crowd.counts(), (0, 0, 0, 0));
    }
}
