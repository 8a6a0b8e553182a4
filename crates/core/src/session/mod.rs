//! A connection without its socket: bytes in, bytes out. Sockets, stdin, tests and fuzzers all drive this one seam.
//!
//! Rules: replies keep the order of requests; input is taken a whole request at a time, and what is left over comes
//! again with the next call; once a protocol is recognised it never changes; a stream that broke is never read again;
//! while too many replies wait to be taken, no further request is run.
//!
//! A request that waits for a load stays at the front of the input, and nothing behind it is run: else a lease could be
//! granted to a client that cannot hear of it. Clients whose replies carry numbers (tickets of RESP3, JSON) go on: their
//! request is kept here, and its outcome follows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::clock::Now;
use crate::commands::cache::end_unread_fill;
use crate::commands::context::{Context, TOO_MUCH, expires_at};
use crate::commands::execute::{execute, execute_row};
use crate::commands::memcached::is_fill;
use crate::commands::strings::why_refused;
use crate::commands::waiting::load_first;
use crate::commands::{gate, transaction};
use crate::limits::Limits;
use crate::output::Output;
use crate::protocol::json::Message;
use crate::protocol::long_line::LongLine;
use crate::protocol::resp::{self, Reader};
use crate::protocol::sniff::{Protocol, Verdict, sniff};
use crate::protocol::{Next, memcached};
use crate::state::batch::{Batch, Options, Tracker};
use crate::state::client::Client;
use crate::state::client_sessions::TAKE_OVER;
use crate::state::engine::Engine;
use crate::state::mailbox::Event;
use crate::state::users::Access;
use crate::state::waits::{Waits, wait_parts};
use crate::store::{AHEAD, ConnectionId, Entry, Granted, Key, Meta, Outcome, Step, Value};
use crate::table::{Row, fill_of, flag, lookup, unknown};
use crate::vocabulary::{
    Args, Blob, CacheCommand, Command, Condition, Error, Expiry, Kind, MemcachedCommand, Mode, Replies, Reply, Span,
    check_keys, too_long,
};

/// What is to become of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Read on.
    Continue,
    /// Too many replies wait, or the turn has ended: read nothing until the output is taken, then feed the rest of the
    /// input again.
    Pause,
    /// A request waits for a load: read nothing, and feed the rest of the input again when the session says that it is
    /// [`ready`](Session::is_ready).
    Park,
    /// Send the output, then close.
    Close,
}

/// Requests that are read ahead, so that their index buckets are on the way to the processor before the first runs.
const BATCH: usize = AHEAD;

/// Longest value that is written in one step with others, since nobody else gets at their shards meanwhile.
const MAX_TOGETHER: usize = 4096;

/// Bytes of a message of JSON beside its value: envelope, keys and names.
const JSON_SLACK: usize = 256 << 10;

/// Requests of a client that wait at a time, each with a number of its own.
const MAX_TICKETS: usize = 1 << 14;
const TOO_MANY_WAIT: Error = Error::new(Kind::Busy, "BUSY too many requests of this connection wait already");

/// A request that waits while those behind it are run.
struct Ticket {
    waits: Waits,
    request: Kept,
    /// The database that was selected when it was sent.
    db: u8,
}

impl Ticket {
    fn memory(&self) -> usize {
        size_of::<Ticket>() + self.waits.memory() + self.request.memory()
    }
}

/// The bytes of a request that is run again.
enum Kept {
    Resp(Box<[u8]>, Box<[Span]>),
    Json(Box<[u8]>),
}

impl Kept {
    fn memory(&self) -> usize {
        match self {
            Kept::Resp(bytes, spans) => bytes.len() + size_of_val(&**spans),
            Kept::Json(line) => line.len(),
        }
    }

    fn of(args: Args<'_>) -> Kept {
        let (mut bytes, mut spans) = (Vec::new(), Vec::with_capacity(args.len()));
        for arg in args.iter() {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(arg);
            spans.push(Span { start, end: bytes.len() as u32 });
        }
        Kept::Resp(bytes.into(), spans.into())
    }
}

/// When a turn of a connection is to end, by a clock of the caller: requests behind that moment are left for the next turn,
/// so that one connection's pipeline does not delay all others of its thread. The default has no end.
#[derive(Clone, Copy, Debug, Default)]
pub struct TurnEnd {
    clock: Option<fn() -> u64>,
    at: u64,
}

impl TurnEnd {
    /// The turn ends when `clock` reads `at` or more.
    pub fn new(clock: fn() -> u64, at: u64) -> TurnEnd {
        TurnEnd { clock: Some(clock), at }
    }

    /// Whether that moment has passed.
    pub fn is_past(&self) -> bool {
        self.clock.is_some_and(|clock| clock() >= self.at)
    }
}

/// Buffers that sessions of a thread share, kept for their capacity.
#[derive(Default)]
pub struct Scratch {
    /// When the turn that is being taken ends.
    pub turn_end: TurnEnd,
    values: Vec<u8>,
    spans: Vec<Span>,
    frames: Vec<Frame>,
}

/// Capacity that is kept, as much as replies wait for before a client pauses: memory that is given back after each batch
/// costs more than the batch. One large request must not hold its memory for ever.
const KEEP: usize = 1 << 20;

/// A request that was read and not run yet.
#[derive(Clone, Copy)]
struct Frame {
    start: usize,
    spans: (usize, usize),
    name: Name,
    /// It is nothing but a step of the store.
    plain: Option<Plain>,
}

/// A step of the store, on the key that is the first argument.
#[derive(Clone, Copy)]
enum Plain {
    Get,
    /// Writes the second argument.
    Set(Expiry),
}

impl Plain {
    /// What a request is, if it is as plain as that.
    #[inline]
    fn new(row: &'static Row, args: Args<'_>) -> Option<Plain> {
        let plain = match (row.name, args.len()) {
            ("GET", 2) => Plain::Get,
            ("SET", 3) => Plain::Set(Expiry::Never),
            ("SET", 5) => match (row.read)(row, args.from(1)) {
                Ok(Command::Set { expiry: Expiry::Keep, .. }) => return None,
                Ok(Command::Set { expiry, condition: Condition::Always, get: false, .. }) => Plain::Set(expiry),
                _ => return None,
            },
            _ => return None,
        };
        let short = args.get(2).is_none_or(|value| value.len() <= MAX_TOGETHER);
        (short && check_keys(args.get(1).into_iter()).is_ok()).then_some(plain)
    }
}

