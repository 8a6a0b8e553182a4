//! Loader workers: which keys are served, by whom, and who loads what next.
//!
//! A pattern that a worker once registered stays served when its workers die, until an operator forgets it: a plain
//! read of such a key waits for a worker, and is an error if none comes, never "there is no such value". Reads that wait
//! when their pattern is forgotten are answered as those of a key that nobody serves.
//!
//! Loads are given out by credit. A worker is sent no more than it can have under way, the rest waits here, and the
//! lease of a load begins when it is sent: else leases would end in the queue of a worker, and every one that passes on
//! would be loaded twice. A worker has its credit back when it answers, by whichever connection, or when its time to answer
//! is over: one that never answers is sent other loads all the same.
//!
//! Order of locks: that of a shard comes before those of this module; none of them is held while the store is used.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::mailbox::{Event, Mailboxes};
use super::pubsub::MOST_STEPS;
use crate::glob;
use crate::limits::MAX_PATTERNS;
use crate::store::{ConnectionId, Hold, Key, Store};
use crate::vocabulary::{Error, Kind, MAX_KEY, PATTERN_TOO_LONG};

/// How long a worker may take before its lease passes on, in milliseconds, unless it renews it.
const LEASE: u64 = 3_000;
/// Workers that may be connected: far more than an application has.
const MAX_WORKERS: usize = 1024;
const TOO_COSTLY: Error = Error::new(
    Kind::TooLarge,
    "ERR the patterns that are served are too costly to compare with one key; use fewer stars, or let them begin otherwise",
);
/// How often loads are looked for whose time is over, in milliseconds.
const EXPIRE_EVERY: u64 = 100;
/// Part of the memory that keys waiting for a worker may take, as a divisor, and the least of it in bytes. One pattern may
/// take half of it. Beyond it no key is queued, and its lease asks again a while later.
const QUEUE_PART: u64 = 64;
const LEAST_QUEUE: u64 = 64 << 10;
/// What a queued key takes beside its bytes: a place in the queue, one or two in the table of what is queued, and the
/// counters of the shared bytes.
const QUEUED_BYTES: usize = 3 * size_of::<Wanted>() + 2 * size_of::<usize>();
/// Keys for which an empty queue keeps its memory.
const KEPT: usize = 16;
/// How often full queues are searched for keys that are not wanted any more, in milliseconds.
const PRUNE_EVERY: u64 = 1_000;
/// Keys that one step puts into queues, takes out of them, or looks at there: about a millisecond. If they are compared with
/// many patterns they are fewer, by the comparisons that take as long.
const STEP: usize = 1 << 10;
const COMPARISONS: usize = 1 << 14;
/// Steps that follow each other before the connections of the thread have their turns again.
const STEPS: usize = 4;

/// Who loads a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Nobody: the application does.
    Nobody,
    /// Workers do, but there is none at the moment.
    Away,
    /// A worker.
    Worker,
}

struct Pattern {
    /// Its database; `FORGOTTEN` if it is not served any more, and its place is free.
    db: u8,
    glob: Box<[u8]>,
    read: glob::Pattern,
    /// What each key begins with that matches, and the steps that a key takes at most to be compared.
    prefix: Box<[u8]>,
    most_steps: usize,
    /// Workers that load what matches.
    workers: usize,
}

/// The database of no pattern: the place of one that was forgotten is kept, since workers know theirs by their places.
const FORGOTTEN: u8 = u8::MAX;

impl Pattern {
    fn new(db: u8, glob: &[u8]) -> Result<Pattern, Error> {
        let read = glob::Pattern::new(glob).ok_or(PATTERN_TOO_LONG)?;
        let (prefix, most_steps) = (read.prefix().into(), read.most_steps(MAX_KEY));
        Ok(Pattern { db, glob: glob.into(), read, prefix, most_steps, workers: 0 })
    }

    fn forgotten() -> Pattern {
        Pattern::new(FORGOTTEN, b"").expect("a short pattern")
    }

    fn is_free(&self) -> bool {
        self.db == FORGOTTEN
    }

    fn covers(&self, db: u8, key: &[u8]) -> bool {
        self.db == db && self.read.matches(key)
    }
}

