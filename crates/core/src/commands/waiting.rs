//! Commands that wait: for a key that somebody loads, before they run or run on.
//!
//! A command that has to wait says which keys it waits for and returns [`Reply::Parked`](crate::vocabulary::Reply::Parked).
//! When every key has its outcome the command is run again from its beginning, with the outcomes at hand: so a command
//! needs no second form for what happens after a wait, and whoever waits in place keeps its input where it is.

use super::context::{Context, LOADS};
use crate::state::client::Client;
use crate::state::engine::Engine;
use crate::state::loaders::Serving;
use crate::state::waits::wait_number;
use crate::store::{FetchRequest, FetchResult, Key, Loaded, Outcome};
use crate::vocabulary::{Args, Error, Kind};

const TOO_MANY: Error = Error::new(Kind::Busy, "BUSY too many loads are waited for; try again later");

/// How a key that a worker loads stands before a command that needs it.
pub enum LoadState {
    /// It is not served, or it is there, or it is known to be absent: the command goes by what the store has.
    Settled,
    /// It was loaded for this command.
    Loaded(Loaded),
    /// It is waited for.
    Waits,
    /// It cannot be loaded.
    Failed(Error),
}

/// Sees to it that a key which workers load is loaded before a command that needs it, if it is not there.
pub fn ensure_loaded(cx: &mut Context<'_>, client: &Client, key: Key<'_>) -> LoadState {
    ensure_loaded_for(cx, client, key, false)
}

/// As [`ensure_loaded`], for a command that found no value and is to answer with one. What is there by now is returned at
/// once: the value could be gone again before a second look, and "nothing" would be the wrong answer for a row that exists.
#[cold]
pub fn ensure_loaded_to_read(cx: &mut Context<'_>, client: &Client, key: Key<'_>) -> LoadState {
    ensure_loaded_for(cx, client, key, true)
}

fn ensure_loaded_for(cx: &mut Context<'_>, client: &Client, key: Key<'_>, reads: bool) -> LoadState {
    if cx.held.is_some() {
        return ensure_loaded_in_step(cx, key);
    }
    if let Some(outcome) = cx.waits.outcome(key) {
        return match outcome.clone() {
            Outcome::Loaded(loaded) => LoadState::Loaded(loaded),
            // Unless it is served again by now: "there is none" would be the wrong answer.
            Outcome::Unserved if cx.engine.loaders.serving(key) == Serving::Nobody => LoadState::Settled,
            other => LoadState::Failed(why_missing(cx.engine, key, &other)),
        };
    }
    if cx.engine.loaders.serving(key) == Serving::Nobody {
        return LoadState::Settled;
    }
    if cx.waits.is_full() {
        return LoadState::Failed(TOO_MANY);
    }
    let deadline = *cx.waits.deadline.get_or_insert(cx.now.mono + cx.engine.limits.load_limit);
    let late = deadline <= cx.now.mono;
    let request = FetchRequest {
        connection: client.connection,
        wait: wait_number(cx.waits.number, cx.waits.keys.len()),
        deadline: Some(deadline),
        lease: None,
        served: true,
        bound: true,
    };
    let seen = cx.with(key, |entry, _| {
        if reads && let Some(item) = entry.peek() {
            return Ok(LoadState::Loaded(Loaded::new(&item, false)));
        }
        if entry.peek().is_some() || entry.is_known_absent() {
            return Ok(LoadState::Settled);
        }
        if late {
            return Err(Outcome::Timeout);
        }
        match entry.fetch(&request) {
            FetchResult::Found { item, stale: true, .. } => Ok(LoadState::Loaded(Loaded::new(&item, true))),
            FetchResult::Found { .. } => Ok(LoadState::Settled),
            FetchResult::Waits => Ok(LoadState::Waits),
            FetchResult::Failed(cause) => Err(Outcome::Failed(cause)),
            FetchResult::Lease(_) | FetchResult::Busy | FetchResult::Nothing | FetchResult::Full => Err(Outcome::Full),
        }
    });
    match seen {
        Ok(state) => {
            if matches!(state, LoadState::Waits) {
                cx.waits.wait_for(key);
            }
            state
        }
        Err(outcome) => {
            let error = why_missing(cx.engine, key, &outcome);
            if outcome != Outcome::Timeout {
                cx.waits.settle(key, outcome);
            }
            LoadState::Failed(error)
        }
    }
}

