//! The store under several threads, many seeded runs: nothing is lost, nothing goes back, and several keys change in
//! one step.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use globalcache_core::store::{Entry, Item, Key, Meta, Options, Store};

const THREADS: u64 = 4;

/// How many seeds: more where there is time for them.
fn runs() -> u64 {
    std::env::var("STORE_RUNS").map_or(30, |count| count.parse().expect("a number"))
}

fn store(memory: u64) -> Store {
    Store::new(Options {
        memory,
        shards: 4,
        evict: true,
        max_value: 1 << 16,
        seed: [5, 6, 7, 8],
        epoch: 1,
        load_limit: 30_000,
    })
}

fn next_random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

fn key(bytes: &[u8]) -> Key<'_> {
    Key { db: 0, bytes }
}

fn number(store: &Store, name: &[u8]) -> u64 {
    store.with(key(name), 1, |entry| {
        entry.peek().map_or(0, |item| u64::from_le_bytes(item.value.bytes().try_into().expect("eight bytes")))
    })
}

#[test]
fn no_increment_is_lost() {
    for seed in 0..runs() {
        let store = store(16 << 20);
        let added: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
        thread::scope(|scope| {
            for worker in 0..THREADS {
                let (store, added) = (&store, &added);
                scope.spawn(move || {
                    let mut state = seed * THREADS + worker;
                    for _ in 0..500 {
                        let (at, by) = (next_random(&mut state, 8), next_random(&mut state, 100));
                        store.with(key(&[b'k', at as u8]), 1, |entry| {
                            let before = entry.peek().map(|item| item.value.bytes().to_vec());
                            let before = before.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")));
                            let after = (before + by).to_le_bytes();
                            let written =
                                if before == 0 { entry.set(&after, &Meta::default()) } else { entry.replace(&after) };
                            written.expect("there is room");
                        });
                        added[at as usize].fetch_add(by, Ordering::Relaxed);
                    }
                });
            }
        });
        for (at, added) in added.iter().enumerate() {
            assert_eq!(number(&store, &[b'k', at as u8]), added.load(Ordering::Relaxed), "seed {seed}, key {at}");
        }
    }
}

#[test]
fn several_keys_change_in_one_step_and_are_read_in_one() {
    const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
    for seed in 0..runs() {
        let store = store(16 << 20);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for worker in 0..THREADS {
                let (store, done) = (&store, &done);
                scope.spawn(move || {
                    for round in 0..300u64 {
                        let value = (seed * 1000 + worker * 10_000 + round).to_le_bytes();
                        store.with_all(NAMES.iter().map(|name| key(name)), 1, |all| {
                            for name in NAMES {
                                all.entry(key(name)).set(&value, &Meta::default()).expect("there is room");
                            }
                        });
                    }
                    done.store(true, Ordering::Release);
                });
            }
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let of = |item: Item<'_>| item.value.bytes().to_vec();
                    let keys = NAMES.iter().map(|name| key(name));
                    let mut seen: Vec<_> = store
                        .with_all(keys.clone(), 1, |all| NAMES.map(|name| all.entry(key(name)).get().map(of)))
                        .into();
                    assert!(seen.iter().all(|value| *value == seen[0]), "{seen:?}");
                    seen.clear();
                    store.read_all(keys, 1, |_, item| {
                        seen.push(item.map(of));
                        true
                    });
                    assert!(seen.iter().all(|value| *value == seen[0]), "{seen:?}");
                }
            });
        });
    }
}

