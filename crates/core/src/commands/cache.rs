//! The cache commands (`CACHE.*`): values with freshness, tags and leases, as the Python client and loader workers use
//! them.

use std::sync::Arc;

use super::context::{Context, LOADS, TOO_MUCH, take, take_next};
use super::strings::why_refused;
use super::waiting::{LoadState, asks_in_turns, ensure_loaded_to_read, load_failed, load_many, refresh};
use crate::limits::MAX_TAGS;
use crate::state::client::Client;
use crate::state::engine::Engine;
use crate::state::loaders::Serving;
use crate::state::users::{Access, Need};
use crate::state::waits::wait_number;
use crate::store::{FetchRequest, FetchResult, Hold, HoldOff, Item, Key, Meta, Outcome, Step};
use crate::version::VERSION;
use crate::vocabulary::{Args, Blob, CacheCommand, EntryOptions, Error, Kind, Reply, SetCondition, Values, integer};

/// Leases and waits that a connection may have: what a busy process has under way.
const MAX_HOLDS: usize = 1 << 14;
/// Longest reason for a failure that is kept and handed on.
const MAX_MESSAGE: usize = 512;

const FENCED: Error = Error::new(Kind::Mismatch, "FENCED a newer connection of this session is there already");

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
            let until = cx.with(key_of(key), |entry, _| entry.renew(token, millis, client.connection));
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
            cx.engine.loaders.register(client.connection, client.db, patterns.iter(), inflight as usize)?;
            client.worker = true;
            Ok(Reply::Ok)
        }
        CacheCommand::Forget(patterns) => Ok(Reply::Int(cx.engine.loaders.forget(client.db, patterns.iter()) as i64)),
        CacheCommand::Inspect(key) => Ok(inspect(cx, key_of(key))),
        CacheCommand::Session { id, generation, tickets, servers } => {
            if tickets && client.resp != 3 {
                return Err(Error::new(Kind::Malformed, "ERR tickets end in pushes: say HELLO 3 first"));
            }
            let user = client.access.user().map(|user| user.name()).unwrap_or_default();
            let (who, mail) = ((user, client.connection), (&*cx.engine.mail, cx.now.mono));
            if !cx.engine.client_sessions.join(&mut client.joined, who, (id, generation), servers, mail)? {
                // Nothing that it has sent behind this is run.
                client.quitting = true;
                return Err(FENCED);
            }
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
    let (store, connection, hold) = (&cx.engine.store, client.connection, cx.engine.store.hold(key, token));
    // In a transaction the shards are locked: which leases have ended is looked for some other time.
    let locked = cx.held.is_some();
    client.holds.add(hold, |hold| locked || store.stands(hold, connection));
    hold
}

/// The end of a lease whose fill could not be read, because its value is too long, say.
#[cold]
pub(crate) fn end_unread_fill(engine: &Engine, client: &mut Client, now: u64, fill: (&[u8], u64), error: &str) {
    let (bytes, token) = fill;
    let known = client.access.user().is_some() && may_fill(client, bytes);
    if !known || crate::vocabulary::check_keys(std::iter::once(bytes)).is_err() {
        return;
    }
    let key = Key { db: client.db, bytes };
    let message: Arc<str> = Arc::from(error.trim_start_matches("ERR "));
    let step = Step { now, actor: client.id };
    engine.store.with(key, step, |entry| entry.fill_unread(token, &message));
    let hold = engine.store.hold(key, token);
    client.holds.remove(hold);
    engine.loaders.done(hold);
}

