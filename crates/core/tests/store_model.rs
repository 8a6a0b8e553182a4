//! The store against a model of a page: long sequences of operations, with and without a shortage of memory.
//!
//! With enough memory it does exactly what the model does. When memory is short it may forget, but never invents,
//! resurrects or mixes up, and it never takes more than its budget. Stores of small segments reach every border of a
//! segment within a few steps; after each step the store is checked as a whole.

use std::collections::{BTreeSet, HashMap};

use globalcache_core::store::{Entry, Item, Key, Meta, Options, Party, Refused, Seeker, Sought, Store, shards_for};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Set {
        db: u8,
        key: u16,
        size: usize,
        fill: u8,
        ttl: Option<u64>,
        fresh: Option<u64>,
        flags: u32,
        tags: Vec<u8>,
        absent: bool,
    },
    Get {
        db: u8,
        key: u16,
    },
    GetMany {
        db: u8,
        keys: Vec<u16>,
    },
    Remove {
        db: u8,
        key: u16,
    },
    Expire {
        db: u8,
        key: u16,
        ttl: Option<u64>,
    },
    Replace {
        db: u8,
        key: u16,
        size: usize,
        fill: u8,
    },
    Lease {
        db: u8,
        key: u16,
    },
    /// Under one of the tokens that were granted for the key, good or not.
    Fill {
        db: u8,
        key: u16,
        which: usize,
        size: usize,
        fill: u8,
        ttl: Option<u64>,
        tags: Vec<u8>,
    },
    /// Sets keys one after another: they lie side by side.
    SetRun {
        first: u16,
        count: u16,
        size: usize,
        ttl: Option<u64>,
        tags: Vec<u8>,
    },
    /// Removes keys that were set one after another: whole segments become empty.
    RemoveRun {
        first: u16,
        count: u16,
    },
    Copy {
        from: (u8, u16),
        to: (u8, u16),
    },
    Rename {
        from: (u8, u16),
        to: (u8, u16),
    },
    Invalidate {
        tag: u8,
    },
    Clear {
        db: Option<u8>,
    },
    Wait {
        millis: u64,
    },
    Tick,
    /// Some steps of the sweep, each over so many items.
    Sweep {
        steps: usize,
        items: usize,
    },
}

fn operation(keys: u16, sizes: std::ops::Range<usize>) -> impl Strategy<Value = Op> {
    let db = prop_oneof![4 => Just(0u8), 1 => Just(3u8)];
    let target = || (db.clone(), 0..keys);
    let ttl = || prop::option::weighted(0.4, prop_oneof![1u64..50, 1000u64..10_000, Just(1 << 40)]);
    let size = || prop_oneof![8 => 0..200usize, 1 => sizes.clone()];
    let tags = prop::collection::vec(0u8..4, 0..3);
    let set = (target(), size(), any::<u8>(), ttl(), ttl(), prop_oneof![Just(0), any::<u32>()], tags.clone(), 0..10u8);
    let filled = (target(), any::<usize>(), size(), any::<u8>(), ttl(), tags);
    prop_oneof![
        10 => set.prop_map(|((db, key), size, fill, ttl, fresh, flags, tags, absent)| {
            Op::Set { db, key, size, fill, ttl, fresh, flags, tags, absent: absent == 0 }
        }),
        8 => target().prop_map(|(db, key)| Op::Get { db, key }),
        2 => (db.clone(), prop::collection::vec(0..keys, 0..40)).prop_map(|(db, keys)| Op::GetMany { db, keys }),
        2 => target().prop_map(|(db, key)| Op::Remove { db, key }),
        2 => (target(), ttl()).prop_map(|((db, key), ttl)| Op::Expire { db, key, ttl }),
        2 => (target(), size(), any::<u8>()).prop_map(|((db, key), size, fill)| Op::Replace { db, key, size, fill }),
        6 => target().prop_map(|(db, key)| Op::Lease { db, key }),
        6 => filled.prop_map(|((db, key), which, size, fill, ttl, tags)| {
            Op::Fill { db, key, which, size, fill, ttl, tags }
        }),
        1 => (0u8..4).prop_map(|tag| Op::Invalidate { tag }),
        1 => prop::option::weighted(0.8, db.clone()).prop_map(|db| Op::Clear { db }),
        2 => (1u64..60).prop_map(|millis| Op::Wait { millis }),
        2 => Just(Op::Tick),
    ]
}

