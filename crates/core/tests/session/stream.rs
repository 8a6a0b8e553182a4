//! Input fed in pieces of any length, as a connection would.

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Options};

const NOW: Now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };

pub fn engine(limits: Limits) -> Engine {
    let options = Options {
        memory: 16 << 20,
        shards: 4,
        evict: true,
        max_value: limits.max_value,
        seed: [1, 2, 3, 4],
        epoch: 1,
        load_limit: 30_000,
    };
    Engine::new(options, limits, Facts::default(), 1)
}

/// Feeds `input` in pieces of the given lengths, over and over, as a connection would; what was answered, and whether
/// the stream was closed.
pub fn talk(engine: &Engine, input: &[u8], pieces: &[usize]) -> (Vec<u8>, bool) {
    let mut session = Session::new(ConnectionId::default());
    let (mut scratch, mut out) = (Scratch::default(), Output::default());
    let (mut answers, mut held) = (Vec::new(), Vec::new());
    let (mut at, mut pieces) = (0, pieces.iter().cycle());
    while at < input.len() {
        let end = (at + *pieces.next().unwrap()).min(input.len());
        held.extend_from_slice(&input[at..end]);
        at = end;
        loop {
            let (taken, flow) = session.feed(engine, NOW, &mut scratch, &held, &mut out);
            answers.extend(out.take_bytes());
            held.drain(..taken);
            match flow {
                Flow::Continue => break,
                Flow::Pause => {}
                Flow::Park => return (answers, false),
                Flow::Close => return (answers, true),
            }
        }
    }
    (answers, false)
}

pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

pub fn resp(words: &[String]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        request.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    request
}

/// Limits with values of up to 1,000 bytes.
pub fn short_values() -> Limits {
    Limits { max_value: 1000, ..Limits::default() }
}
