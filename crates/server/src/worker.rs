//! An I/O thread: waits for its connections, gives each that has something a turn, closes those whose time has passed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use globalcache_core::engine::Now;
use globalcache_core::session::Session;
use globalcache_core::store::Party;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;
use slab::Slab;

use crate::connection::{Buffers, Connection, LANES, Turn};
use crate::listen::Speaks;
use crate::stream::Stream;
use crate::{Shared, read_clocks};

/// The token of the waker; connections have the numbers of their slots.
pub(crate) const WAKE: Token = Token(usize::MAX);

/// How often connections are looked over.
const LOOK_OVER: Duration = Duration::from_secs(1);
/// When the server stops: how long clients have to take their replies, and how long they have to close.
const DRAIN: Duration = Duration::from_secs(3);
const FAREWELL: Duration = Duration::from_millis(250);
/// Turns that a connection gets when the server stops, so that one that never ends sending does not hold it up.
const LAST_TURNS: usize = 16;

/// Where new connections are left for an I/O thread.
pub(crate) struct Inbox {
    streams: Mutex<Vec<(Stream, Speaks)>>,
    pub(crate) waker: Arc<Waker>,
}

impl Inbox {
    pub(crate) fn new(poll: &Poll) -> io::Result<Inbox> {
        Ok(Inbox { streams: Mutex::new(Vec::new()), waker: Arc::new(Waker::new(poll.registry(), WAKE)?) })
    }

