//! One connection: its socket, its session, what arrived and is not taken yet, what waits to be sent.
//!
//! The system reports readiness by edges, that is once, so a connection remembers whatever it does not act on at once. Its
//! state is made of:
//!
//! | state      | begins                                         | ends                                                |
//! |------------|------------------------------------------------|-----------------------------------------------------|
//! | `readable` | an edge                                        | a read that would block, gives 0, or leaves room in |
//! |            |                                                | the buffer while the peer has not ended             |
//! | `finished` | an edge that says that the peer sends no more: | never: reads go on until one gives 0, since no      |
//! |            | the end stands behind what is unread           | further edge follows                                |
//! | `ended`    | a read gives 0                                 | never                                               |
//! | `gone`     | an edge that says that nothing can be sent     | never                                               |
//! | output     | replies that the socket does not take          | an edge, at which they are sent                     |
//! | `sending`  | a part of a long output was sent, and the      | the next turn, which sends the next part            |
//! |            | socket may take more                           |                                                     |
//! | `paused`   | the session leaves requests in the input       | they are run, as soon as the output is sent         |
//! | `mail`     | messages from others, more than are delivered  | the last of them is written; until then no request  |
//! |            | in one turn                                    | is run, so that no reply overtakes a message        |
//! | `over`     | all connections hold too much, and this one is | they hold less, because the largest was closed      |
//! |            | no small one                                   |                                                     |
//! | parked     | a request waits for a load in its place        | its outcome, or the end of its wait, is delivered   |
//! | `closing`  | the session ends the connection, or the server | the peer ends too, or the time for that has passed  |
//! |            | stops                                          |                                                     |
//!
//! Nothing is read while output waits, while paused, or while parked: what is unread stays with the system. After a turn
//! there is always something that leads to the next one:
//!
//! - Output waits: an edge when the socket takes more, and the time limit for replies that are not taken.
//! - Sending: another turn at once.
//! - Mail or over: another turn at once.
//! - Paused, or readable and not parked: another turn at once.
//! - Parked: the outcome. A peer that is gone meanwhile is closed at once. One that has only finished may still read (a
//!   script that sends its commands and its end, then reads): its reply is sent, its input read to the end, and the
//!   connection closed. Such a connection passes its leases on and takes no other, since it cannot fill them. A client
//!   that closed its socket looks the same to TCP, so a thread keeps few of them ([`Turn::HalfClosed`]).
//! - Closing: the end of the peer, and a time limit.
//! - Otherwise the next edge is to come, since everything was read.

mod buffers;
mod mail;
mod outgoing;
mod readiness;
mod times;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use globalcache_core::clock::Now;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::mailbox::Event;
use globalcache_core::store::Key;

pub(crate) use buffers::{BATCH_CONNECTIONS, Buffers};
use buffers::{SPARE, give_back};
use mail::{MESSAGES, Mail, cost_of};
use outgoing::Outgoing;
use readiness::Readiness;
pub(crate) use readiness::Ready;
use times::Times;

use crate::Shared;
use crate::stream::Stream;

/// What is to become of a connection after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Wait until the system tells that there is more.
    Wait,
    /// There may be more to read: another turn, after the others had theirs.
    Again,
    /// A request waits for a load, and the peer sends no more: it waits for the reply, or it is gone.
    HalfClosed,
    /// All connections hold too much, and this one enough to be a reason for it: nothing is read and run for it until that
    /// has changed.
    TooMuch,
    /// It is over.
    Over,
}

/// A connection that holds less than this is not closed for want of memory.
const SMALL: u64 = 64 << 10;
/// Bytes of a connection's last input up to which it takes part in that: longer input is read ahead by itself, and that of
/// several connections together would only push each other out of the processor's caches.
const SHORT: usize = 512;

/// Sends loads that came together, and forgets them.
fn push_loads(session: &mut Session, engine: &Engine, loads: &mut Vec<(u8, Arc<[u8]>, u64)>, out: &mut Output) {
    if !loads.is_empty() {
        session.push_loads(engine, loads, out);
        loads.clear();
    }
}

pub(crate) struct Connection {
    pub(crate) stream: Stream,
    session: Session,
    /// Its number, which is never used twice.
    pub(crate) id: u64,
    /// Input that the session has not taken: the beginning of a request, or requests that wait for the output.
    input: Vec<u8>,
    outgoing: Outgoing,
    /// Messages that were left for it.
    mail: Mail,
    /// It has new messages, and its turn is to come.
    pub(crate) mailed: bool,
    /// Its thread will give it a turn without an edge.
    pub(crate) queued: bool,
    /// Its last input was short.
    short: bool,
    socket: Readiness,
    /// Nothing is read until the output is taken.
    paused: bool,
    /// Nothing is read and run until all connections hold less.
    over: bool,
    /// Its session was closed.
    left: bool,
    times: Times,
    /// Bytes of buffers as counted in the engine.
    counted: u64,
}

