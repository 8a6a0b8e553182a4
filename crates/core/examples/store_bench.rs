//! Measures the store alone and prints a JSON line: nanoseconds per get and set over a million items, and bytes of
//! resident memory per item between two and four million items of (key 16, value 100, TTL).

use std::time::Instant;

use globalcache_core::store::{Key, Meta, Options, Store};

fn store(memory: u64) -> Store {
    Store::new(Options {
        memory,
        shards: 8,
        evict: true,
        max_value: 1 << 20,
        seed: [1, 2, 3, 4],
        epoch: 1,
    })
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    text.split(' ')
        .nth(1)
        .expect("pages")
        .parse::<u64>()
        .expect("a number")
        * 4096
}

fn name(number: u64) -> [u8; 16] {
    let mut name = *b"key:000000000000";
    name[8..].copy_from_slice(&number.to_be_bytes());
    name
}

/// A generator of numbers, for keys that repeat as in Zipf's law with exponent close to 1.
fn skewed(state: &mut u64, items: u64) -> u64 {
    *state = state
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    let uniform = (*state >> 11) as f64 / (1u64 << 53) as f64;
    ((items as f64).powf(uniform) as u64 - 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % items
}

fn main() {
    let (value, meta) = (
        [7u8; 100],
        Meta {
            expires_at: Some(86_400_000),
            ..Meta::default()
        },
    );
    let set = |store: &Store, number: u64| {
        let name = name(number);
        store
            .with(
                Key {
                    db: 0,
                    bytes: &name,
                },
                1,
                |entry| entry.set(&value, &meta),
            )
            .expect("stored");
    };
    let big = store(2 << 30);
    (0..2_000_000).for_each(|number| set(&big, number));
    let before = resident();
    (2_000_000..4_000_000).for_each(|number| set(&big, number));
    let overhead = (resident() - before) as f64 / 2e6 - 116.0;
    drop(big);

    let store = store(512 << 20);
    (0..1_000_000).for_each(|number| set(&store, number));
    let mut state = 1;
    let keys: Vec<u64> = (0..2_000_000)
        .map(|_| skewed(&mut state, 1_000_000))
        .collect();
    let start = Instant::now();
    let mut found = 0usize;
    for &key in &keys {
        let name = name(key);
        found += store.with(
            Key {
                db: 0,
                bytes: &name,
            },
            1,
            |entry| entry.get().map_or(0, |item| item.value.bytes().len()),
        );
    }
    let get = start.elapsed().as_nanos() as f64 / keys.len() as f64;
    let start = Instant::now();
    keys.iter().for_each(|&key| set(&store, key));
    let set = start.elapsed().as_nanos() as f64 / keys.len() as f64;
    println!(
        r#"{{"overhead_bytes":{overhead:.1},"get_ns":{get:.0},"set_ns":{set:.0},"bytes_read":{found}}}"#
    );
}
