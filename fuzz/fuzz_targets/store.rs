//! Any sequence of operations on a store that is short of memory: it may forget, but never invents or mixes up.
#![no_main]

use std::collections::HashMap;

use globalcache_core::store::{Key, Meta, Options, Store};
use libfuzzer_sys::fuzz_target;

const MEMORY: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let options = Options {
        memory: MEMORY,
        shards: 1,
        evict: true,
        max_value: 1 << 18,
        seed: [1, 2, 3, 4],
        epoch: 1,
        load_limit: 30_000,
    };
    let store = Store::new(options);
    let mut model: HashMap<u8, (Vec<u8>, Option<u64>, u8)> = HashMap::new();
    let mut now = 1;
    for (at, op) in input.chunks_exact(4).enumerate() {
        let [what, key, size, more] = *op else { unreachable!() };
        let name = [b"key", &[key][..]].concat();
        let place = Key { db: key % 16, bytes: &name };
        match what % 8 {
            0..3 => {
                let length = (usize::from(size) << (more % 11)) + 1;
                let value = vec![at as u8; length];
                let expires_at = (more & 16 != 0).then(|| now + u64::from(size));
                let tag = more >> 5;
                let meta = Meta { expires_at, tags: &[store.tag(&[tag])], ..Meta::default() };
                if store.with(place, now, |entry| entry.set(&value, &meta)).is_ok() {
                    model.insert(key, (value, expires_at, tag));
                }
            }
            3 => drop((store.with(place, now, |entry| entry.remove()), model.remove(&key))),
            4 => {
                store.invalidate_tags(&[store.tag(&[size & 7])]);
                model.retain(|_, (_, _, tag)| *tag != size & 7);
            }
            5 => now += u64::from(size),
            6 => store.tick(now),
            _ => {
                let found = store.with(place, now, |entry| entry.get().map(|item| item.value.bytes().to_vec()));
                let known = model.get(&key).filter(|(_, expires_at, _)| expires_at.is_none_or(|at| now < at));
                assert!(found.is_none() || found.as_ref() == known.map(|(value, _, _)| value));
            }
        }
        assert!(store.stats().used <= MEMORY);
    }
});
