//! The server: listeners, I/O threads, clocks and limits on connections around the core.
//!
//! One thread accepts connections and does the upkeep of the store; each connection belongs to one I/O thread for
//! life, so that nothing about it needs a lock. The store is shared by all threads, a lock per shard.

mod acceptor;
mod connection;
mod listen;
mod meter;
pub mod page_allocator;
#[cfg(test)]
mod scripted;
mod stream;
mod tls;
mod worker;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::state::users::Users;
use globalcache_core::store;
use mio::{Poll, Waker};
use parking_lot::{Mutex, RwLock};
use rustix::time::{ClockId, clock_gettime};
use rustls::ServerConfig;

use acceptor::Acceptor;
use listen::{Listener, Speaks};
pub use tls::TlsFiles;
use worker::{Inbox, WAKE, Worker};

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen: `HOST:PORT`, `tls://HOST:PORT`, `unix:///path` or `memcached://HOST:PORT`; port 0 takes any that
    /// is free.
    pub listen: Vec<String>,
    /// I/O threads.
    pub threads: usize,
    /// Bytes that the cache may take.
    pub memory: u64,
    /// Whether writes push old items out when memory is full.
    pub evict: bool,
    /// Longest value in bytes.
    pub max_value: usize,
    /// Most connections at a time.
    pub max_clients: u64,
    /// Bytes that the buffers of all connections may hold together.
    pub client_memory: u64,
    /// A connection that asked nothing for so long is closed; zero: never.
    pub idle_timeout: Duration,
    /// Who may connect.
    pub admission: Admission,
    /// Patterns of keys that loader workers load, known from the start: `user:*`.
    pub loaders: Vec<String>,
    /// How long a load may take: reads wait for so long, and a lease can be renewed for so long.
    pub load_limit: Duration,
    /// Whether memcached's `shutdown` stops the server.
    pub shutdown: bool,
    /// Whether `debugtime` lets the clock run ahead: for tests.
    pub debug_time: bool,
}

/// Who may connect, and how they prove who they are.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// Whether others than this machine may connect although nobody has to authenticate.
    pub insecure: bool,
    /// Passwords of the user that connections have before they name another; any of them does. None: it needs none.
    pub passwords: Vec<String>,
    /// Users and what they may do, as lines of an ACL file.
    pub users: String,
    /// Certificate and key where TLS is spoken.
    pub tls: Option<TlsFiles>,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// An option is not what it may be.
    Option(String),
    /// The system refused an address.
    Bind(String, io::Error),
    /// The system refused something else.
    System(io::Error),
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::System(error)
    }
}

/// What the other threads know of the connections of an I/O thread.
#[derive(Default)]
struct Holding {
    /// The most bytes that one of its connections held, since the thread looked through them last.
    largest: AtomicU64,
    /// It is asked to look, and to close the largest if no other thread has one that holds more.
    asked: AtomicBool,
}

/// What all threads of a server share.
struct Shared {
    engine: Engine,
    options: Options,
    /// What new connections with TLS begin with.
    tls: RwLock<Option<Arc<ServerConfig>>>,
    stopping: AtomicBool,
    /// Which thread panicked, and why.
    failure: OnceLock<String>,
    /// What is called with that, and whether it was.
    on_failure: OnceLock<fn(&str)>,
    reported: AtomicBool,
    wakers: OnceLock<Vec<Arc<Waker>>>,
    /// By the numbers of the I/O threads.
    holdings: Box<[Holding]>,
    next_id: AtomicU64,
}

impl Shared {
    fn new(options: Options, engine: Engine, tls: Option<Arc<ServerConfig>>) -> Shared {
        let holdings = (0..options.threads).map(|_| Holding::default()).collect();
        Shared {
            engine,
            options,
            holdings,
            tls: RwLock::new(tls),
            stopping: AtomicBool::new(false),
            failure: OnceLock::new(),
            on_failure: OnceLock::new(),
            reported: AtomicBool::new(false),
            wakers: OnceLock::new(),
            next_id: AtomicU64::new(1),
        }
    }

    /// A thread panicked. What it was changing may be half done and is never looked at again: the other threads close
    /// their connections without a further request.
    #[cold]
    fn fail(&self, thread: &str, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason was given");
        self.failure.get_or_init(|| format!("the thread {thread} panicked: {text}"));
        self.begin_to_stop();
        self.report_failure();
    }

    /// Reports a failure once, as soon as there are one and a function that takes it.
    fn report_failure(&self) {
        if let (Some(failure), Some(report)) = (self.failure.get(), self.on_failure.get())
            && !self.reported.swap(true, Ordering::SeqCst)
        {
            report(failure);
        }
    }

    fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Whether the buffers of all connections hold more than they may.
    fn is_too_much_held(&self) -> bool {
        self.engine.client_bytes() > self.options.client_memory
    }

