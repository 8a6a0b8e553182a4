//! Requests that wait while those behind them are run: each keeps its bytes, and has a number of its own.

use std::collections::HashMap;

use crate::state::waits::Waits;
use crate::store::Outcome;
use crate::vocabulary::{Args, Error, Kind, Span};

/// Requests of a client that wait at a time.
const MAX_TICKETS: usize = 1 << 14;

pub(super) const TOO_MANY_WAIT: Error =
    Error::new(Kind::Busy, "BUSY too many requests of this connection wait already");

/// A request that waits while those behind it are run.
pub(super) struct Ticket {
    pub(super) waits: Waits,
    pub(super) request: Kept,
    /// The database that was selected when it was sent.
    pub(super) db: u8,
}

impl Ticket {
    pub(super) fn memory(&self) -> usize {
        size_of::<Ticket>() + self.waits.memory() + self.request.memory()
    }
}

/// The bytes of a request that is run again.
pub(super) enum Kept {
    Resp(Box<[u8]>, Box<[Span]>),
    Json(Box<[u8]>),
}

impl Kept {
    fn memory(&self) -> usize {
        match self {
            Kept::Resp(bytes, spans) => bytes.len() + size_of_val(&**spans),
            Kept::Json(line) => line.len(),
        }
    }

    pub(super) fn of(args: Args<'_>) -> Kept {
        let (mut bytes, mut spans) = (Vec::new(), Vec::with_capacity(args.len()));
        for arg in args.iter() {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(arg);
            spans.push(Span { start, end: bytes.len() as u32 });
        }
        Kept::Resp(bytes.into(), spans.into())
    }
}

/// The requests of a connection that wait beside others, by number.
#[derive(Default)]
pub(super) struct Tickets {
    all: HashMap<u64, Ticket>,
    /// Bytes that these hold.
    pub(super) bytes: usize,
}

impl Tickets {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether no other can wait.
    pub(super) fn is_full(&self) -> bool {
        self.all.len() >= MAX_TICKETS
    }

    /// Keeps a request that waits beside others.
    pub(super) fn keep(&mut self, waits: Waits, request: Kept, db: u8) {
        let (number, ticket) = (waits.number, Ticket { waits, request, db });
        self.bytes += ticket.memory();
        self.all.insert(number, ticket);
    }

    /// The request that waits under a number is kept no more.
    pub(super) fn take(&mut self, number: u64) -> Option<Ticket> {
        let ticket = self.all.remove(&number)?;
        self.bytes -= ticket.memory();
        Some(ticket)
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.all.contains_key(&number)
    }

    /// Takes the outcome of a key that a request waits for; whether it waits for nothing any more.
    pub(super) fn tell(&mut self, number: u64, index: usize, outcome: Outcome) -> bool {
        let Some(ticket) = self.all.get_mut(&number) else { return false };
        let before = ticket.waits.memory();
        let over = ticket.waits.tell(index, outcome);
        self.bytes += ticket.waits.memory() - before;
        over
    }

    /// Forgets all; what they wait for.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waits> {
        self.bytes = 0;
        self.all.drain().map(|(_, ticket)| ticket.waits)
    }
}
