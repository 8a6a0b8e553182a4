//! Output that the socket of a connection has not taken, and how it is sent.

use std::io::{self, IoSlice};

use globalcache_core::output::Output;

use super::buffers::Buffers;
use crate::stream::Stream;

/// Bytes that are sent at once, about a millisecond of processor time: a client that takes a long reply as fast as it comes
/// does not hold up the others of its thread.
const SEND_AT_ONCE: usize = 1 << 20;
/// Capacity of the output buffer that a thread keeps.
const KEEP_OUTPUT: usize = 1 << 20;

/// What is to be sent.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) output: Output,
    /// There is more to send, and the socket may take it.
    pub(super) sending: bool,
}

impl Outgoing {
    /// Takes the thread's output buffer with what was answered.
    pub(super) fn take(&mut self, buffers: &mut Buffers) {
        std::mem::swap(&mut self.output, &mut buffers.output);
    }

    /// Gives an empty buffer back to the thread; one with something left in it stays.
    pub(super) fn give_back(&mut self, buffers: &mut Buffers) {
        if self.output.is_empty() {
            self.output.clear(KEEP_OUTPUT);
            std::mem::swap(&mut self.output, &mut buffers.output);
        }
    }

    /// Sends what the socket takes, or a part of a long output; how many bytes, and whether that failed.
    pub(super) fn send(&mut self, stream: &mut Stream) -> (usize, io::Result<()>) {
        let before = self.output.len();
        let sent = if before > SEND_AT_ONCE {
            send_part(stream, &mut self.output)
        } else {
            stream.flush().and_then(|()| self.output.drain(|slices| stream.write_slices(slices)))
        };
        let count = before - self.output.len();
        self.sending = count >= SEND_AT_ONCE && !self.output.is_empty() && sent.is_ok();
        (count, sent)
    }
}

/// Sends [`SEND_AT_ONCE`] bytes of an output that is longer, or what the socket takes of them.
#[cold]
fn send_part(stream: &mut Stream, output: &mut Output) -> io::Result<()> {
    stream.flush()?;
    let mut left = SEND_AT_ONCE;
    output.drain(|slices| {
        let mut part = Vec::with_capacity(slices.len());
        for slice in slices {
            let length = slice.len().min(left);
            part.push(IoSlice::new(&slice[..length]));
            left -= length;
        }
        let offered: usize = part.iter().map(|slice| slice.len()).sum();
        let taken = if offered > 0 { stream.write_slices(&part)? } else { 0 };
        left += offered - taken;
        Ok(taken)
    })
}