/// What the first word of a request names.
#[derive(Clone, Copy)]
enum Name {
    Redis(Option<&'static Row>),
    Memcached(memcached::Call),
    /// As `Redis`, of a request that ends before an argument that is too long: the last that was read.
    TooLong,
}

/// One client's side of the server.
pub struct Session {
    client: Client,
    /// Address of the other end.
    address: String,
    protocol: Option<Protocol>,
    reader: Reader,
    lines: memcached::Reader,
    /// Spans of a request that has not arrived whole.
    partial: Vec<Span>,
    /// Length below which the input need not be looked at again.
    wanted: usize,
    /// Messages of JSON sent so far.
    messages: u64,
    /// The last number that was given to a request that waits.
    number: u64,
    /// What the request at the front of the input waits for, or was told.
    parked: Option<Waits>,
    /// A request that runs in turns: what follows is run when it is done.
    under_way: Option<Ticket>,
    /// Requests that wait beside it, by number.
    tickets: HashMap<u64, Ticket>,
    /// Bytes that these hold.
    ticket_bytes: usize,
    /// A message of JSON that is longer than any that is run.
    long_line: Option<Box<LongLine>>,
    /// Bytes at the front of the input in which no message of JSON ends.
    searched: usize,
    /// Requests are being run.
    in_batch: bool,
    /// The peer sends nothing any more, so it cannot answer a lease.
    peer_ended: bool,
}

impl Session {
    /// A session of a connection.
    pub fn new(connection: ConnectionId) -> Session {
        Session {
            client: Client::new(connection),
            address: String::new(),
            protocol: None,
            reader: Reader::default(),
            lines: memcached::Reader::default(),
            partial: Vec::new(),
            wanted: 0,
            messages: 0,
            number: 0,
            parked: None,
            under_way: None,
            tickets: HashMap::new(),
            ticket_bytes: 0,
            long_line: None,
            searched: 0,
            in_batch: false,
            peer_ended: false,
        }
    }

    /// A session that speaks JSON from its first byte on.
    pub fn json(connection: ConnectionId) -> Session {
        Session { protocol: Some(Protocol::Json), ..Session::new(connection) }
    }

    /// A session that speaks memcached from its first byte on.
    pub fn memcached(connection: ConnectionId) -> Session {
        Session { protocol: Some(Protocol::Memcached), ..Session::new(connection) }
    }

    /// Tells the address of the other end, for those who look at connections.
    pub fn set_address(&mut self, address: String) {
        self.address = address;
    }

    /// The address of its messages.
    pub fn connection_id(&self) -> ConnectionId {
        self.client.connection
    }

