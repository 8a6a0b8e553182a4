//! What one call of a session works with, and what sessions of a thread share.

use std::sync::atomic::Ordering::Relaxed;

use super::frame::{Frame, Name};
use crate::clock::Now;
use crate::state::client::Client;
use crate::state::engine::Engine;
use crate::store::Key;
use crate::vocabulary::{Args, Span};

/// Capacity that is kept, as much as replies wait for before a client pauses: memory that is given back after each batch
/// costs more than the batch. One large request must not hold its memory for ever.
const KEEP: usize = 1 << 20;

/// When a turn of a connection is to end, by a clock of the caller: requests behind that moment are left for the next turn,
/// so that one connection's pipeline does not delay all others of its thread. The default has no end.
#[derive(Clone, Copy, Debug, Default)]
pub struct TurnEnd {
    clock: Option<fn() -> u64>,
    at: u64,
}

impl TurnEnd {
    /// The turn ends when `clock` reads `at` or more.
    #[inline]
    pub fn new(clock: fn() -> u64, at: u64) -> TurnEnd {
        TurnEnd { clock: Some(clock), at }
    }

    /// Whether that moment has passed.
    #[inline]
    pub fn is_past(&self) -> bool {
        self.clock.is_some_and(|clock| clock() >= self.at)
    }
}

/// Buffers that sessions of a thread share, kept for their capacity.
#[derive(Default)]
pub struct Scratch {
    /// When the turn that is being taken ends.
    pub turn_end: TurnEnd,
    pub(super) values: Vec<u8>,
    pub(super) spans: Vec<Span>,
    pub(super) frames: Vec<Frame>,
}

impl Frame {
    /// Its words, of all that were read.
    #[inline]
    pub(super) fn args<'i>(&self, input: &'i [u8], spans: &'i [Span]) -> Args<'i> {
        Args::new(&input[self.start..], &spans[self.spans.0..self.spans.1])
    }
}

/// What one call of `feed` works with and counts.
pub(super) struct Run<'a> {
    pub(super) engine: &'a Engine,
    /// The clocks as they were read.
    pub(super) clock: Now,
    /// The time that commands go by.
    pub(super) now: Now,
    pub(super) scratch: &'a mut Scratch,
    pub(super) commands: u64,
    pub(super) errors: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(engine: &'a Engine, clock: Now, scratch: &'a mut Scratch) -> Run<'a> {
        Run { engine, clock, now: engine.time(clock), scratch, commands: 0, errors: 0 }
    }

    /// Has the memory of what is asked for fetched; requests that are `plain` see to that themselves when several run.
    #[inline]
    pub(super) fn prefetch(&self, client: &Client, input: &[u8], frames: &[Frame], plain: bool) {
        let is = |frame: Option<&Frame>| plain && frame.is_some_and(|frame| frame.plain.is_some());
        let together = |at: usize| is(frames.get(at)) && (is(frames.get(at.wrapping_sub(1))) || is(frames.get(at + 1)));
        let wanted = frames.iter().enumerate().filter(|(index, _)| !together(*index));
        self.engine.store.prefetch(wanted.filter_map(|(_, frame)| {
            let args = frame.args(input, &self.scratch.spans);
            let key = match frame.name {
                Name::Redis(row) => row.and_then(|row| row.keys(args).next()),
                Name::Memcached(call) => call.first_key(args),
                Name::TooLong => None,
            };
            key.map(|bytes| Key { db: client.db, bytes })
        }));
    }

    /// Counts are added once per call: two threads adding per request would pass one cache line to and fro.
    #[inline]
    pub(super) fn count(&self) {
        self.engine.counters.commands.fetch_add(self.commands, Relaxed);
        if self.errors > 0 {
            self.engine.counters.errors.fetch_add(self.errors, Relaxed);
        }
    }

    /// Counts what was run, and gives large buffers back.
    #[inline]
    pub(super) fn finish(self) {
        self.count();
        if self.scratch.values.capacity() > KEEP {
            self.scratch.values = Vec::new();
        }
        if self.scratch.spans.capacity() > KEEP {
            self.scratch.spans = Vec::new();
        }
    }
}
