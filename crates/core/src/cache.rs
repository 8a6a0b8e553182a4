//! The cache commands (`CACHE.*`): values with freshness, tags and leases, as the Python client and loader workers use
//! them. Reading their arguments, and what they do.

use std::sync::Arc;

use crate::command::{Args, Blob, Command, Error, Kind, NOT_AN_INTEGER, Reply, Row, SYNTAX, Values, integer, is};
use crate::engine::{Engine, VERSION};
use crate::execute::{Client, Context, TOO_MUCH, take, why_refused};
use crate::loaders::{self, Serving};
use crate::store::{Hold, HoldOff, Item, Key, MAX_AGE, Meta, Outcome, Seeker, Sought};
use crate::users::{Access, Need};
use crate::waiting::{Standing, load_failed, refresh, stand_to_read, wait_number};

pub use crate::store::MAX_TAGS;

/// How long a lease lasts unless the caller says otherwise, in milliseconds.
pub const LEASE: u64 = 3_000;
/// Leases and waits that a connection may have: what a busy process has under way.
const MAX_HOLDS: usize = 1 << 14;
/// Loads that a worker takes at a time unless it says otherwise, and at most.
const INFLIGHT: (u64, u64) = (256, 1 << 16);
/// Longest reason for a failure that is kept and handed on.
const MAX_MESSAGE: usize = 512;
/// Longest time of an option, in milliseconds: beyond it sums of times could pass 63 bits.
pub const MAX_MILLIS: i64 = 1 << 50;
/// Longest name of a session.
const MAX_SESSION: usize = 64;

/// What is kept with a value that is written. Times in milliseconds from now.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// After it the value is gone.
    pub ttl: Option<u64>,
    /// After it the value is stale.
    pub refresh: Option<u64>,
    /// How long beyond its time to live a failed load may hand it out.
    pub grace: Option<u64>,
    /// How long its load took.
    pub cost: Option<u32>,
    /// What clients keep with it.
    pub flags: u32,
    /// Its tags.
    pub tags: Args<'a>,
    /// There is no such row.
    pub absent: bool,
}

impl<'a> Keep<'a> {
    fn new(args: Args<'a>) -> Keep<'a> {
        let tags = args.to(0);
        Keep { ttl: None, refresh: None, grace: None, cost: None, flags: 0, tags, absent: false }
    }

    /// Reads the option at `at`, if it is one of these; where the next one stands.
    fn read(&mut self, args: Args<'a>, at: usize) -> Result<Option<usize>, Error> {
        let Some(option) = args.get(at) else { return Ok(None) };
        if is(option, "TTL") {
            self.ttl = Some(millis(args, at + 1, 0)?);
        } else if is(option, "REFRESH") {
            self.refresh = Some(millis(args, at + 1, 0)?);
        } else if is(option, "GRACE") {
            self.grace = Some(millis(args, at + 1, 0)?);
        } else if is(option, "COST") {
            self.cost = Some(millis(args, at + 1, 0)?.min(u64::from(u32::MAX)) as u32);
        } else if is(option, "FLAGS") {
            let flags = u32::try_from(number(args, at + 1, 0, u32::MAX.into())?);
            self.flags = flags.map_err(|_| SYNTAX)?;
        } else if is(option, "TAGS") {
            let (tags, next) = list(args, at + 1, 0)?;
            if tags.len() > MAX_TAGS {
                return Err(Error::new(Kind::Malformed, "ERR an item has at most 17 tags"));
            }
            self.tags = tags;
            return Ok(Some(next));
        } else if is(option, "ABSENT") {
            self.absent = true;
            return Ok(Some(at + 1));
        } else {
            return Ok(None);
        }
        Ok(Some(at + 2))
    }

    /// Whether no value is to live for 0 ms. Absence may: it answers those that wait for the load, and is not kept.
    fn is_in_range(&self) -> bool {
        self.ttl != Some(0) || self.absent
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_in_range() { Ok(()) } else { Err(NOT_AN_INTEGER) }
    }
}

/// On what a CACHE.SET depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum If {
    /// On nothing.
    Always,
    /// There is no such key.
    Absent,
    /// The item has this version.
    Version(u64),
}