    /// Length below which it is of no use to feed the input again.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// The first key of what arrived, if it begins with a plain request: for those who fetch the memory of several
    /// connections' keys before they [`feed`](Session::feed) the first.
    pub fn first_key<'i>(&self, engine: &Engine, scratch: &mut Scratch, input: &'i [u8]) -> Option<Key<'i>> {
        if self.protocol != Some(Protocol::Resp) || self.wanted > 0 || self.is_parked() {
            return None;
        }
        scratch.spans.clear();
        resp::whole(input, &mut scratch.spans, &engine.limits)?;
        let word = |at: usize| scratch.spans.get(at).map(|span| &input[span.start as usize..span.end as usize]);
        let row = word(0).and_then(lookup)?;
        let bytes = word(usize::try_from(row.keys.0).ok().filter(|first| *first > 0)?)?;
        Some(Key { db: self.client.db, bytes })
    }

    /// Runs the requests in `input`: what the last call left over and what arrived since. Returns how many bytes were
    /// taken, and what is to become of the connection.
    pub fn feed(
        &mut self,
        engine: &Engine,
        now: Now,
        scratch: &mut Scratch,
        input: &[u8],
        out: &mut Output,
    ) -> (usize, Flow) {
        if input.len() < self.wanted {
            return (0, Flow::Continue);
        }
        if self.is_parked() && !self.is_ready() {
            return (0, Flow::Park);
        }
        // Held while this batch runs, so that nothing of it is run after a newer connection of the client was welcomed.
        let joined = self.client.joined.as_ref().map(|joined| (Arc::clone(&joined.fence), joined.generation));
        let newest = joined.as_ref().map(|(fence, generation)| (fence.read(), *generation));
        if newest.as_ref().is_some_and(|(newest, generation)| generation < newest) {
            return (input.len(), Flow::Close);
        }
        self.wanted = 0;
        let protocol = match self.protocol.map_or_else(|| sniff(input, |word| lookup(word).is_some()), Verdict::Is) {
            Verdict::Is(protocol) => protocol,
            Verdict::Unknown => return (0, Flow::Continue),
            Verdict::Refused(line) => {
                out.bytes().extend_from_slice(line);
                return (input.len(), Flow::Close);
            }
        };
        if self.client.shown.is_none() {
            self.client.shown =
                Some(engine.clients.join(self.client.connection, self.client.info(), &self.address, now));
        }
        // After it is shown, so that whoever changes users at this moment finds it.
        if matches!(self.client.access, Access::Unknown) {
            self.client.access = engine.users.initial_access();
        }
        if let Some(shown) = &self.client.shown {
            shown.touch(now);
        }
        self.protocol = Some(protocol);
        let mut run = Run { engine, clock: now, now: engine.time(now), scratch, commands: 0, errors: 0 };
        let mut frames = std::mem::take(&mut run.scratch.frames);
        self.in_batch = true;
        let end = match protocol {
            Protocol::Resp => self.feed_words(&mut run, input, &mut frames, out, false),
            Protocol::Memcached => self.feed_words(&mut run, input, &mut frames, out, true),
            Protocol::Json => self.feed_json(&mut run, input, out),
        };
        self.in_batch = false;
        run.scratch.frames = frames;
        run.finish();
        end
    }

    /// Takes the messages that were left for a client that keeps copies, before its next request is run: what it reads
    /// now may be newer than a change of another key that it was not told of yet.
    #[cold]
    fn take_messages(&mut self, run: &mut Run<'_>, out: &mut Output) -> Flow {
        let events = run.engine.mail.take_of(self.client.connection);
        if events.iter().any(|event| matches!(event, Event::Close)) {
            let connection = self.client.connection;
            events.into_iter().for_each(|event| run.engine.undelivered(connection, event, run.clock));
            return Flow::Close;
        }
        for event in events {
            self.deliver(run.engine, run.clock, run.scratch, event, out);
        }
        Flow::Continue
    }

    /// Redis and memcached: requests of words, read ahead.
    #[inline(always)]
    fn feed_words(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        frames: &mut Vec<Frame>,
        out: &mut Output,
        memcached: bool,
    ) -> (usize, Flow) {
        if let Some(request) = self.under_way.take() {
            if !self.go_on(run, request, out) {
                return (0, Flow::Park);
            }
            if self.client.quitting {
                return (input.len(), Flow::Close);
            }
        }
        let mut start = 0;
        let had_session = self.client.joined.is_some();
        while start < input.len() {
            frames.clear();
            run.scratch.spans.clear();
            if !self.partial.is_empty() {
                run.scratch.spans.append(&mut std::mem::take(&mut self.partial));
            }
            let (end, stop) = self.read_ahead(run, input, start, frames, memcached);
            if frames.len() > 1 {
                run.prefetch(&self.client, input, frames, self.is_plain(run.engine));
            }
            let mut index = 0;
            while let Some(frame) = frames.get(index) {
                // Looked at each time: the request before may have begun a transaction, say.
                let plain = self.is_plain(run.engine);
                if !plain && self.client.tracking.is_some() && self.take_messages(run, out) == Flow::Close {
                    return (input.len(), Flow::Close);
                }
                let mut joins = false;
                let is_step = |frame: &&Frame| plain && frame.plain.is_some();
                let count = frames[index..].iter().take_while(is_step).count();
                if count > 0 {
                    index += self.run_plain(run, input, &frames[index..index + count], out);
                } else if plain && self.run_mget(run, input, frame, out) {
                    index += 1;
                } else {
                    let done = match frame.name {
                        Name::Redis(row) => self.run_resp(run, input, frame, row, out),
                        Name::Memcached(call) => self.run_memcached(run, input, frame, call, out),
                        Name::TooLong => self.refuse_too_long(run, input, frame, out),
                    };
                    if !done {
                        self.read_again();
                        let next = frames.get(index + 1).map_or(end, |next| next.start);
                        return (if self.under_way.is_some() { next } else { frame.start }, Flow::Park);
                    }
                    index += 1;
                    // What follows the greeting of a session is run behind its fence, and not at all if a newer one is there.
                    joins = self.client.joined.is_some() != had_session && (index < frames.len() || end < input.len());
                }
                if self.client.quitting {
                    return (input.len(), Flow::Close);
                }
                let more = index < frames.len() || stop.is_none() && end < input.len();
                let late = more && run.scratch.turn_end.is_past();
                if out.len() > self.limits(run.engine).pause_output || joins || late {
                    let next = frames.get(index).map_or(end, |next| next.start);
                    // What was read ahead is read again when the output was taken.
                    if index < frames.len() {
                        self.read_again();
                    }
                    return (next, Flow::Pause);
                }
            }
            start = end;
            match stop {
                None => {}
                Some(Next::Broken(error)) => {
                    if memcached {
                        memcached::encode_error(&error, out);
                    } else {
                        resp::encode(&Reply::Error(error), false, &[], out);
                    }
                    run.errors += 1;
                    return (input.len(), Flow::Close);
                }
                Some(Next::Close) => return (input.len(), Flow::Close),
                Some(_) => break,
            }
        }
        (start, Flow::Continue)
    }

    /// Whether a GET or SET of this client is nothing but a step of the store.
    fn is_plain(&self, engine: &Engine) -> bool {
        let client = &self.client;
        matches!(client.access, Access::All(_))
            && client.queue.is_none()
            && client.watched.is_empty()
            && client.tracking.is_none()
            && client.replies == Replies::All
            && !client.worker
            && !client.only_listens()
            && self.parked.is_none()
            && !engine.loaders.any()
    }

    /// Runs plain requests one after the other in one step, until too many replies wait. How many were run.
    fn run_plain(&mut self, run: &mut Run<'_>, input: &[u8], frames: &[Frame], out: &mut Output) -> usize {
        let (db, resp3, limit) = (self.client.db, self.client.resp == 3, self.limits(run.engine).pause_output);
        let (store, now) = (&run.engine.store, run.now);
        let at = Step { now: now.mono, actor: self.client.id };
        let (mut done, mut errors) = (0, 0);
        let mut step = |entry: &mut Entry<'_>| {
            let frame = &frames[done];
            match frame.plain {
                Some(Plain::Set(expiry)) => {
                    let value = run.args(input, frame).get(2).unwrap_or_default();
                    let expires_at = expires_at(now, entry.now(), expiry, None);
                    match entry.set(value, &Meta { expires_at, ..Meta::default() }) {
                        Ok(_) => out.bytes().extend_from_slice(b"+OK\r\n"),
                        Err(refused) => {
                            errors += 1;
                            let error = why_refused(refused, value, run.engine.limits.max_value);
                            resp::encode(&Reply::Error(error), resp3, &[], out);
                        }
                    }
                }
                _ => encode_found(entry.get().map(|item| item.value), resp3, out),
            }
            done += 1;
            out.len() <= limit
        };
        let keys = frames.iter().map(|frame| Key { db, bytes: run.args(input, frame).get(1).unwrap_or_default() });
        if let [_] = frames {
            keys.for_each(|key| _ = store.with(key, at, &mut step));
        } else {
            store.each(keys, at, step);
        }
        run.commands += done as u64;
        run.errors += errors;
        done
    }

    /// Runs an MGET, its values going from the store to the output at once; whether it is one, and well formed.
    fn run_mget(&self, run: &mut Run<'_>, input: &[u8], frame: &Frame, out: &mut Output) -> bool {
        if !matches!(frame.name, Name::Redis(Some(row)) if row.name == "MGET") {
            return false;
        }
        let (db, resp3, limit) = (self.client.db, self.client.resp == 3, run.engine.limits.max_request);
        let keys = run.args(input, frame).from(1);
        if keys.is_empty() || check_keys(keys.iter()).is_err() {
            return false;
        }
        let begun = out.mark();
        let at = Step { now: run.now.mono, actor: self.client.id };
        resp::header(b'*', keys.len() as i64, out.bytes());
        let mut fits = true;
        run.engine.store.read_all(keys.iter().map(|bytes| Key { db, bytes }), at, |_, item| {
            encode_found(item.map(|item| item.value), resp3, out);
            fits = out.bytes_since(&begun) <= limit;
            fits
        });
        if !fits {
            out.rewind(begun);
            resp::encode(&Reply::Error(TOO_MUCH), resp3, &[], out);
            run.errors += 1;
        }
        run.commands += 1;
        true
    }

    /// What was read ahead is read again when the session goes on.
    fn read_again(&mut self) {
        self.reader = Reader::default();
        self.lines = memcached::Reader::default();
        self.partial.clear();
        self.wanted = 0;
    }

    /// Reads up to a batch of requests; returns where the next one begins, and why it stopped if it did.
    fn read_ahead(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        start: usize,
        frames: &mut Vec<Frame>,
        memcached: bool,
    ) -> (usize, Option<Next>) {
        let (mut at, mut first, mut last) = (start, 0, (None, None));
        // What follows the request that says who the client is may be longer: it is not read ahead.
        let limits = self.limits(run.engine);
        let most = if self.is_authenticated() { BATCH } else { 1 };
        while frames.len() < most && at < input.len() {
            let spans = &mut run.scratch.spans;
            let next = if memcached {
                self.lines.next(&input[at..], spans, limits)
            } else {
                self.reader.next(&input[at..], spans, limits)
            };
            match next {
                Next::Request(length) => {
                    let mut plain = None;
                    let name = if memcached {
                        Name::Memcached(self.lines.call())
                    } else {
                        let word = spans.get(first).map(|name| &input[at..][name.start as usize..name.end as usize]);
                        // Those who send many requests at once mostly ask the same.
                        if word != last.0 {
                            last = (word, word.and_then(lookup));
                        }
                        plain = last.1.and_then(|row| Plain::new(row, Args::new(&input[at..], &spans[first..])));
                        Name::Redis(last.1)
                    };
                    frames.push(Frame { start: at, spans: (first, spans.len()), name, plain });
                    first = spans.len();
                    at += length;
                    // What is skipped must not be read again, so nothing is read ahead behind it.
                    if if memcached { self.lines.is_skipping() } else { self.reader.is_skipping() } {
                        if let (Some(_), Some(frame)) = (self.reader.too_long(), frames.last_mut()) {
                            (frame.name, frame.plain) = (Name::TooLong, None);
                        }
                        return (at, None);
                    }
                }
                Next::More(wanted) => {
                    self.partial.extend_from_slice(&spans[first..]);
                    self.wanted = wanted;
                    return (at, Some(Next::More(wanted)));
                }
                end => return (at, Some(end)),
            }
        }
        (at, None)
    }

    /// Answers a request of which an argument is too long. A lease that it would have filled ends: nobody else knows that
    /// this load is over.
    #[cold]
    fn refuse_too_long(&mut self, run: &mut Run<'_>, input: &[u8], frame: &Frame, out: &mut Output) -> bool {
        let args = Args::new(&input[frame.start..], &run.scratch.spans[frame.spans.0..frame.spans.1]);
        let name = args.get(0).unwrap_or_default();
        let row = lookup(name);
        let length = self.reader.too_long().unwrap_or_default();
        let mut error = too_long(length, run.engine.limits.max_value);
        if let Some(Err(refused)) = row.map(|row| gate::permit(&self.client, row, args)) {
            error = refused;
        } else if row.is_some_and(|row| row.name == "CACHE.FILL")
            && self.client.queue.is_none()
            && let Some(fill) = fill_of(args.from(1))
        {
            end_unread_fill(run.engine, &mut self.client, run.now.mono, fill, &error.text);
        }
        let reply = transaction::refused(run.engine, run.now.mono, &mut self.client, name, error);
        let reply = Reply::Error(reply);
        self.skip_one_reply();
        self.send_reply(run, &reply, out);
        true
    }

    #[inline]
    fn run_memcached(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        frame: &Frame,
        call: memcached::Call,
        out: &mut Output,
    ) -> bool {
        let Scratch { values, spans, .. } = &mut *run.scratch;
        let args = Args::new(&input[frame.start..], &spans[frame.spans.0..frame.spans.1]);
        let mut buffer: memcached::KeyBuffer = [0; memcached::MAX_KEY];
        let read = call.read(args, &mut buffer, &run.engine.limits);
        if matches!(read, None | Some(Err(_))) {
            let mut buffer: memcached::KeyBuffer = [0; memcached::MAX_KEY];
            if let Some(fill) = call.fill(args, &mut buffer) {
                let too_large = matches!(read, Some(Err(line)) if line == memcached::TOO_LARGE);
                let why = if too_large { "the value is too large" } else { "its fill could not be read" };
                end_unread_fill(run.engine, &mut self.client, run.now.mono, fill, why);
            }
        }
        let Some(read) = read else { return true };
        run.commands += 1;
        values.clear();
        let (command, form) = match read {
            Ok(read) => read,
            Err(line) => {
                run.errors += 1;
                memcached::refuse(line, out);
                return true;
            }
        };
        if let Err(error) = gate::permit_like(&self.client, &command) {
            run.errors += 1;
            if self.client.access.user().is_none() {
                memcached::refuse(self.authenticate_by_set(run.engine, &command), out);
            } else {
                memcached::encode(&form, &Reply::Error(error), &[], out);
            }
            return true;
        }
        let mut waits = self.parked.take().unwrap_or_default();
        waits.in_turns = true;
        let mut cx = Context {
            engine: run.engine,
            now: run.now,
            actor: self.client.id,
            scratch: values,
            held: None,
            waits: &mut waits,
        };
        self.number = number_waits(cx.waits, self.number);
        let reply = execute_loaded(&mut cx, &mut self.client, &command);
        if matches!(reply, Reply::Parked) {
            self.parked = Some(waits);
            return false;
        }
        run.errors += u64::from(matches!(reply, Reply::Error(_)));
        memcached::encode(&form, &reply, values, out);
        true
    }

    /// What is answered to a client that has not said who it is: memcached has no command for that, so a first `set` of
    /// any key says it, with `user password` as its value.
    #[cold]
    fn authenticate_by_set(&mut self, engine: &Engine, command: &Command<'_>) -> &'static str {
        let Command::Memcached(MemcachedCommand::Store { value, mode: Mode::Set, version: None, .. }) = command else {
            return "CLIENT_ERROR unauthenticated";
        };
        let mut words = value.splitn(2, |byte| *byte == b' ');
        let (user, password) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let access = engine.users.authenticate(user, password);
        let known = access.is_some_and(|access| self.client.authenticate_as(&engine.users, access));
        if known { "STORED" } else { "CLIENT_ERROR authentication failure" }
    }

    /// Whether it said who it is, or nobody has to.
    pub fn is_authenticated(&self) -> bool {
        self.client.access.user().is_some()
    }

    /// Whether it has still to say who it is.
    pub fn needs_auth(&self, engine: &Engine) -> bool {
        match self.client.access {
            Access::Unknown => engine.users.initial_access().user().is_none(),
            _ => !self.is_authenticated(),
        }
    }

    /// What the client may ask.
    fn limits<'e>(&self, engine: &'e Engine) -> &'e Limits {
        if self.is_authenticated() { &engine.limits } else { &engine.pre_auth_limits }
    }

    /// Runs a request; false if it has to wait in its place.
    #[inline]
    fn run_resp(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        frame: &Frame,
        row: Option<&'static Row>,
        out: &mut Output,
    ) -> bool {
        let Scratch { values, spans, .. } = &mut *run.scratch;
        let args = Args::new(&input[frame.start..], &spans[frame.spans.0..frame.spans.1]);
        let Some(name) = args.get(0) else { return true };
        values.clear();
        self.skip_one_reply();
        let mut waits = self.parked.take().unwrap_or_default();
        waits.in_turns = true;
        self.number = number_waits(&mut waits, self.number);
        let reply = match admit(row, name, args, &self.client) {
            Ok(row) if self.client.only_listens() && !row.is_for_listeners() => {
                let text = format!(
                    "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                     this context",
                    row.name.to_ascii_lowercase()
                );
                Reply::Error(Error::with(Kind::Malformed, text))
            }
            Ok(row) if self.client.queue.is_some() && row.flags & flag::TRANSACTION == 0 => {
                let queue = self.client.queue.as_mut().expect("a transaction has begun");
                queue.push(row, args, run.engine.limits.max_request)
            }
            // By reference: a command is long, and moving it costs as much as reading it.
            Ok(row) => match &(row.read)(row, args.from(1)) {
                Ok(Command::Cache(CacheCommand::Cancel(ticket))) => {
                    Reply::Int(self.cancel(run.engine, run.now, *ticket).into())
                }
                Ok(command) => {
                    let mut cx = Context {
                        engine: run.engine,
                        now: run.now,
                        actor: self.client.id,
                        scratch: values,
                        held: None,
                        waits: &mut waits,
                    };
                    execute_row(&mut cx, &mut self.client, row, args, command)
                }
                Err(error) => {
                    if row.name == "CACHE.FILL"
                        && let Some(fill) = fill_of(args.from(1))
                    {
                        end_unread_fill(run.engine, &mut self.client, run.now.mono, fill, &error.text);
                    }
                    Reply::Error(error.clone())
                }
            },
            Err(error) => Reply::Error(transaction::refused(run.engine, run.now.mono, &mut self.client, name, error)),
        };
        let reply = match reply {
            Reply::Parked => match self.park(run.engine, run.now, args, waits, out) {
                Some(reply) => reply,
                None => return false,
            },
            reply => {
                if !waits.keys.is_empty() {
                    self.give_back(run.engine, run.now.mono, &waits);
                }
                reply
            }
        };
        // A request that waits in its place takes its CLIENT CACHING when it runs.
        self.client.end_caching(name);
        let reply = match reply {
            Reply::Value(Blob::Scratch(range)) if self.client.replies == Replies::All => {
                run.commands += 1;
                resp::bulk(&run.scratch.values[range], out.bytes());
                return true;
            }
            reply => reply,
        };
        if !self.tickets.is_empty() && self.client.resp != 3 {
            self.leave_tickets(run.engine, run.now);
        }
        self.send_reply(run, &reply, out);
        true
    }

    /// The reply to the command that is now run is skipped, if CLIENT REPLY SKIP stood before it.
    #[inline]
    fn skip_one_reply(&mut self) {
        if self.client.replies == Replies::SkipNext {
            self.client.replies = Replies::Skip;
        }
    }

    /// Sends a reply, if the client wants it. What is pushed comes whatever it wants.
    #[inline]
    fn send_reply(&mut self, run: &mut Run<'_>, reply: &Reply, out: &mut Output) {
        run.commands += 1;
        run.errors += u64::from(matches!(reply, Reply::Error(error) if error.kind != Kind::Waiting));
        if self.client.replies == Replies::All || matches!(reply, Reply::Push(_) | Reply::Several(_)) {
            resp::encode(reply, self.client.resp == 3, &run.scratch.values, out);
        }
        if self.client.replies == Replies::Skip {
            self.client.replies = Replies::All;
        }
    }

    /// Sends what a turn of a request pushes. Messages that come until the next turn stand behind it.
    fn send_pushes(&self, waits: &mut Waits, out: &mut Output) {
        let pushes = waits.progress.iter_mut().flat_map(|progress| progress.pushes.drain(..));
        pushes.for_each(|push| resp::encode(&push, self.client.resp == 3, &[], out));
    }

    /// Keeps a request that waits, or leaves it where it is; what is answered at once if what follows is run.
    #[cold]
    fn park(&mut self, engine: &Engine, now: Now, args: Args<'_>, mut waits: Waits, out: &mut Output) -> Option<Reply> {
        if waits.progress.is_some() {
            self.send_pushes(&mut waits, out);
            self.under_way = Some(Ticket { waits, request: Kept::of(args), db: self.client.db });
            return None;
        }
        let once = std::mem::take(&mut self.client.ticket_once);
        // What a transaction waits for is waited for in its place: what follows may begin the next one.
        // A client that has chosen RESP2 since it asked for tickets can be told no outcome later.
        let later = (once || self.client.tickets) && self.client.resp == 3;
        if !later || self.client.queue.is_some() || waits.is_ready() {
            if self.client.replies == Replies::Skip {
                self.client.replies = Replies::SkipNext;
            }
            self.parked = Some(waits);
            return None;
        }
        let number = waits.number;
        if self.tickets.len() >= MAX_TICKETS {
            waits.leave(engine, &self.client, now.mono);
            return Some(Reply::Error(TOO_MANY_WAIT));
        }
        waits.caching = self.client.tracking.as_ref().map(|options| options.caching);
        self.keep(waits, Kept::of(args), self.client.db);
        Some(ticket_reply(args.get(0).unwrap_or_default(), number))
    }

    /// Keeps a request that waits beside others.
    fn keep(&mut self, waits: Waits, request: Kept, db: u8) {
        let (number, ticket) = (waits.number, Ticket { waits, request, db });
        self.ticket_bytes += ticket.memory();
        self.tickets.insert(number, ticket);
    }

    /// The request that waits under a number is kept no more.
    fn take_ticket(&mut self, number: u64) -> Option<Ticket> {
        let ticket = self.tickets.remove(&number)?;
        self.ticket_bytes -= ticket.memory();
        Some(ticket)
    }

    /// Gives up all requests that wait beside others, since the client has chosen RESP2, in which nothing can tell their
    /// outcomes from replies.
    #[cold]
    fn leave_tickets(&mut self, engine: &Engine, now: Now) {
        let connection = self.client.connection;
        for (db, key) in keys_of(self.tickets.drain().map(|(_, ticket)| ticket.waits)) {
            engine.store.with(Key { db, bytes: &key }, now.mono, |entry| entry.leave_all(connection));
        }
        self.ticket_bytes = 0;
    }

    /// Bytes that the connection makes the server hold beside the buffers of its socket: queued and watched, what waits,
    /// leases, what it listens to and tracks.
    pub fn memory(&self) -> u64 {
        let waits = self.parked.as_ref().map_or(0, Waits::memory);
        let partial = self.partial.capacity() * size_of::<Span>();
        let line = self.long_line.as_ref().map_or(0, |line| line.memory());
        let under_way = self.under_way.as_ref().map_or(0, Ticket::memory);
        (self.client.memory() + self.ticket_bytes + under_way + waits + partial + line) as u64
    }

    /// Takes another turn of a request that runs in turns; whether it is done.
    #[cold]
    fn go_on(&mut self, run: &mut Run<'_>, Ticket { mut waits, request, db }: Ticket, out: &mut Output) -> bool {
        let Kept::Resp(bytes, spans) = &request else { return true };
        let args = Args::new(bytes, spans);
        run.scratch.values.clear();
        let Some(row) = args.get(0).and_then(lookup) else { return true };
        let reply = match (row.read)(row, args.from(1)) {
            Ok(command) => {
                let scratch = &mut run.scratch.values;
                let mut cx = Context {
                    engine: run.engine,
                    now: run.now,
                    actor: self.client.id,
                    scratch,
                    held: None,
                    waits: &mut waits,
                };
                execute_row(&mut cx, &mut self.client, row, args, &command)
            }
            Err(error) => Reply::Error(error),
        };
        if matches!(reply, Reply::Parked) {
            self.send_pushes(&mut waits, out);
            self.under_way = Some(Ticket { waits, request, db });
            return false;
        }
        self.client.end_caching(row.name.as_bytes());
        self.send_reply(run, &reply, out);
        true
    }

    /// Leases that came to a request which did not take them, because the user may not ask for the key any more, say, go
    /// on to somebody else.
    fn give_back(&mut self, engine: &Engine, now: u64, waits: &Waits) {
        for known in &waits.keys {
            let key = Key { db: known.db, bytes: &known.key };
            if let Some(Outcome::Lease(Granted { token, .. })) = known.outcome
                && !self.client.holds.has(engine.store.hold(key, token))
            {
                engine.store.with(key, now, |entry| entry.give_up(token));
            }
        }
    }

    /// Leaves the queues that a ticket stands for; whether it stood for any.
    fn cancel(&mut self, engine: &Engine, now: Now, ticket: u64) -> bool {
        let known = self.take_ticket(ticket);
        if let Some(ticket) = &known {
            ticket.waits.leave(engine, &self.client, now.mono);
        }
        known.is_some()
    }

    /// Whether a request waits at the front of the input.
    pub fn is_parked(&self) -> bool {
        self.parked.is_some() || self.under_way.is_some()
    }

    /// Whether that request can go on.
    pub fn is_ready(&self) -> bool {
        self.under_way.is_some() || self.parked.as_ref().is_some_and(Waits::is_ready)
    }

    /// Whether the client is to get a reply to a request that waits for a load: in its place, or of a JSON client. What
    /// follows a ticket of RESP3 is a push, and libraries that use tickets read until they close.
    pub fn awaits_reply(&self) -> bool {
        self.is_parked() || self.protocol == Some(Protocol::Json) && !self.tickets.is_empty()
    }

    /// Whether the outcome of a wait is to follow, as a reply or under a ticket.
    pub fn is_waiting(&self) -> bool {
        self.is_parked() || !self.tickets.is_empty()
    }

    /// The peer sends nothing any more, but may still read: its leases pass on, and it is granted none from now on.
    #[cold]
    pub fn end_input(&mut self, engine: &Engine, now: Now) {
        if !std::mem::replace(&mut self.peer_ended, true) {
            self.pass_leases(engine, engine.time(now));
        }
    }

    /// Gives up the leases of this connection, or leaves them to the others of its session for a moment; what is loaded
    /// under them may still be stored.
    fn pass_leases(&mut self, engine: &Engine, now: Now) {
        let (connection, holds) = (self.client.connection, self.client.holds.take());
        let Some(joined) = &self.client.joined else {
            holds.for_each(|hold| engine.store.lost(hold, connection, now.mono));
            return;
        };
        // First the session decides, under its lock: if its last connection ends at this moment in another thread, that one
        // passes these leases on, whether or not they have been shortened here.
        let ended = engine.client_sessions.end(joined, holds.collect(), now.mono);
        for hold in ended.unheld {
            engine.store.unheld(hold, connection, now.mono + TAKE_OVER, now.mono);
        }
        for (hold, holder) in ended.lost {
            engine.store.lost(hold, holder, now.mono);
        }
    }

    /// Takes a message that was left for the connection; what is to be sent is appended to `out`.
    pub fn deliver(
        &mut self,
        engine: &Engine,
        now: Now,
        scratch: &mut Scratch,
        event: Event,
        out: &mut Output,
    ) -> Flow {
        let resp3 = self.client.resp == 3;
        match event {
            Event::Close => return Flow::Close,
            Event::Void(key) => self.push_void(key, out),
            Event::Keys(batch, tracker) => self.push_keys(&batch, &tracker, out),
            Event::RedirectBroken(target) => self.push_broken(target, out),
            Event::Push(reply) => resp::encode(&reply, resp3, &[], out),
            Event::Load(db, key, token) => self.push_loads(engine, &[(db, key, token)], out),
            Event::Outcome(wait, outcome) => self.take_outcome(engine, now, scratch, wait, outcome, out),
        }
        Flow::Continue
    }

    /// Sends a client the invalidation of a key, or of everything.
    fn push_void(&self, key: Option<Arc<[u8]>>, out: &mut Output) {
        // It may be redirected here by a client that may read more.
        if key.as_ref().is_some_and(|key| !self.client.access.may_read(key)) {
            return;
        }
        self.push_invalidation(key.map(|key| vec![key]), out);
    }

    /// Sends a client the invalidations of a batch of keys that it may read.
    #[cold]
    fn push_keys(&self, batch: &Batch, tracker: &Tracker, out: &mut Output) {
        let access = &self.client.access;
        if self.client.resp == 3 && matches!(access, Access::All(_)) {
            let encode = || {
                let mut all = Output::default();
                self.push_invalidation(batch.keys_for(|_, _| true), &mut all);
                all.take_bytes()
            };
            if let Some(bytes) = batch.encoded(tracker, encode) {
                out.bytes().extend_from_slice(bytes);
                return;
            }
        }
        let keys = batch.keys_for(|key, actor| tracker.wants(key, actor) && access.may_read(key));
        if keys.as_ref().is_none_or(|keys| !keys.is_empty()) {
            self.push_invalidation(keys, out);
        }
    }

    /// A client of RESP2 gets invalidations only while it listens to channels.
    fn push_invalidation(&self, keys: Option<Vec<Arc<[u8]>>>, out: &mut Output) {
        let list = |keys: Vec<Arc<[u8]>>| keys.into_iter().map(|key| Reply::Value(Blob::Shared(key))).collect();
        let keys = keys.map_or(Reply::NoArray, |keys| Reply::Array(list(keys)));
        if self.client.resp == 3 {
            resp::encode(&Reply::Push(vec![Reply::word("invalidate"), keys]), true, &[], out);
        } else if self.client.only_listens() {
            let channel = Reply::word("__redis__:invalidate");
            resp::encode(&Reply::Push(vec![Reply::word("message"), channel, keys]), false, &[], out);
        }
    }

    /// The connection that the client had its invalidations sent to has closed.
    #[cold]
    fn push_broken(&mut self, target: u64, out: &mut Output) {
        let redirected =
            |options: &&mut Box<Options>| options.redirect.is_some_and(|connection| connection.id == target);
        let Some(options) = self.client.tracking.as_mut().filter(redirected) else { return };
        options.broken = true;
        if self.client.resp == 3 {
            let push = Reply::Push(vec![Reply::word("tracking-redir-broken"), Reply::Int(target as i64)]);
            resp::encode(&push, true, &[], out);
        }
    }

    /// Sends loads to a worker: those that come together in one push.
    pub fn push_loads(&mut self, engine: &Engine, loads: &[(u8, Arc<[u8]>, u64)], out: &mut Output) {
        let (store, connection) = (&engine.store, self.client.connection);
        let each = loads.iter().map(|(db, key, token)| {
            let hold = store.hold(Key { db: *db, bytes: key }, *token);
            self.client.holds.add(hold, |hold| store.stands(hold, connection));
            Reply::Array(vec![Reply::Value(Blob::Shared(key.clone())), Reply::Int(*token as i64)])
        });
        let push = Reply::Push(std::iter::once(Reply::word("load")).chain(each).collect());
        resp::encode(&push, true, &[], out);
    }

    fn take_outcome(
        &mut self,
        engine: &Engine,
        now: Now,
        scratch: &mut Scratch,
        wait: u64,
        outcome: Outcome,
        out: &mut Output,
    ) {
        let outcome = if self.peer_ended { decline(engine, now, outcome) } else { outcome };
        let (number, index) = wait_parts(wait);
        if let Some(waits) = self.parked.as_mut().filter(|waits| waits.number == number) {
            waits.tell(index, outcome);
            return;
        }
        let Some(ticket) = self.tickets.get_mut(&number) else {
            // Nobody here awaits it any more: a lease goes on to somebody who does.
            if let Outcome::Lease(Granted { db, key, token }) = outcome {
                engine.store.with(Key { db, bytes: &key }, engine.time(now).mono, |entry| entry.give_up(token));
            }
            return;
        };
        let before = ticket.waits.memory();
        let over = ticket.waits.tell(index, outcome);
        self.ticket_bytes += ticket.waits.memory() - before;
        if over && let Some(ticket) = self.take_ticket(number) {
            self.run_again(engine, now, scratch, ticket, out);
        }
    }

    /// Runs a request that has waited beside others.
    fn run_again(&mut self, engine: &Engine, now: Now, scratch: &mut Scratch, ticket: Ticket, out: &mut Output) {
        // As in `feed`, which holds the fence already where it calls this: an old connection's request is not run after a
        // newer one was welcomed.
        let joined = self.client.joined.as_ref().filter(|_| !self.in_batch);
        let joined = joined.map(|joined| (Arc::clone(&joined.fence), joined.generation));
        let newest = joined.as_ref().map(|(fence, generation)| (fence.read(), *generation));
        if newest.as_ref().is_some_and(|(newest, generation)| generation < newest) {
            self.give_back(engine, engine.time(now).mono, &ticket.waits);
            return;
        }
        let mut run = Run { engine, clock: now, now: engine.time(now), scratch, commands: 0, errors: 0 };
        let Ticket { mut waits, request, db } = ticket;
        // It has had its turns, and would not be asked for others.
        waits.in_turns = false;
        let number = waits.number;
        // Another database may have been selected since.
        let selected = std::mem::replace(&mut self.client.db, db);
        run.scratch.values.clear();
        match request {
            Kept::Json(line) => self.run_json(&mut run, &line, waits, out),
            Kept::Resp(bytes, spans) => {
                let args = Args::new(&bytes, &spans);
                let name = args.get(0).unwrap_or_default();
                let prepared = admit(lookup(name), name, args, &self.client)
                    .and_then(|row| Ok((row, (row.read)(row, args.from(1))?)));
                let reply = match prepared {
                    Ok((row, command)) => {
                        let scratch = &mut run.scratch.values;
                        let mut cx = Context {
                            engine,
                            now: run.now,
                            actor: self.client.id,
                            scratch,
                            held: None,
                            waits: &mut waits,
                        };
                        execute_row(&mut cx, &mut self.client, row, args, &command)
                    }
                    Err(error) => Reply::Error(error),
                };
                if matches!(reply, Reply::Parked) {
                    self.keep(waits, Kept::Resp(bytes, spans), db);
                } else {
                    self.give_back(engine, run.now.mono, &waits);
                    run.errors += u64::from(matches!(reply, Reply::Error(_)));
                    let push = Reply::Push(vec![Reply::word("outcome"), Reply::Int(number as i64), reply]);
                    resp::encode(&push, true, &run.scratch.values, out);
                }
            }
        }
        run.count();
        self.client.db = selected;
    }

    /// The connection is gone: its leases pass on, and it waits for nothing any more.
    pub fn close(&mut self, engine: &Engine, now: Now) {
        let now = engine.time(now);
        let connection = self.client.connection;
        if self.client.worker {
            // First: what it was loading must not be sent to it again.
            engine.loaders.leave(connection);
        }
        engine.stop_pushes(&mut self.client);
        transaction::unwatch(engine, now.mono, &mut self.client);
        self.client.queue = None;
        self.pass_leases(engine, now);
        // What it has done stays done; the rest of it must not run behind a newer connection of the client.
        self.under_way = None;
        self.leave_waits(engine, now.mono);
        engine.clients.leave(connection.id);
        if engine.tracking.is_target(connection.id) {
            engine.tracking.closed(connection.id, &engine.mail);
        }
        self.long_line = None;
        if let Some(joined) = self.client.joined.take() {
            engine.client_sessions.leave(&joined, now.mono);
        }
        engine.loaders.pump(&engine.store, &engine.mail, now.mono);
    }

    /// The client is gone, and waits for nothing any more. Where all clients are gone at once, each leaves before the first
    /// is closed: else its lease would be passed from one to the next, as if each had failed to load.
    pub fn leave_waits(&mut self, engine: &Engine, now: u64) {
        let connection = self.client.connection;
        let parked = self.parked.take().into_iter();
        for (db, key) in keys_of(parked.chain(self.tickets.drain().map(|(_, ticket)| ticket.waits))) {
            engine.store.with(Key { db, bytes: &key }, now, |entry| entry.left(connection));
        }
        self.ticket_bytes = 0;
    }

    fn feed_json(&mut self, run: &mut Run<'_>, input: &[u8], out: &mut Output) -> (usize, Flow) {
        let limits = self.limits(run.engine);
        let limit = (limits.max_value + JSON_SLACK).min(limits.max_request);
        let mut start = 0;
        while start < input.len() {
            let rest = &input[start..];
            if self.long_line.is_some() {
                let Some(taken) = self.skip_long_line(run, rest, out) else {
                    let over = self.long_line.is_none();
                    return (input.len(), if over { Flow::Close } else { Flow::Continue });
                };
                start += taken;
            } else {
                let searched = std::mem::take(&mut self.searched);
                let found = memchr::memchr(b'\n', &rest[searched..rest.len().min(limit)]);
                let Some(end) = found.map(|end| searched + end) else {
                    if rest.len() >= limit {
                        self.long_line = Some(Box::default());
                        continue;
                    }
                    self.searched = rest.len();
                    break;
                };
                start += end + 1;
                let line = rest[..end].trim_ascii();
                if !line.is_empty() {
                    run.commands += 1;
                    self.run_json(run, line, Waits::default(), out);
                }
            }
            let full = out.len() > run.engine.limits.pause_output;
            if full || start < input.len() && run.scratch.turn_end.is_past() {
                return (start, Flow::Pause);
            }
        }
        (start, Flow::Continue)
    }

    /// Skips what has arrived of a message that is too long, and answers it at its end; how many bytes that took. None if
    /// it goes on, or is longer than a request may be: then it is answered and not followed any more.
    #[cold]
    fn skip_long_line(&mut self, run: &mut Run<'_>, input: &[u8], out: &mut Output) -> Option<usize> {
        let most = if self.limits(run.engine).max_skipped == 0 { 0 } else { run.engine.limits.max_request };
        let line = self.long_line.as_mut()?;
        let taken = line.take(input);
        if line.length() <= most && taken.is_none() {
            return None;
        }
        let line = self.long_line.take()?;
        let mut message = Message::default();
        let known = message.read(line.kept()).is_ok();
        let max_value = run.engine.limits.max_value;
        run.commands += 1;
        let error = Error::new(Kind::TooLarge, "ERR the message is too long");
        let reply = if known && line.length() <= most && line.longest() > max_value {
            self.refuse_value(run, &message, line.longest())
        } else {
            Reply::Error(error)
        };
        self.answer(run, &message, &reply, out);
        taken.filter(|_| line.length() <= most)
    }

    /// What is answered to a message whose value is too long. A lease that it would have filled ends.
    #[cold]
    fn refuse_value(&mut self, run: &Run<'_>, message: &Message, length: usize) -> Reply {
        let error = too_long(length, run.engine.limits.max_value);
        if let Some(command) = message.command()
            && let Err(refused) =
                check_keys(message.keys().iter()).and_then(|()| gate::permit_like(&self.client, &command))
        {
            return Reply::Error(refused);
        }
        if let Some(Command::Cache(CacheCommand::Fill { key, token, .. })) = message.command() {
            end_unread_fill(run.engine, &mut self.client, run.now.mono, (key, token), &error.text);
        }
        Reply::Error(error)
    }

    fn run_json(&mut self, run: &mut Run<'_>, line: &[u8], mut waits: Waits, out: &mut Output) {
        let mut message = Message::default();
        run.scratch.values.clear();
        self.client.unordered = true;
        self.number = number_waits(&mut waits, self.number);
        let admitted = message.read(line).and_then(|()| check_keys(message.keys().iter()));
        if let Err(error) = &admitted
            && let Some(fill) = message.fill()
        {
            end_unread_fill(run.engine, &mut self.client, run.now.mono, fill, &error.text);
        }
        let command = admitted.map(|()| message.command());
        let permitted = command.and_then(|command| {
            command.as_ref().map_or(Ok(()), |command| gate::permit_like(&self.client, command)).map(|()| command)
        });
        let length = message.value_len();
        let reply = match permitted {
            Ok(_) if length > run.engine.limits.max_value => self.refuse_value(run, &message, length),
            Ok(command) => command.map_or(Reply::Ok, |command| {
                let scratch = &mut run.scratch.values;
                let mut cx = Context {
                    engine: run.engine,
                    now: run.now,
                    actor: self.client.id,
                    scratch,
                    held: None,
                    waits: &mut waits,
                };
                execute_loaded(&mut cx, &mut self.client, &command)
            }),
            Err(error) => Reply::Error(error),
        };
        if !matches!(reply, Reply::Parked) {
            self.give_back(run.engine, run.now.mono, &waits);
            self.answer(run, &message, &reply, out);
        } else if self.tickets.len() >= MAX_TICKETS {
            waits.leave(run.engine, &self.client, run.now.mono);
            self.answer(run, &message, &Reply::Error(TOO_MANY_WAIT), out);
        } else {
            self.keep(waits, Kept::Json(line.into()), self.client.db);
        }
    }

    fn answer(&mut self, run: &mut Run<'_>, message: &Message, reply: &Reply, out: &mut Output) {
        run.errors += u64::from(matches!(reply, Reply::Error(_)));
        message.answer(reply, self.messages, &run.scratch.values, out.bytes());
        self.messages += 1;
    }
}

