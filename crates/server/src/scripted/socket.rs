//! A socket that does what a test says.
//!
//! The socket is that of the system in the respects that matter: an edge for what arrives, for the end of the peer and for
//! room after a write that was cut short, each told once, and several told together if nobody asks in between. The end and
//! what arrived before it are read in their order; a reset says that nothing can be sent any more.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::connection::Ready;

#[derive(Default)]
pub(super) struct State {
    pub(super) incoming: VecDeque<u8>,
    pub(super) finished: bool,
    pub(super) reset: bool,
    /// Bytes that it takes before the client has read.
    pub(super) room: usize,
    /// A write was cut short: room is to be told.
    pub(super) blocked: bool,
    pub(super) sent: Vec<u8>,
    /// What is to be told with the next edge.
    pub(super) edge: Option<Ready>,
}

impl State {
    pub(super) fn tell(&mut self, ready: Ready) {
        let told = self.edge.get_or_insert_default();
        told.readable |= ready.readable;
        told.finished |= self.finished || self.reset;
        told.gone |= self.reset;
    }
}

/// The server's end of it; clones are the same socket.
#[derive(Clone, Default)]
pub(crate) struct Socket(pub(super) Arc<Mutex<State>>);

impl Socket {
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let count = state.incoming.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(state.incoming.drain(..count)) {
            *place = byte;
        }
        match count {
            0 if state.reset => Err(ErrorKind::ConnectionReset.into()),
            0 if !state.finished => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    pub(crate) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let count = bytes.len().min(state.room);
        state.blocked = count < bytes.len();
        state.room -= count;
        state.sent.extend_from_slice(&bytes[..count]);
        match count {
            _ if state.reset => Err(ErrorKind::BrokenPipe.into()),
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}
