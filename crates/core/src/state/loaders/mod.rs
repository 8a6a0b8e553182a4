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

mod pattern;
mod queue;
#[cfg(test)]
mod tests;
mod work;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use pattern::{Pattern, most_steps};
use queue::{Queue, STEP, Wanted};
use work::{Turn, Work, Worker};

use super::mailbox::{Event, Mailboxes};
use super::pubsub::MOST_STEPS;
use crate::limits::MAX_PATTERNS;
use crate::store::{ConnectionId, Hold, Key, Store};
use crate::vocabulary::{Error, Kind};

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
/// Comparisons of keys with patterns that take as long as a step: with many patterns, fewer keys are queued in one.
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