/// The keys that requests wait for, each once: many may wait for one, and each look at a key goes through all its waiters.
fn keys_of(all: impl Iterator<Item = Waits>) -> HashSet<(u8, Arc<[u8]>)> {
    let mut keys = HashSet::new();
    for waits in all {
        keys.extend(waits.keys.iter().map(|known| (known.db, Arc::clone(&known.key))));
    }
    keys
}

/// Hands a lease on that came to a client which cannot fill it any more; to that client its wait has timed out.
fn decline(engine: &Engine, now: Now, outcome: Outcome) -> Outcome {
    let Outcome::Lease(Granted { db, key, token }) = outcome else { return outcome };
    engine.store.with(Key { db, bytes: &key }, engine.time(now).mono, |entry| entry.give_up(token));
    Outcome::Timeout
}

/// Gives a request its number under which it could wait, unless it has waited; the last number that was given.
fn number_waits(waits: &mut Waits, last: u64) -> u64 {
    if waits.number == 0 {
        waits.number = last + 1;
    }
    last.max(waits.number)
}

/// The row of a request, if the gate lets it pass.
#[inline]
fn admit(row: Option<&'static Row>, name: &[u8], args: Args<'_>, client: &Client) -> Result<&'static Row, Error> {
    let row = row.ok_or_else(|| unknown(name, args))?;
    if !row.takes(args.len()) {
        return Err(row.wrong_arity());
    }
    if row.is_too_wordy(args.len()) {
        return Err(Error::new(Kind::TooLarge, "ERR too many arguments"));
    }
    check_keys(row.keys(args))?;
    gate::permit(client, row, args)?;
    if client.worker && row.flags & flag::WORKER == 0 {
        return Err(Error::new(Kind::Denied, "ERR this connection is a loader worker's: use another one for the rest"));
    }
    Ok(row)
}