impl Connection {
    pub(crate) fn new(stream: Stream, session: Session, id: u64, now: Now) -> Connection {
        Connection {
            stream,
            session,
            id,
            input: Vec::new(),
            outgoing: Outgoing::default(),
            mail: Mail::default(),
            mailed: false,
            queued: false,
            short: false,
            socket: Readiness::new(),
            paused: false,
            over: false,
            left: false,
            times: Times::new(now),
            counted: 0,
        }
    }

    /// Takes over what the system told, which it tells once.
    #[inline]
    pub(crate) fn hear(&mut self, ready: Ready) {
        self.socket.hear(ready);
    }

    /// Whether a reply is awaited by a peer that sends no more.
    pub(crate) fn is_half_closed(&self) -> bool {
        (self.socket.finished || self.socket.ended) && self.times.closing.is_none() && self.session.awaits_reply()
    }

    /// Bytes that it holds, as counted in the engine.
    pub(crate) fn counted(&self) -> u64 {
        self.counted
    }

    /// One turn: sends what is waiting, reads once, runs what arrived, sends the replies. While output waits nothing is
    /// read, so a client that does not take its replies holds no more than those.
    pub(crate) fn turn(&mut self, shared: &Shared, now: Now, buffers: &mut Buffers) -> Turn {
        let begun = self.begin(shared, now, buffers, 0);
        self.end_turn(shared, now, buffers, 0, begun)
    }

    /// Whether its turn may be taken in halves, together with other connections.
    pub(crate) fn is_short(&self) -> bool {
        self.short
    }

    /// The second half of a turn: runs what the first one read into a lane.
    pub(crate) fn end_turn(
        &mut self,
        shared: &Shared,
        now: Now,
        buffers: &mut Buffers,
        lane: usize,
        begun: io::Result<usize>,
    ) -> Turn {
        match begun.and_then(|count| if count > 0 { self.run(shared, now, buffers, lane, count) } else { Ok(()) }) {
            Ok(()) => self.verdict(shared, now),
            Err(_) => Turn::Over,
        }
    }