/// A cache command.
#[derive(Clone, Copy, Debug)]
pub enum CacheCommand<'a> {
    /// A value with its flags: null, bytes, or both.
    Get(&'a [u8]),
    /// Several values with their flags, as of one instant.
    GetMany(Args<'a>),
    /// An item with everything that is told of it.
    Entry(&'a [u8]),
    /// A value, or the lease to load it.
    Fetch {
        /// Its key.
        key: &'a [u8],
        /// How long the caller waits for somebody else's load, in milliseconds.
        wait: u64,
        /// How long a lease the caller takes, in milliseconds; 0: none.
        lease: u64,
        /// The outcome of a wait comes as a push.
        ticket: bool,
    },
    /// A value that was loaded under a lease.
    Fill {
        /// Its key.
        key: &'a [u8],
        /// The lease.
        token: u64,
        /// The value.
        value: &'a [u8],
        /// What is kept with it.
        keep: Keep<'a>,
        /// Why it cannot be kept as its options say: then it only ends its lease.
        problem: Option<&'a Error>,
    },
    /// A load failed.
    Fail {
        /// Its key.
        key: &'a [u8],
        /// The lease.
        token: u64,
        /// Why.
        message: &'a [u8],
        /// How long nobody is to try again, in milliseconds.
        retry: Option<u64>,
    },
    /// A load takes longer.
    Renew {
        /// Its key.
        key: &'a [u8],
        /// The lease.
        token: u64,
        /// By how much from now, in milliseconds.
        millis: u64,
    },
    /// A lease is given up.
    Release(&'a [u8], u64),
    /// A wait is given up.
    Cancel(u64),
    /// Writes a value with all that can be kept with it.
    Set {
        /// Its key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// What is kept with it.
        keep: Keep<'a>,
        /// On what it depends.
        only: If,
    },
    /// Adds to a number; what is kept counts only if it is made by this.
    Increment {
        /// Its key.
        key: &'a [u8],
        /// By how much.
        delta: i64,
        /// What is kept with a new one.
        keep: Keep<'a>,
    },
    /// This connection loads what matches these patterns.
    Loader {
        /// The patterns.
        patterns: Args<'a>,
        /// Loads it takes at a time.
        inflight: u64,
    },
    /// These patterns are not served any more.
    Forget(Args<'a>),
    /// Everything known of a key.
    Inspect(&'a [u8]),
    /// The handshake of a client.
    Session {
        /// Its name.
        id: &'a [u8],
        /// Which of its connections is newer.
        generation: u64,
        /// Commands that would wait answer with a ticket.
        tickets: bool,
        /// Hash of the list of servers that it uses.
        servers: Option<&'a [u8]>,
    },
}

fn number(args: Args<'_>, at: usize, least: i64, most: i64) -> Result<i64, Error> {
    let number = integer(args.get(at).ok_or(SYNTAX)?)?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(NOT_AN_INTEGER) }
}

fn millis(args: Args<'_>, at: usize, least: i64) -> Result<u64, Error> {
    number(args, at, least, MAX_MILLIS).map(|millis| millis as u64)
}

fn token(args: Args<'_>, at: usize) -> Result<u64, Error> {
    number(args, at, 0, i64::MAX).map(|token| token as u64)
}

/// `n`, at least `least`, and as many arguments; and where the next one stands.
fn list(args: Args<'_>, at: usize, least: i64) -> Result<(Args<'_>, usize), Error> {
    let count = number(args, at, least, i64::from(u32::MAX))? as usize;
    let end = at + 1 + count;
    if end > args.len() { Err(SYNTAX) } else { Ok((args.to(end).from(at + 1), end)) }
}

fn arg<'a>(args: Args<'a>, at: usize) -> &'a [u8] {
    args.get(at).expect("the arity was checked")
}

fn command(command: CacheCommand<'_>) -> Result<Command<'_>, Error> {
    Ok(Command::Cache(command))
}

pub(crate) fn read_get<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(CacheCommand::Get(arg(args, 0)))
}

pub(crate) fn read_mget<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(CacheCommand::GetMany(args))
}

pub(crate) fn read_entry<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(CacheCommand::Entry(arg(args, 0)))
}

