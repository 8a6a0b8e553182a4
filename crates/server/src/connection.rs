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

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use globalcache_core::clock::Now;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::mailbox::Event;
use globalcache_core::store::Key;

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

/// What the system tells of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ready {
    /// There may be something to read, or the end.
    pub(crate) readable: bool,
    /// The peer sends no more.
    pub(crate) finished: bool,
    /// Nothing can be sent to the peer any more.
    pub(crate) gone: bool,
}

impl From<&mio::event::Event> for Ready {
    fn from(event: &mio::event::Event) -> Ready {
        Ready {
            readable: event.is_readable(),
            finished: event.is_read_closed(),
            gone: event.is_write_closed() || event.is_error(),
        }
    }
}

/// A request must arrive whole within this time, and a reply be taken; longer for long ones, see [`SLOWEST`].
const PATIENCE_MS: u64 = 60_000;
/// Bytes per millisecond that a client has to manage beyond that.
const SLOWEST: u64 = 16;
/// How long a client may take for the handshake of TLS and to authenticate: who is unknown must not hold a place.
const INTRODUCTION_MS: u64 = 10_000;
/// How long a connection that was closed by us is listened to, so that the last reply is not lost to a reset.
const LINGER_MS: u64 = 1_000;
/// Bytes that are sent at once, about a millisecond of processor time: a client that takes a long reply as fast as it comes
/// does not hold up the others of its thread.
const SEND_AT_ONCE: usize = 1 << 20;
/// What a turn delivers before it looks whether it has taken too long: so many short messages, or long ones of so many
/// bytes together for each of these, or one that runs a request or tells of many keys.
const MESSAGES: u64 = 512;
const MESSAGE_BYTES: u64 = 256;
/// Messages whose place a connection keeps when it has none.
const KEEP_MAIL: usize = 4;
/// Capacity of the output buffer that a thread keeps.
const KEEP_OUTPUT: usize = 1 << 20;
/// A connection that holds less than this is not closed for want of memory.
const SMALL: u64 = 64 << 10;

/// Connections whose input is read before the first of them is served, so that waits for the memory of their keys overlap.
pub(crate) const LANES: usize = 8;
/// Bytes of a connection's last input up to which it takes part in that: longer input is read ahead by itself, and that of
/// several connections together would only push each other out of the processor's caches.
const TERSE: usize = 512;

/// Buffers of an I/O thread, for whichever connection has its turn.
pub(crate) struct Buffers {
    /// What was read, for each of some connections that have their turns together.
    pub(crate) inputs: [Box<[u8]>; LANES],
    pub(crate) output: Output,
    pub(crate) scratch: Scratch,
    /// Buffers that connections needed for long requests, empty: new memory costs more than the copy into it.
    spare: Vec<Vec<u8>>,
}

impl Buffers {
    pub(crate) fn new() -> Buffers {
        Buffers::with_input(64 << 10)
    }

    /// Buffers that take so many bytes with one read.
    pub(crate) fn with_input(size: usize) -> Buffers {
        let inputs = std::array::from_fn(|_| vec![0; size].into());
        Buffers { inputs, output: Output::default(), scratch: Scratch::default(), spare: Vec::new() }
    }
}

/// Shortest and longest capacity of a buffer worth keeping, and how many a thread keeps: 4 MiB at most.
const SPARE: RangeInclusive<usize> = 16 << 10..=256 << 10;
const SPARES: usize = 16;

/// Takes a buffer back from a connection that needs it no more.
fn give_back(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    if SPARE.contains(&buffer.capacity()) && spare.len() < SPARES {
        buffer.clear();
        spare.push(buffer);
    }
}

/// What a message may cost to deliver, as a count of short ones. Reading the clock is cheap beside running a request.
fn cost_of(event: &Event) -> u64 {
    match event {
        Event::Outcome(..) | Event::Keys(..) => MESSAGES,
        event => 1 + event.memory() / MESSAGE_BYTES,
    }
}

