//! Segments: pieces of memory that items are appended to, and the queues they stand in.
//!
//! All segments of a shard have one length, except those that hold a single long item. An offset into a segment that
//! outlasts a step is a field of that segment: when the segment is released the offset ends with it, so no offset is ever
//! applied to another segment that got the same number.

use super::bases::Bases;
use super::record::{Encoded, Record};

/// Which queue a segment stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// Items that have to be asked for to stay.
    Small = 0,
    /// Items that stay for a full round.
    Main = 1,
}

pub(super) struct Segment {
    pub(super) data: Box<[u8]>,
    pub(super) bases: Bases,
    pub(super) queue: Queue,
    /// Bytes that had been appended to either queue when it was opened.
    pub(super) since: u64,
    /// Bytes appended.
    pub(super) used: usize,
    /// Bytes of items that the index knows.
    pub(super) live: usize,
    /// The first moment at which one of its items is gone; too early after that item was removed otherwise.
    pub(super) next_expiry: u64,
    /// Nothing is appended to it any more, and it is not taken apart: it stands in its queue.
    pub(super) queued: bool,
    /// Its [`level`](Segment::level) when it was last put among the sparse ones.
    pub(super) level: usize,
    /// Where the sweep goes on, while it is in this segment.
    pub(super) swept: usize,
    /// Where reclaiming goes on, while this segment is the victim.
    pub(super) reclaimed: usize,
}

impl Segment {
    pub(super) fn new(data: Box<[u8]>, bases: Bases, queue: Queue, since: u64) -> Segment {
        Segment {
            data,
            bases,
            queue,
            since,
            used: 0,
            live: 0,
            next_expiry: u64::MAX,
            queued: false,
            level: 0,
            swept: 0,
            reclaimed: 0,
        }
    }

    /// Sixteenths of it that are not dead. Memory at its end that was never written counts as not dead: copying the items
    /// elsewhere would waste as much there.
    #[inline]
    pub(super) fn level(&self) -> usize {
        (self.data.len() - (self.used - self.live)) * 16 / self.data.len()
    }

    pub(super) fn room(&self) -> usize {
        self.data.len() - self.used
    }

    /// Appends a record that fits; returns where it begins.
    pub(super) fn append(&mut self, record: &Record<'_>, encoded: &Encoded) -> usize {
        let at = self.used;
        encoded.write(record, &self.bases, &mut self.data[at..]);
        self.used += encoded.size;
        self.live += encoded.size;
        self.note_expiry(record);
        at
    }

    pub(super) fn note_expiry(&mut self, record: &Record<'_>) {
        self.next_expiry = self.next_expiry.min(record.gone_at().unwrap_or(u64::MAX));
    }
}