    /// Asks a thread to close its largest connection, once until it has looked.
    #[cold]
    fn ask_to_close_largest(&self, number: usize) {
        if !self.holdings[number].asked.swap(true, Ordering::SeqCst)
            && let Some(waker) = self.wakers.get().and_then(|wakers| wakers.get(number))
        {
            // It fails only when the thread has ended, and then the others end as well.
            let _ = waker.wake();
        }
    }

    /// Wakes the threads for whom something was left.
    #[inline]
    fn wake_pending(&self) {
        let Some(wakers) = self.wakers.get() else { return };
        for (number, waker) in wakers.iter().enumerate().take(self.engine.mail.len()) {
            if self.engine.mail.has_pending(number) {
                // It fails only when the thread has ended, and then nobody is served any more.
                let _ = waker.wake();
            }
        }
    }

    /// Tells all threads to end.
    fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for waker in self.wakers.get().into_iter().flatten() {
            // A waker fails only when its poll is gone, and then the thread is as well.
            let _ = waker.wake();
        }
    }
}

/// A running server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<String>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// More threads than processors only wait for each other.
const MAX_THREADS: usize = 64;

/// Most patterns that can be declared.
const MAX_LOADERS: usize = 256;

/// Least memory that holds an open segment per shard and something beside.
pub const MIN_MEMORY: u64 = 1 << 20;

impl Server {
    /// Binds all addresses and starts the threads; every address answers when this returns.
    pub fn start(options: Options) -> Result<Server, StartError> {
        check(&options)?;
        let Admission { insecure, passwords, users, tls } = &options.admission;
        let users = Users::new(passwords, users).map_err(|text| StartError::Option(format!("users-file: {text}")))?;
        let mut listeners = Vec::new();
        let certified = tls.as_ref().is_some_and(|files| files.client_ca.is_some());
        let guarded = |speaks| *insecure || !users.is_open() || certified && speaks == Speaks::Tls;
        for address in &options.listen {
            listeners.push(Listener::bind(address, guarded)?);
        }
        let tls = tls.as_ref().map(tls::load).transpose()?;
        if let Some(listener) = listeners.iter().find(|listener| listener.speaks() == Speaks::Tls && tls.is_none()) {
            return Err(StartError::Option(format!(
                "listen: {}: TLS needs --tls-cert and --tls-key",
                listener.address()
            )));
        }
        let engine = Engine { users, ..engine(&options, &listeners) };
        let shared = Arc::new(Shared::new(options, engine, tls));
        let addresses = listeners.iter().map(Listener::address).collect();
        let server = Server { shared, addresses, threads: Mutex::new(Vec::new()) };
        let (mut inboxes, mut wakers) = (Vec::new(), Vec::new());
        for number in 0..server.shared.options.threads {
            let poll = Poll::new()?;
            let inbox = Arc::new(Inbox::new(&poll)?);
            wakers.push(Arc::clone(&inbox.waker));
            inboxes.push(Arc::clone(&inbox));
            let worker = Worker::new(Arc::clone(&server.shared), number as u16, poll, inbox);
            server.spawn(format!("globalcache-io{number}"), move || worker.run())?;
        }
        let poll = Poll::new()?;
        wakers.push(Arc::new(Waker::new(poll.registry(), WAKE)?));
        server.shared.wakers.get_or_init(|| wakers);
        let acceptor = Acceptor::new(Arc::clone(&server.shared), poll, listeners, inboxes)?;
        server.spawn("globalcache-accept".to_owned(), move || acceptor.run())?;
        Ok(server)
    }