/// More steps than any key takes to be compared with all these patterns. Most end at its first bytes: only patterns whose
/// prefixes cover each other can all look at the rest of one key.
fn most_steps<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> usize {
    let mut all: Vec<&Pattern> = patterns.collect();
    all.sort_unstable_by_key(|pattern| (pattern.db, &pattern.prefix));
    // Patterns whose prefixes cover that of the next one, each with the steps of all of them so far.
    let (mut most, mut covering) = (0, Vec::<(&Pattern, usize)>::new());
    for pattern in all {
        let covers = |(one, _): &(&Pattern, usize)| one.db == pattern.db && pattern.prefix.starts_with(&one.prefix);
        while covering.last().is_some_and(|one| !covers(one)) {
            covering.pop();
        }
        let steps = covering.last().map_or(0, |(_, steps)| *steps) + pattern.most_steps;
        covering.push((pattern, steps));
        most = most.max(steps);
    }
    most
}

struct Worker {
    connection: ConnectionId,
    patterns: Vec<usize>,
    /// Loads that it takes at a time.
    credit: usize,
    /// Loads that it was sent and may still answer, and those that are being sent.
    busy: usize,
}

type Wanted = (u8, Arc<[u8]>);

/// What waits for a worker of one pattern, each key once, and the bytes that this takes.
#[derive(Default)]
struct Queue {
    /// Those that were found to be wanted still while the queue is searched, and those behind them.
    checked: VecDeque<Wanted>,
    keys: VecDeque<Wanted>,
    /// The last of them were taken to be checked: what comes behind is for the next search.
    searched: bool,
    /// All of them: a key that is given up and wanted again before its turn keeps its place.
    known: HashSet<Wanted>,
    bytes: usize,
}

impl Queue {
    fn cost((_, key): &Wanted) -> usize {
        QUEUED_BYTES + key.len()
    }

    fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn push(&mut self, wanted: Wanted) {
        if self.count_in(&wanted) {
            self.keys.push_back(wanted);
        }
    }

    /// Counts a key as queued; whether it was not.
    fn count_in(&mut self, wanted: &Wanted) -> bool {
        let new = self.known.insert(wanted.clone());
        self.bytes += if new { Queue::cost(wanted) } else { 0 };
        new
    }

    /// A key was taken out.
    fn count_out(&mut self, wanted: &Wanted) {
        self.known.remove(wanted);
        self.bytes -= Queue::cost(wanted);
        if self.is_empty() && self.known.capacity() > KEPT {
            self.take();
        }
    }

    fn pop(&mut self) -> Option<Wanted> {
        let wanted = self.checked.pop_front().or_else(|| self.keys.pop_front())?;
        self.count_out(&wanted);
        Some(wanted)
    }

    fn take(&mut self) -> VecDeque<Wanted> {
        let Queue { mut checked, mut keys, .. } = std::mem::take(self);
        checked.append(&mut keys);
        checked
    }

    /// Takes some that were not checked; none if all of them were, and then the next search begins with the first.
    fn unchecked(&mut self) -> Vec<Wanted> {
        if std::mem::take(&mut self.searched) || self.keys.is_empty() {
            self.checked.append(&mut self.keys);
            std::mem::swap(&mut self.checked, &mut self.keys);
            return Vec::new();
        }
        let some: Vec<Wanted> = self.keys.drain(..self.keys.len().min(STEP)).collect();
        some.iter().for_each(|wanted| self.count_out(wanted));
        self.searched = self.keys.is_empty();
        some
    }

    /// Puts back what is wanted still, unless it was queued anew meanwhile.
    fn keep(&mut self, some: Vec<Wanted>) {
        for wanted in some {
            if self.count_in(&wanted) {
                self.checked.push_back(wanted);
            }
        }
    }
}

/// What one look at the queues finds to be done.
#[derive(Default)]
struct Turn {
    /// What to send to whom.
    sent: Vec<(Wanted, ConnectionId)>,
    /// New loads that nobody is there for.
    alone: Vec<Wanted>,
    /// New loads for which no queue has room.
    refused: Vec<Wanted>,
    /// Those that no pattern covers any more.
    unserved: Vec<Wanted>,
    /// Queues are searched for keys that are not wanted any more.
    searching: bool,
    /// There is more to be done.
    more: bool,
}

