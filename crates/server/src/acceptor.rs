//! The thread that accepts connections, hands them to the I/O threads in turn, and does the upkeep of the store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use globalcache_core::clock::Now;
use globalcache_core::store::TICK_PARTS;
use mio::{Events, Interest, Poll, Token};

use crate::listen::{Listener, Speaks};
use crate::meter::Meter;
use crate::stream::Stream;
use crate::worker::Inbox;
use crate::{Shared, read_clocks};

/// Between two steps of upkeep, and between two tries to accept when the process has no file descriptors left:
/// whoever closed one is not kept waiting, and nothing spins.
const TICK: Duration = Duration::from_millis(50);
/// The same while somebody waits for a load, whose time may be over.
const SHORT_TICK: Duration = Duration::from_millis(5);
/// Connections of one listener that are accepted in a turn, about a millisecond of processor time: a storm of connects
/// does not delay leases and waits that have timed out.
const ACCEPTS: usize = 64;

/// What is left of a listener's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    /// Nothing: the system tells when somebody comes.
    Empty,
    /// There may be more.
    More,
    /// The system refuses, as without file descriptors: to be tried again after a while.
    Refused,
}

pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    poll: Poll,
    listeners: Vec<Listener>,
    /// Readiness is told once, so it is kept until a queue was seen to be empty.
    backlogs: Vec<Backlog>,
    inboxes: Vec<Arc<Inbox>>,
    /// The I/O thread whose turn it is.
    next: usize,
    /// When the store's next step of upkeep is due.
    next_upkeep: u64,
    /// Parts of this step that are left for the next turns.
    upkeep_left: usize,
    meter: Meter,
}

