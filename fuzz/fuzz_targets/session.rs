//! A session gets any bytes, in pieces that the input itself decides: nothing but answers, and the same as for the whole.
#![no_main]

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Options};
use libfuzzer_sys::fuzz_target;

fn talk(input: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let limits = Limits { max_value: 1 << 16, ..Limits::default() };
    let options = Options {
        memory: 4 << 20,
        shards: 2,
        evict: true,
        max_value: 1 << 16,
        seed: [1, 2, 3, 4],
        epoch: 1,
        load_limit: 30_000,
    };
    let engine = Engine::new(options, limits, Facts::default(), 1);
    let now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };
    let (mut session, mut scratch, mut out) =
        (Session::new(ConnectionId::default()), Scratch::default(), Output::default());
    let (mut held, mut answers) = (Vec::new(), Vec::new());
    for part in input.chunks(piece) {
        held.extend_from_slice(part);
        loop {
            let (taken, flow) = session.feed(&engine, now, &mut scratch, &held, &mut out);
            answers.extend(out.take_bytes());
            held.drain(..taken);
            match flow {
                Flow::Continue => break,
                Flow::Pause => {}
                // Nothing loads here, so nothing waits but for another fetch of its own, which ends with the input.
                Flow::Park => return (answers, false),
                Flow::Close => return (answers, true),
            }
        }
    }
    (answers, false)
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, input)) = input.split_first() else { return };
    let whole = talk(input, input.len().max(1));
    // INFO and stats tell how many commands were run before, which is counted by the piece.
    let text = input.to_ascii_lowercase();
    if !["info", "stats"].iter().any(|word| text.windows(word.len()).any(|part| part == word.as_bytes())) {
        assert_eq!(talk(input, usize::from(piece) + 1), whole);
    }
});
