//! One connection: its socket, its session, what arrived and is not taken yet, what waits to be sent.

use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::Relaxed;

use globalcache_core::engine::Now;
use globalcache_core::mailbox::Event;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
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
    /// It is over.
    Over,
}

/// A request must arrive whole within this time, and a reply be taken; longer for long ones, see [`SLOWEST`].
const PATIENCE_MS: u64 = 60_000;
/// Bytes per millisecond that a client has to manage beyond that.
const SLOWEST: u64 = 16;
/// How long a client may take for the handshake of TLS and to authenticate: who is unknown must not hold a place.
const INTRODUCTION_MS: u64 = 10_000;
/// How long a connection that was closed by us is listened to, so that the last reply is not lost to a reset.
const LINGER_MS: u64 = 1_000;
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
        let inputs = std::array::from_fn(|_| vec![0; 64 << 10].into());
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

pub(crate) struct Connection {
    pub(crate) stream: Stream,
    session: Session,
    /// Its number, which is never used twice.
    pub(crate) id: u64,
    /// Input that the session has not taken: the beginning of a request, or requests that wait for the output.
    input: Vec<u8>,
    /// Output that the socket has not taken.
    output: Output,
    /// Its last input was short.
    terse: bool,
    /// The socket may have more to read.
    readable: bool,
    /// Nothing is read until the output is taken.
    paused: bool,
    /// When it was decided to close.
    closing: Option<u64>,
    /// The peer sends no more.
    ended: bool,
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
            terse: false,
            readable: true,
            paused: false,
            closing: None,
            ended: false,
            opened: now.mono,
            last_input: now.mono,
            stuck_since: None,
            counted: 0,
        }
    }

    /// The system told that there is something to read.
    pub(crate) fn mark_readable(&mut self) {
        self.readable = true;
    }

    /// Bytes that its buffers hold, as counted in the engine.
    pub(crate) fn counted(&self) -> u64 {
        self.counted
    }

    /// One turn: sends what is waiting, reads once, runs what arrived, sends the replies. While output waits nothing is
    /// read, so a client that does not take its replies holds no more than those. `more`: the system told that the end
    /// of the input is among what there is to read, so that a short read is not the last.
    pub(crate) fn turn(&mut self, shared: &Shared, now: Now, buffers: &mut Buffers, more: bool) -> Turn {
        let begun = self.begin(shared, now, buffers, 0, more);
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

    /// Takes messages that were left for it. As with input, what they answer is sent in one piece; loads that come
    /// together are sent together.
    pub(crate) fn deliver(
        &mut self,
        shared: &Shared,
        now: Now,
        buffers: &mut Buffers,
        events: impl Iterator<Item = Event>,
    ) -> Turn {
        let Buffers { output, scratch, .. } = buffers;
        // What waits to be sent comes first: the messages go behind it.
        let own = !self.output.is_empty();
        let out = if own { &mut self.output } else { output };
        let mut loads = Vec::new();
        for event in events.take_while(|_| self.closing.is_none()) {
            if let Event::Load(_, key, token) = event {
                loads.push((key, token));
                continue;
            }
            if !loads.is_empty() {
                self.session.push_loads(&std::mem::take(&mut loads), out);
            }
            if self.session.deliver(&shared.engine, now, scratch, event, out) == Flow::Close {
                return Turn::Over;
            }
        }
        if !loads.is_empty() {
            self.session.push_loads(&loads, out);
        }
        if !own {
            self.take_output(buffers);
        }
        let sent = self.send_all(shared, buffers);
        if sent.is_err() {
            return Turn::Over;
        }
        self.turn(shared, now, buffers, false)
    }

    /// The first half of a turn: sends what is waiting and reads once into a lane; how many bytes are to be run.
    pub(crate) fn begin(
        &mut self,
        shared: &Shared,
        now: Now,
        buffers: &mut Buffers,
        lane: usize,
        more: bool,
    ) -> io::Result<usize> {
        if !self.is_flushed() {
            self.send(shared)?;
        }
        if self.output.is_empty() && (self.paused || self.session.is_ready()) {
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
                // A read that left room emptied the socket; what arrives later is told anew.
                self.readable = more || count == buffers.inputs[lane].len() || self.stream.reads_short();
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
        if !self.count(shared) {
            return Turn::Over;
        }
        let flushed = self.is_flushed();
        let parked = self.session.is_parked();
        if flushed && !self.paused && !parked && self.ended {
            return Turn::Over;
        }
        let waiting = !flushed || !self.input.is_empty() && !parked;
        self.stuck_since = if waiting { self.stuck_since.or(Some(now.mono)) } else { None };
        let again = self.session.is_ready() || !parked && (self.readable || self.paused);
        if flushed && again { Turn::Again } else { Turn::Wait }
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
            self.closing = Some(now.mono);
            self.input = Vec::new();
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

    /// The connection is gone.
    pub(crate) fn end(&mut self, shared: &Shared, now: Now) {
        self.session.close(&shared.engine, now);
    }

    fn send(&mut self, shared: &Shared) -> io::Result<()> {
        let stream = &mut self.stream;
        let before = self.output.len();
        let sent = stream.flush().and_then(|()| self.output.drain(|slices| stream.write_slices(slices)));
        let count = before - self.output.len();
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
        let held = self.input.capacity() as u64 + self.output.len() as u64 + self.stream.memory();
        if held == self.counted {
            return true;
        }
        let total = &shared.engine.counters.client_bytes;
        let before = total.fetch_add(held.wrapping_sub(self.counted), Relaxed);
        let now_held = before.wrapping_add(held).wrapping_sub(self.counted);
        self.counted = held;
        held <= SMALL || now_held <= shared.options.client_memory
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
        self.stream.is_handshaking() || self.session.is_stranger(&shared.engine)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use globalcache_core::store::Party;

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
        let mut connection = Connection::new(stream, Session::new(Party::default()), 1, now);
        connection.turn(&server.shared, now, &mut Buffers::new(), false);
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
