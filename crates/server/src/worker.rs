//! An I/O thread: waits for its connections, gives each that has something a turn, closes those whose time has passed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use globalcache_core::clock::Now;
use globalcache_core::session::{Session, TurnEnd};
use globalcache_core::store::ConnectionId;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;
use slab::Slab;

use crate::connection::{BATCH_CONNECTIONS, Buffers, Connection, Ready, Turn};
use crate::listen::Speaks;
use crate::meter::{Meter, TURN, ticks};
use crate::stream::Stream;
use crate::{Shared, read_clocks};

/// The token of the waker.
pub(crate) const WAKE: Token = Token(usize::MAX);

/// The token of a connection: its slot, and above it the low half of its number, so that an event of a connection which had
/// the slot before is known.
fn token(slot: usize, id: u64) -> Token {
    Token(slot | (id as usize) << SLOT_BITS)
}
const SLOT_BITS: u32 = usize::BITS / 2;
const SLOTS: usize = (1 << SLOT_BITS) - 1;

/// How often connections are looked over.
const LOOK_OVER: Duration = Duration::from_secs(1);
/// When the server stops: how long clients have to take their replies, and how long they have to close.
const DRAIN: Duration = Duration::from_secs(3);
const FAREWELL: Duration = Duration::from_millis(250);
/// When the server stops: for how long it answers what has arrived, so that a client that never stops sending does not
/// hold it up; how long no client may send anything until that is all; and how often it waits for more, so that clients
/// which ask again when they have their replies do not hold it up either.
const LAST_TURNS: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_millis(10);
const LAST_WAITS: usize = 64;

