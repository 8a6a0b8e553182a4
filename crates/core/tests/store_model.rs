//! The store against a model of a page: long sequences of operations, with and without a shortage of memory.
//!
//! With enough memory it does exactly what the model does. When memory is short it may forget, but never invents,
//! resurrects or mixes up, and it never takes more than its budget. Stores of small segments reach every border of a
//! segment within a few steps; after each step the store is checked as a whole.

use std::collections::{BTreeSet, HashMap};

use globalcache_core::store::{Key, Meta, Refused};
use model::{Known, Op, Test};
use proptest::prelude::*;

mod model;

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
        2 => (run(), ttl()).prop_map(|((first, count), ttl)| Op::ExpireRun { first, count, ttl }),
        1 => (run(), ttl()).prop_map(|((first, count), ttl)| Op::ExpireInCrowd { first, count, ttl }),
        1 => (target(), target()).prop_map(|(from, to)| Op::Copy { from, to }),
        2 => (target(), target()).prop_map(|(from, to)| Op::Rename { from, to }),
        4 => (1..4usize, 1..30usize).prop_map(|(steps, items)| Op::Sweep { steps, items }),
        10 => operation(keys, 0..40),
    ]
}

/// Few cases unless PROPTEST_CASES asks for more: each is a long sequence of steps.
fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { 60 };
    ProptestConfig { cases, failure_persistence: None, ..given }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn with_enough_memory_nothing_is_forgotten(ops in prop::collection::vec(operation(60, 0..100_000), 1..400)) {
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
        crowded in any::<bool>(),
    ) {
        let mut test = Test::with_small_segments(memory, shards, evict, segment);
        let fits = |op: &Op| match op {
            Op::Lease { .. } | Op::Fill { .. } => false,
            Op::ExpireInCrowd { .. } => crowded && !evict,
            _ => true,
        };
        ops.into_iter().filter(fits).for_each(|op| test.run(op));
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
fn a_full_store_stays_right_and_within_its_budget() {
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