    pub(crate) fn send(&self, stream: Stream, speaks: Speaks) {
        self.streams.lock().push((stream, speaks));
        // It fails only when the thread has ended, and then nobody is served any more.
        let _ = self.waker.wake();
    }
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    /// Which of the threads it is, and so whose mailbox it empties.
    number: u16,
    poll: Poll,
    inbox: Arc<Inbox>,
    connections: Slab<Connection>,
    buffers: Buffers,
    /// Turns whose first half was taken: the slot, and what was read into the lane of the same index.
    begun: Vec<(usize, io::Result<usize>)>,
    /// Connections that may have more to read, in the order of their turns.
    again: Vec<usize>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: u16, poll: Poll, inbox: Arc<Inbox>) -> Worker {
        let (connections, buffers) = (Slab::new(), Buffers::new());
        Worker { shared, number, poll, inbox, connections, buffers, begun: Vec::new(), again: Vec::new() }
    }

    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut looked_over = Instant::now();
        while !self.shared.stopping.load(Ordering::SeqCst) {
            let timeout = if self.again.is_empty() { LOOK_OVER } else { Duration::ZERO };
            self.wait(&mut events, timeout);
            let now = read_clocks();
            let again = std::mem::take(&mut self.again);
            self.take_events(&events, now);
            for slot in again {
                self.turn(slot, now, false);
            }
            self.exchange_mail(now);
            if looked_over.elapsed() >= LOOK_OVER {
                looked_over = Instant::now();
                self.close_overdue(now);
            }
        }
        self.finish(&mut events);
    }

    fn wait(&mut self, events: &mut Events, timeout: Duration) {
        if let Err(error) = self.poll.poll(events, Some(timeout)) {
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "poll: {error}");
            events.clear();
        }
    }

    fn take_events(&mut self, events: &Events, now: Now) {
        for event in events {
            let (slot, more) = (event.token().0, event.is_read_closed());
            if event.token() == WAKE {
                self.end_turns(now);
                self.take_in(now);
                self.take_mail(now);
            } else if let Some(connection) = self.connections.get_mut(slot) {
                if event.is_readable() {
                    connection.mark_readable();
                }
                if !connection.is_terse() {
                    self.end_turns(now);
                    self.turn(slot, now, more);
                    continue;
                }
                let lane = self.begun.len();
                self.begun.push((slot, connection.begin(&self.shared, now, &mut self.buffers, lane, more)));
                if lane + 1 == LANES {
                    self.end_turns(now);
                }
            }
        }
        self.end_turns(now);
    }

    /// The second halves of turns: the memory of all their keys is fetched before the first is served.
    fn end_turns(&mut self, now: Now) {
        let Worker { shared, connections, buffers: Buffers { inputs, scratch, .. }, begun, .. } = &mut *self;
        if begun.len() > 1 {
            let read = begun
                .iter()
                .zip(&*inputs)
                .filter_map(|((slot, count), input)| Some((slot, count.as_ref().ok()?, input)));
            let keys = read.filter_map(|(slot, &count, input)| {
                connections.get(*slot)?.first_key(shared, scratch, &input[..count])
            });
            shared.engine.store.prefetch(keys);
        }
        for lane in 0..self.begun.len() {
            let (slot, count) = std::mem::replace(&mut self.begun[lane], (0, Ok(0)));
            if let Some(connection) = self.connections.get_mut(slot) {
                let turn = connection.end_turn(&self.shared, now, &mut self.buffers, lane, count);
                self.after(slot, turn);
            }
        }
        self.begun.clear();
    }

    /// After a batch of requests: loads go to workers, messages to those they are for.
    fn exchange_mail(&mut self, now: Now) {
        self.shared.engine.pump(now);
        while self.shared.engine.mail.stirred(usize::from(self.number)) {
            self.take_mail(now);
            self.shared.engine.pump(now);
        }
        self.shared.wake_stirred();
    }

    fn take_mail(&mut self, now: Now) {
        let mut mail = self.shared.engine.mail.take(usize::from(self.number));
        // Those of one connection together, in their order.
        mail.sort_by_key(|(party, _)| party.slot);
        let mut mail = mail.into_iter().peekable();
        while let Some((party, event)) = mail.next() {
            let slot = party.slot as usize;
            match self.connections.get_mut(slot) {
                Some(connection) if connection.id == party.id => {
                    let rest =
                        std::iter::from_fn(|| mail.next_if(|(other, _)| *other == party).map(|(_, event)| event));
                    let events = std::iter::once(event).chain(rest);
                    let turn = connection.deliver(&self.shared, now, &mut self.buffers, events);
                    self.after(slot, turn);
                }
                _ => self.shared.engine.undelivered(party, event, now),
            }
        }
    }

    /// Takes new connections in. Both directions are registered once, for good: with edges there is nothing to change.
    fn take_in(&mut self, now: Now) {
        let streams = std::mem::take(&mut *self.inbox.streams.lock());
        for (stream, speaks) in streams {
            let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
            let place = self.connections.vacant_entry();
            let slot = place.key();
            let party = Party { mailbox: self.number, slot: slot as u32, id };
            let address = stream.address();
            let mut session = match speaks {
                Speaks::Any | Speaks::Tls => Session::new(party),
                Speaks::Memcached => Session::memcached(party),
            };
            session.set_address(address);
            place.insert(Connection::new(stream, session, id, now));
            let source = self.connections[slot].stream.source();
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(source, Token(slot), interest).is_err() {
                self.remove(slot);
            }
        }
    }

    fn turn(&mut self, slot: usize, now: Now, more: bool) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let turn = connection.turn(&self.shared, now, &mut self.buffers, more);
        self.after(slot, turn);
    }

    fn after(&mut self, slot: usize, turn: Turn) {
        match turn {
            Turn::Wait => {}
            Turn::Again => self.again.push(slot),
            Turn::Over => self.remove(slot),
        }
    }

    fn remove(&mut self, slot: usize) {
        let mut connection = self.connections.remove(slot);
        connection.end(&self.shared, read_clocks());
        let counters = &self.shared.engine.counters;
        counters.connected.fetch_sub(1, Ordering::Relaxed);
        counters.client_bytes.fetch_sub(connection.counted(), Ordering::Relaxed);
    }

    fn close_overdue(&mut self, now: Now) {
        let overdue =
            |(slot, connection): (usize, &Connection)| connection.is_overdue(&self.shared, now).then_some(slot);
        let slots: Vec<usize> = self.connections.iter().filter_map(overdue).collect();
        for slot in slots {
            self.remove(slot);
        }
    }

    /// Answers what has arrived, sends what is to be sent, and says goodbye: a socket closed with input unread would
    /// reset the connection and take replies with it.
    fn finish(&mut self, events: &mut Events) {
        let now = read_clocks();
        self.take_in(now);
        for _ in 0..LAST_TURNS {
            self.all_turns(now);
        }
        let begun = Instant::now();
        while begun.elapsed() < DRAIN && self.connections.iter().any(|(_, connection)| !connection.is_flushed()) {
            self.wait(events, Duration::from_millis(50));
            self.all_turns(now);
        }
        for (_, connection) in &mut self.connections {
            connection.close(now);
        }
        let begun = Instant::now();
        while begun.elapsed() < FAREWELL && !self.connections.is_empty() {
            self.wait(events, Duration::from_millis(10));
            self.all_turns(now);
        }
        while let Some((slot, _)) = self.connections.iter().next() {
            self.remove(slot);
        }
    }

    fn all_turns(&mut self, now: Now) {
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.connections[slot].mark_readable();
            self.turn(slot, now, false);
        }
        self.again.clear();
    }
}