#[derive(Default)]
struct Work {
    workers: Vec<Worker>,
    /// What waits for a worker, for each pattern.
    queues: Vec<Queue>,
    /// The queue that is searched for keys that are not wanted any more, and when full queues may be searched again.
    pruned: Option<usize>,
    prune_at: u64,
    /// How often a queue was taken away as a whole.
    taken: u64,
    /// Whose turn it is.
    next: usize,
    /// What workers were sent: to whom, and until when it may answer.
    loads: HashMap<Hold, (ConnectionId, u64)>,
    /// When loads whose time is over are looked for.
    expire_at: u64,
}

impl Work {
    fn give_back(&mut self, connection: ConnectionId) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.connection == connection) {
            worker.busy = worker.busy.saturating_sub(1);
        }
    }

    fn is_waited_for(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }

    fn take_queue(&mut self, number: usize) -> VecDeque<Wanted> {
        self.taken += 1;
        self.queues.get_mut(number).map(Queue::take).unwrap_or_default()
    }

    /// The queue that is searched now, with some of its keys; `begin` if a search is to begin, unless there was one a while
    /// ago that is too short.
    fn unchecked(&mut self, begin: bool, now: u64) -> Option<(usize, Vec<Wanted>)> {
        if begin && self.pruned.is_none() && now >= self.prune_at {
            (self.pruned, self.prune_at) = (Some(0), now + PRUNE_EVERY);
        }
        let first = self.pruned.take()?;
        for (number, queue) in self.queues.iter_mut().enumerate().skip(first) {
            let some = queue.unchecked();
            if !some.is_empty() {
                self.pruned = Some(number);
                return Some((number, some));
            }
        }
        None
    }
}

/// Patterns, workers, and what is to be loaded.
#[derive(Default)]
pub struct Loaders {
    any: AtomicBool,
    patterns: RwLock<Vec<Pattern>>,
    work: Mutex<Work>,
    wanted: Mutex<VecDeque<Wanted>>,
    has_pending: AtomicBool,
    loads: AtomicU64,
}

impl Loaders {
    /// Whether any key may be served: what a miss looks at first.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Loads that were sent to workers so far.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    /// Bytes of the keys that wait for a worker.
    pub fn queued_bytes(&self) -> usize {
        self.work.lock().queues.iter().map(|queue| queue.bytes).sum()
    }

    /// Who loads a key.
    pub fn serving(&self, key: Key<'_>) -> Serving {
        if !self.any() {
            return Serving::Nobody;
        }
        let patterns = self.patterns.read();
        let mut serving = Serving::Nobody;
        for pattern in patterns.iter().filter(|pattern| pattern.covers(key.db, key.bytes)) {
            if pattern.workers > 0 {
                return Serving::Worker;
            }
            serving = Serving::Away;
        }
        serving
    }

    /// The pattern that a key is served by.
    pub fn pattern_of(&self, key: Key<'_>) -> Option<Vec<u8>> {
        let patterns = self.patterns.read();
        patterns.iter().find(|pattern| pattern.covers(key.db, key.bytes)).map(|pattern| pattern.glob.to_vec())
    }

    /// Serves a pattern from now on, whether or not there is a worker for it.
    pub fn declare(&self, db: u8, glob: &[u8]) -> Result<(), Error> {
        self.declare_all(&mut self.patterns.write(), db, std::iter::once(glob))?;
        Ok(())
    }

    /// The numbers of patterns, all of which are served from now on; or none is that was not, if they are too many.
    fn declare_all<'a>(
        &self,
        patterns: &mut Vec<Pattern>,
        db: u8,
        globs: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<usize>, Error> {
        let named = patterns.iter().enumerate().filter(|(_, pattern)| pattern.db == db);
        let known: HashMap<&[u8], usize> = named.map(|(number, pattern)| (&*pattern.glob, number)).collect();
        let all: HashSet<&[u8]> = globs.collect();
        let mut numbers: Vec<usize> = all.iter().filter_map(|glob| known.get(glob).copied()).collect();
        let unknown = all.into_iter().filter(|glob| !known.contains_key(glob));
        let unknown = unknown.map(|glob| Pattern::new(db, glob)).collect::<Result<Vec<_>, _>>()?;
        let free: Vec<usize> = (0..patterns.len()).filter(|number| patterns[*number].is_free()).collect();
        if patterns.len() - free.len() + unknown.len() > MAX_PATTERNS {
            return Err(Error::new(Kind::TooLarge, "ERR too many patterns are served"));
        }
        if !unknown.is_empty() && most_steps(patterns.iter().chain(&unknown)) > MOST_STEPS {
            return Err(TOO_COSTLY);
        }
        let mut places = free.into_iter();
        for pattern in unknown {
            let number = places.next().unwrap_or(patterns.len());
            match patterns.get_mut(number) {
                Some(free) => *free = pattern,
                None => patterns.push(pattern),
            }
            numbers.push(number);
        }
        self.any.store(true, Ordering::Release);
        Ok(numbers)
    }

