//! The thread that accepts connections, hands them to the I/O threads in turn, and does the upkeep of the store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use globalcache_core::engine::Now;
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
        Ok(Acceptor { shared, poll, listeners, backlogs, inboxes, next: 0, next_upkeep: 0, meter: Meter::default() })
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
            self.shared.engine.store.tick(now.mono);
            self.next_upkeep = now.mono + TICK.as_millis() as u64;
            self.meter.lap(&self.shared);
        }
        let waits = self.shared.engine.tick_leases(now);
        self.meter.lap(&self.shared);
        self.shared.wake_stirred();
        let pending = &self.shared.engine.pending;
        if pending.stop.load(Ordering::Relaxed) {
            self.shared.begin_to_stop();
        }
        assert!(!pending.panic.load(Ordering::Relaxed), "debugpanic was asked for");
        match self.backlogs.contains(&Backlog::More) {
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
