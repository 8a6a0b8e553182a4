//! The load generator: drives a Redis or memcached server from one thread and tells throughput, latencies and the
//! processor time of both sides.
//!
//! In a closed loop each connection sends a batch and waits for its replies. In an open loop requests leave at a rate
//! whatever the server does, and their latency counts from the moment they should have left, so a server that stalls
//! is charged for all who would have waited. Every reply is checked: a value has the length and the beginning that its
//! key says. All values are written before the measurement, so a read that finds nothing is counted and told.

mod herd;
mod histogram;
mod protocol;
mod sequence;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

use histogram::Histogram;
pub use protocol::Protocol;
use protocol::{Checked, Checker, Request};
use sequence::Sequence;

/// What to send, how fast and for how long.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `HOST:PORT`, or the path of a Unix socket.
    pub address: String,
    /// What the server speaks.
    pub protocol: Protocol,
    /// Connections, all open all the time.
    pub connections: usize,
    /// Requests that a connection sends before it waits.
    pub pipeline: usize,
    /// Bytes of a value, at least 8.
    pub value_size: usize,
    /// Keys that are written before and asked for.
    pub keys: u32,
    /// Bytes of a key, at least 12.
    pub key_size: usize,
    /// Skew of the keys: 0 asks for all alike, 0.99 is Zipf's law as benchmarks have it.
    pub theta: f64,
    /// Share of reads among the requests.
    pub reads: f64,
    /// Keys of one read.
    pub multi: usize,
    /// Seconds after which written values expire; 0: never.
    pub ttl: u32,
    /// Clients that wait for one key together, until it is filled, instead of any other load; a multiple of the
    /// connections; 0: none. Latencies count from the fill.
    pub waiters: usize,
    /// Requests per second of an open loop; 0: a closed loop.
    pub rate: f64,
    /// Seconds of load before the measurement.
    pub warm_up: f64,
    /// Seconds of the measurement.
    pub seconds: f64,
    /// Requests after which it ends earlier; 0: none.
    pub requests: u64,
    /// Whether all keys are written before.
    pub preload: bool,
    /// Bytes of every reply, which is not looked at: for a server that only echoes; 0: replies are checked.
    pub reply_size: usize,
    /// Process id of the server, whose processor time is measured; 0: none.
    pub pid: u32,
    /// Processor to run on.
    pub cpu: Option<usize>,
    /// Seed of the order of keys and requests.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            address: "127.0.0.1:7411".to_owned(),
            protocol: Protocol::Resp,
            connections: 50,
            pipeline: 1,
            value_size: 100,
            keys: 100_000,
            key_size: 16,
            theta: 0.99,
            reads: 0.9,
            multi: 1,
            ttl: 0,
            waiters: 0,
            rate: 0.0,
            warm_up: 0.5,
            seconds: 5.0,
            requests: 0,
            preload: true,
            reply_size: 0,
            pid: 0,
            cpu: None,
            seed: 1,
        }
    }
}

/// What was measured. Latencies in microseconds, processor time in nanoseconds for each request.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Requests answered.
    pub requests: u64,
    /// Length of the measurement.
    pub seconds: f64,
    /// Requests answered in a second.
    pub throughput: f64,
    /// Reads that found nothing.
    pub misses: u64,
    /// Replies that were errors, or not what was written.
    pub errors: u64,
    /// Of the server's process; absent without its id.
    pub server_cpu_ns: Option<f64>,
    /// Of the generator.
    pub own_cpu_ns: f64,
    /// Median latency.
    pub p50: f64,
    /// 9 of 10 are faster.
    pub p90: f64,
    /// 99 of 100 are faster.
    pub p99: f64,
    /// 999 of 1,000 are faster.
    pub p999: f64,
    /// 9,999 of 10,000 are faster.
    pub p9999: f64,
    /// The slowest.
    pub max: f64,
    /// Requests of the connection that had the fewest answered, as a share of the mean.
    pub least_share: f64,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(address: &str, poll: &Poll, token: usize) -> io::Result<Stream> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        if address.starts_with('/') {
            let mut stream = UnixStream::connect(address)?;
            poll.registry().register(&mut stream, Token(token), interest)?;
            return Ok(Stream::Unix(stream));
        }
        let found = address.to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
        // Connected before it is made non-blocking, so that a refusal is told here.
        let stream = std::net::TcpStream::connect(found)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(token), interest)?;
        Ok(Stream::Tcp(stream))
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }
}

struct Connection {
    stream: Stream,
    /// Requests that the socket has not taken.
    output: Vec<u8>,
    /// Replies that have not arrived whole.
    input: Vec<u8>,
    /// Requests without a reply, each with the moment it left or should have left.
    waiting: VecDeque<(Request, Instant)>,
    /// Requests answered.
    answered: u64,
}

