//! Transactions: MULTI queues requests as they came, EXEC locks the shards of all their keys, in order, and runs them as
//! one step; WATCH makes it depend on what a client saw.
//!
//! What is watched is a state: a version and an expiry, or that there is nothing and how often an item was written or
//! removed, since the key may be absent again after a change. It is compared under the locks, so
//! expiry, eviction, an invalidated tag and an emptied database count without anybody having to tell. A key that was not
//! there and that workers load is watched as it was loaded for the first read of this client: else that would end its own
//! transaction. What others wrote or removed before it ends the transaction all the same, and so does a row that is loaded
//! after the client has read that there is none, wherever that answer came from.

use super::context::{BYTES_OF_A_KEY, Context, MAX_COST};
use super::gate;
use super::room::{Writes, may_cost_much};
use super::waiting::ensure_loaded;
use crate::state::client::Client;
use crate::state::engine::Engine;
use crate::state::key_list::KeyList;
use crate::state::queue::{Queue, Watched};
use crate::state::waits::{Waits, wait_number, wait_parts};
use crate::store::{Changes, ConnectionId, Key, Loaded, Locked, Outcome, Refused};
use crate::table::{Request, Row, flag};
use crate::vocabulary::{Args, Command, Error, Kind, Reply};

/// Keys that one client may watch.
const MAX_WATCHED: usize = 1 << 14;

/// Why nothing of a transaction is run whose writes would hold its shards for too long.
const COPIES_TOO_MUCH: Error = Error::new(
    Kind::Busy,
    "BUSY its writes would copy too much of the values that are there at a time; send them in several transactions",
);

/// What a command of a transaction answers whose own reply does not fit beside those before it.
const NO_ROOM: Error = Error::new(
    Kind::OutOfMemory,
    "ERR the command was run, but its reply is left out: the replies of this transaction are too long",
);
const NO_ROOM_FOR_ERROR: Error = Error::new(
    Kind::OutOfMemory,
    "ERR the command failed, and its error is left out: the replies of this transaction are too long",
);

/// A request was refused before it could be queued; what it answers.
pub(crate) fn refused(engine: &Engine, now: u64, client: &mut Client, row: Option<&Row>, error: Error) -> Error {
    if row.is_some_and(|row| row.has(flag::EXECUTES)) {
        client.transaction.queue = None;
        unwatch(engine, now, client);
        return discarded(&error);
    }
    if let Some(queue) = &mut client.transaction.queue {
        queue.spoiled = true;
    }
    error
}

/// EXEC ran nothing of a transaction.
fn discarded(why: &Error) -> Error {
    let text = why.text.strip_prefix("ERR ").unwrap_or(&why.text);
    Error::with(why.kind, format!("EXECABORT Transaction discarded because of: {text}"))
}

/// MULTI.
pub(crate) fn begin(client: &mut Client) -> Result<Reply, Error> {
    if client.transaction.queue.is_some() {
        return Err(Error::new(Kind::Malformed, "ERR MULTI calls can not be nested"));
    }
    client.transaction.queue = Some(Box::default());
    Ok(Reply::Ok)
}

/// UNWATCH, and whatever else ends a transaction.
pub(crate) fn unwatch(engine: &Engine, now: u64, client: &mut Client) {
    release(engine, now, client.connection, &std::mem::take(&mut client.transaction.watched));
}

fn release(engine: &Engine, now: u64, connection: ConnectionId, watched: &KeyList<Watched>) {
    for known in watched.iter().filter(|known| known.changes.is_some()) {
        engine.store.with(Key { db: known.db, bytes: &known.key }, now, |entry| entry.unwatch(connection));
    }
}

/// DISCARD.
pub(crate) fn discard(cx: &Context<'_>, client: &mut Client) -> Result<Reply, Error> {
    if client.transaction.queue.take().is_none() {
        return Err(Error::new(Kind::Malformed, "ERR DISCARD without MULTI"));
    }
    unwatch(cx.engine, cx.now.mono, client);
    Ok(Reply::Ok)
}

/// WATCH.
pub(crate) fn watch(cx: &mut Context<'_>, client: &mut Client, keys: Args<'_>) -> Result<Reply, Error> {
    if client.transaction.queue.is_some() {
        return Err(Error::new(Kind::Malformed, "ERR WATCH inside MULTI is not allowed"));
    }
    let (db, connection) = (client.db, client.connection);
    for bytes in keys.iter() {
        let key = Key { db, bytes };
        if client.transaction.watched.position(key).is_some() {
            continue;
        }
        if client.transaction.watched.len() == MAX_WATCHED {
            return Err(Error::new(Kind::TooLarge, "ERR too many keys are watched"));
        }
        let (state, changes) = cx.with(key, |entry, _| {
            let state = entry.peek().map(|item| (item.version, item.expires_at));
            (state, if state.is_none() { entry.watch(connection) } else { None })
        });
        if state.is_none() && changes.is_none() {
            return Err(Error::new(Kind::Busy, "BUSY too many keys are watched or loaded; try again later"));
        }
        client.transaction.watched.push(Watched {
            db,
            key: bytes.into(),
            state,
            changes,
            read: false,
            number: cx.waits.number,
        });
    }
    Ok(Reply::Ok)
}

