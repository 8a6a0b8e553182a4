//! Any bytes to a memcached session: no panic, and the same replies whether they come whole or in two pieces.

#![no_main]

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Options};
use libfuzzer_sys::fuzz_target;

fn engine() -> Engine {
    let options = Options {
        memory: 4 << 20,
        shards: 1,
        evict: true,
        max_value: 1000,
        seed: [1, 2, 3, 4],
        epoch: 1,
        load_limit: 30_000,
    };
    let limits = Limits { max_value: 1000, pause_output: usize::MAX, debug_time: true, ..Limits::default() };
    let facts = Facts::default();
    Engine::new(options, limits, facts, 1)
}

/// The replies to `input` in pieces that end at `cuts`.
fn replies(input: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (engine, mut session, mut scratch) =
        (engine(), Session::memcached(ConnectionId::default()), Scratch::default());
    let (mut out, mut start) = (Output::default(), 0);
    let now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };
    for &end in cuts {
        let (taken, flow) = session.feed(&engine, now, &mut scratch, &input[start..end], &mut out);
        start += taken;
        if flow == Flow::Close {
            break;
        }
    }
    out.take_bytes()
}

/// Statistics tell of the calls themselves.
fn tells_of_calls(input: &[u8]) -> bool {
    input.windows(5).any(|word| word == b"stats")
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else { return };
    let whole = replies(input, &[input.len()]);
    let cut = usize::from(cut).min(input.len());
    let parts = replies(input, &[cut, input.len()]);
    assert!(tells_of_calls(input) || whole == parts, "cut at {cut}");
});
