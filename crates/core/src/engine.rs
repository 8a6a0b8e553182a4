//! What all connections of a server share: the store, the limits, the counters and the facts that INFO tells.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::clients::Clients;
use crate::fence::Fences;
use crate::loaders::Loaders;
use crate::mailbox::{Event, Mailboxes};
use crate::pubsub::Bus;
use crate::store::{self, DATABASES, Key, Note, Outcome, Party, Sink, Stats, Store};
use crate::tracking::Tracking;
use crate::users::Users;

/// The two clocks, in milliseconds, as read once per batch of input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: what all durations are measured with, so that a jump of the wall clock expires nothing.
    pub mono: u64,
    /// Unix time.
    pub wall: u64,
}

/// Limits on what one client may ask; each is on by default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Arguments of one request: what Redis allows.
    pub max_args: usize,
    /// Bytes of one value.
    pub max_value: usize,
    /// Bytes of one request: room for many values at once, yet far from what would hurt the machine.
    pub max_request: usize,
    /// Bytes of a reply that is built whole, and of messages for a connection that its thread has not taken yet: no more
    /// than all connections may make the server hold.
    pub max_reply: usize,
    /// Longest argument that is read and dropped although it is longer than a value may be, so that the client gets an
    /// error and goes on; a longer one closes the connection.
    pub max_skipped: usize,
    /// Bytes of replies not yet taken by the client, after which its requests are left unread.
    pub pause_output: usize,
    /// How long a read waits for a load, and a load may renew its lease, in milliseconds.
    pub load_limit: u64,
    /// Whether a client may stop the server.
    pub shutdown: bool,
    /// Whether a client may let the clock run ahead, so that tests of expiry need not wait.
    pub debug_time: bool,
}

impl Limits {
    /// What is enough to say who one is, and not enough to hurt.
    fn strict(&self) -> Limits {
        Limits {
            max_args: 10,
            max_value: self.max_value.min(16 << 10),
            max_request: 64 << 10,
            max_skipped: 0,
            pause_output: self.pause_output.min(64 << 10),
            ..self.clone()
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_args: 1024 * 1024,
            max_value: 16 << 20,
            max_request: 256 << 20,
            max_reply: 256 << 20,
            max_skipped: 256 << 20,
            pause_output: 1 << 20,
            load_limit: 30_000,
            shutdown: false,
            debug_time: false,
        }
    }
}

/// Facts that do not change while the server runs.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Port of the first TCP listener, 0 if there is none.
    pub port: u16,
    /// Process id.
    pub pid: u32,
    /// Number of I/O threads.
    pub threads: usize,
    /// Reading of the monotonic clock at the start.
    pub started: u64,
    /// Most connections at a time.
    pub max_clients: u64,
    /// A connection that asked nothing for so many seconds is closed; 0: never.
    pub idle_seconds: u64,
    /// Drawn anew at every start, so that clients see a restart: 40 hexadecimal digits.
    pub run_id: String,
}

/// What is counted. Read by INFO; written by sessions and by the server.
#[derive(Debug, Default)]
pub struct Counters {
    /// Commands run.
    pub commands: AtomicU64,
    /// Commands answered with an error.
    pub errors: AtomicU64,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
    /// Connections now open.
    pub connected: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections refused because there were too many.
    pub rejected: AtomicU64,
    /// Bytes that the buffers of connections hold now.
    pub client_bytes: AtomicU64,
    /// Keys that were drawn at random.
    pub drawn: AtomicU64,
    /// The longest turn of a thread of the server, in microseconds of its processor time.
    pub longest_turn: AtomicU64,
}

/// Everything that sessions share.
pub struct Engine {
    /// The cache itself.
    pub store: Store,
    /// What one client may ask.
    pub limits: Limits,
    /// What happened.
    pub counters: Counters,
    /// Who this is.
    pub facts: Facts,
    /// What clients have set going.
    pub pending: Pending,
    /// Messages for connections.
    pub mail: Arc<Mailboxes>,
    /// Who loads what.
    pub loaders: Arc<Loaders>,
    /// Who listens to which channels.
    pub bus: Bus,
    /// The connections that there are.
    pub clients: Clients,
    /// Who keeps copies of what it read.
    pub tracking: Arc<Tracking>,
    /// What keeps old connections from being heard after new ones.
    pub fences: Fences,
    /// Who may do what.
    pub users: Users,
    /// What one client may ask before it said who it is.
    pub strict: Limits,
}

