//! Several shards, locked together: what is done to them is one step for everybody else.

use parking_lot::MutexGuard;

use super::entry::{Copied, Entry};
use super::events::StoreEvent;
use super::index::Slot;
use super::shard::Shard;
use super::sharded::Store;
use super::tags::Tags;
use super::types::{Item, Key, MAX_SHARDS, Refused, Stats, Step};
use crate::limits::MAX_TAGS;

/// Bytes that are kept beside a value at most.
const MOST_BESIDE: usize = 64 + 8 * MAX_TAGS;

/// Several shards, locked.
pub struct Locked<'s> {
    pub(super) store: &'s Store,
    pub(super) tags: Tags<'s>,
    pub(super) guards: [Option<MutexGuard<'s, Shard>>; MAX_SHARDS],
    pub(super) now: u64,
    pub(super) actor: u64,
}

impl Drop for Locked<'_> {
    /// Whom the step concerns is told once, from what is there at its end, before any lock is released.
    fn drop(&mut self) {
        for shard in self.guards.iter_mut().flatten() {
            if shard.leases.has_pending() {
                self.store.deliver_events(shard, &self.tags, self.actor);
            }
        }
    }
}

/// A value that a step writes.
#[derive(Clone, Copy, Debug)]
pub struct Written<'k> {
    /// Its key.
    pub key: Key<'k>,
    /// Its greatest length.
    pub length: usize,
    /// The key that it has before, if the item is moved; the same key if something beside the value changes.
    pub from: Option<Key<'k>>,
}

impl Store {
    /// Runs `f` with the shards of all `keys` locked, in ascending order, so that two such calls never wait for
    /// each other.
    pub fn with_all<'k, R>(
        &self,
        keys: impl Iterator<Item = Key<'k>>,
        step: impl Into<Step>,
        f: impl FnOnce(&mut Locked<'_>) -> R,
    ) -> R {
        f(&mut self.lock_all(keys, step.into()))
    }

    /// Reads `keys` as of one instant: `visit` is given the clock and the live item of each in their order, as by
    /// [`Entry::get`], until it returns false.
    #[inline]
    pub fn read_all<'k>(
        &self,
        keys: impl Iterator<Item = Key<'k>> + Clone,
        step: impl Into<Step>,
        mut visit: impl FnMut(u64, Option<Item<'_>>) -> bool,
    ) {
        self.each(keys, step, |entry| visit(entry.now(), entry.get()));
    }

    /// Gives `visit` the entry of each of `keys` in their order, all in one step, until it returns false.
    #[inline]
    pub fn each<'k>(
        &self,
        keys: impl Iterator<Item = Key<'k>> + Clone,
        step: impl Into<Step>,
        visit: impl FnMut(&mut Entry<'_>) -> bool,
    ) {
        let mut hashes = Vec::with_capacity(keys.size_hint().0);
        hashes.extend(keys.clone().map(|key| self.hash(key)));
        let mask = hashes.iter().fold(0u64, |mask, hash| mask | 1 << self.shard_of(*hash));
        self.lock(mask, step.into()).each_hashed(keys, &hashes, visit);
    }