pub(crate) fn read_fetch<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut wait, mut lease, mut ticket, mut at) = (0, LEASE, false, 1);
    while let Some(option) = args.get(at) {
        if is(option, "WAIT") {
            (wait, at) = (millis(args, at + 1, 0)?, at + 2);
        } else if is(option, "LEASE") {
            (lease, at) = (millis(args, at + 1, 0)?.min(MAX_AGE), at + 2);
        } else if is(option, "TICKET") {
            (ticket, at) = (true, at + 1);
        } else {
            return Err(SYNTAX);
        }
    }
    command(CacheCommand::Fetch { key: arg(args, 0), wait, lease, ticket })
}

pub(crate) fn read_fill<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    static OUT_OF_RANGE: Error = NOT_AN_INTEGER;
    let (mut keep, mut at, mut problem) = (Keep::new(args), 3, None);
    while at < args.len() {
        at = match keep.read(args, at) {
            // Such a fill ends its lease, and those who wait get the value: the other options count.
            Err(error) if error == NOT_AN_INTEGER && !args.get(at).is_some_and(|option| is(option, "TAGS")) => {
                problem = Some(&OUT_OF_RANGE);
                at + 2
            }
            next => next?.ok_or(SYNTAX)?,
        };
    }
    if !keep.is_in_range() {
        (keep.ttl, problem) = (None, Some(&OUT_OF_RANGE));
    }
    command(CacheCommand::Fill { key: arg(args, 0), token: token(args, 1)?, value: arg(args, 2), keep, problem })
}

pub(crate) fn read_fail<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let retry = match (args.get(3), args.len()) {
        (None, _) => None,
        (Some(option), 5) if is(option, "RETRY") => Some(millis(args, 4, 0)?.min(MAX_AGE)),
        _ => return Err(SYNTAX),
    };
    command(CacheCommand::Fail { key: arg(args, 0), token: token(args, 1)?, message: arg(args, 2), retry })
}

pub(crate) fn read_renew<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(CacheCommand::Renew { key: arg(args, 0), token: token(args, 1)?, millis: millis(args, 2, 1)? })
}

pub(crate) fn read_release<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(CacheCommand::Release(arg(args, 0), token(args, 1)?))
}

pub(crate) fn read_cancel<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(CacheCommand::Cancel(token(args, 0)?))
}

pub(crate) fn read_set<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut keep, mut only, mut at) = (Keep::new(args), If::Always, 2);
    while let Some(option) = args.get(at) {
        if is(option, "NX") && only == If::Always {
            (only, at) = (If::Absent, at + 1);
        } else if is(option, "IFVERSION") && only == If::Always {
            (only, at) = (If::Version(token(args, at + 1)?), at + 2);
        } else {
            at = keep.read(args, at)?.ok_or(SYNTAX)?;
        }
    }
    keep.check()?;
    command(CacheCommand::Set { key: arg(args, 0), value: arg(args, 1), keep, only })
}

pub(crate) fn read_incr<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut keep, mut at) = (Keep::new(args), 2);
    while at < args.len() {
        at = keep.read(args, at)?.ok_or(SYNTAX)?;
    }
    if keep.absent {
        return Err(SYNTAX);
    }
    keep.check()?;
    command(CacheCommand::Increment { key: arg(args, 0), delta: integer(arg(args, 1))?, keep })
}

pub(crate) fn read_invalidate<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut keys, mut tags, mut at) = (None, None, 0);
    while let Some(option) = args.get(at) {
        let given = match option {
            option if is(option, "KEYS") => &mut keys,
            option if is(option, "TAGS") => &mut tags,
            _ => return Err(SYNTAX),
        };
        let (names, next) = list(args, at + 1, 0)?;
        // Once each, also where the first list is empty.
        if given.replace(names).is_some() {
            return Err(SYNTAX);
        }
        at = next;
    }
    let (keys, tags) = (keys.unwrap_or(args.to(0)), tags.unwrap_or(args.to(0)));
    crate::gate::admit(keys.iter())?;
    Ok(Command::Invalidate { keys, tags })
}

