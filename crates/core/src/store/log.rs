//! The log of a shard: the segments that its items are appended to, and the queues in which they stand.
//!
//! A segment in use is open, sealed in its queue, or the victim that is being taken apart (see `eviction.rs`). The log asks
//! nobody for memory: its callers say how much is left.

use super::bases::Bases;
use super::index::{MAX_SEGMENT, MAX_SEGMENTS, Place};
use super::queue::Lists;
use super::record::{Encoded, Record, decode};
use super::segment::{Queue, Segment};

/// Segments that a shard has when it is full: with 64 eviction misses about 1 % more than item by item, with 256 no more.
const SEGMENTS: u64 = 256;
/// Smallest segment: the items of a few kilobytes would not fit a smaller one, and there are 64 of them in a megabyte.
pub(super) const MIN_SEGMENT: usize = 16 << 10;
/// What the heap keeps with a piece of memory: with it a segment fills whole pages.
pub(super) const HEAP: usize = 32;
/// An item longer than this part of a segment, because of its key, has a segment of its own.
const LONG_PART: usize = 2;
/// Places for segments are added so many at a time: doubling them would take memory at once that no write asked for.
const PLACES: usize = 16;
/// What a place for a segment takes: itself, its number in the list of free ones, and its links in two sets of lists.
const SEGMENT_PLACE: usize = size_of::<Option<Segment>>() + size_of::<usize>() + 2 * size_of::<[u32; 2]>();
/// Bytes by which the list of segments grows at once.
pub(super) const GROWTH: usize = PLACES * SEGMENT_PLACE;
/// Segments that are kept free, so that items can be copied while others are written.
pub(super) const RESERVE: usize = 3;
/// A segment of which fewer sixteenths than this are not dead is sparse.
pub(super) const SPARSE: usize = 12;

/// The segments of a shard.
pub(super) struct Log {
    /// A place per number; None is free.
    pub(super) segments: Vec<Option<Segment>>,
    pub(super) free: Vec<usize>,
    /// Memory of segments that are not in use.
    pub(super) spare: Vec<Box<[u8]>>,
    /// Bytes of all segments, spare ones included.
    pub(super) bytes: usize,
    /// Sealed segments, oldest first: small and main.
    pub(super) queues: Lists<2>,
    /// Those of them that are sparse, by sixteenths of a segment that are not dead.
    pub(super) sparse: Lists<SPARSE>,
    pub(super) open: [Option<usize>; 2],
    /// Live bytes of both queues, values beside the log included.
    pub(super) queue_bytes: [usize; 2],
    /// Bytes ever appended.
    appended: u64,
    /// Bytes of a segment, unless it has a single long item.
    pub(super) segment_size: usize,
}

impl Log {
    /// A log for a shard of so many bytes, whose segments have `least` bytes or more.
    pub(super) fn new(budget: usize, least: usize) -> Log {
        let wanted = 1usize << (budget as u64 / SEGMENTS).max(1).ilog2();
        Log {
            segments: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            bytes: 0,
            queues: Lists::default(),
            sparse: Lists::default(),
            open: [None; 2],
            queue_bytes: [0; 2],
            appended: 0,
            segment_size: wanted.clamp(least, MAX_SEGMENT) - HEAP,
        }
    }

    pub(super) fn segment(&self, number: usize) -> &Segment {
        self.segments[number].as_ref().expect("the index points to segments that are in use")
    }

    pub(super) fn segment_mut(&mut self, number: usize) -> &mut Segment {
        self.segments[number].as_mut().expect("the index points to segments that are in use")
    }