    /// Runs `f` with every shard locked.
    pub fn with_everything<R>(&self, step: impl Into<Step>, f: impl FnOnce(&mut Locked<'_>) -> R) -> R {
        f(&mut self.lock_everything(step.into()))
    }

    /// The shards of all `keys`, locked as by [`with_all`](Store::with_all).
    pub fn lock_all<'k>(&self, keys: impl Iterator<Item = Key<'k>>, step: Step) -> Locked<'_> {
        self.lock(keys.fold(0u64, |mask, key| mask | 1 << self.shard_of(self.hash(key))), step)
    }

    /// Every shard, locked.
    pub fn lock_everything(&self, step: Step) -> Locked<'_> {
        self.lock(u64::MAX, step)
    }

    pub(super) fn lock(&self, mask: u64, Step { now, actor }: Step) -> Locked<'_> {
        let mut guards = [const { None }; MAX_SHARDS];
        for (index, shard) in self.shards.iter().enumerate() {
            if mask & 1 << index != 0 {
                guards[index] = Some(shard.lock());
            }
        }
        Locked { store: self, tags: self.tags.step(), guards, now, actor }
    }

    /// Invalidates tags, all in one step: when this returns, no item that was written with one of them before is served
    /// again.
    pub fn invalidate_tags(&self, tags: &[u64]) {
        self.lock(0, Step::default()).invalidate_tags(tags);
    }

    /// Removes everything, or everything in one database.
    pub fn clear(&self, db: Option<u8>, step: impl Into<Step>) {
        self.with_everything(step, |all| all.clear(db));
    }

    /// Panics unless every shard is what it must be between two steps. For tests: it looks at every item. `slack` bytes of a
    /// shard may be used above its budget, by what grows without a write that makes room for it: leases, ghosts.
    #[doc(hidden)]
    pub fn check(&self, slack: usize) {
        let all = self.lock(u64::MAX, Step::default());
        all.guards.iter().flatten().for_each(|shard| shard.check(slack));
        let budgets = all.guards.iter().flatten().map(|shard| shard.budget).sum::<usize>();
        assert_eq!(budgets, self.share() * self.shards.len(), "the budgets of all shards are the whole");
    }
}