/// Runs the load and returns what was measured. Fails when the server cannot be reached or closes a connection.
pub fn run(options: &Options) -> io::Result<Report> {
    check(options).map_err(|text| io::Error::new(ErrorKind::InvalidInput, text))?;
    if let Some(cpu) = options.cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set)?;
    }
    if options.waiters > 0 { herd::run(options) } else { Load::new(options)?.run() }
}

impl Options {
    /// Requests after which the measurement ends.
    fn most(&self) -> u64 {
        if self.requests == 0 { u64::MAX } else { self.requests }
    }
}

/// The beginning of a measurement.
struct Begun {
    at: Instant,
    pid: u32,
    server: Option<u64>,
    own: u64,
}

impl Begun {
    fn now(pid: u32) -> Begun {
        Begun { pid, server: process_time(pid), own: thread_time(), at: Instant::now() }
    }

    /// What was measured until now.
    fn report(&self, histogram: &Histogram, answered: u64) -> Report {
        let seconds = self.at.elapsed().as_secs_f64();
        let each = |before: u64, after: u64| (after - before) as f64 / answered.max(1) as f64;
        Report {
            requests: answered,
            seconds,
            throughput: answered as f64 / seconds,
            server_cpu_ns: self.server.zip(process_time(self.pid)).map(|(before, after)| each(before, after)),
            own_cpu_ns: each(self.own, thread_time()),
            p50: histogram.quantile(0.5),
            p90: histogram.quantile(0.9),
            p99: histogram.quantile(0.99),
            p999: histogram.quantile(0.999),
            p9999: histogram.quantile(0.9999),
            max: histogram.quantile(1.0),
            least_share: 1.0,
            ..Report::default()
        }
    }
}

fn check(options: &Options) -> Result<(), String> {
    for (wrong, text) in [
        (
            options.connections == 0 || options.pipeline == 0 || options.multi == 0 || options.keys == 0,
            "counts begin at 1",
        ),
        (
            options.waiters > 0
                && (options.waiters % options.connections.max(1) > 0 || options.protocol != Protocol::Resp),
            "waiters are a multiple of the connections, and ask in RESP",
        ),
        (options.value_size < 8, "value_size is at least 8"),
        (options.key_size < 12, "key_size is at least 12"),
        (!(0.0..=1.0).contains(&options.reads), "reads is between 0 and 1"),
        (!(0.0..1000.0).contains(&options.theta), "theta is not negative"),
        (options.seconds <= 0.0 || options.warm_up < 0.0 || options.rate < 0.0, "times and rates are not negative"),
    ] {
        if wrong {
            return Err(text.to_owned());
        }
    }
    Ok(())
}

struct Load<'a> {
    options: &'a Options,
    poll: Poll,
    connections: Vec<Connection>,
    sequence: Sequence,
    checker: Checker,
    buffer: Vec<u8>,
    histogram: Histogram,
    answered: u64,
    misses: u64,
    errors: u64,
}

impl<'a> Load<'a> {
    fn new(options: &'a Options) -> io::Result<Load<'a>> {
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for token in 0..options.connections {
            let stream = Stream::connect(&options.address, &poll, token)?;
            let (output, input, waiting) = (Vec::new(), Vec::new(), VecDeque::new());
            connections.push(Connection { stream, output, input, waiting, answered: 0 });
        }
        Ok(Load {
            options,
            poll,
            connections,
            sequence: Sequence::new(options.keys, options.theta, options.reads, options.seed),
            checker: Checker::new(options),
            buffer: vec![0; 256 << 10],
            histogram: Histogram::default(),
            answered: 0,
            misses: 0,
            errors: 0,
        })
    }

    fn run(mut self) -> io::Result<Report> {
        if self.options.preload {
            self.preload()?;
        }
        let begun = Instant::now();
        let from = begun + Duration::from_secs_f64(self.options.warm_up);
        self.drive(begun, from, u64::MAX)?;
        (self.histogram, self.answered, self.misses, self.errors) = (Histogram::default(), 0, 0, 0);
        self.connections.iter_mut().for_each(|connection| connection.answered = 0);
        let begun = Begun::now(self.options.pid);
        self.drive(begun.at, begun.at + Duration::from_secs_f64(self.options.seconds), self.options.most())?;
        let report = begun.report(&self.histogram, self.answered);
        let least = self.connections.iter().map(|connection| connection.answered).min().unwrap_or(0);
        let mean = self.answered as f64 / self.connections.len() as f64;
        let least_share = least as f64 / mean.max(1.0);
        Ok(Report { misses: self.misses, errors: self.errors, least_share, ..report })
    }

    /// Writes every key once, over all connections.
    fn preload(&mut self) -> io::Result<()> {
        const BATCH: u32 = 64;
        let mut next = 0;
        while next < self.options.keys {
            for index in 0..self.connections.len() {
                let now = Instant::now();
                for key in next..self.options.keys.min(next + BATCH) {
                    self.ask(index, Request { read: false, key }, now);
                }
                next = self.options.keys.min(next + BATCH);
                self.send(index)?;
            }
            self.settle()?;
        }
        if self.errors > 0 {
            return Err(io::Error::other("the server refused to store the keys"));
        }
        Ok(())
    }

    /// Waits until everything was answered.
    fn settle(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while self.connections.iter().any(|connection| !connection.waiting.is_empty()) {
            self.take(&mut events, Duration::from_secs(10), true)?;
            if events.is_empty() {
                return Err(io::Error::new(ErrorKind::TimedOut, "no answer in ten seconds"));
            }
        }
        Ok(())
    }

    fn drive(&mut self, from: Instant, until: Instant, most: u64) -> io::Result<()> {
        if self.options.rate > 0.0 { self.open_loop(from, until, most) } else { self.closed_loop(until, most) }
    }

    fn closed_loop(&mut self, until: Instant, most: u64) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        for index in 0..self.connections.len() {
            if self.connections[index].waiting.is_empty() {
                self.batch(index, Instant::now())?;
            }
        }
        loop {
            self.take(&mut events, Duration::from_secs(10), false)?;
            if events.is_empty() {
                return Err(io::Error::new(ErrorKind::TimedOut, "no answer in ten seconds"));
            }
            let now = Instant::now();
            if now >= until || self.answered >= most {
                return Ok(());
            }
            for event in &events {
                if self.connections[event.token().0].waiting.is_empty() {
                    self.batch(event.token().0, now)?;
                }
            }
        }
    }