/// Leases that stand now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    /// All of them.
    pub standing: u64,
    /// Those whose holder was a connection that is gone.
    pub unowned: u64,
}

/// Passes on what a step of the store means for others.
struct Post {
    mail: Arc<Mailboxes>,
    loaders: Arc<Loaders>,
    tracking: Arc<Tracking>,
}

impl Sink for Post {
    fn send(&self, note: Note) {
        match note {
            Note::Outcome(party, wait, outcome) => self.mail.post(party, Event::Outcome(wait, outcome)),
            Note::Wanted(db, key) => self.loaders.want(db, key),
            Note::Changed(key, readers) => self.tracking.changed(&key, &readers, &self.mail),
            Note::Cleared | Note::TagsInvalidated if !self.tracking.any() => {}
            Note::Cleared => self.tracking.cleared(&self.mail),
            Note::TagsInvalidated => self.tracking.tags_invalidated(&self.mail),
        }
    }
}

/// What clients have set going and every call looks at.
#[derive(Debug, Default)]
pub struct Pending {
    /// When a database is to be emptied, in milliseconds times 16, with its number; 0: never.
    flush: AtomicU64,
    /// Milliseconds by which the clock runs ahead.
    ahead: AtomicU64,
    /// A client asked the server to stop.
    pub stop: AtomicBool,
    /// A client asked the thread that accepts connections to panic: a test of what the server does then.
    pub panic: AtomicBool,
    /// Counts as of the last reset of memcached's statistics.
    pub baseline: Mutex<BTreeMap<&'static str, u64>>,
}

impl Pending {
    /// Empties a database when the monotonic clock reads `at`; of several such wishes the last holds, as in memcached.
    pub fn flush_at(&self, db: u8, at: u64) {
        self.flush.store(at.min(u64::MAX >> 4) << 4 | u64::from(db), Relaxed);
    }

    /// Lets the clock run ahead by so many milliseconds more.
    pub fn advance(&self, millis: u64) {
        self.ahead.fetch_add(millis, Relaxed);
    }
}

/// The version of Redis whose commands and replies these are; clients choose features by it.
pub const REDIS_VERSION: &str = "7.4.0";
/// What memcached clients are told: the version whose commands and replies these are.
pub const MEMCACHED_VERSION: &str = "VERSION 1.6.18";
/// The version of this server.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

type Section = (&'static str, Vec<(&'static str, String)>);

impl Engine {
    /// An engine with an empty store, for connections on so many threads.
    pub fn new(options: store::Options, limits: Limits, facts: Facts, threads: usize) -> Engine {
        let (mail, loaders) = (Arc::new(Mailboxes::new(threads, limits.max_reply)), Arc::new(Loaders::default()));
        let tracking = Arc::new(Tracking::default());
        let post = Post { mail: Arc::clone(&mail), loaders: Arc::clone(&loaders), tracking: Arc::clone(&tracking) };
        Engine {
            store: Store::with_sink(options, Arc::new(post)),
            strict: limits.strict(),
            users: Users::default(),
            limits,
            counters: Counters::default(),
            facts,
            pending: Pending::default(),
            mail,
            loaders,
            fences: Fences::default(),
            bus: Bus::default(),
            clients: Clients::default(),
            tracking,
        }
    }

    /// Takes other users in place of those there are. Connections of users who are not what they were are closed. An
    /// error says what is wrong, and nothing changes.
    pub fn replace_users(&self, passwords: &[String], file: &str) -> Result<(), String> {
        let changed = self.users.replace(passwords, file)?;
        for shown in self.clients.list().iter().filter(|shown| changed.contains(&shown.user())) {
            self.mail.post(shown.party, Event::Close);
        }
        Ok(())
    }

    /// Sends loads to workers that can take them: to be called when a batch of requests is done.
    #[inline]
    pub fn pump(&self, now: Now) {
        self.loaders.pump(&self.store, &self.mail, self.time(now).mono);
    }

    /// A message came for a connection that is gone: a lease in it passes on, and clients that had invalidations sent to
    /// it are told that they are not.
    pub fn undelivered(&self, party: Party, event: Event, now: Now) {
        let (db, key, token) = match event {
            Event::Void(_) | Event::Keys(..) => return self.tracking.closed(party.id, &self.mail),
            Event::Outcome(_, Outcome::Lease(granted)) => (granted.db, granted.key, granted.token),
            Event::Load(db, key, token) => (db, key, token),
            _ => return,
        };
        let key = Key { db, bytes: &key };
        self.store.with(key, self.time(now).mono, |entry| entry.give_up(token));
        self.loaders.done(self.store.hold(key, token));
    }

