//! Buffers that the connections of an I/O thread share: a connection that is quiet costs none.

use std::ops::RangeInclusive;

use globalcache_core::output::Output;
use globalcache_core::session::Scratch;

/// Connections whose input is read before the first of them is served, so that waits for the memory of their keys overlap.
pub(crate) const BATCH_CONNECTIONS: usize = 8;

/// Buffers of an I/O thread, for whichever connection has its turn.
pub(crate) struct Buffers {
    /// What was read, for each of some connections that have their turns together.
    pub(crate) inputs: [Box<[u8]>; BATCH_CONNECTIONS],
    pub(crate) output: Output,
    pub(crate) scratch: Scratch,
    /// Buffers that connections needed for long requests, empty: new memory costs more than the copy into it.
    pub(super) spare: Vec<Vec<u8>>,
}

impl Buffers {
    pub(crate) fn new() -> Buffers {
        Buffers::with_input(64 << 10)
    }

    /// Buffers that take so many bytes with one read.
    pub(crate) fn with_input(size: usize) -> Buffers {
        let inputs = std::array::from_fn(|_| vec![0; size].into());
        Buffers { inputs, output: Output::default(), scratch: Scratch::default(), spare: Vec::new() }
    }
}

/// Shortest and longest capacity of a buffer worth keeping, and how many a thread keeps: 4 MiB at most.
pub(super) const SPARE: RangeInclusive<usize> = 16 << 10..=256 << 10;
const SPARES: usize = 16;

/// Takes a buffer back from a connection that needs it no more.
pub(super) fn give_back(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    if SPARE.contains(&buffer.capacity()) && spare.len() < SPARES {
        buffer.clear();
        spare.push(buffer);
    }
}
