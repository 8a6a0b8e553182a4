//! Any bytes to a session of JSON messages: a line of JSON for each line that is not blank, with the number of the message
//! that it answers, and the same however the input is cut.
#![no_main]

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Options};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const NOW: Now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };

fn talk(input: &[u8], piece: usize) -> Vec<u8> {
    let options = Options {
        memory: 4 << 20,
        shards: 1,
        evict: true,
        max_value: 1000,
        seed: [1, 2, 3, 4],
        epoch: 1,
        load_limit: 30_000,
    };
    let engine = Engine::new(options, Limits { max_value: 1000, ..Limits::default() }, Facts::default(), 1);
    let (mut session, mut scratch, mut out) =
        (Session::json(ConnectionId::default()), Scratch::default(), Output::default());
    let (mut held, mut answers) = (Vec::new(), Vec::new());
    for part in input.chunks(piece) {
        held.extend_from_slice(part);
        loop {
            let (taken, flow) = session.feed(&engine, NOW, &mut scratch, &held, &mut out);
            answers.extend(out.take_bytes());
            held.drain(..taken);
            match flow {
                Flow::Pause => {}
                Flow::Close => return answers,
                _ => break,
            }
        }
    }
    answers
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, input)) = data.split_first() else { return };
    let whole = talk(input, input.len().max(1));
    assert_eq!(talk(input, usize::from(piece) + 1), whole);
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    // What waits for itself is not answered before its time.
    let asked = input
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"))
        .filter(|line| !line.trim_ascii().is_empty());
    assert!(lines.len() <= asked.clone().count() + 1);
    for line in lines {
        let answer: Value = serde_json::from_slice(line).expect("an answer is JSON on one line");
        assert!(answer["body"]["type"].is_string(), "{answer}");
    }
});