/// Operations that fill and empty whole segments, between any two steps of the sweep.
fn border_operation(keys: u16, sizes: std::ops::Range<usize>) -> impl Strategy<Value = Op> {
    let ttl = || prop::option::weighted(0.4, prop_oneof![1u64..50, 100u64..1000]);
    let size = prop_oneof![6 => 0..40usize, 2 => sizes];
    let target = || (prop_oneof![4 => Just(0u8), 1 => Just(3u8)], 0..keys);
    let run = || (0..keys, 1..40u16);
    prop_oneof![
        4 => (run(), size, ttl(), prop::collection::vec(0u8..4, 0..3)).prop_map(|((first, count), size, ttl, tags)| {
            Op::SetRun { first, count, size, ttl, tags }
        }),
        4 => run().prop_map(|(first, count)| Op::RemoveRun { first, count }),
        1 => (target(), target()).prop_map(|(from, to)| Op::Copy { from, to }),
        2 => (target(), target()).prop_map(|(from, to)| Op::Rename { from, to }),
        4 => (1..4usize, 1..30usize).prop_map(|(steps, items)| Op::Sweep { steps, items }),
        10 => operation(keys, 0..40),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    value: Vec<u8>,
    version: u64,
    flags: u32,
    expires_at: Option<u64>,
    fresh_until: Option<u64>,
    tags: Vec<u8>,
    absent: bool,
}

/// A token, and what is known of it.
struct Token {
    token: u64,
    granted_at: u64,
    /// Nothing was written or removed since it was granted.
    good: bool,
    /// Tags that were invalidated since.
    dead: BTreeSet<u8>,
}

/// Milliseconds of a lease: some run out before they are filled.
const LEASE: u64 = 100;

fn key_of(key: u16) -> Vec<u8> {
    // Some keys are long, and one is as long as a key may be.
    let more = match key {
        LONGEST_KEY => 65_535 - b"key:NNN".len(),
        key if key % 10 == 3 => 300,
        // Of these two fill two thirds of a segment of 1,500 bytes, and no third fits.
        key if key % 10 == 7 => 500,
        _ => 0,
    };
    let mut name = format!("key:{key}").into_bytes();
    name.resize(name.len() + more, b'k');
    name
}

const LONGEST_KEY: u16 = 199;

struct Test {
    store: Store,
    model: HashMap<(u8, u16), Known>,
    tokens: HashMap<(u8, u16), Vec<Token>>,
    now: u64,
    /// Whether the store may have forgotten something.
    forgetful: bool,
    memory: u64,
    /// Bytes above its budget that a shard may use; None: it is not checked as a whole.
    slack: Option<usize>,
}

const MAX_VALUE: usize = 300_000;

fn options(memory: u64, shards: usize, evict: bool) -> Options {
    let seed = [7, 8, 9, 10];
    Options { memory, shards, evict, max_value: MAX_VALUE, seed, epoch: 1000, load_limit: 30_000 }
}

impl Test {
    fn new(memory: u64, evict: bool, forgetful: bool) -> Test {
        let shards = shards_for(memory, MAX_VALUE, 4);
        Test::of(Store::new(options(memory, shards, evict)), forgetful, None)
    }

    /// A store of small segments, checked as a whole after every step.
    fn with_small_segments(memory: u64, shards: usize, evict: bool, segment: usize) -> Test {
        Test::of(Store::with_small_segments(options(memory, shards, evict), segment), evict, Some(0))
    }

    fn of(store: Store, forgetful: bool, slack: Option<usize>) -> Test {
        let memory = store.options().memory;
        Test { store, model: HashMap::new(), tokens: HashMap::new(), now: 50, forgetful, memory, slack }
    }

    /// Whether a write may be refused for want of memory.
    fn may_refuse(&self, refused: Refused) -> bool {
        self.forgetful || refused == Refused::TooLarge || !self.store.options().evict
    }

    fn with<R>(&self, db: u8, key: u16, f: impl FnOnce(&mut Entry<'_>) -> R) -> R {
        self.store.with(Key { db, bytes: &key_of(key) }, self.now, f)
    }

    fn known(&self, db: u8, key: u16) -> Option<&Known> {
        let known = self.model.get(&(db, key))?;
        (!known.absent && known.expires_at.is_none_or(|at| self.now < at)).then_some(known)
    }

    /// A value was written or removed: what is being loaded for it is not stored any more.
    fn void(&mut self, db: u8, key: u16) {
        self.tokens.entry((db, key)).or_default().iter_mut().for_each(|token| token.good = false);
    }

    fn lease(&mut self, db: u8, key: u16) {
        let party = Party { mailbox: 0, slot: 0, id: self.now };
        let seeker = Seeker { party, wait: 0, deadline: 0, lease: LEASE, served: false, bound: false };
        let granted = self.with(db, key, |entry| match entry.seek(&seeker) {
            Sought::Lease(token) | Sought::Found { token: token @ 1.., .. } => Some(token),
            _ => None,
        });
        if let Some(token) = granted {
            let known = self.tokens.entry((db, key)).or_default();
            assert!(known.iter().all(|other| other.token < token), "a token was granted twice");
            known.push(Token { token, granted_at: self.now, good: true, dead: BTreeSet::new() });
        }
    }

    fn fill(&mut self, db: u8, key: u16, which: usize, value: Vec<u8>, ttl: Option<u64>, tags: Vec<u8>) {
        let known = self.tokens.entry((db, key)).or_default();
        let Some(index) = which.checked_rem(known.len()) else { return };
        let Token { token, granted_at, good, ref dead } = known[index];
        let tag_dead = tags.iter().any(|tag| dead.contains(tag));
        // Which tags were invalidated is forgotten in time: then none is taken to have been spared.
        let tag_spared = tags.is_empty() || dead.is_empty();
        let last = index + 1 == known.len();
        let hashes: Vec<u64> = tags.iter().map(|tag| self.store.tag(&[*tag])).collect();
        let expires_at = ttl.map(|ttl| self.now + ttl);
        let meta = Meta { expires_at, tags: &hashes, ..Meta::default() };
        match self.with(db, key, |entry| entry.fill(token, &value, &meta)) {
            Ok(Some(version)) => {
                assert!(good && !tag_dead, "a value that was read before a change was stored after it");
                let known = Known { value, version, flags: 0, expires_at, fresh_until: None, tags, absent: false };
                self.model.insert((db, key), known);
                self.void(db, key);
            }
            // One that holds the lease still is not refused without a reason.
            Ok(None) => {
                let must = good && tag_spared && last && self.now < granted_at + LEASE;
                assert!(!must || self.forgetful, "a good value was refused");
                if !tag_spared {
                    // The load is over; who waited loads anew.
                    self.tokens.get_mut(&(db, key)).expect("there is a token").remove(index);
                }
            }
            Err(refused) => {
                assert!(self.may_refuse(refused), "{refused:?}");
                self.void(db, key);
            }
        }
    }

    fn copy(&mut self, from: (u8, u16), to: (u8, u16)) {
        let Some(copy) = self.with(from.0, from.1, |entry| entry.copied()) else { return };
        match self.with(to.0, to.1, |entry| entry.put_copied(&copy)) {
            Ok(_) => self.moved(from, to),
            Err(refused) => assert!(self.may_refuse(refused), "{refused:?}"),
        }
    }

    /// A value never needs more memory under another key that is no longer.
    fn rename(&mut self, from: (u8, u16), to: (u8, u16)) {
        let names = [from, to].map(|(_, key)| key_of(key));
        let [source, target] = [0, 1].map(|at| Key { db: [from, to][at].0, bytes: &names[at] });
        if source == target {
            return;
        }
        let renamed = self.store.with_all([source, target].into_iter(), self.now, |all| all.rename(source, target));
        match renamed {
            Ok(true) => {
                self.moved(from, to);
                self.model.remove(&from);
                self.void(from.0, from.1);
            }
            Ok(false) => assert!(self.forgetful || self.known(from.0, from.1).is_none()),
            Err(refused) => assert!(names[1].len() > names[0].len(), "{refused:?}"),
        }
    }

    /// A value stands under another key.
    fn moved(&mut self, from: (u8, u16), to: (u8, u16)) {
        let mut known = self.model[&from].clone();
        let version = self.with(to.0, to.1, |entry| entry.peek().map(|item| item.version));
        known.version = version.expect("what was written is there");
        self.model.insert(to, known);
        self.void(to.0, to.1);
    }

    /// What a reader can know: of an item that is stale, not since when, for a copied one keeps only that it is.
    fn seen_now(&self, known: &Known) -> Known {
        let fresh_until = known.fresh_until.map(|at| if at <= self.now { 0 } else { at });
        Known { tags: vec![], fresh_until, ..known.clone() }
    }

    fn agree(&self, db: u8, key: u16, found: Option<Known>) {
        match (found, self.known(db, key)) {
            (None, Some(_)) if self.forgetful => {}
            (found, known) => {
                assert_eq!(found.map(|found| self.seen_now(&found)), known.map(|known| self.seen_now(known)))
            }
        }
    }

    fn run(&mut self, op: Op) {
        self.run_one(op);
        if let Some(slack) = self.slack {
            self.store.check(slack);
        }
    }

    fn run_one(&mut self, op: Op) {
        match op {
            Op::Set { db, key, size, fill, ttl, fresh, flags, tags, absent } => {
                let value = vec![fill; size];
                let hashes: Vec<u64> = tags.iter().map(|tag| self.store.tag(&[*tag])).collect();
                let expires_at = ttl.map(|ttl| self.now + ttl);
                let fresh_until = fresh.map(|fresh| self.now + fresh);
                let meta = Meta { flags, expires_at, fresh_until, absent, tags: &hashes, ..Meta::default() };
                match self.with(db, key, |entry| entry.set(&value, &meta)) {
                    Ok(version) => {
                        let known = Known { value, version, flags, expires_at, fresh_until, tags, absent };
                        self.model.insert((db, key), known);
                        self.void(db, key);
                    }
                    Err(refused) => assert!(self.may_refuse(refused), "{refused:?}"),
                }
            }
            Op::SetRun { first, count, size, ttl, tags } => {
                for key in first..first + count {
                    let (fill, tags) = (key as u8, tags.clone());
                    self.run_one(Op::Set { db: 0, key, size, fill, ttl, fresh: None, flags: 0, tags, absent: false });
                }
            }
            Op::RemoveRun { first, count } => {
                (first..first + count).for_each(|key| self.run_one(Op::Remove { db: 0, key }));
            }
            Op::Copy { from, to } => self.copy(from, to),
            Op::Rename { from, to } => self.rename(from, to),
            Op::Lease { db, key } => self.lease(db, key),
            Op::Fill { db, key, which, size, fill, ttl, tags } => {
                self.fill(db, key, which, vec![fill; size], ttl, tags);
            }
            Op::Get { db, key } => {
                let found = self.with(db, key, |entry| entry.get().map(|item| seen(&item)));
                self.agree(db, key, found);
            }
            Op::GetMany { db, keys } => {
                let names: Vec<Vec<u8>> = keys.iter().map(|key| key_of(*key)).collect();
                let mut found = Vec::new();
                self.store.read_all(names.iter().map(|bytes| Key { db, bytes }), self.now, |now, item| {
                    assert_eq!(now, self.now);
                    found.push(item.map(|item| seen(&item)));
                    true
                });
                assert_eq!(found.len(), keys.len());
                found.into_iter().zip(keys).for_each(|(found, key)| self.agree(db, key, found));
            }
            Op::Remove { db, key } => {
                let removed = self.with(db, key, |entry| entry.remove());
                assert!(self.known(db, key).is_some() == removed || self.forgetful && !removed);
                self.model.remove(&(db, key));
                self.void(db, key);
            }
            Op::Expire { db, key, ttl } => {
                let at = ttl.map(|ttl| self.now + ttl);
                let done = self.with(db, key, |entry| entry.expire(at));
                assert!(self.known(db, key).is_some() == done || self.forgetful && !done);
                if let (true, Some(known)) = (done, self.model.get_mut(&(db, key))) {
                    known.expires_at = at;
                }
            }
            Op::Replace { db, key, size, fill } => {
                let value = vec![fill; size];
                let done = self.with(db, key, |entry| entry.peek().is_some().then(|| entry.replace(&value)));
                if let (Some(Ok(version)), Some(known)) = (done, self.model.get_mut(&(db, key))) {
                    (known.value, known.version) = (value, version);
                    self.void(db, key);
                }
            }
            Op::Invalidate { tag } => {
                self.store.invalidate_tags(&[self.store.tag(&[tag])]);
                self.model.retain(|_, known| !known.tags.contains(&tag));
                self.tokens.values_mut().flatten().for_each(|token| token.dead.extend([tag]));
            }
            Op::Clear { db } => {
                self.store.clear(db, self.now);
                let stays = |known: u8| db.is_some_and(|db| known != db);
                self.model.retain(|(known, _), _| stays(*known));
                let gone = self.tokens.iter_mut().filter(|((known, _), _)| !stays(*known));
                gone.flat_map(|(_, tokens)| tokens).for_each(|token| token.good = false);
            }
            Op::Wait { millis } => self.now += millis,
            Op::Sweep { steps, items } => self.store.sweep(steps, items, self.now),
            Op::Tick => {
                self.store.tick(self.now);
                self.store.tick_leases(self.now);
            }
        }
        let used = self.store.stats().used;
        assert!(used <= self.memory, "{used} bytes of {} are used", self.memory);
    }

    /// Everything once more, and the whole of a scan.
    fn finish(&self) {
        for (db, key) in self.model.keys() {
            let found = self.with(*db, *key, |entry| entry.peek().map(|item| seen(&item)));
            self.agree(*db, *key, found);
        }
        for db in [0, 3] {
            let mut scanned: HashMap<Vec<u8>, Known> = HashMap::new();
            let mut cursor = 0;
            loop {
                cursor = self
                    .store
                    .scan(db, cursor, 7, self.now, &mut |key, item| drop(scanned.insert(key.to_vec(), seen(item))));
                if cursor == 0 {
                    break;
                }
            }
            for key in 0..2000 {
                self.agree(db, key, scanned.remove(&key_of(key)));
            }
            assert!(scanned.is_empty(), "keys that nobody wrote: {scanned:?}");
        }
    }
}

fn seen(item: &Item<'_>) -> Known {
    Known {
        value: item.value.bytes().to_vec(),
        version: item.version,
        flags: item.flags,
        expires_at: item.expires_at,
        fresh_until: item.fresh_until,
        tags: vec![],
        absent: item.absent,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_enough_memory_nothing_is_forgotten(ops in prop::collection::vec(operation(60, 0..2000), 1..400)) {
        let mut test = Test::new(32 << 20, true, false);
        ops.into_iter().for_each(|op| test.run(op));
        test.finish();
    }

    #[test]
    fn when_memory_is_short_it_may_forget_but_never_invents(
        ops in prop::collection::vec(operation(2000, 1000..100_000), 1..1500),
    ) {
        let mut test = Test::new(2 << 20, true, true);
        ops.into_iter().for_each(|op| test.run(op));
        test.finish();
    }

    #[test]
    fn small_segments_end_and_begin_at_any_step(
        ops in prop::collection::vec(border_operation(200, 40..3000), 1..300),
        (memory, shards) in prop_oneof![Just((32 << 10, 1)), Just((64 << 10, 2)), Just((200 << 10, 1))],
        (evict, segment) in (any::<bool>(), prop_oneof![Just(500), Just(1500)]),
    ) {
        let mut test = Test::with_small_segments(memory, shards, evict, segment);
        ops.into_iter().filter(|op| !matches!(op, Op::Lease { .. } | Op::Fill { .. })).for_each(|op| test.run(op));
        test.finish();
    }

    #[test]
    fn without_eviction_writes_are_refused_and_nothing_is_lost(
        ops in prop::collection::vec(operation(2000, 1000..100_000), 1..1500),
    ) {
        let mut test = Test::new(2 << 20, false, false);
        for op in ops {
            let Op::Set { db, key, size, fill, flags, .. } = op else { continue };
            let (value, meta) = (vec![fill; size], Meta { flags, ..Meta::default() });
            match test.with(db, key, |entry| entry.set(&value, &meta)) {
                Ok(version) => {
                    let known = Known { value, version, flags, expires_at: None, fresh_until: None, tags: vec![], absent: false };
                    test.model.insert((db, key), known);
                }
                Err(refused) => prop_assert_eq!(refused, Refused::Full),
            }
        }
        test.finish();
        prop_assert_eq!(test.store.stats().evicted, 0);
    }
}

/// Numbers below what is asked for, by a linear congruential generator.
fn draws(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    }
}

/// Fills a small store many times over with items of changing size, reading all the time: compaction, both queues,
/// ghosts and values beside the log are all passed through.
#[test]
fn a_store_that_is_full_for_long_stays_right_and_within_its_budget() {
    let mut test = Test::new(4 << 20, true, true);
    let mut random = draws(1);
    for round in 0..200_000u64 {
        // Sizes drift from tiny to huge and back.
        let most = 20 + (round / 10_000 % 5).pow(5) * 40;
        let popular = random(2) == 0;
        let key = random(if popular { 200 } else { 2000 }) as u16;
        let (size, fill) = (random(most) as usize, random(256) as u8);
        match random(10) {
            0..5 => test.run(Op::Get { db: 0, key }),
            5 => test.run(Op::Remove { db: 0, key }),
            6 => test.run(Op::Tick),
            _ => {
                let (ttl, tags) = ((random(3) == 0).then_some(100), vec![random(3) as u8]);
                test.run(Op::Set { db: 0, key, size, fill, ttl, fresh: None, flags: 0, tags, absent: false });
            }
        }
        if round % 20_000 == 0 {
            test.run(Op::Invalidate { tag: 1 });
        }
        test.now += u64::from(round % 16 == 0);
    }
    test.finish();
    let stats = test.store.stats();
    assert!(stats.evicted > 10_000 && stats.expired > 100 && stats.hits > 10_000, "{stats:?}");
}

/// Recency is what users of a cache take for granted: where popular keys change all the time LRU is hard to beat.
#[test]
fn where_popular_keys_change_it_misses_about_as_little_as_lru() {
    let memory = 2 << 20;
    let store = Test::new(memory, true, true).store;
    let mut random = draws(5);
    // Of two thousand keys the low ones are asked for most; all of them move on by and by.
    let keys: Vec<u64> = (0..400_000).map(|at| at / 40 + random(2000) * random(2000) / 2000).collect();
    let (mut misses, mut held) = (0u64, 0);
    for key in &keys {
        store.with(Key { db: 0, bytes: &key.to_be_bytes() }, 50, |entry| {
            if entry.get().is_none() {
                misses += 1;
                entry.set(&[7; 1000], &Meta::default()).expect("it evicts");
            }
        });
        held += store.stats().items;
    }
    let room = held / keys.len() as u64;
    let (mut used, mut order, mut lru) = (HashMap::new(), BTreeSet::new(), 0u64);
    for (at, key) in keys.iter().enumerate() {
        match used.insert(*key, at) {
            Some(before) => assert!(order.remove(&(before, *key))),
            None => lru += 1,
        }
        order.insert((at, *key));
        if used.len() as u64 > room {
            let (_, oldest) = order.pop_first().expect("there is one");
            used.remove(&oldest);
        }
    }
    assert!(room > 1000 && misses * 100 <= lru * 102, "{misses} misses, LRU with {room} items {lru}");
}