/// Eviction, expiry, invalidation and the sweep run meanwhile; a reader never sees an older version of a key than it saw
/// before, nor a value that does not belong to its key.
#[test]
fn versions_never_go_back_while_memory_is_short() {
    for seed in 0..runs() {
        let store = store(4 << 20);
        let tag = store.tag(b"tag");
        thread::scope(|scope| {
            for worker in 0..THREADS {
                let store = &store;
                scope.spawn(move || {
                    let mut state = seed * THREADS + worker;
                    let mut seen = vec![0u64; 300];
                    for round in 0..2000u64 {
                        let at = next_random(&mut state, 300) as usize;
                        let name = format!("key {at}");
                        match next_random(&mut state, 20) {
                            0 => store.invalidate_tags(&[tag]),
                            1 => store.tick(round),
                            2 => drop(store.with(key(name.as_bytes()), round, |entry| entry.remove())),
                            3..8 => {
                                let size = next_random(&mut state, 30_000) as usize;
                                let value = [name.as_bytes(), &vec![b'.'; size]].concat();
                                let expires_at = Some(round + next_random(&mut state, 2000));
                                let meta = Meta { expires_at, tags: &[tag], ..Meta::default() };
                                let written = store.with(key(name.as_bytes()), round, |entry| entry.set(&value, &meta));
                                seen[at] = written.map_or(seen[at], |version| version.max(seen[at]));
                            }
                            _ => {
                                let version = store.with(key(name.as_bytes()), round, |entry| {
                                    entry.get().map(|item| {
                                        assert!(item.value.bytes().starts_with(name.as_bytes()));
                                        item.version
                                    })
                                });
                                if let Some(version) = version {
                                    assert!(version >= seen[at], "{version} after {}", seen[at]);
                                    seen[at] = version;
                                }
                            }
                        }
                    }
                });
            }
        });
        assert!(store.stats().used <= 4 << 20);
    }
}

/// A step reads two keys of one tag and writes a value derived from the first. Between the reads another thread invalidates
/// the tag. The step sees both or none; what it wrote is dead when the invalidation has returned.
#[test]
fn a_step_sees_all_of_an_invalidation_or_nothing() {
    let store = store(16 << 20);
    let tag = store.tag(b"t");
    let meta = Meta { tags: &[tag], ..Meta::default() };
    for round in 0..20 {
        let keys = [key(b"a"), key(b"b")];
        for key in keys {
            store.with(key, round, |entry| entry.set(b"1", &meta)).unwrap();
        }
        thread::scope(|scope| {
            let invalidated = store.with_all(keys.into_iter(), round, |all| {
                assert!(all.entry(keys[0]).peek().is_some());
                let invalidated = scope.spawn(|| store.invalidate_tags(&[tag]));
                // Time enough for it to go on, if it would.
                (0..1000).for_each(|_| thread::yield_now());
                assert!(!invalidated.is_finished() && all.entry(keys[1]).peek().is_some());
                all.entry(keys[0]).replace(b"2").unwrap();
                invalidated
            });
            invalidated.join().unwrap();
        });
        assert!(keys.iter().all(|key| store.with(*key, round, |entry| entry.get().is_none())));
    }
    // Whatever the sweep forgets, what was dead stays dead.
    store.with(key(b"b"), 1, |entry| entry.set(b"3", &meta)).unwrap();
    assert!(store.with(key(b"b"), 1, |entry| entry.get().is_some()));
    store.invalidate_tags(&[tag]);
    (0..10).for_each(|_| store.tick(1));
    assert!(store.with(key(b"b"), 1, |entry| entry.get().is_none()));
}

/// The same for one key and a condition: CACHE.SET ... IFVERSION.
#[test]
fn a_write_that_depends_on_a_value_is_dead_if_that_was() {
    let store = store(16 << 20);
    let tag = store.tag(b"t");
    let meta = Meta { tags: &[tag], ..Meta::default() };
    store.with(key(b"k"), 1, |entry| entry.set(b"1", &meta)).unwrap();
    thread::scope(|scope| {
        let invalidated = store.with(key(b"k"), 1, |entry| {
            assert!(entry.peek().is_some());
            let invalidated = scope.spawn(|| store.invalidate_tags(&[tag]));
            (0..1000).for_each(|_| thread::yield_now());
            entry.set(b"2", &meta).unwrap();
            invalidated
        });
        invalidated.join().unwrap();
    });
    assert!(store.with(key(b"k"), 1, |entry| entry.get().is_none()));
}