/// A transaction is one step: it goes by what is there now, its own changes included, whatever became of a load before it. A
/// load that ended with "there is no such row" need not have left an item; but a value that is not there any more is no
/// "there is none".
#[cold]
fn ensure_loaded_in_step(cx: &mut Context<'_>, key: Key<'_>) -> LoadState {
    if cx.engine.loaders.serving(key) == Serving::Nobody
        || cx.with(key, |entry, _| entry.peek().is_some() || entry.is_known_absent())
    {
        return LoadState::Settled;
    }
    match cx.waits.outcome(key) {
        Some(Outcome::Loaded(loaded)) if loaded.absent => LoadState::Settled,
        Some(Outcome::Loaded(_)) => LoadState::Failed(load_failed(key.bytes, "it was loaded and is gone again")),
        Some(outcome) => LoadState::Failed(why_missing(cx.engine, key, outcome)),
        None => LoadState::Failed(load_failed(key.bytes, "it was not loaded before")),
    }
}

/// Why a wait ended without the value or the absence of its key.
fn why_missing(engine: &Engine, key: Key<'_>, outcome: &Outcome) -> Error {
    match outcome {
        Outcome::Failed(cause) => load_failed(key.bytes, cause),
        Outcome::Full => TOO_MANY,
        Outcome::Unserved => load_failed(key.bytes, "its pattern was forgotten meanwhile"),
        Outcome::Loaded(_) | Outcome::Lease(_) | Outcome::Timeout => too_late(engine, key),
    }
}

/// Loads the keys of a command that depends on what is there, as far as workers load them. Ok(true): it has to wait, or to
/// give its turn back before it asks for the rest.
pub fn load_first<'k>(
    cx: &mut Context<'_>,
    client: &Client,
    keys: impl Iterator<Item = Key<'k>>,
) -> Result<bool, Error> {
    let mut keys = (0..).zip(keys).peekable();
    if keys.peek().is_none() {
        // A read, or a transaction, asks itself, and how far it has come is its own.
        return Ok(false);
    }
    let (from, end) = cx.begin_asking();
    let mut failed = None;
    for (number, key) in keys.skip(from as usize) {
        if cx.ends_asking(end, number) {
            return Ok(true);
        }
        failed = why_not_loaded(cx, client, key);
        if failed.is_some() {
            // The command cannot run: nothing more is loaded for it.
            break;
        }
    }
    match failed {
        Some(error) if !cx.waits.is_waiting() => Err(error),
        _ => Ok(from > 0 || cx.waits.is_waiting()),
    }
}

/// Has a key loaded; the error of one that cannot be.
fn why_not_loaded(cx: &mut Context<'_>, client: &Client, key: Key<'_>) -> Option<Error> {
    match ensure_loaded(cx, client, key) {
        LoadState::Failed(error) => Some(error),
        // It was loaded and could not be kept, or is gone again: what is not there cannot be changed.
        LoadState::Loaded(loaded) if !loaded.absent && cx.with(key, |entry, _| entry.peek().is_none()) => {
            Some(load_failed(key.bytes, "the value could not be kept"))
        }
        LoadState::Settled | LoadState::Loaded(_) | LoadState::Waits => None,
    }
}

/// Asks for the loads of a read of many keys that has not found them, in turns; whether it has to wait or to be run again.
#[cold]
pub(super) fn load_many(cx: &mut Context<'_>, client: &Client, keys: Args<'_>) -> bool {
    let (from, end) = cx.begin_asking();
    for (number, bytes) in (0..).zip(keys.iter()).skip(from as usize) {
        if cx.ends_asking(end, number) {
            return true;
        }
        // A load that fails is told in the place of its key.
        ensure_loaded(cx, client, Key { db: client.db, bytes });
    }
    from > 0 || cx.waits.is_waiting()
}

/// Whether a read that has not found so many keys asks for them before it answers: it asks for few in one turn, and what was
/// loaded for it is its answer.
pub(super) fn asks_in_turns(cx: &Context<'_>, missing: usize) -> bool {
    missing > LOADS && cx.may_stop() && cx.waits.keys.is_empty()
}

/// A value that is stale and that workers load is loaded anew, while it is served.
#[cold]
pub fn refresh(cx: &mut Context<'_>, client: &Client, key: Key<'_>) {
    if cx.engine.loaders.serving(key) == Serving::Worker {
        let request = FetchRequest {
            connection: client.connection,
            wait: 0,
            deadline: None,
            lease: None,
            served: true,
            bound: true,
        };
        cx.with(key, |entry, _| entry.refresh(&request));
    }
}