pub(crate) fn read_loader<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let count = args.len();
    let last = count.checked_sub(2).and_then(|at| args.get(at)).filter(|_| count > 2);
    let (patterns, inflight) = if last.is_some_and(|option| is(option, "INFLIGHT")) {
        (args.to(count - 2), number(args, count - 1, 1, INFLIGHT.1 as i64)? as u64)
    } else {
        (args, INFLIGHT.0)
    };
    loaders::admit(patterns)?;
    command(CacheCommand::Loader { patterns, inflight })
}

pub(crate) fn read_forget<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    loaders::admit(args)?;
    command(CacheCommand::Forget(args))
}

pub(crate) fn read_inspect<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(CacheCommand::Inspect(arg(args, 0)))
}

pub(crate) fn read_session<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut tickets, mut servers, mut at) = (false, None, 2);
    while let Some(option) = args.get(at) {
        if is(option, "TICKETS") {
            (tickets, at) = (true, at + 1);
        } else if is(option, "SERVERS") && args.get(at + 1).is_some_and(|hash| hash.len() <= MAX_SESSION) {
            (servers, at) = (args.get(at + 1), at + 2);
        } else {
            return Err(SYNTAX);
        }
    }
    let id = arg(args, 0);
    if id.is_empty() || id.len() > MAX_SESSION {
        return Err(Error::new(Kind::Malformed, "ERR the name of a session has 1 to 64 bytes"));
    }
    command(CacheCommand::Session { id, generation: token(args, 1)?, tickets, servers })
}

/// Runs a cache command.
pub(crate) fn run(cx: &mut Context<'_>, client: &mut Client, command: &CacheCommand<'_>) -> Result<Reply, Error> {
    let db = client.db;
    let key_of = |bytes| Key { db, bytes };
    match *command {
        CacheCommand::Get(key) => Ok(get(cx, client, key_of(key))),
        CacheCommand::GetMany(keys) => get_many(cx, client, keys),
        CacheCommand::Entry(key) => Ok(entry(cx, key_of(key))),
        CacheCommand::Fetch { key, wait, lease, ticket } => fetch(cx, client, key, wait, lease, ticket),
        CacheCommand::Fill { key, token, value, keep, problem } => {
            let filled = with_meta(cx, db, &keep, |cx, meta| {
                cx.with(key_of(key), |entry, _| match problem {
                    None => entry.fill(token, value, meta).map_err(Error::from),
                    Some(problem) => {
                        entry.fill_unstored(token, value, meta);
                        Err(problem.clone())
                    }
                })
            });
            answered(cx, client, key_of(key), token);
            Ok(Reply::Int(filled?.unwrap_or(0) as i64))
        }
        CacheCommand::Fail { key, token, message, retry } => {
            let message = String::from_utf8_lossy(&message[..message.len().min(MAX_MESSAGE)]);
            let message: Arc<str> = Arc::from(&*message);
            let known = cx.with(key_of(key), |entry, _| entry.fail(token, &message, retry));
            answered(cx, client, key_of(key), token);
            Ok(Reply::Int(known.into()))
        }
        CacheCommand::Renew { key, token, millis } => {
            let until = cx.with(key_of(key), |entry, _| entry.renew(token, millis, client.party));
            if let Some(until) = until {
                let hold = remember(cx, client, key_of(key), token);
                cx.engine.loaders.renewed(hold, until);
            }
            Ok(Reply::Int(until.is_some().into()))
        }
        CacheCommand::Release(key, token) => {
            let held = cx.with(key_of(key), |entry, _| entry.release(token));
            answered(cx, client, key_of(key), token);
            Ok(Reply::Int(held.into()))
        }
        // Those who wait are known to the session, which leaves the queues before this is run.
        CacheCommand::Cancel(_) => Ok(Reply::Int(0)),
        CacheCommand::Set { key, value, keep, only } => set(cx, key_of(key), value, &keep, only),
        CacheCommand::Increment { key, delta, keep } => increment(cx, key_of(key), delta, &keep),
        CacheCommand::Loader { patterns, inflight } => {
            if client.resp != 3 {
                return Err(Error::new(Kind::Malformed, "ERR loads are pushed: a worker says HELLO 3 first"));
            }
            cx.engine.loaders.register(client.party, client.db, patterns.iter(), inflight as usize)?;
            client.worker = true;
            Ok(Reply::Ok)
        }
        CacheCommand::Forget(patterns) => Ok(Reply::Int(cx.engine.loaders.forget(client.db, patterns.iter()) as i64)),
        CacheCommand::Inspect(key) => Ok(inspect(cx, key_of(key))),
        CacheCommand::Session { id, generation, tickets, servers } => {
            if tickets && client.resp != 3 {
                return Err(Error::new(Kind::Malformed, "ERR tickets end in pushes: say HELLO 3 first"));
            }
            cx.engine.fences.join(client, id, generation, servers, (&cx.engine.mail, cx.now.mono))?;
            client.tickets = tickets;
            Ok(Reply::Map(vec![
                (Reply::word("run_id"), Reply::Value(Blob::Owned(cx.engine.facts.run_id.clone().into_bytes()))),
                (Reply::word("tickets"), Reply::Int(tickets.into())),
                (Reply::word("max_value"), Reply::Int(cx.engine.limits.max_value as i64)),
                (Reply::word("max_request"), Reply::Int(cx.engine.limits.max_request as i64)),
                (Reply::word("version"), Reply::word(VERSION)),
            ]))
        }
    }
}