impl Locked<'_> {
    /// The entry of a key whose shard is locked.
    pub fn entry<'a>(&'a mut self, key: Key<'a>) -> Entry<'a> {
        let hash = self.store.hash(key);
        self.entry_at(key, hash, None)
    }

    #[inline]
    pub(super) fn entry_at<'a>(&'a mut self, key: Key<'a>, hash: u64, slot: Option<Slot>) -> Entry<'a> {
        let shard = self.guards[self.store.shard_of(hash)].as_mut().expect("the shard of every key is locked");
        let now = shard.advance(self.now);
        Entry::new(shard, &self.tags, key, hash, now, slot)
    }

    /// Invalidates tags, all at once and in this step.
    pub fn invalidate_tags(&mut self, tags: &[u64]) {
        if !tags.is_empty() {
            self.tags.invalidate(tags);
            self.store.sink.send(StoreEvent::TagsInvalidated, self.actor);
        }
    }

    /// To be called before anything is looked at in a step that will invalidate tags: else those of others could be
    /// invalidated in its middle.
    pub fn hold_to_invalidate(&mut self) {
        self.tags.hold_to_invalidate();
    }

    /// Moves the value of a key, with all that is kept beside it, to another key, over what is there. Whether there is one.
    /// It is refused for want of memory only when the new key is the longer one.
    pub fn rename(&mut self, from: Key<'_>, to: Key<'_>) -> Result<bool, Refused> {
        let Some(copy) = self.entry(from).copied() else { return Ok(false) };
        match self.entry(to).put_copied(&copy) {
            Ok(_) => {}
            // A value as long as a whole shard may be too long for one whose list of values would have to grow.
            Err(Refused::Full | Refused::TooLarge) if !self.store.options.evict => {
                self.rename_when_full(from, to, &copy)?;
            }
            Err(why) => return Err(why),
        }
        self.entry(from).remove();
        Ok(true)
    }

    /// Where nothing may be evicted: the memory that the item gives up is passed on to the shard of the new key first.
    #[cold]
    fn rename_when_full(&mut self, from: Key<'_>, to: Key<'_>, copy: &Copied) -> Result<(), Refused> {
        let [from_hash, to_hash] = [from, to].map(|key| self.store.hash(key));
        let giver = self.shard(from_hash);
        let lent = giver.freed_with(from, from_hash).min(giver.budget);
        let replaced = self.shard(to_hash).freed_with(to, to_hash);
        self.shard_mut(to_hash).budget += lent;
        let moved = self.entry(to).put_moved(copy);
        let taker = self.shard_mut(to_hash);
        // The item that was there needs its memory no more.
        let returned = if moved.is_ok() { lent.min(replaced).min(taker.headroom()) } else { lent };
        taker.budget -= returned;
        self.shard_mut(from_hash).budget -= lent - returned;
        moved.map(|_| ())
    }

    /// As [`Store::read_all`], of keys whose shards are locked.
    pub fn read_all<'k>(
        &mut self,
        keys: impl Iterator<Item = Key<'k>> + Clone,
        mut visit: impl FnMut(u64, Option<Item<'_>>) -> bool,
    ) {
        let hashes: Vec<u64> = keys.clone().map(|key| self.store.hash(key)).collect();
        self.each_hashed(keys, &hashes, |entry| visit(entry.now(), entry.get()));
    }

    #[inline(always)]
    pub(super) fn shard(&self, hash: u64) -> &Shard {
        self.guards[self.store.shard_of(hash)].as_ref().expect("the shard of every key is locked")
    }

    fn shard_mut(&mut self, hash: u64) -> &mut Shard {
        self.guards[self.store.shard_of(hash)].as_mut().expect("the shard of every key is locked")
    }

    /// Whether all these values can be written for sure, under keys whose shards are locked. Where nothing may be evicted,
    /// what is dead makes room for them first; it may say no too early when memory is nearly full.
    pub fn fits<'k>(&mut self, values: impl Iterator<Item = Written<'k>>) -> bool {
        if self.store.options.evict {
            return true;
        }
        let (mut wanted, mut moved, mut lent) = ([0; MAX_SHARDS], [0; MAX_SHARDS], [0; MAX_SHARDS]);
        // What is longer is refused anyway.
        let longest = self.store.options.max_value + MOST_BESIDE;
        for Written { key, length, from } in values {
            let (hash, length) = (self.store.hash(key), length.min(longest));
            let (place, shard) = (self.store.shard_of(hash), self.shard(hash));
            let (whole, anew) = (shard.wanted(key, length), shard.wanted_anew(key, length));
            match from.map(|from| self.store.shard_of(self.store.hash(from))) {
                None => wanted[place] += whole,
                Some(before) => {
                    moved[place] += anew;
                    lent[place] += if before == place { 0 } else { whole - anew };
                }
            }
        }
        let mut shards = self.guards.iter_mut().enumerate();
        shards.all(|(place, shard)| {
            let Some(shard) = shard else { return true };
            let (wanted, moved) = (wanted[place], moved[place]);
            // Where nothing else is written, what moves takes what is kept for that, and the memory of values beside the log.
            let bytes = match wanted {
                0 if !shard.moves_too_much(moved) => return true,
                0 => moved,
                _ => wanted + moved + lent[place],
            };
            let now = shard.advance(self.now);
            shard.make_room_for(bytes, &self.tags, now)
        })
    }

    /// Items of a database in the locked shards.
    pub fn len(&self, db: u8) -> u64 {
        self.guards.iter().flatten().map(|shard| shard.len(db)).sum()
    }

    /// What the locked shards hold, and what happened in them.
    pub fn stats(&self) -> Stats {
        let mut total = Stats::default();
        for shard in self.guards.iter().flatten() {
            total.add(&shard.stats());
        }
        total
    }

    /// As [`Store::each_holder`], in the locked shards.
    pub fn each_holder(&self, mut visit: impl FnMut(Option<u64>, usize)) {
        self.guards.iter().flatten().for_each(|shard| shard.leases.holders().for_each(|(id, count)| visit(id, count)));
    }

    /// Removes everything, or everything in one database, from the locked shards. Memory comes free in the ticks that follow,
    /// or as it is needed.
    pub fn clear(&mut self, db: Option<u8>) {
        let (options, least) = (&self.store.shard_options, self.store.least_segment);
        self.store.sink.send(StoreEvent::Cleared, self.actor);
        self.guards.iter_mut().flatten().for_each(|shard| shard.clear(db, options, least));
    }
}