fn quoted(key: &[u8]) -> String {
    // Enough to recognise it by; an error is a line.
    key[..key.len().min(128)].escape_ascii().to_string()
}

/// The error of a load that failed.
pub fn load_failed(key: &[u8], cause: &str) -> Error {
    Error::with(Kind::LoadFailed, format!("LOADFAILED {}: {cause}", quoted(key)))
}

/// The error of a wait that was too long.
fn too_late(engine: &Engine, key: Key<'_>) -> Error {
    if engine.loaders.serving(key) == Serving::Away {
        let text = format!("NOLOADER {}: no loader worker came in time", quoted(key.bytes));
        return Error::with(Kind::LoadFailed, text);
    }
    load_failed(key.bytes, "it was not loaded in time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;
    use crate::commands::read::{Form, get_loaded};
    use crate::limits::Limits;
    use crate::state::facts::Facts;
    use crate::state::waits::{MAX_KEYS, Waits, wait_parts};
    use crate::store::{ConnectionId, Meta, Options};
    use crate::vocabulary::{Blob, Reply};

    fn engine() -> Engine {
        let options = Options {
            memory: 16 << 20,
            shards: 1,
            evict: true,
            max_value: 1 << 20,
            seed: [1, 2, 3, 4],
            epoch: 1,
            load_limit: 30_000,
        };
        let engine = Engine::new(options, Limits::default(), Facts::default(), 1);
        engine.loaders.register(ConnectionId::default(), 0, [&b"w:*"[..]].into_iter(), 10).unwrap();
        engine
    }

    fn with<R>(engine: &Engine, waits: &mut Waits, step: impl FnOnce(&mut Context<'_>) -> R) -> R {
        let now = Now { mono: 1000, wall: 1000 };
        step(&mut Context { engine, now, actor: 0, scratch: &mut Vec::new(), held: None, waits })
    }

    /// CACHE.GET finds nothing; a worker fills the key; the look that would begin a wait finds the value; somebody deletes
    /// it. The value of that look is the answer: "nothing" was never true of the row.
    #[test]
    fn a_read_answers_with_what_came_before_its_wait() {
        let (engine, client) = (engine(), Client::new(ConnectionId::default()));
        let key = Key { db: 0, bytes: b"w:1" };
        with(&engine, &mut Waits::default(), |cx| {
            cx.with(key, |entry, _| entry.set(b"row", &Meta::default()).unwrap());
            let standing = ensure_loaded_to_read(cx, &client, key);
            cx.with(key, |entry, _| entry.remove());
            assert!(matches!(standing, LoadState::Loaded(loaded) if *loaded.value == *b"row"));
        });
    }

    /// A transaction reads 2^20 keys and one more: the number of a wait has room for 2^20 of them, and the outcome of the
    /// last would be taken for that of another command.
    #[test]
    fn a_command_waits_for_as_many_keys_as_have_numbers() {
        let (engine, client) = (engine(), Client::new(ConnectionId::default()));
        let mut waits = Waits::default();
        waits.number = 7;
        for number in 0..MAX_KEYS as u32 {
            waits.wait_for(Key { db: 1, bytes: &number.to_le_bytes() });
        }
        assert_eq!(wait_parts(wait_number(7, MAX_KEYS - 1)), (7, MAX_KEYS - 1));
        let key = Key { db: 0, bytes: b"w:1" };
        let standing = with(&engine, &mut waits, |cx| ensure_loaded(cx, &client, key));
        assert!(matches!(standing, LoadState::Failed(error) if error.text.starts_with("BUSY")));
        assert_eq!(waits.keys.len(), MAX_KEYS);
    }

    /// As the first, with the row still there: what CACHE.GET, CACHE.MGET and GET answer that found nothing before.
    #[test]
    fn lean_reads_answer_with_what_came_before_their_wait() {
        let (engine, client) = (engine(), Client::new(ConnectionId::default()));
        let key = Key { db: 0, bytes: b"w:1" };
        let meta = Meta { flags: 7, ..Meta::default() };
        with(&engine, &mut Waits::default(), |cx| {
            cx.with(key, |entry, _| entry.set(b"row", &meta).unwrap());
            let reply = get_loaded(cx, &client, key, Form::WithFlags);
            assert!(matches!(&reply, Reply::Array(parts) if matches!(parts[..], [Reply::Value(_), Reply::Int(7)])));
            let reply = get_loaded(cx, &client, key, Form::Plain);
            assert!(matches!(reply, Reply::Value(Blob::Shared(value)) if *value == *b"row"));
        });
    }
}