/// The client has answered for a lease, its own or that of another connection.
fn answered(cx: &Context<'_>, client: &mut Client, key: Key<'_>, token: u64) {
    let hold = cx.engine.store.hold(key, token);
    client.holds.remove(hold);
    cx.engine.loaders.done(hold);
}

/// The client was granted a lease.
fn remember(cx: &Context<'_>, client: &mut Client, key: Key<'_>, token: u64) -> Hold {
    let (store, party, hold) = (&cx.engine.store, client.party, cx.engine.store.hold(key, token));
    // In a transaction the shards are locked: which leases have ended is looked for some other time.
    let locked = cx.held.is_some();
    client.holds.add(hold, |hold| locked || store.stands(hold, party));
    hold
}

/// The key and the token of a fill, as far as they can be read.
pub(crate) fn fill_of(args: Args<'_>) -> Option<(&[u8], u64)> {
    Some((args.get(0)?, token(args, 1).ok()?))
}

/// The end of a lease whose fill could not be read, because its value is too long, say.
#[cold]
pub(crate) fn end_unread_fill(engine: &Engine, client: &mut Client, now: u64, fill: (&[u8], u64), error: &str) {
    let (bytes, token) = fill;
    let known = client.access.user().is_some() && may_fill(client, bytes);
    if !known || crate::gate::admit(std::iter::once(bytes)).is_err() {
        return;
    }
    let key = Key { db: client.db, bytes };
    let message: Arc<str> = Arc::from(error.trim_start_matches("ERR "));
    engine.store.with(key, now, |entry| entry.fill_unread(token, &message));
    let hold = engine.store.hold(key, token);
    client.holds.remove(hold);
    engine.loaders.done(hold);
}

/// Runs `step` with what is kept beside a value, in the store's form.
fn with_meta<R>(
    cx: &mut Context<'_>,
    db: u8,
    keep: &Keep<'_>,
    step: impl FnOnce(&mut Context<'_>, &Meta<'_>) -> R,
) -> R {
    let mut tags = [0; MAX_TAGS];
    for (place, name) in tags.iter_mut().zip(keep.tags.iter()) {
        *place = cx.engine.store.tag_in(db, name);
    }
    let now = cx.now.mono;
    let expires_at = keep.ttl.map(|ttl| now + ttl);
    let meta = Meta {
        flags: keep.flags,
        expires_at,
        fresh_until: keep.refresh.map(|refresh| now + refresh),
        error_until: expires_at.zip(keep.grace).map(|(at, grace)| at + grace),
        cost: keep.cost,
        written_at: Some(now),
        absent: keep.absent,
        cas: None,
        tags: &tags[..keep.tags.len()],
    };
    step(cx, &meta)
}