/// A client was answered by a command: what it watches counts as it was read. What the answer says is of no matter: also an
/// answer that nothing was written depends on what was there. A command that was sent before WATCH and had to wait changes
/// nothing of what is watched.
#[cold]
pub(crate) fn note_reads(client: &mut Client, request: &Request<'_>, command: &Command<'_>, waits: &Waits) {
    let db = client.db;
    let reads_stored = request.row.has(flag::READ) && !request.row.has(flag::LOAD);
    for bytes in request.needed(command).chain(request.keys().filter(|_| reads_stored)) {
        let key = Key { db, bytes };
        let place = client.transaction.watched.position(key);
        let known = place.and_then(|place| client.transaction.watched.get_mut(place));
        if let Some(known) = known.filter(|known| known.number < waits.number) {
            match waits.outcome(key) {
                Some(Outcome::Loaded(loaded)) => known.told(loaded),
                // An error says nothing of the key.
                Some(Outcome::Failed(_) | Outcome::Timeout) => {}
                // It went by what the store had.
                Some(Outcome::Unserved | Outcome::Lease(_) | Outcome::Full) | None => known.read = true,
            }
        }
    }
}

/// EXEC goes by keys that were loaded for it: what is watched of them counts as it was loaded.
fn rebase(client: &mut Client, waits: &Waits) {
    for read in &waits.keys {
        let place = client.transaction.watched.position(Key { db: read.db, bytes: &read.key });
        if let Some(Outcome::Loaded(loaded)) = &read.outcome
            && let Some(known) = place.and_then(|place| client.transaction.watched.get_mut(place))
        {
            known.told(loaded);
        }
    }
}

