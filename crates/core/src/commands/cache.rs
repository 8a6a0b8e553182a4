//! The cache commands (`CACHE.*`): values with freshness, tags and leases, as the Python client and loader workers use
//! them.

use std::sync::Arc;

use super::context::{Context, take};
use super::read::{Form, get, get_many};
use super::strings::{add, why_refused};
use super::waiting::load_failed;
use crate::limits::MAX_TAGS;
use crate::state::client::Client;
use crate::state::engine::Engine;
use crate::state::loaders::Serving;
use crate::state::users::{Access, Need};
use crate::state::waits::wait_number;
use crate::store::{FetchRequest, FetchResult, Hold, HoldOff, Item, Key, Loaded, Meta, Outcome, Step};
use crate::table::redis;
use crate::version::VERSION;
use crate::vocabulary::{Blob, CacheCommand, EntryOptions, Error, Fetched, Kind, Reply, SetCondition, State};

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
        CacheCommand::Get(key) => Ok(get(cx, client, key_of(key), Form::WithFlags)),
        CacheCommand::GetMany(keys) => get_many(cx, client, keys, Form::WithFlags),
        CacheCommand::Entry(key) => Ok(entry(cx, key_of(key))),
        CacheCommand::Fetch { key, wait, lease, ticket } => fetch(cx, client, key_of(key), (wait, lease), ticket),
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
            Ok(Reply::Stored(filled?))
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
        CacheCommand::Increment { key, delta, keep } => with_meta(cx, db, &keep, |cx, meta| {
            cx.with(key_of(key), |entry, _| add(entry, delta, meta)).map(Reply::Int)
        }),
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
            client.later.tickets = tickets;
            Ok(Reply::Map(vec![
                ("run_id", Reply::bytes(cx.engine.facts.run_id.clone())),
                ("tickets", Reply::Int(tickets.into())),
                ("max_value", Reply::Int(cx.engine.limits.max_value as i64)),
                ("max_request", Reply::Int(cx.engine.limits.max_request as i64)),
                ("version", Reply::bytes(VERSION)),
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
    let step = Step { now, actor: client.connection.id };
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
                return Ok(Reply::Stored(None));
            }
            let written = entry.set(value, meta).map_err(|refused| why_refused(refused, value, most))?;
            Ok(Reply::Stored(Some(written)))
        })
    })
}

fn fetched(fetched: Fetched) -> Reply {
    Reply::Fetched(Box::new(fetched))
}

fn state_of(absent: bool, stale: bool) -> State {
    match (absent, stale) {
        (true, _) => State::Absent,
        (false, true) => State::Stale,
        (false, false) => State::Hit,
    }
}

fn left(expires_at: Option<u64>, now: u64) -> Option<u64> {
    expires_at.map(|at| at.saturating_sub(now))
}

/// An item that was found. Of one that stands for absence the value is what the FILL with ABSENT gave: the name of the
/// exception that says "no such row", if any.
fn found(scratch: &mut Vec<u8>, item: &Item<'_>, stale: bool, token: Option<u64>, now: u64) -> Fetched {
    Fetched {
        state: state_of(item.absent, stale),
        value: (!item.absent || !item.value.bytes().is_empty()).then(|| take(scratch, item.value)),
        token,
        version: Some(item.version),
        ttl: left(item.expires_at, now),
        flags: item.flags,
        age: item.written_at.map(|at| now.saturating_sub(at)),
    }
}

/// What was loaded for a request that waited.
fn loaded(loaded: Loaded, now: u64) -> Fetched {
    let Loaded { value, version, flags, expires_at, stale, absent } = loaded;
    Fetched {
        state: state_of(absent, stale),
        value: (!absent || !value.is_empty()).then_some(Blob::Shared(value)),
        token: None,
        version,
        ttl: left(expires_at, now),
        flags,
        age: None,
    }
}

/// How a wait ended.
fn outcome_of(cx: &Context<'_>, client: &mut Client, key: Key<'_>, outcome: Outcome) -> Result<Reply, Error> {
    Ok(fetched(match outcome {
        Outcome::Loaded(value) => loaded(value, cx.now.mono),
        Outcome::Lease(granted) => {
            remember(cx, client, key, granted.token);
            Fetched::nothing(State::Miss, Some(granted.token))
        }
        Outcome::Failed(cause) => return Err(load_failed(key.bytes, &cause)),
        Outcome::Timeout => Fetched::nothing(State::Timeout, None),
        Outcome::Full | Outcome::Unserved => Fetched::nothing(State::Miss, None),
    }))
}