fn set(cx: &mut Context<'_>, key: Key<'_>, value: &[u8], keep: &Keep<'_>, only: If) -> Result<Reply, Error> {
    let most = cx.engine.limits.max_value;
    with_meta(cx, key.db, keep, |cx, meta| {
        cx.with(key, |entry, _| {
            let version = entry.peek().map(|item| item.version);
            let met = match only {
                If::Always => true,
                If::Absent => version.is_none(),
                If::Version(wanted) => version == Some(wanted),
            };
            if !met {
                return Ok(Reply::Int(0));
            }
            let written = entry.set(value, meta).map_err(|refused| why_refused(refused, value, most))?;
            Ok(Reply::Int(written as i64))
        })
    })
}

fn increment(cx: &mut Context<'_>, key: Key<'_>, delta: i64, keep: &Keep<'_>) -> Result<Reply, Error> {
    with_meta(cx, key.db, keep, |cx, meta| {
        cx.with(key, |entry, _| {
            let before = entry.peek().map(|item| integer(item.value.bytes())).transpose()?;
            let after = before.unwrap_or(0).checked_add(delta).ok_or(crate::execute::OVERFLOW)?;
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(after).as_bytes();
            match before {
                Some(_) => entry.replace(digits)?,
                None => entry.set(digits, meta)?,
            };
            Ok(Reply::Int(after))
        })
    })
}

/// A value as the lean reads tell it: with its flags only if it has any.
fn lean(blob: Blob, flags: u32) -> Reply {
    match flags {
        0 => Reply::Value(blob),
        _ => Reply::Array(vec![Reply::Value(blob), Reply::Int(flags.into())]),
    }
}

fn get(cx: &mut Context<'_>, client: &mut Client, key: Key<'_>) -> Reply {
    if !cx.waits.keys.is_empty() && cx.held.is_none() {
        // What it waited for is its answer: a second look would count a hit that was none.
        return get_served(cx, client, key);
    }
    let seen = cx.with(key, |entry, scratch| {
        let now = entry.now();
        entry.get().map(|item| {
            let stale = item.fresh_until.is_some_and(|at| at <= now);
            (lean(take(scratch, item.value), item.flags), stale)
        })
    });
    let served = cx.engine.loaders.any();
    match seen {
        Some((reply, stale)) => {
            if stale && served {
                refresh(cx, client, key);
            }
            reply
        }
        None if served => get_served(cx, client, key),
        None => Reply::Null,
    }
}

/// A value that is not there, where workers load.
pub(crate) fn get_served(cx: &mut Context<'_>, client: &Client, key: Key<'_>) -> Reply {
    match stand_to_read(cx, client, key) {
        Standing::Loaded(loaded) if !loaded.absent => lean(Blob::Shared(loaded.value), loaded.flags),
        Standing::Failed(error) => Reply::Error(error),
        Standing::Waits => Reply::Parked,
        // There is no such row, nobody loads it, or a transaction found it.
        Standing::Settled | Standing::Loaded(_) => cx.with(key, |entry, scratch| {
            entry.get().map_or(Reply::Null, |item| lean(take(scratch, item.value), item.flags))
        }),
    }
}

fn get_many(cx: &mut Context<'_>, client: &mut Client, keys: Args<'_>) -> Result<Reply, Error> {
    let (db, limit, served) = (client.db, cx.engine.limits.max_request, cx.engine.loaders.any());
    let (mut values, mut stale) = (Values::new(keys.len(), cx.scratch), Vec::new());
    cx.read_all(db, keys, |now, item, scratch| {
        if served && item.as_ref().and_then(|item| item.fresh_until).is_some_and(|at| at <= now) {
            stale.extend(keys.get(values.len()));
        }
        values.push(item.map(|item| (item.value, item.flags)), scratch);
        scratch.len() <= limit
    });
    if cx.scratch.len() > limit {
        return Err(TOO_MUCH);
    }
    for bytes in stale {
        refresh(cx, client, Key { db, bytes });
    }
    if !served || !values.any_missing() {
        return Ok(Reply::Values(values));
    }
    let mut replies = values.replies();
    for (reply, bytes) in replies.iter_mut().zip(keys.iter()).filter(|(reply, _)| matches!(reply, Reply::Null)) {
        *reply = get_served(cx, client, Key { db, bytes });
    }
    Ok(if cx.waits.is_waiting() { Reply::Parked } else { Reply::Array(replies) })
}