/// As [`execute_row`], for protocols whose commands are no rows of the table.
#[inline]
fn execute_loaded(cx: &mut Context<'_>, client: &mut Client, command: &Command<'_>) -> Reply {
    if cx.engine.loaders.any()
        && let Some(bytes) = command.depends_on()
        && !matches!(command, Command::Memcached(item) if is_fill(cx, client, item))
    {
        let db = client.db;
        match load_first(cx, client, std::iter::once(Key { db, bytes })) {
            Ok(false) => {}
            Ok(true) => return Reply::Parked,
            Err(error) => return Reply::Error(error),
        }
    }
    execute(cx, client, command)
}

/// What a request answers at once that waits beside others.
fn ticket_reply(name: &[u8], number: u64) -> Reply {
    if name.eq_ignore_ascii_case(b"CACHE.FETCH") {
        let int = |number: i64| Reply::Int(number);
        return Reply::Array(vec![Reply::word("waiting"), Reply::Null, int(number as i64), int(0), int(-2), int(0)]);
    }
    Reply::Error(Error::with(Kind::Waiting, format!("WAITING {number}")))
}

/// What one call of `feed` works with and counts.
struct Run<'a> {
    engine: &'a Engine,
    /// The clocks as they were read.
    clock: Now,
    /// The time that commands go by.
    now: Now,
    scratch: &'a mut Scratch,
    commands: u64,
    errors: u64,
}