/// Sends loads that came together, and forgets them.
fn push_loads(session: &mut Session, engine: &Engine, loads: &mut Vec<(u8, Arc<[u8]>, u64)>, out: &mut Output) {
    if !loads.is_empty() {
        session.push_loads(engine, loads, out);
        loads.clear();
    }
}

/// Sends [`SEND_AT_ONCE`] bytes of an output that is longer, or what the socket takes of them.
#[cold]
fn send_part(stream: &mut Stream, output: &mut Output) -> io::Result<()> {
    stream.flush()?;
    let mut left = SEND_AT_ONCE;
    output.drain(|slices| {
        let mut part = Vec::with_capacity(slices.len());
        for slice in slices {
            let length = slice.len().min(left);
            part.push(IoSlice::new(&slice[..length]));
            left -= length;
        }
        let offered: usize = part.iter().map(|slice| slice.len()).sum();
        let taken = if offered > 0 { stream.write_slices(&part)? } else { 0 };
        left += offered - taken;
        Ok(taken)
    })
}

pub(crate) struct Connection {
    pub(crate) stream: Stream,
    session: Session,
    /// Its number, which is never used twice.
    pub(crate) id: u64,
    /// Input that the session has not taken: the beginning of a request, or requests that wait for the output.
    input: Vec<u8>,
    /// Output that the socket has not taken.
    output: Output,
    /// Messages that were left for it and are not written yet, oldest first.
    mail: VecDeque<Event>,
    /// Bytes that these hold.
    mail_bytes: u64,
    /// It has new messages, and its turn is to come.
    pub(crate) mailed: bool,
    /// Its thread will give it a turn without an edge.
    pub(crate) queued: bool,
    /// Its last input was short.
    terse: bool,
    /// The socket may have more to read.
    readable: bool,
    /// There is more to send, and the socket may take it.
    sending: bool,
    /// Nothing is read until the output is taken.
    paused: bool,
    /// Nothing is read and run until all connections hold less.
    over: bool,
    /// When it was decided to close.
    closing: Option<u64>,
    /// The peer sends no more: its end stands behind what is unread.
    finished: bool,
    /// The end was read.
    ended: bool,
    /// Nothing can be sent to the peer any more.
    gone: bool,
    /// Its session was closed.
    left: bool,
    /// When it was opened.
    opened: u64,
    /// When something last arrived.
    last_input: u64,
    /// Since when the same request or output is waiting.
    stuck_since: Option<u64>,
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
            output: Output::default(),
            mail: VecDeque::new(),
            mail_bytes: 0,
            mailed: false,
            queued: false,
            terse: false,
            readable: true,
            sending: false,
            paused: false,
            over: false,
            closing: None,
            finished: false,
            ended: false,
            gone: false,
            left: false,
            opened: now.mono,
            last_input: now.mono,
            stuck_since: None,
            counted: 0,
        }
    }

    /// Takes over what the system told, which it tells once.
    #[inline]
    pub(crate) fn hear(&mut self, ready: Ready) {
        self.readable |= ready.readable;
        self.finished |= ready.finished;
        self.gone |= ready.gone;
    }

    /// Whether a reply is awaited by a peer that sends no more.
    pub(crate) fn is_half_closed(&self) -> bool {
        (self.finished || self.ended) && self.closing.is_none() && self.session.awaits_reply()
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
    pub(crate) fn is_terse(&self) -> bool {
        self.terse
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
        if self.closing.is_some() {
            shared.engine.undelivered(self.session.connection_id(), event, now);
            return true;
        }
        if matches!(event, Event::Close) {
            return false;
        }
        self.mail_bytes += event.memory();
        self.mail.push_back(event);
        true
    }

    /// Writes messages behind what waits to be sent, until the turn has taken too long; whether none is left. As with
    /// input, what they answer is sent in one piece; loads that come together are sent together.
    #[cold]
    fn take_mail(&mut self, shared: &Shared, now: Now, buffers: &mut Buffers) -> io::Result<bool> {
        let Buffers { output, scratch, .. } = buffers;
        let own = !self.output.is_empty();
        let out = if own { &mut self.output } else { output };
        let mut loads = Vec::new();
        let mut cost = 0;
        while let Some(event) = self.mail.pop_front() {
            self.mail_bytes -= event.memory();
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
        if self.mail.is_empty() && self.mail.capacity() > KEEP_MAIL {
            self.mail = VecDeque::new();
        }
        if !own {
            self.take_output(buffers);
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
        if self.output.is_empty() && (self.paused || self.session.is_ready()) && self.closing.is_none() {
            self.run(shared, now, buffers, lane, 0)?;
        }
        // What a client sends while its request waits is left to the system: nothing of it is run before.
        if !self.readable || self.paused || self.session.is_parked() || !self.output.is_empty() {
            return Ok(0);
        }
        match self.stream.read(&mut buffers.inputs[lane]) {
            Ok(0) => {
                self.ended = true;
                self.readable = false;
            }
            Ok(count) => {
                // A read that left room emptied the socket, and what arrives later is told anew. The end is not.
                self.readable = self.finished || count == buffers.inputs[lane].len() || self.stream.reads_short();
                self.terse = count <= TERSE;
                self.last_input = now.mono;
                shared.engine.counters.bytes_in.fetch_add(count as u64, Relaxed);
                if self.closing.is_none() {
                    return Ok(count);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
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
        self.stuck_since = if waiting { self.stuck_since.or(Some(now.mono)) } else { None };
        if self.sending || !self.mail.is_empty() {
            return Turn::Again;
        }
        // A request that runs in turns goes on, also for a peer that sends no more.
        if flushed && self.session.is_ready() && !self.gone && self.closing.is_none() {
            return Turn::Again;
        }
        if (self.finished || self.ended || self.gone)
            && let Some(turn) = self.verdict_without_peer(shared, now)
        {
            return turn;
        }
        if flushed && !parked && (self.readable || self.paused) { Turn::Again } else { Turn::Wait }
    }

    /// What becomes of it when the peer sends no more; nothing else than usual while there is input to be read and run.
    #[cold]
    fn verdict_without_peer(&mut self, shared: &Shared, now: Now) -> Option<Turn> {
        let parked = self.session.is_parked();
        if !(parked || self.ended && !self.paused) {
            return None;
        }
        if self.is_half_closed() && !self.gone {
            self.session.end_input(&shared.engine, now);
            return Some(Turn::HalfClosed);
        }
        (self.gone || self.is_flushed()).then_some(Turn::Over)
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
            self.stuck_since = None;
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
            self.closing = Some(now.mono);
            self.input = Vec::new();
            self.leave(shared, now);
        }
        self.take_output(buffers);
        self.send_all(shared, buffers)
    }

    /// Takes the thread's output buffer with what was answered.
    fn take_output(&mut self, buffers: &mut Buffers) {
        std::mem::swap(&mut self.output, &mut buffers.output);
    }

    /// Sends what the socket takes; an empty buffer goes back to the thread, one with something left in it stays.
    fn send_all(&mut self, shared: &Shared, buffers: &mut Buffers) -> io::Result<()> {
        let sent = self.send(shared);
        if self.output.is_empty() {
            self.output.clear(KEEP_OUTPUT);
            std::mem::swap(&mut self.output, &mut buffers.output);
        }
        sent
    }

    /// The connection runs nothing any more: its leases pass on, and it is sent no loads. Not only when the peer has
    /// taken the last replies and closed, which may take long.
    pub(crate) fn leave(&mut self, shared: &Shared, now: Now) {
        if !std::mem::replace(&mut self.left, true) {
            self.session.close(&shared.engine, now);
        }
        self.mail_bytes = 0;
        for event in std::mem::take(&mut self.mail) {
            shared.engine.undelivered(self.session.connection_id(), event, now);
        }
    }

    fn send(&mut self, shared: &Shared) -> io::Result<()> {
        let stream = &mut self.stream;
        let before = self.output.len();
        let sent = if before > SEND_AT_ONCE {
            send_part(stream, &mut self.output)
        } else {
            stream.flush().and_then(|()| self.output.drain(|slices| stream.write_slices(slices)))
        };
        let count = before - self.output.len();
        self.sending = count >= SEND_AT_ONCE && !self.output.is_empty() && sent.is_ok();
        if count > 0 {
            self.stuck_since = None;
            shared.engine.counters.bytes_out.fetch_add(count as u64, Relaxed);
        }
        if self.is_flushed() && self.closing.is_some() {
            self.stream.end();
        }
        match sent {
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps the count of what connections hold; false if that is too much and this one is a reason for it.
    fn count(&mut self, shared: &Shared) -> bool {
        let held =
            self.input.capacity() as u64 + self.output.len() as u64 + self.stream.memory() + self.session.memory();
        let held = held + self.mail_bytes;
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
        let since = |then: u64| now.mono.saturating_sub(then);
        let idle = shared.options.idle_timeout.as_millis() as u64;
        let patience = PATIENCE_MS + (self.input.len() as u64) / SLOWEST;
        idle > 0 && since(self.last_input) > idle
            || self.is_unknown(shared) && since(self.opened) > INTRODUCTION_MS
            || self.stuck_since.is_some_and(|then| since(then) > patience)
            || self.is_flushed() && self.closing.is_some_and(|then| since(then) > LINGER_MS)
    }

    /// The server stops: everything that arrived was answered; closes as soon as the output is taken.
    pub(crate) fn close(&mut self, now: Now) {
        self.closing = Some(now.mono);
        if self.is_flushed() {
            self.stream.end();
        }
    }

    /// Whether nothing is left to be sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.stream.holds_back()
    }

    /// Whether the client has not said yet who it is, where it has to.
    fn is_unknown(&self, shared: &Shared) -> bool {
        self.stream.is_handshaking() || self.session.needs_auth(&shared.engine)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use globalcache_core::store::ConnectionId;

    use super::*;
    use crate::{Options, Server, read_clocks};

    fn server(passwords: Vec<String>) -> Server {
        Server::start(Options {
            listen: vec!["127.0.0.1:0".to_owned()],
            threads: 1,
            memory: 32 << 20,
            evict: true,
            max_value: 1 << 20,
            max_clients: 10,
            client_memory: 1 << 20,
            idle_timeout: std::time::Duration::ZERO,
            insecure: false,
            passwords,
            users: String::new(),
            tls: None,
            loaders: Vec::new(),
            load_limit: std::time::Duration::from_secs(30),
            shutdown: false,
            debug_time: false,
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
            assert!(!connection.is_overdue(&guarded.shared, later(now, INTRODUCTION_MS)));
            assert!(connection.is_overdue(&guarded.shared, later(now, INTRODUCTION_MS + 1)));
        }
        let (known, _client) = connection(&guarded, now, b"AUTH sesame\r\n");
        assert!(!known.is_overdue(&guarded.shared, later(now, INTRODUCTION_MS * 1000)));
    }

    #[test]
    fn a_request_has_a_minute_to_arrive_and_no_request_has_all_the_time() {
        let (open, now) = (server(Vec::new()), read_clocks());
        let (slow, _client) = connection(&open, now, b"*2\r\n$3\r\nGET\r\n$1");
        assert!(!slow.is_overdue(&open.shared, later(now, PATIENCE_MS)));
        assert!(slow.is_overdue(&open.shared, later(now, PATIENCE_MS + 2)));
        let (idle, _client) = connection(&open, now, b"PING\r\n");
        assert!(!idle.is_overdue(&open.shared, later(now, PATIENCE_MS * 1000)));
    }
}