/// The answer to a fetch.
fn state(state: &'static str, value: Reply, token: u64, version: u64, ttl: i64, flags: u32) -> Reply {
    Reply::Array(vec![
        Reply::word(state),
        value,
        Reply::Int(token as i64),
        Reply::Int(version as i64),
        Reply::Int(ttl),
        Reply::Int(flags.into()),
    ])
}

fn nothing(word: &'static str, token: u64) -> Reply {
    state(word, Reply::Null, token, 0, -2, 0)
}

fn ttl(expires_at: Option<u64>, now: u64) -> i64 {
    expires_at.map_or(-1, |at| at.saturating_sub(now) as i64)
}

fn found(scratch: &mut Vec<u8>, item: &Item<'_>, stale: bool, token: u64, now: u64) -> Reply {
    let ttl = ttl(item.expires_at, now);
    if item.absent {
        return state("absent", cause(item.value.bytes()), token, item.version, ttl, item.flags);
    }
    let word = if stale { "stale" } else { "hit" };
    state(word, Reply::Value(take(scratch, item.value)), token, item.version, ttl, item.flags)
}

/// What a FILL with ABSENT gave in place of a value: the name of the exception that says "no such row", if any.
#[cold]
fn cause(name: &[u8]) -> Reply {
    if name.is_empty() { Reply::Null } else { Reply::Value(Blob::Owned(name.to_vec())) }
}

fn fetch(
    cx: &mut Context<'_>,
    client: &mut Client,
    bytes: &[u8],
    wait: u64,
    lease: u64,
    ticket: bool,
) -> Result<Reply, Error> {
    let key = Key { db: client.db, bytes };
    let now = cx.now.mono;
    if let Some(outcome) = cx.waits.outcome(key) {
        return match outcome.clone() {
            Outcome::Loaded(loaded) if loaded.absent => {
                let name = cause(&loaded.value);
                Ok(state("absent", name, 0, loaded.version, ttl(loaded.expires_at, now), loaded.flags))
            }
            Outcome::Loaded(loaded) => {
                let word = if loaded.stale { "stale" } else { "hit" };
                let ttl = ttl(loaded.expires_at, now);
                Ok(state(word, Reply::Value(Blob::Shared(loaded.value)), 0, loaded.version, ttl, loaded.flags))
            }
            Outcome::Lease(granted) => {
                remember(cx, client, key, granted.token);
                Ok(nothing("miss", granted.token))
            }
            Outcome::Failed(cause) => Err(load_failed(bytes, &cause)),
            Outcome::Timeout => Ok(nothing("timeout", 0)),
            Outcome::Full | Outcome::Unserved => Ok(nothing("miss", 0)),
        };
    }
    let pushed = (ticket || client.tickets) && client.resp == 3 || client.unordered;
    // Who holds a lease may be waiting for itself, and in place nothing else of the connection is run.
    let (store, party, locked) = (&cx.engine.store, client.party, cx.held.is_some());
    let stands = |hold| store.stands(hold, party);
    let waits = wait > 0 && !locked && (pushed || !client.holds.any(stands));
    let seeker = Seeker {
        party: client.party,
        wait: wait_number(cx.waits.number, 0),
        deadline: if waits { now + wait.min(1 << 40) } else { 0 },
        // Nobody is made to load who could not store what was loaded.
        lease: if !locked && !client.holds.is_full(MAX_HOLDS, now, stands) && may_fill(client, bytes) {
            lease
        } else {
            0
        },
        served: cx.engine.loaders.serving(key) == Serving::Worker,
        bound: true,
    };
    enum Seen {
        Reply(Reply, u64),
        Waits,
        Failed(Arc<str>),
    }
    let seen = cx.with(key, |entry, scratch| match entry.seek(&seeker) {
        Sought::Found { item, stale, token } => Seen::Reply(found(scratch, &item, stale, token, now), token),
        Sought::Lease(token) => Seen::Reply(nothing("miss", token), token),
        Sought::Busy => Seen::Reply(nothing("waiting", 0), 0),
        Sought::Nothing | Sought::Full => Seen::Reply(nothing("miss", 0), 0),
        Sought::Failed(cause) => Seen::Failed(cause),
        Sought::Waits => Seen::Waits,
    });
    match seen {
        Seen::Reply(reply, token) => {
            if token > 0 {
                remember(cx, client, key, token);
            }
            Ok(reply)
        }
        Seen::Failed(cause) => Err(load_failed(bytes, &cause)),
        Seen::Waits => {
            cx.waits.wait_for(key);
            client.ticket_once = ticket && client.resp == 3;
            Ok(Reply::Parked)
        }
    }
}