    /// The first key of what was read, if that is plain to see.
    pub(crate) fn first_key<'i>(&self, shared: &Shared, scratch: &mut Scratch, fresh: &'i [u8]) -> Option<Key<'i>> {
        if self.input.is_empty() { self.session.first_key(&shared.engine, scratch, fresh) } else { None }
    }

    /// Takes a message that was left for it, to be written in its next turns; false if it closes the connection. What comes
    /// while it closes anyway is handed on.
    pub(crate) fn post(&mut self, shared: &Shared, now: Now, event: Event) -> bool {
        if self.times.closing.is_some() {
            shared.engine.undelivered(self.session.connection_id(), event, now);
            return true;
        }
        if matches!(event, Event::Close) {
            return false;
        }
        self.mail.push(event);
        true
    }

    /// Writes messages behind what waits to be sent, until the turn has taken too long; whether none is left. As with
    /// input, what they answer is sent in one piece; loads that come together are sent together.
    #[cold]
    fn take_mail(&mut self, shared: &Shared, now: Now, buffers: &mut Buffers) -> io::Result<bool> {
        let Buffers { output, scratch, .. } = buffers;
        let own = !self.outgoing.output.is_empty();
        let out = if own { &mut self.outgoing.output } else { output };
        let mut loads = Vec::new();
        let mut cost = 0;
        while let Some(event) = self.mail.pop() {
            cost += cost_of(&event);
            match event {
                Event::Load(db, key, token) => loads.push((db, key, token)),
                event => {
                    push_loads(&mut self.session, &shared.engine, &mut loads, out);
                    self.session.deliver(&shared.engine, now, scratch, event, out);
                }
            }
            if cost >= MESSAGES {
                if scratch.turn_end.is_past() {
                    break;
                }
                cost = 0;
            }
        }
        push_loads(&mut self.session, &shared.engine, &mut loads, out);
        self.mail.shrink();
        if !own {
            self.outgoing.take(buffers);
        }
        self.send_all(shared, buffers)?;
        Ok(self.mail.is_empty())
    }

    /// The first half of a turn: sends what is waiting and reads once into a lane; how many bytes are to be run.
    pub(crate) fn begin(&mut self, shared: &Shared, now: Now, buffers: &mut Buffers, lane: usize) -> io::Result<usize> {
        if !self.is_flushed() {
            self.send(shared)?;
        }
        if self.over || !self.mail.is_empty() && !self.take_mail(shared, now, buffers)? {
            return Ok(0);
        }
        if self.outgoing.output.is_empty() && (self.paused || self.session.is_ready()) && self.times.closing.is_none() {
            self.run(shared, now, buffers, lane, 0)?;
        }
        // What a client sends while its request waits is left to the system: nothing of it is run before.
        if !self.socket.readable || self.paused || self.session.is_parked() || !self.outgoing.output.is_empty() {
            return Ok(0);
        }
        match self.stream.read(&mut buffers.inputs[lane]) {
            Ok(0) => {
                self.socket.ended = true;
                self.socket.readable = false;
            }
            Ok(count) => {
                // A read that left room emptied the socket, and what arrives later is told anew. The end is not.
                self.socket.readable =
                    self.socket.finished || count == buffers.inputs[lane].len() || self.stream.reads_short();
                self.short = count <= SHORT;
                self.times.last_input = now.mono;
                shared.engine.counters.bytes_in.fetch_add(count as u64, Relaxed);
                if self.times.closing.is_none() {
                    return Ok(count);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(0)
    }

    fn verdict(&mut self, shared: &Shared, now: Now) -> Turn {
        self.over = !self.count(shared);
        if self.over {
            return Turn::TooMuch;
        }
        let flushed = self.is_flushed();
        let parked = self.session.is_parked();
        let waiting = !flushed || !self.input.is_empty() && !parked;
        self.times.stuck_since = if waiting { self.times.stuck_since.or(Some(now.mono)) } else { None };
        if self.outgoing.sending || !self.mail.is_empty() {
            return Turn::Again;
        }
        // A request that runs in turns goes on, also for a peer that sends no more.
        if flushed && self.session.is_ready() && !self.socket.gone && self.times.closing.is_none() {
            return Turn::Again;
        }
        if (self.socket.finished || self.socket.ended || self.socket.gone)
            && let Some(turn) = self.verdict_without_peer(shared, now)
        {
            return turn;
        }
        if flushed && !parked && (self.socket.readable || self.paused) { Turn::Again } else { Turn::Wait }
    }

    /// What becomes of it when the peer sends no more; nothing else than usual while there is input to be read and run.
    #[cold]
    fn verdict_without_peer(&mut self, shared: &Shared, now: Now) -> Option<Turn> {
        let parked = self.session.is_parked();
        if !(parked || self.socket.ended && !self.paused) {
            return None;
        }
        if self.is_half_closed() && !self.socket.gone {
            self.session.end_input(&shared.engine, now);
            return Some(Turn::HalfClosed);
        }
        (self.socket.gone || self.is_flushed()).then_some(Turn::Over)
    }

    /// Feeds the session with what was left over and `count` new bytes of a lane, and sends the replies.
    fn run(&mut self, shared: &Shared, now: Now, buffers: &mut Buffers, lane: usize, count: usize) -> io::Result<()> {
        let Buffers { inputs, output, scratch, spare } = buffers;
        let fresh = &inputs[lane][..count];
        let whole = if self.input.is_empty() {
            fresh
        } else {
            self.input.extend_from_slice(fresh);
            &self.input[..]
        };
        let (taken, flow) = self.session.feed(&shared.engine, now, scratch, whole, output);
        if taken > 0 {
            self.times.stuck_since = None;
        }
        if self.input.is_empty() {
            // Most requests arrive whole: nothing is kept, and a connection that is quiet costs no buffer.
            let rest = &fresh[taken..];
            if rest.len() >= *SPARE.start() {
                self.input = spare.pop().unwrap_or_default();
                self.input.extend_from_slice(rest);
            } else if !rest.is_empty() {
                self.input = rest.to_vec();
            }
        } else if taken == self.input.len() {
            give_back(spare, std::mem::take(&mut self.input));
        } else {
            self.input.drain(..taken);
        }
        self.paused = flow == Flow::Pause;
        if flow == Flow::Close {
            // The end follows the last reply in one packet: a client that puts the connection back into a pool sees it.
            self.stream.hold_for_end();
            self.times.closing = Some(now.mono);
            self.input = Vec::new();
            self.leave(shared, now);
        }
        self.outgoing.take(buffers);
        self.send_all(shared, buffers)
    }

    /// Sends what the socket takes; an empty buffer goes back to the thread, one with something left in it stays.
    fn send_all(&mut self, shared: &Shared, buffers: &mut Buffers) -> io::Result<()> {
        let sent = self.send(shared);
        self.outgoing.give_back(buffers);
        sent
    }

    /// The connection runs nothing any more: its leases pass on, and it is sent no loads. Not only when the peer has
    /// taken the last replies and closed, which may take long.
    pub(crate) fn leave(&mut self, shared: &Shared, now: Now) {
        if !std::mem::replace(&mut self.left, true) {
            self.session.close(&shared.engine, now);
        }
        for event in self.mail.take_all() {
            shared.engine.undelivered(self.session.connection_id(), event, now);
        }
    }

    fn send(&mut self, shared: &Shared) -> io::Result<()> {
        let (count, sent) = self.outgoing.send(&mut self.stream);
        if count > 0 {
            self.times.stuck_since = None;
            shared.engine.counters.bytes_out.fetch_add(count as u64, Relaxed);
        }
        if self.is_flushed() && self.times.closing.is_some() {
            self.stream.end();
        }
        match sent {
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps the count of what connections hold; false if that is too much and this one is a reason for it.
    fn count(&mut self, shared: &Shared) -> bool {
        let held = self.input.capacity() as u64
            + self.outgoing.output.len() as u64
            + self.stream.memory()
            + self.session.memory();
        let held = held + self.mail.memory();
        if held != self.counted {
            self.recount(shared, held);
        }
        // Also when it holds what it held before: others may have come to hold more.
        held <= SMALL || !shared.is_too_much_held()
    }

    fn recount(&mut self, shared: &Shared, held: u64) {
        let total = &shared.engine.counters.client_bytes;
        total.fetch_add(held.wrapping_sub(self.counted), Relaxed);
        self.counted = held;
        if held > SMALL {
            shared.holdings[usize::from(self.session.connection_id().mailbox)].largest.fetch_max(held, Relaxed);
        }
    }

    /// Whether its time has passed: a request that does not arrive, a reply that is not taken, nothing asked for longer
    /// than the option allows, or a closed connection that the peer does not close.
    pub(crate) fn is_overdue(&self, shared: &Shared, now: Now) -> bool {
        let idle = shared.options.idle_timeout.as_millis() as u64;
        self.times.is_out_of_patience(now, idle, self.input.len())
            || self.needs_auth(shared) && self.times.is_late_to_authenticate(now)
            || self.is_flushed() && self.times.has_lingered(now)
    }

    /// The server stops: everything that arrived was answered; closes as soon as the output is taken.
    pub(crate) fn close(&mut self, now: Now) {
        self.times.closing = Some(now.mono);
        if self.is_flushed() {
            self.stream.end();
        }
    }

    /// Whether nothing is left to be sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outgoing.output.is_empty() && !self.stream.holds_back()
    }

    /// Whether the client has not said yet who it is, where it has to.
    fn needs_auth(&self, shared: &Shared) -> bool {
        self.stream.is_handshaking() || self.session.needs_auth(&shared.engine)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use globalcache_core::store::ConnectionId;

    use super::times::{AUTH_TIMEOUT_MS, PATIENCE_MS};
    use super::*;
    use crate::scripted::options;
    use crate::{Admission, Options, Server, read_clocks};

    fn server(passwords: Vec<String>) -> Server {
        let listen = vec!["127.0.0.1:0".to_owned()];
        Server::start(Options {
            listen,
            memory: 32 << 20,
            admission: Admission { passwords, ..Admission::default() },
            loaders: Vec::new(),
            ..options()
        })
        .unwrap()
    }

    /// A connection that was opened now, after its first turn on what the client sent; and the client's end.
    fn connection(server: &Server, now: Now, sent: &[u8]) -> (Connection, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(sent).unwrap();
        let stream = Stream::Unix(mio::net::UnixStream::from_std(ours));
        let mut connection = Connection::new(stream, Session::new(ConnectionId::default()), 1, now);
        connection.turn(&server.shared, now, &mut Buffers::new());
        (connection, theirs)
    }

    fn later(now: Now, millis: u64) -> Now {
        Now { mono: now.mono + millis, wall: now.wall + millis }
    }

    #[test]
    fn who_has_to_say_who_he_is_has_ten_seconds() {
        let (guarded, now) = (server(vec!["sesame".to_owned()]), read_clocks());
        for sent in [&b""[..], b"PING\r\n", b"AUTH wrong\r\n", b"get x\r\n"] {
            let (connection, _client) = connection(&guarded, now, sent);
            assert!(!connection.is_overdue(&guarded.shared, later(now, AUTH_TIMEOUT_MS)));
            assert!(connection.is_overdue(&guarded.shared, later(now, AUTH_TIMEOUT_MS + 1)));
        }
        let (known, _client) = connection(&guarded, now, b"AUTH sesame\r\n");
        assert!(!known.is_overdue(&guarded.shared, later(now, AUTH_TIMEOUT_MS * 1000)));
    }

    #[test]
    fn a_request_has_a_minute_to_arrive() {
        let (open, now) = (server(Vec::new()), read_clocks());
        let (slow, _client) = connection(&open, now, b"*2\r\n$3\r\nGET\r\n$1");
        assert!(!slow.is_overdue(&open.shared, later(now, PATIENCE_MS)));
        assert!(slow.is_overdue(&open.shared, later(now, PATIENCE_MS + 2)));
        let (idle, _client) = connection(&open, now, b"PING\r\n");
        assert!(!idle.is_overdue(&open.shared, later(now, PATIENCE_MS * 1000)));
    }
}