impl Run<'_> {
    fn args<'i>(&'i self, input: &'i [u8], frame: &Frame) -> Args<'i> {
        Args::new(&input[frame.start..], &self.scratch.spans[frame.spans.0..frame.spans.1])
    }

    /// Has the memory of what is asked for fetched; requests that are `plain` see to that themselves when several run.
    fn prefetch(&self, client: &Client, input: &[u8], frames: &[Frame], plain: bool) {
        let is = |frame: Option<&Frame>| plain && frame.is_some_and(|frame| frame.plain.is_some());
        let together = |at: usize| is(frames.get(at)) && (is(frames.get(at.wrapping_sub(1))) || is(frames.get(at + 1)));
        let wanted = frames.iter().enumerate().filter(|(index, _)| !together(*index));
        self.engine.store.prefetch(wanted.filter_map(|(_, frame)| {
            let args = self.args(input, frame);
            let key = match frame.name {
                Name::Redis(row) => row.and_then(|row| row.keys(args).next()),
                Name::Memcached(call) => call.first_key(args),
                Name::TooLong => None,
            };
            key.map(|bytes| Key { db: client.db, bytes })
        }));
    }

    /// Counts are added once per call: two threads adding per request would pass one cache line to and fro.
    fn count(&self) {
        self.engine.counters.commands.fetch_add(self.commands, Relaxed);
        if self.errors > 0 {
            self.engine.counters.errors.fetch_add(self.errors, Relaxed);
        }
    }

    /// Counts what was run, and gives large buffers back.
    fn finish(self) {
        self.count();
        if self.scratch.values.capacity() > KEEP {
            self.scratch.values = Vec::new();
        }
        if self.scratch.spans.capacity() > KEEP {
            self.scratch.spans = Vec::new();
        }
    }
}

/// Answers with what was found under a key.
#[inline(always)]
fn encode_found(value: Option<Value<'_>>, resp3: bool, out: &mut Output) {
    match value {
        None => out.bytes().extend_from_slice(resp::null(resp3)),
        Some(Value::Inline(value)) => resp::bulk(value, out.bytes()),
        Some(Value::Shared(value)) => resp::bulk_shared(value, out),
    }
}