    fn open_loop(&mut self, from: Instant, until: Instant, most: u64) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let (gap, mut sent, mut index) = (1.0 / self.options.rate, 0u64, 0);
        loop {
            let now = Instant::now();
            if now >= until || self.answered >= most {
                return Ok(());
            }
            loop {
                let due = from + Duration::from_secs_f64(gap * sent as f64);
                if due > now {
                    break;
                }
                let request = self.sequence.next();
                self.ask(index, request, due);
                self.send(index)?;
                (sent, index) = (sent + 1, (index + 1) % self.connections.len());
            }
            // Waiting for less than a millisecond is not offered by the system, so it asks again and again.
            self.take(&mut events, Duration::ZERO, false)?;
        }
    }

    fn batch(&mut self, index: usize, now: Instant) -> io::Result<()> {
        for _ in 0..self.options.pipeline {
            let request = self.sequence.next();
            self.ask(index, request, now);
        }
        self.send(index)
    }

    fn ask(&mut self, index: usize, request: Request, due: Instant) {
        let connection = &mut self.connections[index];
        self.checker.write(request, &mut connection.output);
        connection.waiting.push_back((request, due));
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        while !connection.output.is_empty() {
            match connection.stream.write(&connection.output) {
                Ok(count) if count == connection.output.len() => connection.output.clear(),
                Ok(count) => drop(connection.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for replies, checks them and counts them.
    fn take(&mut self, events: &mut Events, timeout: Duration, preload: bool) -> io::Result<()> {
        loop {
            match self.poll.poll(events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        }
        if events.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        for event in &*events {
            let index = event.token().0;
            self.receive(index, now, preload)?;
            if event.is_writable() {
                self.send(index)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, now: Instant, preload: bool) -> io::Result<()> {
        loop {
            let count = match self.connections[index].stream.read(&mut self.buffer) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed a connection")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let connection = &mut self.connections[index];
            let held = !connection.input.is_empty();
            if held {
                connection.input.extend_from_slice(&self.buffer[..count]);
            }
            let input = if held { &connection.input[..] } else { &self.buffer[..count] };
            let mut at = 0;
            while let Some(&(request, due)) = connection.waiting.front() {
                match self.checker.check(request, &input[at..]) {
                    Checked::Partial => break,
                    Checked::Good(length) => at += length,
                    Checked::Missed(length, missed) => (at, self.misses) = (at + length, self.misses + missed),
                    Checked::Wrong(length) => (at, self.errors) = (at + length, self.errors + 1),
                }
                connection.waiting.pop_front();
                if !preload {
                    self.answered += 1;
                    connection.answered += 1;
                    self.histogram.add(now.saturating_duration_since(due).as_nanos() as u64);
                }
            }
            if connection.waiting.is_empty() && at < input.len() {
                return Err(io::Error::other("the server sent more than it was asked for"));
            }
            if held {
                connection.input.drain(..at);
            } else if at < count {
                connection.input.extend_from_slice(&self.buffer[at..count]);
            }
            if count < self.buffer.len() {
                return Ok(());
            }
        }
    }
}

/// Nanoseconds of processor time of all threads of a process, as its scheduler counts them.
fn process_time(pid: u32) -> Option<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok().filter(|_| pid != 0)?;
    Some(tasks.flatten().filter_map(|task| schedstat(&task.path().join("schedstat").to_string_lossy())).sum())
}

fn thread_time() -> u64 {
    schedstat("/proc/thread-self/schedstat").unwrap_or(0)
}

fn schedstat(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.split(' ').next()?.parse().ok()
}
