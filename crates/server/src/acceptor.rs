//! The thread that accepts connections, hands them to the I/O threads in turn, and does the upkeep of the store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};

use crate::listen::{Listener, Speaks};
use crate::stream::Stream;
use crate::worker::Inbox;
use crate::{Shared, read_clocks};

/// Between two steps of upkeep, and between two tries to accept when the process has no file descriptors left:
/// whoever closed one is not kept waiting, and nothing spins.
const TICK: Duration = Duration::from_millis(50);
/// The same while somebody waits for a load, whose time may be over.
const SHORT_TICK: Duration = Duration::from_millis(5);

pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    poll: Poll,
    listeners: Vec<Listener>,
    inboxes: Vec<Arc<Inbox>>,
    /// The I/O thread whose turn it is.
    next: usize,
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
        Ok(Acceptor { shared, poll, listeners, inboxes, next: 0 })
    }

    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(64);
        // Readiness is told once: a listener stays on the list until nobody waits any more.
        let mut waiting = vec![true; self.listeners.len()];
        let mut next_upkeep = 0;
        while !self.shared.stopping.load(Ordering::SeqCst) {
            for (index, waits) in waiting.iter_mut().enumerate() {
                *waits = *waits && !self.accept_all(index);
            }
            let now = read_clocks();
            if now.mono >= next_upkeep {
                self.shared.engine.store.tick(now.mono);
                next_upkeep = now.mono + TICK.as_millis() as u64;
            }
            let tick = if self.shared.engine.tick_leases(now) { SHORT_TICK } else { TICK };
            self.shared.wake_stirred();
            if self.shared.engine.pending.stop.load(Ordering::Relaxed) {
                self.shared.begin_to_stop();
            }
            if let Err(error) = self.poll.poll(&mut events, Some(tick)) {
                assert_eq!(error.kind(), io::ErrorKind::Interrupted, "poll: {error}");
            }
            for event in &events {
                if let Some(waits) = waiting.get_mut(event.token().0) {
                    *waits = true;
                }
            }
        }
    }

    /// Accepts until nobody waits (true) or the system refuses (false: to be tried again).
    fn accept_all(&mut self, index: usize) -> bool {
        loop {
            match self.listeners[index].accept(&self.shared.tls) {
                Ok(stream) => self.welcome(stream, self.listeners[index].speaks()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                // The client left before it was accepted: the next one may be there still.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                // Out of descriptors or memory: those who are served go on, and accepting is tried again.
                Err(_) => return false,
            }
        }
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