    fn spawn(&self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (shared, known) = (Arc::clone(&self.shared), name.clone());
        let guarded = move || {
            // Sound, since nothing of what the thread has changed is used after this. Its sockets are closed by now.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                shared.fail(&known, &*panic);
            }
        };
        self.threads.lock().push(std::thread::Builder::new().name(name).spawn(guarded)?);
        Ok(())
    }

    /// Which of its threads panicked and why, if one did: the server has closed its listeners and connections then.
    pub fn failure(&self) -> Option<&str> {
        self.shared.failure.get().map(String::as_str)
    }

    /// Has a function called once with the cause when a thread panics, by that thread, or now if one has. Only the first
    /// function counts.
    pub fn on_failure(&self, report: fn(&str)) {
        let _ = self.shared.on_failure.set(report);
        self.shared.report_failure();
    }

    /// The addresses it listens on, as they would be given in the options, with the ports that were taken.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Takes other users, whose connections are closed if they are not what they were; and reads certificate, key and
    /// authorities again, for the connections that come. If something is wrong everything stays as it was.
    pub fn reload(&self, passwords: &[String], users: &str) -> Result<(), StartError> {
        let tls = self.shared.options.admission.tls.as_ref().map(tls::load).transpose()?;
        let replaced = self.shared.engine.replace_users(passwords, users);
        replaced.map_err(|text| StartError::Option(format!("users-file: {text}")))?;
        if tls.is_some() {
            *self.shared.tls.write() = tls;
        }
        self.shared.wake_pending();
        Ok(())
    }

    /// Whether it was told to stop, by [`stop`](Server::stop) or by a client.
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::SeqCst)
    }

    /// What INFO tells, as numbers under names.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        let engine = &self.shared.engine;
        let (counters, store) = (&engine.counters, engine.store.stats());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("items", store.items),
            ("used_memory", store.used),
            ("memory", self.shared.options.memory),
            ("hits", store.hits),
            ("misses", store.misses),
            ("evicted", store.evicted),
            ("expired", store.expired),
            ("commands", count(&counters.commands)),
            ("errors", count(&counters.errors)),
            ("connected", count(&counters.connected)),
            ("accepted", count(&counters.accepted)),
            ("rejected", count(&counters.rejected)),
            ("bytes_in", count(&counters.bytes_in)),
            ("bytes_out", count(&counters.bytes_out)),
            ("client_bytes", self.shared.engine.client_bytes()),
            ("longest_turn_usec", count(&counters.longest_turn)),
        ]
    }

    /// Forgets the threads, which a forked child does not have.
    pub fn disown(&self) {
        self.threads.lock().clear();
    }

    /// Stops accepting, answers what has arrived, sends what is to be sent, within a few seconds, and ends the threads.
    pub fn stop(&self) {
        self.shared.begin_to_stop();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn check(options: &Options) -> Result<(), StartError> {
    let wrong = |text: String| Err(StartError::Option(text));
    if options.listen.is_empty() {
        return wrong("listen: at least one address is needed".to_owned());
    }
    if !(1..=MAX_THREADS).contains(&options.threads) {
        return wrong(format!("threads: {} is not between 1 and {MAX_THREADS}", options.threads));
    }
    if options.loaders.len() > MAX_LOADERS {
        return wrong(format!("loader: {} patterns are more than {MAX_LOADERS}", options.loaders.len()));
    }
    if options.memory < MIN_MEMORY {
        return wrong(format!("memory: {} bytes is less than {MIN_MEMORY}", options.memory));
    }
    if options.max_value as u64 > options.memory {
        return wrong(format!("max_value: {} bytes is more than memory, {}", options.max_value, options.memory));
    }
    Ok(())
}

/// Versions and tokens of this life lie above those of all before: milliseconds since 2020 in the high bits leave 22
/// bits for each, far more than can be handed out in one, and stay below 2^63 until 2089.
pub fn epoch(wall_ms: u64) -> u64 {
    const YEAR_2020_MS: u64 = 1_577_836_800_000;
    wall_ms.saturating_sub(YEAR_2020_MS) << 22
}

fn engine(options: &Options, listeners: &[Listener]) -> Engine {
    let now = read_clocks();
    let store = store::Options {
        memory: options.memory,
        shards: store::shards_for(options.memory, options.max_value, options.threads),
        evict: options.evict,
        max_value: options.max_value,
        seed: random_seed(),
        epoch: epoch(now.wall),
        load_limit: options.load_limit.as_millis() as u64,
    };
    let facts = Facts {
        port: listeners.iter().find_map(Listener::port).unwrap_or(0),
        pid: std::process::id(),
        threads: options.threads,
        started: now.mono,
        max_clients: options.max_clients,
        idle_seconds: options.idle_timeout.as_secs(),
        run_id: random::<20>().iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let limits = Limits {
        max_value: options.max_value,
        max_reply: (options.client_memory as usize).min(Limits::default().max_reply),
        load_limit: options.load_limit.as_millis() as u64,
        shutdown: options.shutdown,
        debug_time: options.debug_time,
        ..Limits::default()
    };
    let engine = Engine::new(store, limits, facts, options.threads);
    for pattern in &options.loaders {
        // There are far fewer than may be declared: a client is told, and here more would be a mistake of the caller.
        engine.loaders.declare(0, pattern.as_bytes()).expect("few patterns");
    }
    engine
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Key of the hash for one life of a store.
pub fn random_seed() -> [u64; 4] {
    [(); 4].map(|()| u64::from_le_bytes(random()))
}

/// How far the wall clock is ahead. Kept while it is right within two milliseconds: both clocks are cut to milliseconds,
/// and a moment that is named twice must be the same one.
fn between(mono: u64, wall: u64) -> u64 {
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let seen = wall.wrapping_sub(mono);
    let kept = AHEAD.load(Ordering::Relaxed);
    if seen.abs_diff(kept) <= 2 {
        return kept;
    }
    AHEAD.store(seen, Ordering::Relaxed);
    seen
}

/// Reads both clocks. The monotonic one counts the time that the machine sleeps, so that no value outlives it.
pub fn read_clocks() -> Now {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let mono = clock_gettime(CLOCK);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mono = mono.tv_sec as u64 * 1000 + mono.tv_nsec as u64 / 1_000_000;
    Now { mono, wall: mono.wrapping_add(between(mono, wall.as_millis() as u64)) }
}