    /// A connection becomes a worker for patterns, or for more of them, with so many loads at a time.
    pub fn register<'a>(
        &self,
        connection: ConnectionId,
        db: u8,
        globs: impl Iterator<Item = &'a [u8]>,
        credit: usize,
    ) -> Result<(), Error> {
        let mut work = self.work.lock();
        let mut patterns = self.patterns.write();
        let new = !work.workers.iter().any(|worker| worker.connection == connection);
        if new && work.workers.len() == MAX_WORKERS {
            return Err(Error::new(Kind::TooLarge, "ERR too many loader workers"));
        }
        let numbers = self.declare_all(&mut patterns, db, globs)?;
        if new {
            work.workers.push(Worker { connection, patterns: Vec::new(), credit, busy: 0 });
        }
        let worker = work.workers.iter_mut().find(|worker| worker.connection == connection).expect("it was put there");
        worker.credit = credit;
        for number in numbers {
            if !worker.patterns.contains(&number) {
                worker.patterns.push(number);
                patterns[number].workers += 1;
            }
        }
        // Looked at anew: a key whose pattern has no worker may match another one that has one now.
        for number in (0..patterns.len()).filter(|number| patterns[*number].workers == 0) {
            self.wanted.lock().extend(work.take_queue(number));
        }
        self.has_pending.store(true, Ordering::Release);
        Ok(())
    }

    /// A worker is gone, or is going: to be called before the leases that it held pass on, since they would come to it again.
    pub fn leave(&self, connection: ConnectionId) {
        let mut work = self.work.lock();
        let Some(at) = work.workers.iter().position(|worker| worker.connection == connection) else { return };
        let worker = work.workers.swap_remove(at);
        work.loads.retain(|_, (known, _)| *known != connection);
        let mut patterns = self.patterns.write();
        for number in worker.patterns {
            patterns[number].workers -= 1;
            if patterns[number].workers == 0 {
                // Looked at anew: without a worker, whoever waits and can load does.
                self.wanted.lock().extend(work.take_queue(number));
            }
        }
        self.has_pending.store(true, Ordering::Release);
    }

    /// Forgets patterns of a database; how many were served.
    pub fn forget<'a>(&self, db: u8, globs: impl Iterator<Item = &'a [u8]>) -> usize {
        let all: HashSet<&[u8]> = globs.collect();
        let mut work = self.work.lock();
        let mut patterns = self.patterns.write();
        let is_named = |pattern: &Pattern| pattern.db == db && all.contains(&*pattern.glob);
        let forgotten: HashSet<usize> = (0..patterns.len()).filter(|number| is_named(&patterns[*number])).collect();
        if forgotten.is_empty() {
            return 0;
        }
        work.workers.iter_mut().for_each(|worker| worker.patterns.retain(|number| !forgotten.contains(number)));
        for number in &forgotten {
            patterns[*number] = Pattern::forgotten();
            // Looked at anew: another pattern may cover them, or those who wait learn that none does.
            self.wanted.lock().extend(work.take_queue(*number));
        }
        self.has_pending.store(true, Ordering::Release);
        forgotten.len()
    }

    /// A key is to be loaded: called under the lock of its shard.
    pub fn want(&self, db: u8, key: Arc<[u8]>) {
        self.wanted.lock().push_back((db, key));
        self.has_pending.store(true, Ordering::Release);
    }

    /// Somebody has answered for a load, by whichever connection: if a worker was sent it, it can be sent another.
    pub fn done(&self, hold: Hold) {
        if !self.any() {
            return;
        }
        let mut work = self.work.lock();
        if let Some((connection, _)) = work.loads.remove(&hold) {
            work.give_back(connection);
            if work.is_waited_for() {
                self.has_pending.store(true, Ordering::Release);
            }
        }
    }

    /// A load takes longer: it may be answered until then.
    pub fn renewed(&self, hold: Hold, until: u64) {
        if self.any()
            && let Some((_, deadline)) = self.work.lock().loads.get_mut(&hold)
        {
            *deadline = until;
        }
    }

    /// A load is sent to a worker: called under the lock of its shard, before the worker can answer.
    fn assigned(&self, hold: Hold, connection: ConnectionId, until: u64) {
        let mut work = self.work.lock();
        if work.workers.iter().any(|worker| worker.connection == connection) {
            work.loads.insert(hold, (connection, until));
        }
    }

    /// Gives workers their credit back for loads that they did not answer in time.
    pub fn expire(&self, now: u64) {
        if !self.any() {
            return;
        }
        let mut work = self.work.lock();
        if now < work.expire_at {
            return;
        }
        work.expire_at = now + EXPIRE_EVERY;
        let mut late = Vec::new();
        work.loads.retain(|_, (connection, until)| {
            late.extend((*until <= now).then_some(*connection));
            *until > now
        });
        late.iter().for_each(|connection| work.give_back(*connection));
        if !late.is_empty() && work.is_waited_for() {
            self.has_pending.store(true, Ordering::Release);
        }
    }

    /// Sends what is to be loaded to those who can take it. To be called when a batch of requests is done. What is left
    /// after a bounded number of steps is done by the next call, of whichever thread.
    #[inline]
    pub fn pump(&self, store: &Store, mail: &Mailboxes, now: u64) {
        for _ in 0..STEPS {
            if !(self.has_pending.load(Ordering::Relaxed) && self.has_pending.swap(false, Ordering::AcqRel)) {
                return;
            }
            self.step(store, mail, now);
        }
    }

    fn step(&self, store: &Store, mail: &Mailboxes, now: u64) {
        let most = (store.options().memory / QUEUE_PART).max(LEAST_QUEUE) as usize;
        let Turn { sent, alone, refused, unserved, searching, more } = self.take_work(most);
        if more {
            self.has_pending.store(true, Ordering::Release);
        }
        for (wanted, connection) in sent {
            self.assign(store, mail, wanted, connection, now);
        }
        for (db, key) in alone {
            store.with(Key { db, bytes: &key }, now, |entry| entry.fall_back());
        }
        for (db, key) in unserved {
            self.unserve(store, Key { db, bytes: &key }, now);
        }
        for (db, key) in &refused {
            store.with(Key { db: *db, bytes: key }, now, |entry| entry.unqueue());
        }
        if searching || !refused.is_empty() {
            self.prune(store, !refused.is_empty(), now);
        }
    }

    /// Sends a load to a worker, if it is wanted still.
    fn assign(&self, store: &Store, mail: &Mailboxes, (db, key): Wanted, connection: ConnectionId, now: u64) {
        let given = store.with(Key { db, bytes: &key }, now, |entry| {
            let token = entry.assign(connection, LEASE);
            if let Some(token) = token {
                self.assigned(entry.hold(token), connection, now + LEASE);
                mail.post(connection, Event::Load(db, Arc::clone(&key), token));
            }
            token.is_some()
        });
        if given {
            self.loads.fetch_add(1, Ordering::Relaxed);
        } else {
            self.work.lock().give_back(connection);
        }
    }

    /// No pattern covered a key. That is looked at again under the lock of its shard: a pattern may have come meanwhile,
    /// and those who wait for the key by now may wait for its worker.
    #[cold]
    fn unserve(&self, store: &Store, key: Key<'_>, now: u64) {
        store.with(key, now, |entry| match self.serving(key) {
            Serving::Nobody => entry.unserve(),
            _ => self.want(key.db, Arc::from(key.bytes)),
        });
    }

    /// Takes keys that are not wanted any more out of full queues, some of them in each step.
    #[cold]
    fn prune(&self, store: &Store, begin: bool, now: u64) {
        let mut work = self.work.lock();
        let Some((number, mut some)) = work.unchecked(begin, now) else { return };
        let taken = work.taken;
        drop(work);
        some.retain(|(db, key)| store.with(Key { db: *db, bytes: key }, now, |entry| entry.is_queued()));
        self.put_back(number, some, taken);
    }

    /// Puts keys back into a queue, if none was taken away since that had happened so often.
    #[cold]
    fn put_back(&self, number: usize, some: Vec<Wanted>, taken: u64) {
        let mut work = self.work.lock();
        if work.taken == taken {
            work.queues[number].keep(some);
        } else {
            // Its pattern may be another one by now. They come before those that have come meanwhile.
            let mut wanted = self.wanted.lock();
            some.into_iter().rev().for_each(|key| wanted.push_front(key));
        }
        self.has_pending.store(true, Ordering::Release);
    }

    /// Puts new loads into the queues, which may take `most` bytes, and takes out what workers are free for.
    fn take_work(&self, most: usize) -> Turn {
        let mut work = self.work.lock();
        let Work { workers, queues, next, pruned, .. } = &mut *work;
        let mut found = Turn { searching: pruned.is_some(), ..Turn::default() };
        self.queue_wanted(queues, most, &mut found);
        for (number, queue) in queues.iter_mut().enumerate() {
            while !queue.is_empty() {
                let count = workers.len();
                let free = |worker: &Worker| worker.busy < worker.credit && worker.patterns.contains(&number);
                let turn = (0..count).map(|step| (*next + step) % count).find(|at| free(&workers[*at]));
                let Some(turn) = turn else { break };
                if found.sent.len() == STEP {
                    found.more = true;
                    return found;
                }
                let Some(wanted) = queue.pop() else { break };
                workers[turn].busy += 1;
                *next = turn + 1;
                found.sent.push((wanted, workers[turn].connection));
            }
        }
        found
    }

    /// Puts new loads into the queues of their patterns: of those that have a worker, if any has.
    fn queue_wanted(&self, queues: &mut Vec<Queue>, most: usize, found: &mut Turn) {
        let patterns = self.patterns.read();
        queues.resize_with(patterns.len(), Queue::default);
        let mut bytes: usize = queues.iter().map(|queue| queue.bytes).sum();
        for wanted in self.some_wanted(COMPARISONS / patterns.len().max(1), found) {
            let covering = || patterns.iter().enumerate().filter(|(_, pattern)| pattern.covers(wanted.0, &wanted.1));
            let place = covering().find(|(_, pattern)| pattern.workers > 0).or_else(|| covering().next());
            let Some((number, pattern)) = place else {
                found.unserved.push(wanted);
                continue;
            };
            if pattern.workers == 0 {
                found.alone.push(wanted.clone());
            }
            let (queue, cost) = (&mut queues[number], Queue::cost(&wanted));
            if queue.known.contains(&wanted) {
                continue;
            }
            if bytes + cost <= most && queue.bytes + cost <= most / 2 {
                bytes += cost;
                queue.push(wanted);
            } else {
                found.refused.push(wanted);
            }
        }
    }

    /// Takes some of the new loads, oldest first.
    fn some_wanted(&self, most: usize, found: &mut Turn) -> Vec<Wanted> {
        let mut wanted = self.wanted.lock();
        let count = wanted.len().min(most.min(STEP));
        let some = wanted.drain(..count).collect();
        found.more = !wanted.is_empty();
        if wanted.is_empty() {
            *wanted = VecDeque::new();
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Costly patterns are registered until one is refused: a key of 64 KiB would take too long to be compared with them all.
    /// Patterns that begin differently, as those of functions do, cost a key no more than one of them.
    #[test]
    fn costly_patterns_are_refused() {
        let loaders = Loaders::default();
        for number in 0..1000 {
            loaders.declare(0, format!("f{number}:*:of:*:in:*").as_bytes()).unwrap();
        }
        let costly = |number: usize| format!("f1:*{}*{number}", "[ab]?".repeat(150));
        let taken = (0..20).take_while(|number| loaders.declare(0, costly(*number).as_bytes()).is_ok()).count();
        assert!((5..20).contains(&taken), "{taken}");
        // In another database, or of other keys, there is room.
        loaders.declare(1, costly(0).as_bytes()).unwrap();
        loaders.declare(0, b"f2:*[ab]*").unwrap();
        // What is served already is no new pattern, and what is forgotten makes room.
        loaders.declare(0, costly(0).as_bytes()).unwrap();
        assert_eq!(loaders.declare(0, costly(taken).as_bytes()), Err(TOO_COSTLY));
        assert_eq!(loaders.forget(0, [costly(0).as_bytes()].into_iter()), 1);
        loaders.declare(0, costly(taken).as_bytes()).unwrap();
    }

    /// While some keys of a full queue are looked at, their pattern is forgotten and another one has its place, with a worker
    /// of its own. The keys are not sent to that worker, but to one that comes for a pattern which covers them.
    #[test]
    fn a_search_ends_with_the_pattern_of_its_queue() {
        let loaders = Loaders::default();
        let worker = |slot| ConnectionId { slot, id: u64::from(slot), ..ConnectionId::default() };
        loaders.declare(0, b"a:*").unwrap();
        (0..3).for_each(|number| loaders.want(0, Arc::from(format!("a:{number}").as_bytes())));
        assert!(loaders.take_work(1 << 20).sent.is_empty());
        let (number, some) = loaders.work.lock().unchecked(true, 0).unwrap();
        let taken = loaders.work.lock().taken;
        assert_eq!((some.len(), loaders.queued_bytes()), (3, 0));
        assert_eq!(loaders.forget(0, [&b"a:*"[..]].into_iter()), 1);
        loaders.register(worker(1), 0, [&b"b:*"[..]].into_iter(), 10).unwrap();
        loaders.put_back(number, some, taken);
        let turn = loaders.take_work(1 << 20);
        assert_eq!((turn.sent.len(), turn.unserved.len()), (0, 3));
        turn.unserved.into_iter().for_each(|(db, key)| loaders.want(db, key));
        loaders.register(worker(2), 0, [&b"a:*"[..]].into_iter(), 10).unwrap();
        let sent = loaders.take_work(1 << 20).sent;
        assert_eq!((sent.len(), sent.iter().all(|(_, connection)| *connection == worker(2))), (3, true));
    }

    /// A full queue is searched a part at a time, while workers take its first keys and others are queued: its order stays.
    #[test]
    fn a_queue_keeps_its_order_while_it_is_searched() {
        let wanted = |number: usize| -> Wanted { (0, Arc::from(number.to_be_bytes())) };
        let mut queue = Queue::default();
        let count = 3 * STEP;
        (0..count).for_each(|number| queue.push(wanted(number)));
        let (mut got, mut next) = (Vec::new(), count);
        loop {
            let some = queue.unchecked();
            if some.is_empty() {
                break;
            }
            queue.keep(some.into_iter().filter(|(_, key)| key[7] % 2 == 0).collect());
            got.extend(queue.pop());
            queue.push(wanted(next));
            // It is queued already, and has its place.
            queue.push(wanted(next));
            next += 1;
        }
        got.extend(std::iter::from_fn(|| queue.pop()));
        assert!(got.is_sorted() && got.len() < count / 2 + 10, "{}", got.len());
        assert_eq!((queue.bytes, queue.is_empty()), (0, true));
    }

    /// More loads are wanted than one step queues: they are queued in further steps, in their order.
    #[test]
    fn a_step_queues_a_bounded_number_of_loads() {
        let loaders = Loaders::default();
        let connection = ConnectionId::default();
        loaders.register(connection, 0, [&b"*"[..]].into_iter(), 1 << 16).unwrap();
        let count = 2 * STEP + 1;
        (0..count).for_each(|number| loaders.want(0, Arc::from(number.to_be_bytes())));
        let turns: Vec<Turn> = (0..3).map(|_| loaders.take_work(1 << 30)).collect();
        assert_eq!(turns.iter().map(|turn| turn.sent.len()).collect::<Vec<_>>(), [STEP, STEP, 1]);
        assert_eq!(turns.iter().map(|turn| turn.more).collect::<Vec<_>>(), [true, true, false]);
        assert!(turns.iter().flat_map(|turn| &turn.sent).is_sorted_by_key(|((_, key), _)| Arc::clone(key)));
    }
}
