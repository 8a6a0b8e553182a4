//! Measures the store alone; every line it prints is JSON.
//!
//! `ops` times reads and writes of a million items, Zipf 0.99. `slope KEY VALUE TTL` tells the resident memory after two
//! and after four million items. `trace FILE ITEMS VALUE` replays keys (little-endian u64) as look-aside reads in
//! the memory that holds so many items, and tells the misses.

use std::collections::HashMap;
use std::time::Instant;

use globalcache_core::store::{Key, Meta, Options, Store};
use rustix::time::{ClockId, clock_gettime};

fn store(memory: u64, shards: usize) -> Store {
    Store::new(Options {
        memory,
        shards,
        evict: true,
        max_value: 1 << 20,
        seed: [1, 2, 3, 4],
        epoch: 1 << 40,
        load_limit: 30_000,
    })
}

fn key_of(number: u64) -> [u8; 16] {
    let mut key = *b"k:00000000000000";
    let mut rest = number;
    for digit in key[2..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Keys drawn by Zipf's law, popular ones anywhere in the range.
fn zipf(keys: u64, theta: f64, count: usize) -> Vec<u64> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-theta);
            sum
        })
        .collect();
    let mut state = 7;
    (0..count)
        .map(|_| {
            let wanted = (next_random(&mut state) >> 11) as f64 / (1u64 << 53) as f64 * sum;
            let rank = sums.partition_point(|&below| below <= wanted) as u64;
            rank.wrapping_mul(0x9e37_79b1) % keys
        })
        .collect()
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

/// Nanoseconds of processor time that this thread took so far: a wait for the processor is not the store's.
fn cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn sorted(mut nanos: Vec<u32>) -> impl Fn(f64) -> u32 {
    nanos.sort_unstable();
    move |share| nanos[((nanos.len() - 1) as f64 * share) as usize]
}

/// How often an operation is timed for all keys, where it can be repeated.
const ROUNDS: usize = 3;

/// Times an operation for each key: some rounds by a clock that costs little, one by the processor time of the thread.
fn timed(name: &str, rounds: usize, keys: &[[u8; 16]], mut operation: impl FnMut(usize, Key<'_>)) {
    // What reading the clock twice takes, to be taken off.
    let clock = sorted((0..1000).map(|_| Instant::now().elapsed().as_nanos() as u32).collect())(0.5);
    // The median of rounds: the first of them meets memory that the system has not given out yet.
    let rounds: Vec<_> = (0..rounds)
        .map(|_| {
            let mut passed = Vec::with_capacity(keys.len());
            for (at, bytes) in keys.iter().enumerate() {
                let begun = Instant::now();
                operation(at, Key { db: 0, bytes });
                passed.push(begun.elapsed().as_nanos() as u32);
            }
            sorted(passed)
        })
        .collect();
    let passed = |share| sorted(rounds.iter().map(|round| round(share)).collect())(0.5);
    let mut taken = Vec::with_capacity(keys.len());
    for (at, bytes) in keys.iter().enumerate() {
        let begun = cpu_nanos();
        operation(at, Key { db: 0, bytes });
        taken.push((cpu_nanos() - begun) as u32);
    }
    let taken = sorted(taken);
    println!(
        "{{\"what\":\"{name}\",\"p50_ns\":{},\"p99_ns\":{},\"cpu_p99999_ns\":{},\"cpu_max_ns\":{}}}",
        passed(0.5).saturating_sub(clock),
        passed(0.99).saturating_sub(clock),
        taken(0.99999),
        taken(1.0)
    );
}

fn ops() {
    const ITEMS: u64 = 1_000_000;
    // Made beforehand: writing a number as text is none of the store's work.
    let all: Vec<_> = (0..ITEMS).map(key_of).collect();
    let drawn: Vec<_> = zipf(ITEMS, 0.99, 4_000_000).into_iter().map(key_of).collect();
    for (name, memory) in [("roomy", 1u64 << 30), ("full", 100 << 20)] {
        let store = store(memory, 1);
        let value = [7u8; 100];
        let set = |key: Key<'_>, value: &[u8]| {
            let _ = store.with(key, 1, |entry| entry.set(value, &Meta::default()));
        };
        timed(&format!("first set, {name}"), 1, &all, |_, key| set(key, &value));
        let mut sum = 0;
        timed(&format!("get, {name}"), ROUNDS, &drawn, |_, key| {
            sum += store.with(key, 1, |entry| entry.get().map_or(0, |item| u64::from(item.value.bytes()[79])));
        });
        assert!(sum > 0);
        // Lengths change, so that most writes append.
        timed(&format!("set, {name}"), ROUNDS, &drawn, |at, key| set(key, &value[..80 + at % 20]));
    }
    // What the memory of this machine allows: a table that neither evicts nor expires, nor bounds what it takes.
    let mut map: HashMap<[u8; 16], [u8; 100]> = all.iter().map(|key| (*key, [7; 100])).collect();
    let mut sum = 0;
    timed("get, a HashMap", ROUNDS, &drawn, |_, key| sum += map.get(key.bytes).map_or(0, |value| u64::from(value[79])));
    assert!(sum > 0);
    timed("set, a HashMap", ROUNDS, &drawn, |at, key| map.get_mut(key.bytes).expect("it is there").fill(at as u8));
}