    /// A part of a step of upkeep, as [`Store::tick_part`]; whether the others have nothing to do.
    pub fn tick_part(&self, now: Now) -> bool {
        let more = self.bus.tick();
        self.store.tick_part(now.mono) && !more
    }

    /// A bounded step of upkeep, as [`Store::tick`].
    pub fn tick(&self, now: Now) {
        self.bus.tick();
        self.store.tick(now.mono);
    }

    /// Ends waits and leases whose time is over; whether there are any, so that it is to be called again soon.
    pub fn tick_leases(&self, now: Now) -> bool {
        let mono = self.time(now).mono;
        let any = self.store.tick_leases(mono);
        self.loaders.expire(mono);
        self.pump(now);
        any
    }

    /// The time that commands go by; what is due by then is done.
    #[inline]
    pub fn time(&self, now: Now) -> Now {
        let ahead = self.pending.ahead.load(Relaxed);
        let now = Now { mono: now.mono + ahead, wall: now.wall + ahead };
        let flush = self.pending.flush.load(Relaxed);
        if flush != 0 && now.mono >= flush >> 4 {
            self.flush_due(flush, now);
        }
        now
    }

    #[cold]
    fn flush_due(&self, flush: u64, now: Now) {
        // Whoever takes the wish away empties the database: a second flush would remove what was written since.
        if self.pending.flush.compare_exchange(flush, 0, Relaxed, Relaxed).is_ok() {
            self.store.clear(Some((flush & 15) as u8), now.mono);
        }
    }

    /// Counts the leases that stand now. `each` visits their holders: twice if there seem to be some whose connection is
    /// gone, since one that closes meanwhile hands its leases on first.
    pub fn count_leases(&self, each: impl Fn(&mut dyn FnMut(Option<Party>))) -> LeaseCounts {
        let (mut standing, mut holders) = (0, HashSet::new());
        each(&mut |holder| {
            standing += 1;
            holders.extend(holder.map(|party| party.id));
        });
        holders.retain(|id| self.clients.get(*id).is_none());
        let mut unowned = 0;
        if !holders.is_empty() {
            each(&mut |holder| unowned += u64::from(holder.is_some_and(|party| holders.contains(&party.id))));
        }
        LeaseCounts { standing, unowned }
    }

    /// The text of INFO, of the sections that `wanted` accepts (names in lower case).
    pub fn info(
        &self,
        now: Now,
        (stats, leases): (&Stats, LeaseCounts),
        lens: &[u64; DATABASES],
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let mut text = String::new();
        for (title, rows) in self
            .sections(now, (stats, leases), lens)
            .into_iter()
            .filter(|section| wanted(&section.0.to_ascii_lowercase()))
        {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            text.push_str(&format!("# {title}\r\n"));
            for (name, value) in rows {
                text.push_str(&format!("{name}:{value}\r\n"));
            }
        }
        text
    }