fn fetch(
    cx: &mut Context<'_>,
    client: &mut Client,
    key: Key<'_>,
    (wait, lease): (u64, Option<u64>),
    ticket: bool,
) -> Result<Reply, Error> {
    let now = cx.now.mono;
    if let Some(outcome) = cx.waits.outcome(key).cloned() {
        return outcome_of(cx, client, key, outcome);
    }
    let request = request(cx, client, key, (wait, lease), ticket);
    // None: it waits.
    let seen = cx.with(key, |entry, scratch| {
        Ok(Some(match entry.fetch(&request) {
            FetchResult::Found { item, stale, token } => found(scratch, &item, stale, token, now),
            FetchResult::Lease(token) => Fetched::nothing(State::Miss, Some(token)),
            FetchResult::Busy => Fetched::nothing(State::Waiting, None),
            FetchResult::Nothing | FetchResult::Full => Fetched::nothing(State::Miss, None),
            FetchResult::Failed(cause) => return Err(load_failed(key.bytes, &cause)),
            FetchResult::Waits => return Ok(None),
        }))
    })?;
    let Some(seen) = seen else {
        cx.waits.wait_for(key);
        client.later.ticket_once = ticket && client.resp == 3;
        return Ok(Reply::Parked);
    };
    if let Some(token) = seen.token {
        remember(cx, client, key, token);
    }
    Ok(fetched(seen))
}

/// A fetch as the store is asked.
fn request(
    cx: &Context<'_>,
    client: &mut Client,
    key: Key<'_>,
    (wait, lease): (u64, Option<u64>),
    ticket: bool,
) -> FetchRequest {
    let now = cx.now.mono;
    let pushed = (ticket || client.later.tickets) && client.resp == 3 || client.later.unordered;
    // Who holds a lease may be waiting for itself, and in place nothing else of the connection is run.
    let (store, connection, locked) = (&cx.engine.store, client.connection, cx.held.is_some());
    let stands = |hold| store.stands(hold, connection);
    let waits = wait > 0 && !locked && (pushed || !client.holds.any(stands));
    // Nobody is made to load who could not store what was loaded.
    let may_load = !locked && !client.holds.is_full(MAX_HOLDS, now, stands) && may_fill(client, key.bytes);
    FetchRequest {
        connection,
        wait: wait_number(cx.waits.number, 0),
        deadline: waits.then(|| now + wait.min(1 << 40)),
        lease: lease.filter(|_| may_load),
        served: cx.engine.loaders.serving(key) == Serving::Worker,
        bound: true,
    }
}

/// Whether a client could answer for a lease.
pub(crate) fn may_fill(client: &Client, key: &[u8]) -> bool {
    match &client.access {
        Access::Limited(user) => {
            let need = Need { read: false, write: true };
            user.rights().any(|rights| rights.may_run(redis::FILL) && rights.may_use(key, need))
        }
        _ => true,
    }
}

fn entry(cx: &mut Context<'_>, key: Key<'_>) -> Reply {
    Reply::Entry(Box::new(cx.with(key, |entry, scratch| {
        let now = entry.now();
        let absent = entry.is_known_absent().then(|| entry.inspect().item).flatten();
        let absent = absent.map(|item| Fetched { value: None, ..found(scratch, &item, false, None, now) });
        let item = entry.get().map(|item| found(scratch, &item, item.is_stale(now), None, now));
        item.or(absent).unwrap_or_else(|| Fetched::nothing(State::Miss, None))
    })))
}

fn inspect(cx: &mut Context<'_>, key: Key<'_>) -> Reply {
    let served = cx.engine.loaders.pattern_of(key).map_or(Reply::Null, Reply::bytes);
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
        let failure = |held_off: &HoldOff| Reply::bytes(&*held_off.message);
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
            ("state", Reply::bytes(word)),
            ("lease", Reply::bytes(if seen.held_since.is_some() { "held" } else { "none" })),
            ("failure", seen.held_off.map_or(Reply::Null, failure)),
            ("served", served),
        ];
        facts.extend(numbers.map(|(name, number)| (name, Reply::Int(number))));
        Reply::Map(facts)
    })
}
