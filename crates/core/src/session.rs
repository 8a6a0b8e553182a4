//! A connection without its socket: bytes in, bytes out. Sockets, stdin, tests and fuzzers all drive this one seam.
//!
//! Rules: replies keep the order of requests; input is taken a whole request at a time, and what is left over comes
//! again with the next call; once a protocol is recognised it never changes; a stream that broke is never read again;
//! while too many replies wait to be taken, no further request is run.

use std::sync::atomic::Ordering::Relaxed;

use crate::command::{Args, Command, Error, Kind, Reply, Row, Span, lookup};
use crate::engine::{Engine, Now};
use crate::execute::{Client, Context, execute};
use crate::gate;
use crate::output::Output;
use crate::protocol::json::Message;
use crate::protocol::resp::{self, Reader};
use crate::protocol::sniff::{Protocol, Verdict, sniff};
use crate::protocol::{Next, memcached};
use crate::store::Key;

/// What is to become of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Read on.
    Continue,
    /// Read nothing until the output is taken, then feed the rest of the input again.
    Pause,
    /// Send the output, then close.
    Close,
}

/// Requests that are read ahead, so that their index buckets are on the way to the processor before the first runs.
const BATCH: usize = 16;

/// Bytes of a message of JSON beside its value: envelope, keys and names.
const JSON_SLACK: usize = 256 << 10;

/// Buffers that sessions of a thread share, kept for their capacity.
#[derive(Debug, Default)]
pub struct Scratch {
    values: Vec<u8>,
    spans: Vec<Span>,
}

/// Capacity that is kept; one large request must not hold its memory for ever.
const KEEP: usize = 256 << 10;

/// A request that was read and not run yet.
#[derive(Clone, Copy, Default)]
struct Frame {
    start: usize,
    spans: (usize, usize),
    name: Name,
}

/// What the first word of a request names.
#[derive(Clone, Copy)]
enum Name {
    Redis(Option<&'static Row>),
    Memcached(memcached::Call),
}

impl Default for Name {
    fn default() -> Name {
        Name::Redis(None)
    }
}

/// One client's side of the server.
pub struct Session {
    client: Client,
    protocol: Option<Protocol>,
    reader: Reader,
    lines: memcached::Reader,
    /// Spans of a request that has not arrived whole.
    partial: Vec<Span>,
    /// Length below which the input need not be looked at again.
    wanted: usize,
    /// Messages of JSON sent so far.
    messages: u64,
}

impl Session {
    /// A session on connection `id`.
    pub fn new(id: u64) -> Session {
        Session {
            client: Client::new(id),
            protocol: None,
            reader: Reader::default(),
            lines: memcached::Reader::default(),
            partial: Vec::new(),
            wanted: 0,
            messages: 0,
        }
    }

    /// A session that speaks JSON from its first byte on.
    pub fn json(id: u64) -> Session {
        Session { protocol: Some(Protocol::Json), ..Session::new(id) }
    }

    /// A session that speaks memcached from its first byte on.
    pub fn memcached(id: u64) -> Session {
        Session { protocol: Some(Protocol::Memcached), ..Session::new(id) }
    }

    /// Length below which it is of no use to feed the input again.
    pub fn wanted(&self) -> usize {
        self.wanted
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
        self.wanted = 0;
        let protocol = match self.protocol.map_or_else(|| sniff(input), Verdict::Is) {
            Verdict::Is(protocol) => protocol,
            Verdict::Unknown => return (0, Flow::Continue),
            Verdict::Refused(line) => {
                out.bytes().extend_from_slice(line);
                return (input.len(), Flow::Close);
            }
        };
        self.protocol = Some(protocol);
        let mut run = Run { engine, now: engine.time(now), scratch, commands: 0, errors: 0 };
        let end = match protocol {
            Protocol::Resp => self.feed_words(&mut run, input, out, false),
            Protocol::Memcached => self.feed_words(&mut run, input, out, true),
            Protocol::Json => self.feed_json(&mut run, input, out),
        };
        run.finish();
        end
    }