    #[inline(always)]
    pub(super) fn record(&self, place: Place) -> Record<'_> {
        let segment = self.segment(place.segment);
        decode(&segment.data[place.offset..], &segment.bases)
    }

    /// Bytes of the list of segments.
    pub(super) fn place_bytes(&self) -> usize {
        self.segments.capacity() * SEGMENT_PLACE
    }

    /// Bytes of spare segments, all of which have the standard length.
    pub(super) fn spare_bytes(&self) -> usize {
        self.spare.len() * (self.segment_size + HEAP)
    }

    /// Gives back a spare segment, if there is one.
    pub(super) fn drop_spare(&mut self) -> bool {
        let dropped = self.spare.pop().is_some();
        if dropped {
            self.bytes -= self.segment_size + HEAP;
        }
        dropped
    }

    /// Takes an item that is no more, or stands elsewhere now, out of the counts of its segment and its queue; `beside` bytes
    /// of it lie beside the log.
    pub(super) fn unaccount(&mut self, segment_id: usize, size: usize, beside: usize) {
        let segment = self.segment_mut(segment_id);
        segment.live -= size;
        let queue = segment.queue as usize;
        self.update_occupancy(segment_id);
        self.queue_bytes[queue] -= size + beside;
    }

    /// A sealed segment without a live item is free at once.
    pub(super) fn free_if_empty(&mut self, segment_id: usize) {
        let segment = self.segment(segment_id);
        if segment.live == 0 && segment.queued {
            self.dequeue(segment_id);
            self.release(segment_id);
        }
    }

    /// What lives of a segment has changed: if it stands in a queue, it is found among those as sparse as it is.
    #[inline]
    fn update_occupancy(&mut self, number: usize) {
        let segment = self.segment(number);
        if !segment.queued {
            return;
        }
        let (level, before) = (segment.level(), segment.level);
        if level != before {
            self.list_sparse(number, before, level);
        }
    }

    fn list_sparse(&mut self, number: usize, before: usize, level: usize) {
        if before < SPARSE {
            self.sparse.remove(before, number);
        }
        if level < SPARSE {
            self.sparse.push_back(level, number);
        }
        self.segment_mut(number).level = level;
    }

    /// Puts a segment into its queue, where it is the youngest, or the oldest.
    pub(super) fn enqueue(&mut self, segment_id: usize, oldest: bool) {
        let segment = self.segment(segment_id);
        let (queue, level) = (segment.queue as usize, segment.level());
        if oldest {
            self.queues.push_front(queue, segment_id);
        } else {
            self.queues.push_back(queue, segment_id);
        }
        self.segment_mut(segment_id).queued = true;
        self.list_sparse(segment_id, SPARSE, level);
    }

    /// Takes a segment out of its queue.
    pub(super) fn dequeue(&mut self, segment_id: usize) {
        let segment = self.segment_mut(segment_id);
        segment.queued = false;
        let (queue, level) = (segment.queue as usize, segment.level);
        self.queues.remove(queue, segment_id);
        if level < SPARSE {
            self.sparse.remove(level, segment_id);
        }
    }

    pub(super) fn release(&mut self, number: usize) {
        let segment = self.segments[number].take().expect("a segment in use");
        self.free.push(number);
        if self.spare.len() < RESERVE && segment.data.len() == self.segment_size {
            self.spare.push(segment.data);
        } else {
            self.bytes -= segment.data.len() + HEAP;
        }
    }

    /// Bytes by which the list of segments grows with the next of them.
    pub(super) fn growth(&self) -> usize {
        let full = self.free.is_empty() && self.segments.len() == self.segments.capacity();
        if full { GROWTH } else { 0 }
    }

    /// A place for a segment; None if there is none or no memory for it.
    fn segment_place(&mut self) -> Option<usize> {
        if let Some(number) = self.free.pop() {
            return Some(number);
        }
        if self.segments.len() == MAX_SEGMENTS {
            return None;
        }
        if self.segments.len() == self.segments.capacity() {
            self.segments.reserve_exact(PLACES);
            let places = self.segments.capacity();
            self.free.reserve_exact(places);
            self.queues.reserve(places);
            self.sparse.reserve(places);
        }
        self.segments.push(None);
        Some(self.segments.len() - 1)
    }

    /// A new segment of so many bytes for a queue, neither open nor queued yet; None if it takes more than `headroom` bytes.
    fn new_segment(&mut self, queue: Queue, length: usize, bases: Bases, headroom: usize) -> Option<usize> {
        let is_spare = length == self.segment_size && !self.spare.is_empty();
        let added = if is_spare { 0 } else { length + HEAP };
        if headroom < added + self.growth() {
            return None;
        }
        let number = self.segment_place()?;
        let spare = if is_spare { self.spare.pop() } else { None };
        let data = spare.unwrap_or_else(|| {
            self.bytes += added;
            vec![0; length].into()
        });
        self.segments[number] = Some(Segment::new(data, bases, queue, self.appended));
        Some(number)
    }

    /// A new open segment for a queue; None if it takes more than `headroom` bytes.
    pub(super) fn open_segment(&mut self, queue: Queue, bases: Bases, headroom: usize) -> Option<()> {
        let number = self.new_segment(queue, self.segment_size, bases, headroom)?;
        self.seal(queue);
        self.open[queue as usize] = Some(number);
        Some(())
    }

    pub(super) fn seal(&mut self, queue: Queue) {
        if let Some(old) = self.open[queue as usize].take() {
            self.enqueue(old, false);
            self.free_if_empty(old);
        }
    }

    /// Whether an item of so many bytes has a segment of its own.
    pub(super) fn is_long(&self, bytes: usize) -> bool {
        bytes > self.segment_size / LONG_PART
    }

    /// Bytes that a long item takes as a segment of its own; none for others.
    pub(super) fn own_memory(&self, longest: usize) -> usize {
        if self.is_long(longest) { longest + HEAP } else { 0 }
    }

    /// Appends a record to the open segment of a queue; None if there is none with room for it.
    #[inline(always)]
    pub(super) fn append(&mut self, queue: Queue, record: &Record<'_>) -> Option<Place> {
        let number = self.open[queue as usize]?;
        let segment = self.segment(number);
        let encoded = Encoded::new(record, &segment.bases);
        (encoded.size <= segment.room()).then(|| self.append_to(number, record, &encoded))
    }

    #[inline(always)]
    fn append_to(&mut self, number: usize, record: &Record<'_>, encoded: &Encoded) -> Place {
        let segment = self.segment_mut(number);
        let offset = segment.append(record, encoded);
        let queue = segment.queue as usize;
        self.queue_bytes[queue] += encoded.size;
        self.appended += encoded.size as u64;
        Place { segment: number, offset }
    }

    /// Appends a record of at most `longest` bytes as a segment of its own; None if that takes more than `headroom` bytes.
    #[cold]
    pub(super) fn append_long(
        &mut self,
        queue: Queue,
        record: &Record<'_>,
        longest: usize,
        bases: Bases,
        headroom: usize,
    ) -> Option<Place> {
        let number = self.new_segment(queue, longest, bases, headroom)?;
        let encoded = Encoded::new(record, &self.segment(number).bases);
        let place = self.append_to(number, record, &encoded);
        self.enqueue(number, false);
        Some(place)
    }

    /// Bytes of segments in use that no item of the index takes; `large` bytes lie beside the log. Between two writes every
    /// value beside the log belongs to one item, so the bytes of the queues without these are those of items in segments in
    /// use, none of which holds more than its length.
    pub(super) fn dead_bytes(&self, large: usize) -> usize {
        let live = self.queue_bytes.iter().sum::<usize>() - large;
        self.bytes - self.spare_bytes() - live
    }

    /// Bytes that were appended since a segment was opened.
    pub(super) fn age(&self, segment: &Segment) -> usize {
        (self.appended - segment.since) as usize
    }

    /// Gives back a segment; false when there is none left.
    pub(super) fn shed(&mut self) -> bool {
        let mut used = || std::iter::from_fn(|| self.segments.pop()).flatten().next();
        let data = self.spare.pop().or_else(|| used().map(|segment| segment.data));
        self.bytes -= data.as_ref().map_or(0, |data| data.len() + HEAP);
        data.is_some()
    }
}