/// Each of these bounds what a thread does before the others have their turns again. Times that messages are taken:
const MAIL_ROUNDS: usize = 8;
/// New connections:
const NEWCOMERS: usize = 64;
/// Connections closed because their time has passed:
const CLOSED_AT_ONCE: usize = 256;
/// Of all connections that are allowed, the part that may await a reply although the peer sends no more, as a divisor.
const HALF_CLOSED_PART: usize = 100;

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

    /// Takes the oldest of them, and has the thread come again if there are more.
    pub(crate) fn take(&self) -> Vec<(Stream, Speaks)> {
        let mut streams = self.streams.lock();
        let count = streams.len().min(NEWCOMERS);
        if count < streams.len() {
            let _ = self.waker.wake();
        }
        streams.drain(..count).collect()
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
    /// Connections, by slot and number, that have more to do, in the order of their turns: each once.
    again: Vec<(usize, u64)>,
    /// Connections, by slot and number, that await a reply although their peers send no more; oldest first.
    half_closed: VecDeque<(usize, u64)>,
    meter: Meter,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: u16, poll: Poll, inbox: Arc<Inbox>) -> Worker {
        Worker {
            shared,
            number,
            poll,
            inbox,
            connections: Slab::new(),
            buffers: Buffers::new(),
            begun: Vec::new(),
            again: Vec::new(),
            half_closed: VecDeque::new(),
            meter: Meter::default(),
        }
    }

    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let (mut looked_over, mut all_in_time) = (read_clocks().mono, true);
        while !self.shared.stopping.load(Ordering::SeqCst) {
            let idle = self.again.is_empty() && all_in_time;
            let timeout = if idle { LOOK_OVER } else { Duration::ZERO };
            self.wait(&mut events, timeout);
            let now = read_clocks();
            self.round(&events, now);
            if now.mono.saturating_sub(looked_over) >= LOOK_OVER.as_millis() as u64 {
                all_in_time = self.close_overdue(now);
                looked_over = if all_in_time { now.mono } else { looked_over };
            }
        }
        self.finish(&mut events);
    }

    /// One turn of each connection that has something to do.
    fn round(&mut self, events: &Events, now: Now) {
        self.meter.begin();
        self.next_turn();
        let again = std::mem::take(&mut self.again);
        self.take_events(events, now);
        self.take_turns(again, now);
        self.exchange_mail(now);
    }

    /// A turn has ended, and the next one begins.
    #[inline]
    fn next_turn(&mut self) {
        let began = self.meter.lap(&self.shared);
        self.buffers.scratch.turn_end = TurnEnd::new(ticks, began + TURN);
    }

    fn wait(&mut self, events: &mut Events, timeout: Duration) {
        if let Err(error) = self.poll.poll(events, Some(timeout)) {
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "poll: {error}");
            events.clear();
        }
    }

    fn take_events(&mut self, events: &Events, now: Now) {
        let mut woken = false;
        for event in events {
            let slot = event.token().0 & SLOTS;
            if event.token() == WAKE {
                woken = true;
            } else if let Some(connection) = self.connections.get_mut(slot) {
                if event.token() != token(slot, connection.id) {
                    continue;
                }
                connection.hear(event.into());
                if connection.queued {
                    // Its turn of this round is to come.
                    continue;
                }
                if !connection.is_short() {
                    self.end_turns(now);
                    self.turn(slot, now);
                    continue;
                }
                let lane = self.begun.len();
                self.begun.push((slot, connection.begin(&self.shared, now, &mut self.buffers, lane)));
                if lane + 1 == BATCH_CONNECTIONS {
                    self.end_turns(now);
                }
            }
        }
        self.end_turns(now);
        if woken {
            // Only now: a slot that was left meanwhile must not be taken by a new connection while there may still be an
            // event of the one before.
            self.take_in(now);
            self.take_mail(now);
            self.answer_others();
        }
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
            // The first halves count as part of the first turn: each is one read of a few bytes.
            let (slot, count) = std::mem::replace(&mut self.begun[lane], (0, Ok(0)));
            if let Some(connection) = self.connections.get_mut(slot) {
                let turn = connection.end_turn(&self.shared, now, &mut self.buffers, lane, count);
                self.after(slot, turn);
            }
            self.next_turn();
        }
        self.begun.clear();
    }

    /// After a batch of requests: loads go to workers, messages to those they are for. What those answer to may leave
    /// further messages: after a few rounds the others have their turns again.
    fn exchange_mail(&mut self, now: Now) {
        self.shared.engine.pump(now);
        for _ in 0..MAIL_ROUNDS {
            if !self.shared.engine.mail.has_pending(usize::from(self.number)) {
                break;
            }
            self.take_mail(now);
            self.shared.engine.pump(now);
        }
        self.shared.wake_pending();
    }

    /// Hands messages to the connections that they are for, and gives those their turns. What a turn does not deliver
    /// stays with the connection and counts as its memory.
    fn take_mail(&mut self, now: Now) {
        let mut slots = Vec::new();
        for (party, event) in self.shared.engine.mail.take(usize::from(self.number)) {
            let slot = party.slot as usize;
            match self.connections.get_mut(slot) {
                Some(connection) if connection.id == party.id => {
                    if !connection.post(&self.shared, now, event) {
                        self.remove(slot);
                    } else if !connection.queued && !std::mem::replace(&mut connection.mailed, true) {
                        slots.push(slot);
                    }
                }
                _ => self.shared.engine.undelivered(party, event, now),
            }
        }
        for slot in slots {
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.mailed = false;
                self.turn(slot, now);
            }
        }
    }

    /// Takes new connections in. Both directions are registered once, for good: with edges there is nothing to change.
    fn take_in(&mut self, now: Now) {
        for (stream, speaks) in self.inbox.take() {
            let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
            let place = self.connections.vacant_entry();
            let slot = place.key();
            let party = ConnectionId { mailbox: self.number, slot: slot as u32, id };
            let address = stream.address();
            let mut session = match speaks {
                Speaks::Any | Speaks::Tls => Session::new(party),
                Speaks::Memcached => Session::memcached(party),
            };
            session.set_address(address);
            place.insert(Connection::new(stream, session, id, now));
            let source = self.connections[slot].stream.source();
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(source, token(slot, id), interest).is_err() {
                self.remove(slot);
            }
        }
    }

    /// Has a connection take another turn when the others have had theirs.
    fn queue(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !std::mem::replace(&mut connection.queued, true) {
            self.again.push((slot, connection.id));
        }
    }

    /// Gives those that were queued their turns, unless they are gone and their slots belong to others.
    fn take_turns(&mut self, queued: Vec<(usize, u64)>, now: Now) {
        for (slot, id) in queued {
            if let Some(connection) = self.connections.get_mut(slot).filter(|connection| connection.id == id) {
                connection.queued = false;
                self.turn(slot, now);
            }
        }
    }

    fn turn(&mut self, slot: usize, now: Now) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let turn = connection.turn(&self.shared, now, &mut self.buffers);
        self.after(slot, turn);
        self.next_turn();
    }

    fn after(&mut self, slot: usize, turn: Turn) {
        match turn {
            Turn::Wait => {}
            Turn::Again => self.queue(slot),
            Turn::HalfClosed => self.keep_half_closed(slot),
            Turn::TooMuch => self.too_much(slot),
            Turn::Over => self.remove(slot),
        }
    }

    /// Keeps a connection whose peer sends no more until its request was answered, and at most one in a hundred of all
    /// that are allowed: nearly all such peers have given up and closed, which looks the same. The oldest goes first.
    #[cold]
    fn keep_half_closed(&mut self, slot: usize) {
        let id = self.connections[slot].id;
        if self.half_closed.contains(&(slot, id)) {
            return;
        }
        let connections = &self.connections;
        self.half_closed.retain(|(slot, id)| {
            connections.get(*slot).is_some_and(|connection| connection.id == *id && connection.is_half_closed())
        });
        self.half_closed.push_back((slot, id));
        let options = &self.shared.options;
        let most = (options.max_clients as usize / HALF_CLOSED_PART / options.threads).max(1);
        if self.half_closed.len() > most
            && let Some((oldest, _)) = self.half_closed.pop_front()
        {
            self.remove(oldest);
        }
    }

    /// All connections together hold too much: has the one that holds most closed, by the thread that it belongs to. The one
    /// that had its turn gets others, to see whether that is enough.
    #[cold]
    fn too_much(&mut self, slot: usize) {
        self.queue(slot);
        if self.shared.holdings.iter().any(|holding| holding.asked.load(Ordering::SeqCst)) {
            return;
        }
        if let Some(other) = self.close_largest() {
            self.shared.ask_to_close_largest(other);
        }
    }

    /// Closes the connection of this thread that holds most while too much is held, unless another thread seems to have one
    /// that holds more; the number of that thread. It may hold less by now, which it finds when it looks.
    #[cold]
    fn close_largest(&mut self) -> Option<usize> {
        let largest = self.look_for_largest()?;
        let own = usize::from(self.number);
        let most = |number: &usize| (self.shared.holdings[*number].largest.load(Ordering::Relaxed), *number == own);
        let holder = (0..self.shared.holdings.len()).max_by_key(most);
        if holder == Some(own) && self.shared.is_too_much_held() {
            self.remove(largest);
            self.look_for_largest();
        }
        holder.filter(|holder| *holder != own)
    }

    /// The connection of this thread that holds most, of which the other threads get to know.
    fn look_for_largest(&mut self) -> Option<usize> {
        let largest = self.connections.iter().max_by_key(|(_, connection)| connection.counted());
        let held = largest.map_or(0, |(_, connection)| connection.counted());
        self.shared.holdings[usize::from(self.number)].largest.store(held, Ordering::Relaxed);
        largest.map(|(slot, _)| slot)
    }

    /// Looks through the connections if another thread has asked for that.
    fn answer_others(&mut self) {
        let number = usize::from(self.number);
        if self.shared.holdings[number].asked.load(Ordering::SeqCst) {
            self.close_largest();
            // Only now: the other thread asks no second time before it can see what was closed.
            self.shared.holdings[number].asked.store(false, Ordering::SeqCst);
        }
    }

    fn remove(&mut self, slot: usize) {
        let mut connection = self.connections.remove(slot);
        // The system would forget it when its last descriptor is closed, and a forked child may have one. It fails when it was
        // not registered.
        let _ = self.poll.registry().deregister(connection.stream.source());
        connection.leave(&self.shared, read_clocks());
        let counters = &self.shared.engine.counters;
        counters.connected.fetch_sub(1, Ordering::Relaxed);
        counters.client_bytes.fetch_sub(connection.counted(), Ordering::Relaxed);
    }

    /// Closes some of the connections whose time has passed; whether there are no more of them.
    fn close_overdue(&mut self, now: Now) -> bool {
        let overdue =
            |(slot, connection): (usize, &Connection)| connection.is_overdue(&self.shared, now).then_some(slot);
        let slots: Vec<usize> = self.connections.iter().filter_map(overdue).take(CLOSED_AT_ONCE).collect();
        self.next_turn();
        for slot in &slots {
            self.remove(*slot);
            self.next_turn();
        }
        slots.len() < CLOSED_AT_ONCE
    }

    /// Answers what has arrived, sends what is to be sent, and says goodbye: a socket closed with input unread would
    /// reset the connection and take replies with it. When a thread panicked, nothing is run and nothing is sent any more.
    fn finish(&mut self, events: &mut Events) {
        let now = read_clocks();
        self.all_turns(now);
        self.last_turns(events, now);
        let begun = Instant::now();
        while begun.elapsed() < DRAIN && self.connections.iter().any(|(_, connection)| !connection.is_flushed()) {
            self.wait(events, if self.again.is_empty() { Duration::from_millis(50) } else { Duration::ZERO });
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

    /// Answers what has arrived. That includes what the system of a client still holds, which comes when a read has made
    /// room for it: so the thread waits for more, as long as there is some.
    fn last_turns(&mut self, events: &mut Events, now: Now) {
        let begun = Instant::now();
        let mut waits = 0;
        while waits < LAST_WAITS && begun.elapsed() < LAST_TURNS && !self.shared.has_failed() {
            let again = std::mem::take(&mut self.again);
            self.wait(events, if again.is_empty() { QUIET } else { Duration::ZERO });
            if again.is_empty() && events.is_empty() {
                return;
            }
            waits += usize::from(again.is_empty());
            self.take_events(events, now);
            self.take_turns(again, now);
        }
    }

    /// Takes in whoever was accepted, and gives every connection a turn.
    fn all_turns(&mut self, now: Now) {
        if self.shared.has_failed() {
            // Whatever the others were about to be told rests on what is half done.
            self.connections.clear();
            return;
        }
        self.take_in(now);
        self.again.clear();
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.queued = false;
                connection.hear(Ready { readable: true, ..Ready::default() });
                self.turn(slot, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::engine;
    use crate::scripted::options;

    /// An I/O thread without the thread, whose connections run two short requests in a turn.
    fn worker() -> Worker {
        let options = options();
        let mut engine = engine(&options, &[]);
        engine.limits.pause_output = 8;
        let poll = Poll::new().unwrap();
        let inbox = Arc::new(Inbox::new(&poll).unwrap());
        Worker::new(Arc::new(Shared::new(options, engine, None)), 0, poll, inbox)
    }

    /// Connects a client; its end.
    fn connect(worker: &mut Worker) -> UnixStream {
        connect_and_fork(worker).0
    }

    /// Connects a client; its end, and our end as a forked child has it.
    fn connect_and_fork(worker: &mut Worker) -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let of_child = ours.try_clone().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        worker.inbox.send(Stream::Unix(mio::net::UnixStream::from_std(ours)), Speaks::Any);
        worker.take_in(read_clocks());
        (theirs, of_child)
    }

    fn round(worker: &mut Worker, events: &mut Events) {
        worker.wait(events, Duration::ZERO);
        worker.round(events, read_clocks());
    }

    /// A client has sent many requests and sends another one before each round. It has one turn in each all the same.
    #[test]
    fn who_has_work_left_and_sends_more_has_one_turn_in_a_round() {
        let mut worker = worker();
        let mut events = Events::with_capacity(64);
        let mut client = connect(&mut worker);
        client.write_all(&b"PING\r\n".repeat(2000)).unwrap();
        let mut replies = [0; 1 << 16];
        for _ in 0..200 {
            client.write_all(b"PING\r\n").unwrap();
            round(&mut worker, &mut events);
            let answered = client.read(&mut replies).unwrap() / b"+PONG\r\n".len();
            assert!((1..=2).contains(&answered), "{answered} replies in a round");
            assert_eq!(worker.again.len(), 1);
        }
    }

    /// A connection is closed while a forked child has its socket. The client is told so. A new connection takes its slot and
    /// waits for a load; then the old client closes: that does not end the new one, which gets no event of the old socket,
    /// and would not listen to it.
    #[test]
    fn a_connection_ends_although_a_child_has_its_socket() {
        let mut worker = worker();
        let mut events = Events::with_capacity(64);
        let (mut old, of_child) = connect_and_fork(&mut worker);
        round(&mut worker, &mut events);
        let id = worker.connections[0].id;
        worker.remove(0);
        assert_eq!(old.read(&mut [0; 8]).unwrap(), 0);
        let mut new = connect(&mut worker);
        new.write_all(b"GET u:1\r\n").unwrap();
        round(&mut worker, &mut events);
        worker.wait(&mut events, Duration::ZERO);
        drop(old);
        worker.wait(&mut events, Duration::ZERO);
        assert!(events.is_empty());
        let mut of_child = mio::net::UnixStream::from_std(of_child);
        worker.poll.registry().register(&mut of_child, token(0, id), Interest::READABLE).unwrap();
        round(&mut worker, &mut events);
        assert!(!events.is_empty());
        assert_eq!(worker.connections.len(), 1);
        assert!(!worker.connections[0].is_half_closed());
    }
}
