//! Measures a session without its socket: what a request costs besides the system. Prints JSON.
//!
//! `KIND DEPTH SIZE [KEYS [TURNS]]` feeds turns of DEPTH requests on a hundred thousand keys or so many, small ranks far
//! more often, with values of SIZE bytes; KIND is get, set or mget (one request of DEPTH keys). With few turns it is what
//! callgrind should look at.

use std::time::Instant;

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Options};

const NOW: Now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };
/// Turns that are made ready beforehand, and repeated.
const READY: usize = 4096;

fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    (*state ^ (*state >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

/// A key: small ranks far more often than large ones.
fn draw(state: &mut u64, keys: u64) -> u64 {
    let share = (next_random(state) & 0xffff_ffff) as f64 / f64::from(u32::MAX);
    let rank = ((keys as f64).powf(share) - 1.0) as u64;
    rank.wrapping_mul(0x9e37_79b1) % keys
}

fn set(turn: &mut Vec<u8>, key: u64, value: &[u8]) {
    turn.extend(format!("*3\r\n$3\r\nSET\r\n$16\r\nk:{key:014}\r\n${}\r\n", value.len()).bytes());
    turn.extend_from_slice(value);
    turn.extend_from_slice(b"\r\n");
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).map(|word| word.parse::<usize>().expect("a number"));
    let (Some(kind), Some(depth), Some(size)) = (words.first(), number(1), number(2)) else {
        eprintln!("get | set | mget DEPTH SIZE [KEYS [TURNS]]");
        return;
    };
    let keys = number(3).unwrap_or(100_000) as u64;
    let turns = number(4).unwrap_or(4_000_000 / depth);
    let options = Options {
        memory: 1 << 30,
        shards: 16,
        evict: true,
        max_value: 16 << 20,
        seed: [1, 2, 3, 4],
        epoch: 1 << 40,
        load_limit: 30_000,
    };
    let engine = Engine::new(options, Limits::default(), Facts::default(), 1);
    let mut session = Session::new(ConnectionId::default());
    let (mut scratch, mut out) = (Scratch::default(), Output::default());
    let value = vec![b'v'; size];
    for key in 0..keys {
        let mut turn = Vec::new();
        set(&mut turn, key, &value);
        session.feed(&engine, NOW, &mut scratch, &turn, &mut out);
        out.clear(1 << 20);
    }
    let mut state = 7;
    let ready: Vec<Vec<u8>> = (0..READY.min(turns))
        .map(|_| {
            let mut turn = Vec::new();
            if kind == "mget" {
                turn.extend(format!("*{}\r\n$4\r\nMGET\r\n", depth + 1).bytes());
            }
            for _ in 0..depth {
                let key = draw(&mut state, keys);
                match kind.as_str() {
                    "get" => turn.extend(format!("*2\r\n$3\r\nGET\r\n$16\r\nk:{key:014}\r\n").bytes()),
                    "mget" => turn.extend(format!("$16\r\nk:{key:014}\r\n").bytes()),
                    _ => set(&mut turn, key, &value),
                }
            }
            turn
        })
        .collect();
    let mut bytes = 0;
    let rounds = 9.min(turns);
    let mut nanos: Vec<u64> = Vec::new();
    for round in 0..rounds {
        let begun = Instant::now();
        for at in 0..turns / rounds {
            session.feed(&engine, NOW, &mut scratch, &ready[(round * 977 + at) % ready.len()], &mut out);
            bytes += out.len();
            out.clear(1 << 20);
        }
        nanos.push(begun.elapsed().as_nanos() as u64 / (turns / rounds * depth) as u64);
    }
    nanos.sort_unstable();
    println!(
        "{{\"what\":\"{kind}\",\"depth\":{depth},\"size\":{size},\"median_ns\":{},\"bytes\":{bytes}}}",
        nanos[rounds / 2]
    );
}