/// Runs one command of a transaction. An argument, since EXEC is one of the commands itself.
pub(crate) type Execute = fn(&mut Context<'_>, &mut Client, &Request<'_>, &Command<'_>) -> Reply;

/// EXEC.
pub(crate) fn exec(cx: &mut Context<'_>, client: &mut Client, execute: Execute) -> Result<Reply, Error> {
    let Some(queue) = client.transaction.queue.take() else {
        return Err(Error::new(Kind::Malformed, "ERR EXEC without MULTI"));
    };
    if queue.spoiled {
        unwatch(cx.engine, cx.now.mono, client);
        return Err(Error::new(Kind::Malformed, "EXECABORT Transaction discarded because of previous errors."));
    }
    if cx.engine.loaders.any() {
        if ask_for_loads(cx, client, &queue) {
            client.transaction.queue = Some(queue);
            return Ok(Reply::Parked);
        }
        rebase(client, cx.waits);
    }
    let watched = std::mem::take(&mut client.transaction.watched);
    let (store, step) = (&cx.engine.store, cx.step());
    let keys = queue.keys(client.db).chain(watched.iter().map(|known| Key { db: known.db, bytes: &known.key }));
    let held = if queue.is_wide() { store.lock_everything(step) } else { store.lock_all(keys, step) };
    cx.held = Some(Box::new(held));
    let reply = run_held(cx, client, &queue, &watched, execute);
    cx.held = None;
    release(cx.engine, cx.now.mono, client.connection, &watched);
    Ok(reply)
}

/// Runs a transaction whose shards are locked, if nothing happened to what it has watched and it may cost so much.
fn run_held(
    cx: &mut Context<'_>,
    client: &mut Client,
    queue: &Queue,
    watched: &KeyList<Watched>,
    execute: Execute,
) -> Reply {
    let Some(held) = &mut cx.held else { return Reply::NoArray };
    if queue.requests().any(|(row, _)| row.has(flag::TAGS)) {
        held.hold_to_invalidate();
    }
    if watched.iter().any(|known| !known.holds(held)) {
        return Reply::NoArray;
    }
    match cost_of_writes(cx.engine, queue, client, held) {
        Ok(cost) => cx.waits.looked_at += cost,
        Err(error) => return Reply::Error(discarded(&error)),
    }
    let mut room = cx.engine.limits.max_reply;
    Reply::Array(queue.requests().map(|request| one(cx, client, request, &mut room, execute)).collect())
}

/// Asks for the loads of what a transaction depends on, in turns; whether it has to wait or to be run again.
fn ask_for_loads(cx: &mut Context<'_>, client: &Client, queue: &Queue) -> bool {
    let (from, end) = cx.begin_asking();
    let (first, first_key) = wait_parts(from);
    for (index, (row, args)) in (0..).zip(queue.requests()).skip(first as usize) {
        // One that cannot be read, or whose load fails, answers so in its place.
        let Ok(command) = permitted(client, row, args) else { continue };
        let done = if index == first { first_key } else { 0 };
        for (place, bytes) in Request::new(row, args).needed(&command).enumerate().skip(done) {
            if cx.ends_asking(end, wait_number(index, place)) {
                return true;
            }
            ensure_loaded(cx, client, Key { db: client.db, bytes });
        }
    }
    from > 0 || cx.waits.is_waiting()
}

/// What its writes cost, in keys that are looked at. An error, before anything is run, if that is too much, or if not all of
/// them fit for sure where nothing may be evicted.
fn cost_of_writes(engine: &Engine, queue: &Queue, client: &Client, held: &mut Locked<'_>) -> Result<usize, Error> {
    let (evict, longest) = (engine.store.options().evict, engine.limits.max_value);
    let leases = if queue.is_wide() { held.stats().leases as usize } else { 0 };
    if evict && !may_cost_much(queue.requests(), longest, leases) {
        return Ok(0);
    }
    let mut writes = Writes::new(held, client.db, longest);
    // One that cannot be read, or is forbidden, answers so in its place.
    let commands = queue.requests().filter_map(|(row, args)| permitted(client, row, args).ok());
    commands.for_each(|command| writes.add(&command));
    let cost = writes.cost();
    if cost > MAX_COST {
        return Err(COPIES_TOO_MUCH);
    }
    if writes.fit() { Ok(cost) } else { Err(Refused::Full.into()) }
}

/// Runs a request of a transaction, however long the replies before it are: a transaction that has begun is done whole, but
/// for reads behind those that have cost too much. A reply that does not fit into the `room` that is left is replaced by an
/// error, which takes none.
fn one(
    cx: &mut Context<'_>,
    client: &mut Client,
    (row, args): (&'static Row, Args<'_>),
    room: &mut usize,
    execute: Execute,
) -> Reply {
    let begun = cx.scratch.len();
    let may_run = if row.has(flag::READ) { cx.may_look() } else { Ok(()) };
    let reply = match may_run.and_then(|()| permitted(client, row, args)) {
        Ok(command) => execute(cx, client, &Request::new(row, args), &command),
        Err(error) => Reply::Error(error),
    };
    let (failed, length) = (matches!(reply, Reply::Error(_)), reply.memory());
    let fits = length <= size_of::<Reply>().max(*room);
    // What a command that failed had found was copied all the same.
    cx.waits.looked_at += length.max(cx.scratch.len() - begun) / BYTES_OF_A_KEY;
    // An error has no value there, although its command may have found some before it failed.
    if failed || !fits {
        cx.scratch.truncate(begun);
    }
    if !fits {
        return Reply::Error(if failed { NO_ROOM_FOR_ERROR } else { NO_ROOM });
    }
    *room = room.saturating_sub(length);
    reply
}

/// A queued request as a command: what the user may do can have changed since it was queued.
fn permitted<'a>(client: &Client, row: &'static Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    gate::permit(client, &Request::new(row, args)).and_then(|()| (row.read)(row, args.from(1)))
}

impl Watched {
    /// The client gets what was loaded for it. Only the first read counts as the state that was watched.
    fn told(&mut self, loaded: &Loaded) {
        // What was not stored, and has no version, is not there when EXEC looks.
        if !self.read && !loaded.absent && self.state.is_none() {
            self.state = loaded.version.map(|version| (version, loaded.expires_at));
        }
        self.read = true;
    }

    fn holds(&self, held: &mut Locked<'_>) -> bool {
        let entry = held.entry(Key { db: self.db, bytes: &self.key });
        let now = entry.peek().map(|item| (item.version, item.expires_at));
        now == self.state && self.changes.is_none_or(|before| self.is_unchanged(before, entry.changes()))
    }

    /// Whether nothing has changed a key that was absent. A row that was loaded and is gone again is a change to a client
    /// that has read that there is none.
    fn is_unchanged(&self, before: Changes, now: Option<Changes>) -> bool {
        let counts_loads = self.read && self.state.is_none();
        now.is_some_and(|now| now.written == before.written && (!counts_loads || now.loaded == before.loaded))
    }
}