fn slope(key: usize, value: usize, ttl: u64) {
    let store = store(8 << 30, 16);
    let value = vec![7u8; value];
    let meta = Meta { expires_at: (ttl > 0).then_some(1000 + ttl), ..Meta::default() };
    let mut seen = Vec::new();
    for number in 0..4_000_000 {
        let mut name = key_of(number).to_vec();
        name.resize(key, b'x');
        store.with(Key { db: 0, bytes: &name }, 1000, |entry| entry.set(&value, &meta)).expect("there is room");
        if number + 1 == 2_000_000 || number + 1 == 4_000_000 {
            seen.push(resident());
        }
    }
    let each = (seen[1] - seen[0]) as f64 / 2e6;
    println!("{{\"bytes_per_item\":{each:.1},\"overhead\":{:.1}}}", each - (key + value.len()) as f64);
}

/// Replays keys as look-aside reads; misses, and how many items were held on the mean of the second half.
fn replay(keys: &[u64], memory: u64, value: &[u8]) -> (u64, f64, Store) {
    let store = store(memory, 1);
    let (mut misses, mut held, mut samples) = (0u64, 0u64, 0u64);
    for (at, key) in keys.iter().enumerate() {
        store.with(Key { db: 0, bytes: &key_of(*key) }, 1, |entry| {
            if entry.get().is_none() {
                misses += 1;
                entry.set(value, &Meta::default()).expect("it evicts");
            }
        });
        if at % 64 == 0 && at * 2 > keys.len() {
            (held, samples) = (held + store.stats().items, samples + 1);
        }
    }
    (misses, held as f64 / samples.max(1) as f64, store)
}

/// Finds the memory in which the store holds `items` of a trace on the mean, never more, and tells its misses there.
fn trace(file: &str, items: u64, value: usize) {
    let bytes = std::fs::read(file).expect("a file of keys");
    let keys: Vec<u64> =
        bytes.chunks_exact(8).map(|key| u64::from_le_bytes(key.try_into().expect("eight bytes"))).collect();
    let value = vec![7u8; value];
    let each = value.len() as u64 + 40;
    let (mut low, mut high) = (items * each / 2, items * each * 2 + (1 << 20));
    let mut best = (0, 0.0, 0, 0);
    for _ in 0..12 {
        let memory = u64::midpoint(low, high);
        let (misses, held, store) = replay(&keys, memory, &value);
        if held <= items as f64 {
            low = memory;
            best = (misses, held, store.stats().evicted, memory);
        } else {
            high = memory;
        }
        if held <= items as f64 && held > items as f64 * 0.997 {
            break;
        }
    }
    let (misses, held, evicted, memory) = best;
    println!(
        "{{\"requests\":{},\"misses\":{misses},\"items\":{held:.0},\"evicted\":{evicted},\"memory\":{memory}}}",
        keys.len(),
    );
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ops"] => ops(),
        ["slope", ..] => slope(number(1) as usize, number(2) as usize, number(3)),
        ["trace", file, ..] => trace(file, number(2), number(3) as usize),
        _ => eprintln!("ops | slope KEY VALUE TTL | trace FILE ITEMS VALUE"),
    }
}
