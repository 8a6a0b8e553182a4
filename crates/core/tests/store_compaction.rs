//! Compaction while others read: sparse segments are copied together, and whoever reads meanwhile finds every item that
//! was written, whole, in every shape that an item has.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use globalcache_core::store::{Key, Meta, Options, Refused, Store};

const MEMORY: u64 = 8 << 20;
/// What stays: it is written once.
const KEPT: u32 = 2000;

fn store(evict: bool) -> Store {
    let seed = [9, 8, 7, 6];
    Store::new(Options { memory: MEMORY, shards: 1, evict, max_value: 1 << 18, seed, epoch: 1, load_limit: 30_000 })
}

/// Every eleventh value lies beside the log.
fn value(number: u32) -> Vec<u8> {
    let size = if number % 11 == 0 { 5000 } else { 100 + number as usize % 300 };
    number.to_le_bytes().iter().copied().cycle().take(size).collect()
}

#[test]
fn what_is_kept_is_found_while_all_around_it_is_written_anew() {
    let store = store(false);
    let tag = store.tag(b"kept");
    let tags = [tag];
    let kept = |number: u32| [b"kept", &number.to_le_bytes()[..]].concat();
    let meta = |number: u32| Meta {
        flags: number % 3,
        expires_at: (number % 2 == 0).then_some(1 << 30),
        fresh_until: (number % 5 == 0).then_some(1 << 20),
        tags: if number % 7 == 0 { &tags } else { &[] },
        ..Meta::default()
    };
    let passing = |number: u64| [b"passing", &number.to_le_bytes()[..]].concat();
    let (done, read) = (AtomicBool::new(false), AtomicU64::new(0));
    // What stays lies between what goes, so that every segment becomes sparse and none empty.
    for number in 0..KEPT {
        let name = kept(number);
        store.with(Key { db: 0, bytes: &name }, 1, |entry| entry.set(&value(number), &meta(number))).unwrap();
        let name = passing(u64::from(number));
        store.with(Key { db: 0, bytes: &name }, 1, |entry| entry.set(&[0; 1500], &Meta::default())).unwrap();
    }
    thread::scope(|scope| {
        for reader in 0..2 {
            let (store, done, read) = (&store, &done, &read);
            scope.spawn(move || {
                let mut number = reader * 997;
                while !done.load(Ordering::Acquire) {
                    number = (number + 7919) % KEPT;
                    let name = kept(number);
                    store.with(Key { db: 0, bytes: &name }, 2, |entry| {
                        let item = entry.get().unwrap_or_else(|| panic!("{number} is lost"));
                        assert_eq!(item.value.bytes(), value(number));
                        assert_eq!(item.flags, number % 3);
                        assert_eq!(item.expires_at, meta(number).expires_at);
                    });
                    read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Ten times the memory passes through the store, removed a thousand writes later.
        for number in u64::from(KEPT)..60_000 {
            let name = passing(number - 1000);
            store.with(Key { db: 0, bytes: &name }, 2, |entry| entry.remove());
            let name = passing(number);
            let written = store.with(Key { db: 0, bytes: &name }, 2, |entry| entry.set(&[1; 1500], &Meta::default()));
            written.expect("what was removed makes room");
        }
        done.store(true, Ordering::Release);
    });
    let stats = store.stats();
    assert!(read.load(Ordering::Relaxed) > 0);
    assert_eq!(stats.evicted, 0);
    assert!(stats.used <= MEMORY);
    // Tags and times came along.
    store.invalidate_tags(&[tag]);
    for number in 0..KEPT {
        let name = kept(number);
        let there = |now| store.with(Key { db: 0, bytes: &name }, now, |entry| entry.peek().is_some());
        assert_eq!(there(3), number % 7 != 0, "{number}");
    }
    let left = (0..KEPT).filter(|number| number % 7 != 0 && number % 2 == 1).count();
    let there = |number: &u32| {
        let name = kept(*number);
        store.with(Key { db: 0, bytes: &name }, 1 << 30, |entry| entry.peek().is_some())
    };
    assert_eq!((0..KEPT).filter(there).count(), left);
}

/// Segments of every kind are taken apart here: sparse ones and oldest ones, of new items and of those that were asked for
/// again, with items that live, are dead by their time, tag or database, and whose memory is wanted at once.
#[test]
fn values_are_right_while_segments_are_reclaimed() {
    const KEYS: u32 = 30_000;
    let store = store(true);
    let tags: Vec<u64> = (0..8u8).map(|tag| store.tag(&[tag])).collect();
    let (done, found) = (AtomicBool::new(false), AtomicU64::new(0));
    // Few keys are asked for again and again, most hardly ever.
    let draw = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = f64::from((*state >> 33) as u32) / f64::from(1 << 31);
        (f64::from(KEYS) * share.powi(6)) as u32
    };
    let write = |number: u32, round: u32, now: u64| {
        let size = match round % 97 {
            0 => 100_000,
            1..4 => 4_500,
            _ => 50 + (number as usize * 7 + round as usize * 13) % 700,
        };
        let name = number.to_le_bytes();
        let value = &name.repeat(size / 4 + 1)[..size];
        let tag = &tags[number as usize % 8..][..usize::from(number % 3 == 0)];
        let expires_at = (number % 5 == 0).then_some(now + 200);
        let error_until = (number % 10 == 0).then_some(now + 2_000);
        let meta = Meta { flags: number, expires_at, error_until, tags: tag, ..Meta::default() };
        let key = Key { db: (number % 4 == 1).into(), bytes: &name };
        store.with(key, now, |entry| entry.set(value, &meta)).expect("something else goes");
    };
    thread::scope(|scope| {
        for reader in 0..2 {
            let (store, done, found) = (&store, &done, &found);
            scope.spawn(move || {
                let mut state = reader;
                while !done.load(Ordering::Acquire) {
                    let number = draw(&mut state);
                    let name = number.to_le_bytes();
                    let key = Key { db: (number % 4 == 1).into(), bytes: &name };
                    store.with(key, 1, |entry| {
                        let Some(item) = entry.get() else { return };
                        assert_eq!(item.flags, number);
                        let value = item.value.bytes();
                        assert!(*value == name.repeat(value.len() / 4 + 1)[..value.len()]);
                        found.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
        let mut state = 7;
        for round in 0..60_000u32 {
            let now = u64::from(round) / 20;
            // What is asked for again, and in between what is not.
            write(if round % 3 == 0 { draw(&mut state) } else { KEYS + round }, round, now);
            match round % 3_000 {
                1_000 => store.invalidate_tags(&tags[round as usize / 3_000 % 8..][..1]),
                2_000 => store.clear(Some(1), now),
                _ if round % 100 == 0 => store.tick(now),
                _ => {}
            }
        }
        done.store(true, Ordering::Release);
    });
    let stats = store.stats();
    assert!(found.load(Ordering::Relaxed) > 0);
    assert!(stats.evicted > 0 && stats.expired > 0, "{stats:?}");
    assert!(stats.used <= MEMORY, "{stats:?}");
}

#[test]
fn long_values_evict_each_other_or_are_refused() {
    for evict in [true, false] {
        let store = store(evict);
        let long = vec![7; 200_000];
        let key = |number: &u32| number.to_le_bytes();
        let mut held: Vec<u32> = Vec::new();
        for number in 0..100 {
            let key = key(&number);
            match store.with(Key { db: 0, bytes: &key }, 1, |entry| entry.set(&long, &Meta::default())) {
                Ok(_) => held.push(number),
                Err(refused) => assert_eq!((refused, evict), (Refused::Full, false)),
            }
            let there = store.with(Key { db: 0, bytes: &key }, 1, |entry| entry.get().is_some());
            assert_eq!(there, held.last() == Some(&number), "{number}");
            assert!(store.stats().used <= MEMORY);
        }
        let is_there = |number: &&u32| {
            let key = key(number);
            store.with(Key { db: 0, bytes: &key }, 1, |entry| entry.get().is_some())
        };
        let there = held.iter().filter(is_there).count();
        assert!(there >= 30, "{there}");
        assert_eq!(there == held.len(), !evict);
    }
}

/// The longest item that fits a segment depended on the memory, and with it the longest key.
#[test]
fn keys_of_every_length_are_stored_in_a_memory_of_any_size() {
    for (memory, evict) in [(1 << 20, true), (1 << 20, false), (16 << 20, true), (256 << 20, false)] {
        let seed = [9, 8, 7, 6];
        let options = Options { memory, shards: 1, evict, max_value: 1 << 18, seed, epoch: 1, load_limit: 30_000 };
        let store = Store::new(options);
        for length in [1, 8_000, 16_300, 16_400, 32_652, 40_000, 65_420, 65_500, 65_535] {
            let (name, value) = (vec![b'k'; length], vec![b'v'; length % 9 * 1000]);
            let key = Key { db: 0, bytes: &name };
            let written = store.with(key, 1, |entry| entry.set(&value, &Meta::default()));
            written.unwrap_or_else(|refused| panic!("a key of {length} bytes in {memory}: {refused:?}"));
            store.with(key, 1, |entry| assert_eq!(entry.get().expect("it is there").value.bytes(), value));
            assert!(store.with(key, 1, |entry| entry.expire(Some(100)) && entry.replace(b"w").is_ok()));
            store.with(key, 1, |entry| assert_eq!(entry.get().expect("it is there").value.bytes(), b"w"));
        }
        store.check(0);
    }
}

/// A flush gave everything back at once and held its thread meanwhile. What is written before all of it came free finds room,
/// also where nothing may be evicted.
#[test]
fn what_is_flushed_comes_free_step_by_step_or_as_it_is_needed() {
    const MEMORY: u64 = 64 << 20;
    for (evict, wait) in [(true, true), (false, true), (false, false)] {
        let seed = [9, 8, 7, 6];
        let options =
            Options { memory: MEMORY, shards: 2, evict, max_value: 1 << 20, seed, epoch: 1, load_limit: 30_000 };
        let store = Store::new(options);
        let fill = |first: u32| {
            let mut names = (first..).map(u32::to_le_bytes);
            let sizes = [3_000, 100, 500_000].into_iter().cycle();
            let write = |(name, size): ([u8; 4], usize)| {
                store.with(Key { db: 0, bytes: &name }, 1, |entry| entry.set(&vec![7; size], &Meta::default()))
            };
            names.by_ref().zip(sizes).take(600).filter(|pair| write(*pair).is_ok()).count()
        };
        let before = fill(0);
        assert!(store.stats().used > MEMORY / 2);
        store.clear(None, 1);
        assert!(store.stats().used > MEMORY / 4, "all came free at once");
        store.check(0);
        if wait {
            (0..20).for_each(|_| store.tick(1));
            assert!(store.stats().used < MEMORY / 32, "{:?}", store.stats());
        }
        let after = fill(1000);
        assert!(after.abs_diff(before) < 10, "{after} and {before}");
        store.check(0);
        (0..100).for_each(|_| store.clear(None, 1));
        store.check(0);
        assert_eq!(store.stats().items, 0);
    }
}