/// Runs `step` with what is kept beside a value, in the store's form.
fn with_meta<R>(
    cx: &mut Context<'_>,
    db: u8,
    keep: &EntryOptions<'_>,
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

fn set(
    cx: &mut Context<'_>,
    key: Key<'_>,
    value: &[u8],
    keep: &EntryOptions<'_>,
    only: SetCondition,
) -> Result<Reply, Error> {
    let most = cx.engine.limits.max_value;
    with_meta(cx, key.db, keep, |cx, meta| {
        cx.with(key, |entry, _| {
            let version = entry.peek().map(|item| item.version);
            let met = match only {
                SetCondition::Always => true,
                SetCondition::Absent => version.is_none(),
                SetCondition::Version(wanted) => version == Some(wanted),
            };
            if !met {
                return Ok(Reply::Int(0));
            }
            let written = entry.set(value, meta).map_err(|refused| why_refused(refused, value, most))?;
            Ok(Reply::Int(written as i64))
        })
    })
}

fn increment(cx: &mut Context<'_>, key: Key<'_>, delta: i64, keep: &EntryOptions<'_>) -> Result<Reply, Error> {
    with_meta(cx, key.db, keep, |cx, meta| {
        cx.with(key, |entry, _| {
            let before = entry.peek().map(|item| integer(item.value.bytes())).transpose()?;
            let after = before.unwrap_or(0).checked_add(delta).ok_or(crate::commands::strings::OVERFLOW)?;
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
    match ensure_loaded_to_read(cx, client, key) {
        LoadState::Loaded(loaded) if !loaded.absent => lean(Blob::Shared(loaded.value), loaded.flags),
        LoadState::Failed(error) => Reply::Error(error),
        LoadState::Waits => Reply::Parked,
        // There is no such row, nobody loads it, or a transaction found it.
        LoadState::Settled | LoadState::Loaded(_) => cx.with(key, |entry, scratch| {
            entry.get().map_or(Reply::Null, |item| lean(take(scratch, item.value), item.flags))
        }),
    }
}

fn get_many(cx: &mut Context<'_>, client: &mut Client, keys: Args<'_>) -> Result<Reply, Error> {
    let (db, limit, served) = (client.db, cx.engine.limits.max_request, cx.engine.loaders.any());
    if cx.waits.asked > 0 && load_many(cx, client, keys) {
        return Ok(Reply::Parked);
    }
    // Before it stand other replies of the same transaction.
    let begun = cx.scratch.len();
    let (mut values, mut stale) = (Values::new(keys.len(), cx.scratch), Vec::new());
    cx.read_all(db, keys, |now, item, scratch| {
        if served && item.as_ref().and_then(|item| item.fresh_until).is_some_and(|at| at <= now) {
            stale.extend(keys.get(values.len()));
        }
        take_next(&mut values, item.map(|item| (item.value, item.flags)), scratch);
        scratch.len() - begun <= limit
    });
    if cx.scratch.len() - begun > limit {
        return Err(TOO_MUCH);
    }
    // The others are refreshed by who reads them next.
    for bytes in stale.into_iter().take(LOADS) {
        refresh(cx, client, Key { db, bytes });
    }
    if !served || !values.any_missing() {
        return Ok(Reply::Values(values));
    }
    if asks_in_turns(cx, values.missing()) && load_many(cx, client, keys) {
        return Ok(Reply::Parked);
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
    let (store, connection, locked) = (&cx.engine.store, client.connection, cx.held.is_some());
    let stands = |hold| store.stands(hold, connection);
    let waits = wait > 0 && !locked && (pushed || !client.holds.any(stands));
    let request = FetchRequest {
        connection: client.connection,
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
    let seen = cx.with(key, |entry, scratch| match entry.fetch(&request) {
        FetchResult::Found { item, stale, token } => Seen::Reply(found(scratch, &item, stale, token, now), token),
        FetchResult::Lease(token) => Seen::Reply(nothing("miss", token), token),
        FetchResult::Busy => Seen::Reply(nothing("waiting", 0), 0),
        FetchResult::Nothing | FetchResult::Full => Seen::Reply(nothing("miss", 0), 0),
        FetchResult::Failed(cause) => Seen::Failed(cause),
        FetchResult::Waits => Seen::Waits,
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