/// Whether a client could answer for a lease.
pub(crate) fn may_fill(client: &Client, key: &[u8]) -> bool {
    match &client.access {
        Access::Limited(user) => {
            let need = Need { read: false, write: true };
            user.rights().any(|rights| rights.may_run_named("cache.fill") && rights.may_use(key, need))
        }
        _ => true,
    }
}

fn entry(cx: &mut Context<'_>, key: Key<'_>) -> Reply {
    cx.with(key, |entry, scratch| {
        let now = entry.now();
        let age_of = |item: &Item<'_>| item.written_at.map_or(-1, |at| now.saturating_sub(at) as i64);
        let absent = entry.is_known_absent().then(|| entry.inspect().item).flatten().map(|item| {
            let reply = state("absent", Reply::Null, 0, item.version, ttl(item.expires_at, now), item.flags);
            with_age(reply, age_of(&item))
        });
        match (entry.get(), absent) {
            (Some(item), _) => with_age(found(scratch, &item, item.is_stale(now), 0, now), age_of(&item)),
            (None, Some(reply)) => reply,
            (None, None) => with_age(nothing("miss", 0), -1),
        }
    })
}

fn with_age(reply: Reply, age: i64) -> Reply {
    match reply {
        Reply::Array(mut parts) => {
            parts.push(Reply::Int(age));
            Reply::Array(parts)
        }
        other => other,
    }
}

fn inspect(cx: &mut Context<'_>, key: Key<'_>) -> Reply {
    let served = cx.engine.loaders.pattern_of(key).map_or(Reply::Null, |glob| Reply::Value(Blob::Owned(glob)));
    cx.with(key, |entry, _| {
        let (seen, now) = (entry.inspect(), entry.now());
        let item = seen.item;
        let left = |at: Option<u64>| at.map_or(-1, |at| at.saturating_sub(now) as i64);
        let past = |at: Option<u64>| at.map_or(-1, |at| now.saturating_sub(at) as i64);
        let word = match &item {
            None => "miss",
            Some(item) if item.expires_at.is_some_and(|at| at <= now) => "expired",
            Some(item) if item.absent => "absent",
            Some(item) if item.is_stale(now) => "stale",
            Some(_) => "hit",
        };
        let failure = |held_off: &HoldOff| Reply::Value(Blob::Owned(held_off.message.as_bytes().to_vec()));
        let of = |field: fn(&Item<'_>) -> i64| item.as_ref().map_or(0, field);
        let numbers = [
            ("version", of(|item| item.version as i64)),
            ("age_ms", past(item.and_then(|item| item.written_at))),
            ("ttl_ms", item.map_or(-2, |item| left(item.expires_at))),
            ("fresh_ms", left(item.and_then(|item| item.fresh_until))),
            ("grace_ms", left(item.and_then(|item| item.error_until))),
            ("size", of(|item| item.value.bytes().len() as i64)),
            ("flags", of(|item| item.flags.into())),
            ("tags", seen.tags as i64),
            ("held_ms", past(seen.held_since)),
            ("waiters", seen.waiters as i64),
            ("held_off_ms", left(seen.held_off.map(|held_off| held_off.until))),
            ("cost_ms", item.and_then(|item| item.cost).map_or(-1, i64::from)),
        ];
        let mut facts = vec![
            (Reply::word("state"), Reply::word(word)),
            (Reply::word("lease"), Reply::word(if seen.held_since.is_some() { "held" } else { "none" })),
            (Reply::word("failure"), seen.held_off.map_or(Reply::Null, failure)),
            (Reply::word("served"), served),
        ];
        facts.extend(numbers.map(|(name, number)| (Reply::word(name), Reply::Int(number))));
        Reply::Map(facts)
    })
}