    /// The name of what is done when memory is full.
    pub fn policy(&self) -> &'static str {
        if self.store.options().evict { "allkeys-s3fifo" } else { "noeviction" }
    }

    /// The wall clock at the start.
    pub fn started_wall(&self, now: Now) -> u64 {
        now.wall.saturating_sub(now.mono.saturating_sub(self.facts.started))
    }

    /// What only grows, and begins again from 0 with CONFIG RESETSTAT.
    fn counted(&self, store: &Stats) -> [(&'static str, u64); 15] {
        let counters = &self.counters;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        [
            ("total_connections_received", count(&counters.accepted)),
            ("total_commands_processed", count(&counters.commands)),
            ("rejected_connections", count(&counters.rejected)),
            ("total_net_input_bytes", count(&counters.bytes_in)),
            ("total_net_output_bytes", count(&counters.bytes_out)),
            ("total_error_replies", count(&counters.errors)),
            ("expired_keys", store.expired),
            ("evicted_keys", store.evicted),
            ("keyspace_hits", store.hits),
            ("keyspace_misses", store.misses),
            ("loads", self.loaders.loads()),
            ("fills_refused_changed", store.refused.changed),
            ("fills_refused_tag", store.refused.tag),
            ("fills_refused_late", store.refused.late),
            ("fills_refused_value", store.refused.value),
        ]
    }

    /// Lets what INFO counts begin again from 0.
    pub fn reset_counts(&self, store: Stats) {
        // Names of memcached's counts are others: both resets keep to their own.
        self.pending.baseline.lock().extend(self.counted(&store));
        self.counters.longest_turn.store(0, Relaxed);
    }

    fn sections(&self, now: Now, (store, leases): (&Stats, LeaseCounts), lens: &[u64; DATABASES]) -> Vec<Section> {
        let (facts, counters) = (&self.facts, &self.counters);
        let count = |counter: &AtomicU64| counter.load(Relaxed).to_string();
        let uptime = now.mono.saturating_sub(facts.started) / 1000;
        let memory = self.store.options().memory;
        let used = store.used + counters.client_bytes.load(Relaxed);
        let keyspace = lens.iter().zip(&store.expires).zip(DB_NAMES).filter(|((keys, _), _)| **keys > 0);
        let baseline = self.pending.baseline.lock();
        let counted = self
            .counted(store)
            .map(|(name, count)| (name, count.saturating_sub(baseline.get(name).copied().unwrap_or(0)).to_string()));
        let (channels, patterns) = self.bus.counts();
        let now_held = [
            ("pubsub_channels", channels.to_string()),
            ("pubsub_patterns", patterns.to_string()),
            ("tracking_total_keys", store.tracked.to_string()),
            ("leases", leases.standing.to_string()),
            ("leases_unowned", leases.unowned.to_string()),
            ("tracking_total_items", store.tracked_pairs.to_string()),
            ("tracking_total_prefixes", self.tracking.prefixes().to_string()),
            ("longest_turn_usec", count(&counters.longest_turn)),
        ];
        let word = |text: &str| text.to_owned();
        vec![
            (
                "Server",
                vec![
                    ("redis_version", word(REDIS_VERSION)),
                    ("redis_mode", word("standalone")),
                    ("globalcache_version", word(VERSION)),
                    ("os", word(std::env::consts::OS)),
                    ("arch_bits", usize::BITS.to_string()),
                    ("process_id", facts.pid.to_string()),
                    ("run_id", facts.run_id.clone()),
                    ("tcp_port", facts.port.to_string()),
                    ("server_time_usec", (now.wall * 1000).to_string()),
                    ("uptime_in_seconds", uptime.to_string()),
                    ("uptime_in_days", (uptime / 86_400).to_string()),
                    ("io_threads", facts.threads.to_string()),
                ],
            ),
            (
                "Clients",
                vec![
                    ("connected_clients", count(&counters.connected)),
                    ("maxclients", facts.max_clients.to_string()),
                    ("client_buffer_bytes", count(&counters.client_bytes)),
                    ("tracking_clients", self.tracking.len().to_string()),
                ],
            ),
            (
                "Memory",
                vec![
                    ("used_memory", used.to_string()),
                    ("used_memory_human", human(used)),
                    ("used_memory_dataset", store.used.to_string()),
                    ("maxmemory", memory.to_string()),
                    ("maxmemory_human", human(memory)),
                    ("maxmemory_policy", word(self.policy())),
                    ("mem_clients_normal", count(&counters.client_bytes)),
                ],
            ),
            (
                "Persistence",
                vec![
                    ("loading", word("0")),
                    ("rdb_bgsave_in_progress", word("0")),
                    ("rdb_last_save_time", (self.started_wall(now) / 1000).to_string()),
                    ("aof_enabled", word("0")),
                ],
            ),
            ("Stats", counted.into_iter().chain(now_held).collect()),
            (
                "Replication",
                vec![
                    ("role", word("master")),
                    ("connected_slaves", word("0")),
                    ("master_replid", facts.run_id.clone()),
                    ("master_repl_offset", word("0")),
                ],
            ),
            ("Cluster", vec![("cluster_enabled", word("0"))]),
            (
                "Keyspace",
                keyspace
                    .map(|((keys, expires), name)| (name, format!("keys={keys},expires={expires},avg_ttl=0")))
                    .collect(),
            ),
        ]
    }
}

/// A number of bytes as people read it.
fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..0x10_0000 => format!("{:.2}K", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.2}M", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.2}G", bytes as f64 / f64::from(1 << 30)),
    }
}

const DB_NAMES: [&str; 16] = [
    "db0", "db1", "db2", "db3", "db4", "db5", "db6", "db7", "db8", "db9", "db10", "db11", "db12", "db13", "db14",
    "db15",
];
