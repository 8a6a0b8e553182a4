//! Any sequence of steps on a store of small segments that is short of memory, beside a model: it may evict, or refuse where
//! it may not, but never invents, loses or mixes up, and after every step the whole of it is what it must be.
#![no_main]

#[allow(dead_code, reason = "tests use more of it")]
#[path = "../../crates/core/tests/model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::{Op, Test};

/// Bytes of a step.
const STEP: usize = 6;

/// Lengths of values; in most of the segments the last ones have segments of their own, or lie beside the log.
const SIZES: [usize; 8] = [0, 7, 20, 60, 120, 240, 700, 3_000];

fn operation(step: [u8; STEP]) -> Op {
    let [what, key, other, size, time, more] = step;
    let (db, other_db) = (more % 2 * 3, more / 2 % 2 * 3);
    // The high bits of the time tell its unit; none is without an end.
    let ttl = match time >> 6 {
        0 => None,
        unit => Some(u64::from(time & 63) << (2 * unit - 2)),
    };
    let tags: Vec<u8> = (0..4).filter(|tag| more >> 4 & 1 << tag != 0).collect();
    let (key, other, count) = (key.into(), other.into(), u16::from(other % 40) + 1);
    let (length, fill) = (SIZES[usize::from(size) % 8] + usize::from(size) / 8, size);
    match what % 20 {
        0..4 => Op::Set { db, key, size: length, fill, ttl, fresh: None, flags: fill.into(), tags, absent: time == 1 },
        4 => Op::Set { db, key, size: length, fill, ttl: None, fresh: ttl, flags: 0, tags, absent: false },
        5..7 => Op::SetRun { first: key, count, size: length, ttl, tags },
        7..9 => Op::RemoveRun { first: key, count },
        9 => Op::Get { db, key },
        10 => Op::Remove { db, key },
        11 => Op::Expire { db, key, ttl },
        12 => Op::Replace { db, key, size: length, fill },
        13 => Op::Copy { from: (db, key), to: (other_db, other) },
        14 => Op::Rename { from: (db, key), to: (other_db, other) },
        15 => Op::Wait { millis: time.into() },
        16 => Op::Sweep { steps: usize::from(size % 4) + 1, items: usize::from(time % 32) + 1 },
        17 => Op::Invalidate { tag: size % 4 },
        18 => Op::Tick,
        _ if more > 250 => Op::Clear { db: (size > 9).then_some(db) },
        _ => Op::GetMany { db, keys: (key..key + count).collect() },
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, steps)) = input.split_first() else { return };
    let (memory, shards) = [(32 << 10, 1), (64 << 10, 2), (200 << 10, 1), (100 << 10, 1)][usize::from(first >> 2 & 3)];
    let mut test = Test::with_small_segments(memory, shards, first & 1 == 0, if first & 2 == 0 { 500 } else { 1500 });
    let (steps, _) = steps.as_chunks::<STEP>();
    steps.iter().for_each(|step| test.run(operation(*step)));
    test.finish();
});