/// Values with tags are written together, read together and derived from each other, each in one step, while two of their
/// tags are invalidated together. A reader finds all of a round or nothing of it, and once an invalidation has returned
/// nothing of its round, nor what a step derived from it.
#[test]
fn invalidations_beside_steps_are_seen_whole() {
    for seed in 0..runs() {
        let store = store(16 << 20);
        let tags = [store.tag(b"one"), store.tag(b"two")];
        // Few keys are more often met between two steps, many within one.
        let names: Vec<Vec<u8>> = (0..2 + seed % 6 * 8).map(|number| format!("key {number}").into_bytes()).collect();
        let (acknowledged, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let keys = || names.iter().map(|name| key(name)).chain([key(b"derived")]);
        let of = |number: usize| Meta { tags: &tags[number % 2..number % 2 + 1], ..Meta::default() };
        let found = |entry: &mut Entry<'_>| {
            entry.peek().map(|item| u64::from_le_bytes(item.value.bytes().try_into().expect("eight bytes")))
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..100u64 {
                    store.with_all(keys(), 1, |all| {
                        for (number, name) in names.iter().enumerate() {
                            all.entry(key(name)).set(&round.to_le_bytes(), &of(number)).expect("there is room");
                        }
                    });
                    thread::yield_now();
                    store.invalidate_tags(&tags);
                    acknowledged.store(round, Ordering::SeqCst);
                    store.tick(1);
                }
                done.store(true, Ordering::Release);
            });
            for derives in [false, true] {
                let (store, names, keys, found, of) = (&store, &names, &keys, &found, &of);
                let (acknowledged, done) = (&acknowledged, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Acquire) {
                        let before = acknowledged.load(Ordering::SeqCst);
                        store.with_all(keys(), 1, |all| {
                            let first = found(&mut all.entry(key(&names[0])));
                            for name in names {
                                let value = found(&mut all.entry(key(name)));
                                assert_eq!(value, first, "seed {seed}: half of an invalidation is seen");
                            }
                            let derived = found(&mut all.entry(key(b"derived")));
                            for value in [first, derived].into_iter().flatten() {
                                assert!(value > before, "seed {seed}: {value} is seen after {before} was invalidated");
                            }
                            if let Some(round) = first.filter(|_| derives) {
                                let written = all.entry(key(b"derived")).set(&round.to_le_bytes(), &of(seed as usize));
                                written.expect("there is room");
                            }
                        });
                        // Else the writer seldom has its turn.
                        thread::yield_now();
                    }
                });
            }
        });
    }
}

#[test]
fn time_never_goes_back_within_a_shard() {
    let store = store(16 << 20);
    let meta = Meta { expires_at: Some(103), ..Meta::default() };
    store.with(key(b"k"), 100, |entry| entry.set(b"v", &meta)).unwrap();
    assert!(store.with(key(b"k"), 105, |entry| entry.peek().is_none()));
    // A thread that read its clock earlier must not see the value come back.
    assert!(store.with(key(b"k"), 100, |entry| entry.get().is_none()));
}

#[test]
fn what_expired_is_reclaimed_also_when_nobody_reads() {
    let store = store(16 << 20);
    let meta = Meta { expires_at: Some(100), ..Meta::default() };
    for at in 0..20_000u32 {
        store.with(key(&at.to_le_bytes()), 1, |entry| entry.set(&[7; 100], &meta)).unwrap();
    }
    let held = store.stats();
    (0..200).for_each(|_| store.tick(200));
    let left = store.stats();
    assert_eq!((held.items, left.items, left.expired), (20_000, 0, 20_000));
    assert!(left.used * 2 < held.used, "{} bytes of {} are still used", left.used, held.used);
}
