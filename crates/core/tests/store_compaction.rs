//! Compaction while others read: sparse segments are copied together, and whoever reads meanwhile finds every item that
//! was written, whole, in every shape that an item has.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use globalcache_core::store::{Key, Meta, Options, Store};

const MEMORY: u64 = 8 << 20;
/// What stays: it is written once.
const KEPT: u32 = 2000;

fn store() -> Store {
    let seed = [9, 8, 7, 6];
    Store::new(Options {
        memory: MEMORY,
        shards: 1,
        evict: false,
        max_value: 1 << 18,
        seed,
        epoch: 1,
        load_limit: 30_000,
    })
}

/// Every eleventh value lies beside the log.
fn value(number: u32) -> Vec<u8> {
    let size = if number % 11 == 0 { 5000 } else { 100 + number as usize % 300 };
    number.to_le_bytes().iter().copied().cycle().take(size).collect()
}

#[test]
fn what_is_kept_is_found_while_all_around_it_is_written_anew() {
    let store = store();
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