    /// Redis and memcached: requests of words, read ahead.
    #[inline(always)]
    fn feed_words(&mut self, run: &mut Run<'_>, input: &[u8], out: &mut Output, memcached: bool) -> (usize, Flow) {
        let mut start = 0;
        while start < input.len() {
            let mut frames = [Frame::default(); BATCH];
            run.scratch.spans.clear();
            run.scratch.spans.append(&mut self.partial);
            let (count, end, stop) = self.read_ahead(run, input, start, &mut frames, memcached);
            if count > 1 {
                run.prefetch(&self.client, input, &frames[..count]);
            }
            for (index, frame) in frames[..count].iter().enumerate() {
                match frame.name {
                    Name::Redis(row) => self.run_resp(run, input, frame, row, out),
                    Name::Memcached(call) => self.run_memcached(run, input, frame, call, out),
                }
                let next = frames[..count].get(index + 1).map_or(end, |next| next.start);
                if self.client.quitting {
                    return (input.len(), Flow::Close);
                }
                if out.len() > run.engine.limits.pause_output {
                    // What was read ahead is read again when the output was taken.
                    if index + 1 < count {
                        self.reader = Reader::default();
                        self.lines = memcached::Reader::default();
                        self.partial.clear();
                        self.wanted = 0;
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
                Some(Next::Http) => return (input.len(), Flow::Close),
                Some(_) => break,
            }
        }
        (start, Flow::Continue)
    }

    /// Reads up to a batch of requests; returns how many, where the next one begins, and why it stopped if it did.
    fn read_ahead(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        start: usize,
        frames: &mut [Frame; BATCH],
        memcached: bool,
    ) -> (usize, usize, Option<Next>) {
        let (mut count, mut at, mut first) = (0, start, 0);
        while count < BATCH && at < input.len() {
            let spans = &mut run.scratch.spans;
            let next = if memcached {
                self.lines.next(&input[at..], spans, &run.engine.limits)
            } else {
                self.reader.next(&input[at..], spans, &run.engine.limits)
            };
            match next {
                Next::Request(length) => {
                    let name = if memcached {
                        Name::Memcached(self.lines.call())
                    } else {
                        let word = spans.get(first);
                        Name::Redis(word.and_then(|name| lookup(&input[at..][name.start as usize..name.end as usize])))
                    };
                    frames[count] = Frame { start: at, spans: (first, spans.len()), name };
                    first = spans.len();
                    at += length;
                    count += 1;
                    if self.lines.is_skipping() {
                        return (count, at, None);
                    }
                }
                Next::More(wanted) => {
                    self.partial.extend_from_slice(&spans[first..]);
                    self.wanted = wanted;
                    return (count, at, Some(Next::More(wanted)));
                }
                end => return (count, at, Some(end)),
            }
        }
        (count, at, None)
    }

    #[inline]
    fn run_memcached(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        frame: &Frame,
        call: memcached::Call,
        out: &mut Output,
    ) {
        let Scratch { values, spans } = &mut *run.scratch;
        let args = Args::new(&input[frame.start..], &spans[frame.spans.0..frame.spans.1]);
        let mut buffer: memcached::KeyBuffer = [0; memcached::MAX_KEY];
        let Some(read) = call.read(args, &mut buffer, &run.engine.limits) else { return };
        run.commands += 1;
        values.clear();
        let (command, form) = match read {
            Ok(read) => read,
            Err(line) => {
                run.errors += 1;
                return memcached::refuse(line, out);
            }
        };
        let mut cx = Context { engine: run.engine, now: run.now, scratch: values, held: None };
        let reply = execute(&mut cx, &mut self.client, &command);
        run.errors += u64::from(matches!(reply, Reply::Error(_)));
        memcached::encode(&form, &reply, values, out);
    }

    #[inline]
    fn run_resp(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        frame: &Frame,
        row: Option<&'static Row>,
        out: &mut Output,
    ) {
        let Scratch { values, spans } = &mut *run.scratch;
        let args = Args::new(&input[frame.start..], &spans[frame.spans.0..frame.spans.1]);
        let Some(name) = args.get(0) else { return };
        run.commands += 1;
        values.clear();
        let reply = match prepare(row, name, args) {
            Ok(command) => {
                let mut cx = Context { engine: run.engine, now: run.now, scratch: values, held: None };
                execute(&mut cx, &mut self.client, &command)
            }
            Err(error) => Reply::Error(error),
        };
        run.errors += u64::from(matches!(reply, Reply::Error(_)));
        resp::encode(&reply, self.client.resp == 3, values, out);
    }

    fn feed_json(&mut self, run: &mut Run<'_>, input: &[u8], out: &mut Output) -> (usize, Flow) {
        let limit = run.engine.limits.max_value + JSON_SLACK;
        let mut start = 0;
        while start < input.len() {
            let rest = &input[start..];
            let Some(end) = memchr::memchr(b'\n', &rest[..rest.len().min(limit)]) else {
                if rest.len() >= limit {
                    let error = Error::new(Kind::TooLarge, "ERR the message is too long");
                    self.answer(run, &Message::default(), &Reply::Error(error), out);
                    return (input.len(), Flow::Close);
                }
                break;
            };
            start += end + 1;
            let line = rest[..end].trim_ascii();
            if !line.is_empty() {
                self.run_json(run, line, out);
            }
            if out.len() > run.engine.limits.pause_output {
                return (start, Flow::Pause);
            }
        }
        (start, Flow::Continue)
    }

    fn run_json(&mut self, run: &mut Run<'_>, line: &[u8], out: &mut Output) {
        let mut message = Message::default();
        run.commands += 1;
        run.scratch.values.clear();
        let admitted = message.read(line).and_then(|()| gate::admit(message.keys().iter()));
        let reply = match admitted {
            Ok(()) => message.command().map_or(Reply::Ok, |command| {
                let mut cx = Context { engine: run.engine, now: run.now, scratch: &mut run.scratch.values, held: None };
                execute(&mut cx, &mut self.client, &command)
            }),
            Err(error) => Reply::Error(error),
        };
        self.answer(run, &message, &reply, out);
    }

    fn answer(&mut self, run: &mut Run<'_>, message: &Message, reply: &Reply, out: &mut Output) {
        run.errors += u64::from(matches!(reply, Reply::Error(_)));
        message.answer(reply, self.messages, &run.scratch.values, out.bytes());
        self.messages += 1;
    }
}

/// Makes a command of the arguments of a request, if the gate lets it pass.
#[inline]
fn prepare<'a>(row: Option<&'static Row>, name: &[u8], args: Args<'a>) -> Result<Command<'a>, Error> {
    let row = row.ok_or_else(|| unknown(name, args))?;
    if !row.takes(args.len()) {
        return Err(row.wrong_arity());
    }
    gate::admit(row.keys(args))?;
    (row.read)(row, args.from(1))
}

/// Redis quotes the beginning of what it did not understand.
fn unknown(name: &[u8], args: Args<'_>) -> Error {
    const QUOTED: usize = 128;
    let head = |text: &[u8], room: usize| String::from_utf8_lossy(&text[..text.len().min(room)]).into_owned();
    let mut text = format!("ERR unknown command '{}', with args beginning with: ", head(name, QUOTED));
    let mut room = QUOTED;
    for arg in args.from(1).iter() {
        let quoted = format!("'{}' ", head(arg, room));
        text.push_str(&quoted);
        room = room.saturating_sub(quoted.len());
        if room == 0 {
            break;
        }
    }
    Error::with(Kind::Unknown, text)
}

/// What one call of `feed` works with and counts.
struct Run<'a> {
    engine: &'a Engine,
    now: Now,
    scratch: &'a mut Scratch,
    commands: u64,
    errors: u64,
}

impl Run<'_> {
    fn prefetch(&self, client: &Client, input: &[u8], frames: &[Frame]) {
        let spans = &self.scratch.spans;
        self.engine.store.prefetch(frames.iter().filter_map(|frame| {
            let args = Args::new(&input[frame.start..], &spans[frame.spans.0..frame.spans.1]);
            let key = match frame.name {
                Name::Redis(row) => row.and_then(|row| row.keys(args).next()),
                Name::Memcached(call) => call.first_key(args),
            };
            key.map(|bytes| Key { db: client.db, bytes })
        }));
    }

    /// Counts are added once per call: two threads adding per request would pass one cache line to and fro.
    fn finish(self) {
        self.engine.counters.commands.fetch_add(self.commands, Relaxed);
        if self.errors > 0 {
            self.engine.counters.errors.fetch_add(self.errors, Relaxed);
        }
        if self.scratch.values.capacity() > KEEP {
            self.scratch.values = Vec::new();
        }
        if self.scratch.spans.capacity() > KEEP {
            self.scratch.spans = Vec::new();
        }
    }
}