impl Acceptor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        poll: Poll,
        mut listeners: Vec<Listener>,
        inboxes: Vec<Arc<Inbox>>,
    ) -> io::Result<Acceptor> {
        for (index, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener.source(), Token(index), Interest::READABLE)?;
        }
        let backlogs = vec![Backlog::More; listeners.len()];
        Ok(Acceptor {
            shared,
            poll,
            listeners,
            backlogs,
            inboxes,
            next: 0,
            next_upkeep: 0,
            upkeep_left: 0,
            meter: Meter::default(),
        })
    }

    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(64);
        while !self.shared.stopping.load(Ordering::SeqCst) {
            self.meter.begin();
            let pause = self.turn(read_clocks());
            if let Err(error) = self.poll.poll(&mut events, Some(pause)) {
                assert_eq!(error.kind(), io::ErrorKind::Interrupted, "poll: {error}");
            }
            for event in &events {
                if let Some(backlog) = self.backlogs.get_mut(event.token().0) {
                    *backlog = Backlog::More;
                }
            }
        }
    }

    /// Accepts some of those who wait, and does what is due; how long it may wait before the next turn. Each part has a
    /// bound, and none waits for another to have nothing left to do.
    fn turn(&mut self, now: Now) -> Duration {
        for index in 0..self.listeners.len() {
            if self.backlogs[index] != Backlog::Empty {
                self.backlogs[index] = self.accept_some(index);
                self.meter.lap(&self.shared);
            }
        }
        if now.mono >= self.next_upkeep {
            self.next_upkeep = now.mono + TICK.as_millis() as u64;
            self.upkeep_left = TICK_PARTS;
        }
        if self.upkeep_left > 0 {
            let done = self.shared.engine.tick_part(now);
            self.upkeep_left = if done { 0 } else { self.upkeep_left - 1 };
            self.meter.lap(&self.shared);
        }
        let waits = self.shared.engine.tick_leases(now);
        self.meter.lap(&self.shared);
        self.shared.wake_pending();
        let pending = &self.shared.engine.control;
        if pending.stop.load(Ordering::Relaxed) {
            self.shared.begin_to_stop();
        }
        assert!(!pending.panic.load(Ordering::Relaxed), "debugpanic was asked for");
        match self.backlogs.contains(&Backlog::More) || self.upkeep_left > 0 {
            true => Duration::ZERO,
            false if waits => SHORT_TICK,
            false => TICK,
        }
    }

    /// Accepts up to [`ACCEPTS`] connections of a listener.
    fn accept_some(&mut self, index: usize) -> Backlog {
        for _ in 0..ACCEPTS {
            match self.listeners[index].accept(&self.shared.tls) {
                Ok(stream) => self.welcome(stream, self.listeners[index].speaks()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Backlog::Empty,
                // The client left before it was accepted: the next one may be there still.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                // Out of descriptors or memory: those who are served go on, and accepting is tried again.
                Err(_) => return Backlog::Refused,
            }
        }
        Backlog::More
    }

    fn welcome(&mut self, mut stream: Stream, speaks: Speaks) {
        let counters = &self.shared.engine.counters;
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        if counters.connected.load(Ordering::Relaxed) >= self.shared.options.max_clients {
            counters.rejected.fetch_add(1, Ordering::Relaxed);
            // The line fits any socket buffer; a client that is gone has no need of it.
            let _ = match speaks {
                Speaks::Any => stream.write(b"-ERR max number of clients reached\r\n"),
                Speaks::Memcached => stream.write(b"ERROR Too many open connections\r\n"),
                // Nothing can be said before the handshake.
                Speaks::Tls => Ok(0),
            };
            return;
        }
        counters.connected.fetch_add(1, Ordering::Relaxed);
        stream.prepare();
        self.next = (self.next + 1) % self.inboxes.len();
        self.inboxes[self.next].send(stream, speaks);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use globalcache_core::output::Output;
    use globalcache_core::session::{Scratch, Session};
    use globalcache_core::store::ConnectionId;

    use super::*;
    use crate::scripted::options;
    use crate::{Options, engine};

    /// The thread that accepts, without the thread; and what it left for the only I/O thread.
    fn acceptor() -> (Acceptor, Arc<Inbox>, Poll) {
        let options = options();
        let listener = Listener::bind("127.0.0.1:0", |_| true).unwrap();
        let engine = engine(&options, &[]);
        let (poll, other) = (Poll::new().unwrap(), Poll::new().unwrap());
        let inbox = Arc::new(Inbox::new(&other).unwrap());
        let shared = Arc::new(Shared::new(Options { max_clients: 1000, ..options }, engine, None));
        (Acceptor::new(shared, poll, vec![listener], vec![Arc::clone(&inbox)]).unwrap(), inbox, other)
    }

    fn ask(acceptor: &Acceptor, id: u64, now: Now, request: &[u8]) -> Session {
        let mut session = Session::new(ConnectionId { id, ..ConnectionId::default() });
        let (mut scratch, mut out) = (Scratch::default(), Output::default());
        session.feed(&acceptor.shared.engine, now, &mut scratch, request, &mut out);
        session
    }

    /// More clients connect than one turn accepts, while a lease whose holder does not answer times out. The turn accepts
    /// some, passes the lease on to the client that waits, and asks for another turn at once.
    #[test]
    fn a_storm_of_connects_does_not_delay_a_lease() {
        let (mut acceptor, inbox, _other) = acceptor();
        let address = acceptor.listeners[0].address();
        let storm: Vec<TcpStream> = (0..3 * ACCEPTS).map(|_| TcpStream::connect(&address).unwrap()).collect();
        let now = read_clocks();
        let _holder = ask(&acceptor, 1, now, b"CACHE.FETCH k LEASE 100\r\n");
        let _waiter = ask(&acceptor, 2, now, b"CACHE.FETCH k WAIT 60000 LEASE 100\r\n");
        assert_eq!(acceptor.turn(now), Duration::ZERO);
        assert!(acceptor.shared.engine.mail.take(0).is_empty());
        let later = Now { mono: now.mono + 101, wall: now.wall + 101 };
        assert_eq!(acceptor.turn(later), Duration::ZERO);
        let mail = acceptor.shared.engine.mail.take(0);
        assert!(matches!(&mail[..], [(to, _)] if to.id == 2), "{mail:?}");
        assert_eq!(acceptor.shared.engine.counters.accepted.load(Ordering::Relaxed), 2 * ACCEPTS as u64);
        // The rest comes with the next turns, and then it waits for the system.
        acceptor.turn(later);
        let pauses: Vec<Duration> = (0..TICK_PARTS).map(|_| acceptor.turn(later)).collect();
        assert_eq!(pauses.last(), Some(&SHORT_TICK));
        assert_eq!(acceptor.shared.engine.counters.accepted.load(Ordering::Relaxed), storm.len() as u64);
        // The I/O thread takes newcomers in parts, too.
        assert_eq!([inbox.take().len(), inbox.take().len(), inbox.take().len()], [ACCEPTS; 3]);
    }
}
