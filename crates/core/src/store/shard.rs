//! One shard: index, segments and queues of a part of the keys, under one lock.
//!
//! Rules: an item lives exactly where the index points; a segment is never changed behind the index; no step moves more
//! than a bounded number of items, so that no write waits for a whole segment; the budget bounds all memory together.
//!
//! New items go to the small queue, a tenth of the memory, or to the main queue if their key is remembered as a ghost.
//! When memory is short, a sealed segment is taken apart a few items at a time: a sparse one first, whose items are all
//! copied on; then the oldest of the small queue if that is over its share, where items that were asked for again move
//! to the main queue; else the oldest of the main queue, where items that were asked for get another round.

use std::sync::Arc;

use ahash::RandomState;

use super::bases::Bases;
use super::events::{ConnectionId, Loaded, StoreEvent};
use super::ghosts::Ghosts;
use super::hash::{hash, tag_salt};
use super::index::{Found, Index, MAX_FREQ, MAX_SEGMENT, MAX_SEGMENTS, Place, Slot, fetch};
use super::lease::{Hold, Leases, StepContext};
use super::policy_selector::PolicySelector;
use super::queue::Lists;
use super::record::{ALIGN, Encoded, Plain, Record, Stored, db_of, decode, key_of, plain, plain_life, view};
use super::segment::{Queue, Segment};
use super::tags::Tags;
use super::tracked::{Interest, Told, Tracked};
use super::types::{Item, Key, Meta, Options, Refused, Stats, Value};
use crate::limits::{DATABASES, MAX_TAGS};

/// Segments that a shard has when it is full: with 64 eviction misses about 1 % more than item by item, with 256 no more.
const SEGMENTS: u64 = 256;
/// Smallest segment: the items of a few kilobytes would not fit a smaller one, and there are 64 of them in a megabyte.
pub(super) const MIN_SEGMENT: usize = 16 << 10;
/// What the heap keeps with a piece of memory: with it a segment fills whole pages.
pub(super) const HEAP: usize = 32;
/// A value longer than this part of a segment lies beside the log.
const LARGE_PART: usize = 8;
/// An item longer than this part of a segment, because of its key, has a segment of its own.
const LONG_PART: usize = 2;
/// Places for segments, and for values beside the log, are added so many at a time: doubling them would take memory at once
/// that no write asked for.
const PLACES: usize = 16;
/// Smallest item that the index is laid out for; with many smaller ones its tables only grow somewhat larger.
const SMALLEST: u64 = 48;
/// Segments that are kept free, so that items can be copied while others are written.
const RESERVE: usize = 3;
/// What a value without rare fields takes beside itself and its key, at most: header, wide lengths, number, alignment.
const MOST_PLAIN: usize = 32;
/// How far before the item that is looked at memory is fetched.
const AHEAD_BYTES: usize = 512;
/// Items that one write looks at while memory is short and a reserve is left, at least and at most: a few microseconds, for
/// the few writes until a segment is free. Were the work spread over all writes, each would take half as much again.
const STEP: (usize, usize) = (16, 64);
/// Part of the items that is looked at in one step, as a divisor: of few, a large step would leave much memory empty.
const STEP_PART: usize = 256;
/// A segment of which fewer sixteenths than this are not dead is sparse.
pub(super) const SPARSE: usize = 12;
/// Victims that may gain nothing one after the other before a write without eviction is refused: each has a quarter of dead
/// bytes at least, so of a few one gains a segment unless long items waste it again.
const IDLE_VICTIMS: usize = 16;
/// Part of the memory that is kept free without eviction, as a divisor: only items that move may take it.
const KEPT_PART: usize = 32;
/// Part of the memory that leases may take, as a divisor, and the least of it in bytes.
const LEASE_PART: usize = 16;
const LEAST_LEASES: usize = 64 << 10;
/// Part of the memory that registrations of client tracking may take, as a divisor, and the least of it in bytes.
const TRACKED_PART: usize = 8;
const LEAST_TRACKED: usize = 64 << 10;
/// What was flushed and is no larger is given back at once.
const LEAST_REST: usize = 64 << 10;
/// Fewest keys that ghosts remember.
const MIN_GHOSTS: usize = 1024;

/// A segment that is being taken apart. It is neither open nor queued, so only reclaiming it releases it.
#[derive(Clone, Copy)]
pub(super) struct Victim {
    pub(super) segment: usize,
    why: Why,
}

/// Whether something can be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// There was room, and nothing was touched.
    There,
    /// Items were moved or dropped for it.
    Made,
    /// There is none.
    Lacks,
}

/// What a write does to a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Put {
    /// A value comes, or replaces another.
    Value,
    /// What is there is written anew with something changed beside its value: no more is held afterwards.
    Change,
    /// A value comes from another key, which gives it up afterwards.
    Moved,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It is sparse: everything that lives is copied on.
    Sparse,
    /// It is the oldest of its queue.
    Oldest,
}

pub(super) struct Shard {
    pub(super) index: Index,
    /// A place per number; None is free.
    pub(super) segments: Vec<Option<Segment>>,
    pub(super) free: Vec<usize>,
    /// Memory of segments that are not in use.
    pub(super) spare: Vec<Box<[u8]>>,
    /// Bytes of all segments, spare ones included.
    pub(super) log_bytes: usize,
    /// Sealed segments, oldest first: small and main.
    pub(super) queues: Lists<2>,
    /// Those of them that are sparse, by sixteenths of a segment that are not dead.
    pub(super) sparse: Lists<SPARSE>,
    pub(super) open: [Option<usize>; 2],
    /// Live bytes of both queues, values beside the log included.
    pub(super) queue_bytes: [usize; 2],
    pub(super) victim: Option<Victim>,
    pub(super) large: Vec<Option<Arc<[u8]>>>,
    pub(super) large_free: Vec<u32>,
    pub(super) large_bytes: usize,
    ghosts: Ghosts,
    selector: PolicySelector,
    /// Bytes ever appended.
    appended: u64,
    /// Something had to go: no new item finds room without that any more.
    full: bool,
    pub(super) leases: Leases,
    /// What was here before it was flushed, and its bytes: given back piece by piece, since all at once takes too long.
    pub(super) rests: Vec<Shard>,
    /// Tables of keys that were registered, which are given back in steps, too.
    pub(super) forgotten: Vec<Tracked>,
    pub(super) rest_bytes: usize,
    /// Keys that clients keep copies of, if any do.
    tracked: Option<Box<Tracked>>,
    pub(super) hasher: RandomState,
    /// Bytes that it may take. Without eviction shards pass parts of it to each other as items move.
    pub(super) budget: usize,
    /// What that is at first, and again when nothing is passed on any more.
    share: usize,
    pub(super) segment_size: usize,
    max_value: usize,
    evict: bool,
    now: u64,
    version: u64,
    /// State of the generator that early refreshes are drawn from.
    pub(super) random: u64,
    /// Items of a database up to this version are gone.
    pub(super) floors: [u64; DATABASES],
    pub(super) counts: [u64; DATABASES],
    /// Those of `counts` that are to expire.
    pub(super) expires: [u64; DATABASES],
    pub(super) items: u64,
    pub(super) stats: Stats,
    /// The segment that the sweep is in; the offset is kept there.
    pub(super) sweep_at: usize,
    /// This round looks at every item, since a database was flushed before it.
    sweep_all: bool,
    /// A database was flushed since this round began.
    flushed: bool,
    shrink_at: usize,
}

/// A value with all that is kept beside it, outside the store: what COPY and RENAME carry to another key.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The database that its tags belong to.
    db: u8,
    value: Arc<[u8]>,
    /// It lay beside the log, and can lie there again without a copy.
    beside: bool,
    flags: u32,
    expires_at: Option<u64>,
    fresh_until: Option<u64>,
    error_until: Option<u64>,
    cost: Option<u32>,
    written_at: Option<u64>,
    tags: Vec<u8>,
    clock: u64,
}

/// One key of a locked shard.
pub struct Entry<'a> {
    pub(super) shard: &'a mut Shard,
    pub(super) tags: &'a Tags<'a>,
    pub(super) key: Key<'a>,
    pub(super) hash: u64,
    pub(super) now: u64,
    /// Where the item most likely stands, if that was looked up before.
    slot: Option<Slot>,
}

/// What a place for a segment takes: itself, its number in the list of free ones, and its links in two sets of lists.
const SEGMENT_PLACE: usize = size_of::<Option<Segment>>() + size_of::<usize>() + 2 * size_of::<[u32; 2]>();
/// What a place for a value beside the log takes: itself, and its number in the list of free ones.
const LARGE_PLACE: usize = size_of::<Option<Arc<[u8]>>>() + size_of::<u32>();

/// What a value beside the log takes: its counters, and the rest of its last page.
pub(super) fn large_cost(length: usize) -> usize {
    (length + 32).next_multiple_of(4096)
}

/// Bytes of each shard at first.
pub(super) fn share(options: &Options) -> usize {
    (options.memory / options.shards as u64) as usize
}

impl Shard {
    /// An empty shard, whose segments have `least` bytes or more.
    pub(super) fn new(options: &Options, least: usize, hasher: &RandomState) -> Shard {
        let budget = share(options);
        let wanted = 1usize << (budget as u64 / SEGMENTS).max(1).ilog2();
        Shard {
            index: Index::new(budget as u64 / SMALLEST),
            segments: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            log_bytes: 0,
            queues: Lists::default(),
            sparse: Lists::default(),
            open: [None; 2],
            queue_bytes: [0; 2],
            victim: None,
            large: Vec::new(),
            large_free: Vec::new(),
            large_bytes: 0,
            ghosts: Ghosts::default(),
            selector: PolicySelector::new(budget),
            appended: 0,
            full: false,
            leases: Leases::new((budget / LEASE_PART).max(LEAST_LEASES), options.load_limit),
            rests: Vec::new(),
            forgotten: Vec::new(),
            rest_bytes: 0,
            tracked: None,
            hasher: hasher.clone(),
            budget,
            share: budget,
            segment_size: wanted.clamp(least, MAX_SEGMENT) - HEAP,
            max_value: options.max_value,
            evict: options.evict,
            now: 0,
            version: options.epoch,
            random: options.seed[0] | 1,
            floors: [0; DATABASES],
            counts: [0; DATABASES],
            expires: [0; DATABASES],
            items: 0,
            stats: Stats::default(),
            sweep_at: 0,
            sweep_all: false,
            flushed: false,
            shrink_at: 0,
        }
    }

    /// Time never goes back within a shard, whatever clock reading a thread comes with.
    #[inline]
    pub(super) fn advance(&mut self, now: u64) -> u64 {
        self.now = self.now.max(now);
        self.now
    }

    /// Has the processor fetch where the bucket of a hash is written.
    #[inline]
    pub(super) fn fetch_table(&self, hash: u64) {
        self.index.fetch_table(hash);
    }

    /// Has the processor fetch the bucket of a hash.
    #[inline]
    pub(super) fn fetch_bucket(&self, hash: u64) {
        self.index.fetch_bucket(hash);
    }

    /// Has the processor fetch the first lines of the item that a hash most likely has; where that is written.
    #[inline]
    pub(super) fn fetch_item(&self, hash: u64) -> Slot {
        let (slot, place) = self.index.guess(hash);
        if let Some(place) = place {
            let data = &self.segment(place.segment).data[place.offset..];
            fetch(&data[0]);
            for next in [64, 128] {
                if let Some(next) = data.get(next) {
                    fetch(next);
                }
            }
        }
        slot
    }

    /// Bytes that the shard takes.
    pub(super) fn used(&self) -> usize {
        self.log_bytes
            + self.segments.capacity() * SEGMENT_PLACE
            + self.index.bytes()
            + self.large_bytes
            + self.large.capacity() * LARGE_PLACE
            + self.ghosts.bytes()
            + self.selector.bytes()
            + self.leases.bytes()
            + self.tracked.as_ref().map_or(0, |tracked| tracked.bytes())
            + self.rest_bytes
    }

    /// Counts a read that found an item.
    #[inline]
    pub(super) fn hit(&mut self, found: &Found, hash: u64) {
        self.selector.read(hash, true);
        self.stats.hits += 1;
        self.touch(found);
    }

    /// Counts a read that found none.
    pub(super) fn miss(&mut self, hash: u64) {
        self.selector.read(hash, false);
        self.stats.misses += 1;
    }

    pub(super) fn headroom(&self) -> usize {
        self.budget.saturating_sub(self.used())
    }

    /// Bytes above its share of the memory that it can do without: what it keeps free for items that move stays.
    pub(super) fn surplus(&self, share: usize) -> usize {
        let unused = self.available().saturating_sub_unsigned(self.kept()).max(0) as usize;
        self.budget.saturating_sub(share).min(unused)
    }

    /// Gives up what it has above its share and can do without; how many bytes.
    pub(super) fn return_surplus(&mut self, share: usize) -> usize {
        let surplus = self.surplus(share);
        self.trim_spare(surplus);
        self.budget -= surplus;
        surplus
    }

    /// Gives back spare segments until so many bytes are free, or none is left.
    fn trim_spare(&mut self, wanted: usize) {
        while self.used() + wanted > self.budget && self.spare.pop().is_some() {
            self.log_bytes -= self.segment_size + HEAP;
        }
    }

    /// Bytes that segments and values may take before something has to go; less than nothing when the index, leases or
    /// ghosts have grown since the last write.
    fn available(&self) -> isize {
        let spare = self.spare.len() * (self.segment_size + HEAP);
        (self.budget + spare) as isize - self.used() as isize
    }

    pub(super) fn segment(&self, number: usize) -> &Segment {
        self.segments[number].as_ref().expect("the index points to segments that are in use")
    }

    fn segment_mut(&mut self, number: usize) -> &mut Segment {
        self.segments[number].as_mut().expect("the index points to segments that are in use")
    }

    #[inline]
    pub(super) fn find(&self, key: Key<'_>, hash: u64) -> Option<Found> {
        self.index.find(hash, |place| {
            let segment = self.segment(place.segment);
            let data = &segment.data[place.offset..];
            key_of(data) == key.bytes && db_of(data, &segment.bases) == key.db
        })
    }

    /// The item at a place, if it is a plain one, has this key, and is alive.
    #[inline(always)]
    fn plain_at(&self, place: Place, key: &[u8], now: u64) -> Option<Plain> {
        let segment = self.segment(place.segment);
        let data = &segment.data[place.offset..];
        plain(data, &segment.bases).filter(|plain| {
            plain.version > self.floors[0]
                && plain.expires_at.is_none_or(|at| now < at)
                && data[plain.key.clone()] == *key
        })
    }

    #[inline(always)]
    pub(super) fn record(&self, place: Place) -> Record<'_> {
        let segment = self.segment(place.segment);
        decode(&segment.data[place.offset..], &segment.bases)
    }

    /// Whether nothing was done that took the item away: its tags, its database, its time as far as errors may use it.
    #[inline]
    pub(super) fn is_kept(&self, record: &Record<'_>, tags: &Tags, now: u64) -> bool {
        record.gone_at().is_none_or(|at| now < at)
            && record.version > self.floors[usize::from(record.db)]
            && (record.tags.is_empty() || !tags.are_dead(record.tags, record.clock))
    }

    pub(super) fn large_len(&self, value: Stored<'_>) -> usize {
        match value {
            Stored::Inline(_) => 0,
            Stored::Large(number) => self.large[number as usize].as_ref().map_or(0, |value| large_cost(value.len())),
        }
    }

    /// Takes the item at a found slot out of all counts; its value beside the log goes unless `keep` is its number.
    fn discount(&mut self, found: &Found, keep: Option<u32>) {
        let record = self.record(found.place);
        let (size, value, db, absent, version) = (record.size, record.value, record.db, record.absent, record.version);
        let expires = record.expires_at.is_some();
        let beside = self.large_len(value);
        if let Stored::Large(number) = value
            && keep != Some(number)
        {
            self.free_large(number);
        }
        let db = usize::from(db);
        if !absent && version > self.floors[db] {
            self.counts[db] -= 1;
            self.expires[db] -= u64::from(expires);
        }
        self.items -= 1;
        let segment = self.segment_mut(found.place.segment);
        segment.live -= size;
        let queue = segment.queue as usize;
        self.note_live(found.place.segment);
        self.queue_bytes[queue] -= size + beside;
    }

    /// Whoever keeps a copy of a key that changes or goes is told when the step is done.
    #[inline]
    fn tell_changed(&mut self, hash: u64, key: &[u8]) {
        if let Some(tracked) = &mut self.tracked {
            let told = tracked.changed(hash, key);
            self.tell(told);
        }
    }

    #[cold]
    fn tell(&mut self, told: Told) {
        for (key, readers) in told {
            self.leases.emit(StoreEvent::Changed(key, readers));
        }
    }

    #[cold]
    fn tell_dropped(&mut self, place: Place) {
        let record = self.record(place);
        let (hash, key) = (hash(&self.hasher, Key { db: record.db, bytes: record.key }), Box::<[u8]>::from(record.key));
        self.tell_changed(hash, &key);
    }

    /// What is told of changes from now on.
    pub(super) fn set_interest(&mut self, interest: Interest) {
        if interest == Interest::None {
            let old = self.tracked.take();
            old.into_iter().for_each(|old| self.give_back(*old));
        } else {
            let most = (self.budget / TRACKED_PART).max(LEAST_TRACKED);
            let tracked = self.tracked.get_or_insert_with(|| Box::new(Tracked::new(most)));
            tracked.all = interest == Interest::All;
        }
    }

    /// A table of registered keys is not used any more.
    fn give_back(&mut self, table: Tracked) {
        if table.len() > 0 {
            self.rest_bytes += table.bytes();
            self.forgotten.push(table);
        }
    }

    /// A connection keeps no copies any more.
    pub(super) fn untrack(&mut self, id: u64) {
        if let Some(tracked) = &mut self.tracked {
            tracked.leave(id);
        }
    }

    /// Drops some registrations of connections that keep no copies any more; whether there are others.
    pub(super) fn drop_left(&mut self) -> bool {
        self.tracked.as_mut().is_some_and(|tracked| tracked.drop_left())
    }

    /// Removes the item at a found slot.
    fn drop_item(&mut self, found: &Found) {
        if self.tracked.is_some() {
            self.tell_dropped(found.place);
        }
        self.discount(found, None);
        self.index.remove(found);
        self.free_if_empty(found.place.segment);
    }

    fn keep_large(&mut self, value: Arc<[u8]>) -> u32 {
        self.large_bytes += large_cost(value.len());
        if let Some(number) = self.large_free.pop() {
            self.large[number as usize] = Some(value);
            return number;
        }
        if self.large.len() == self.large.capacity() {
            self.large.reserve_exact(PLACES);
            self.large_free.reserve_exact(self.large.capacity());
        }
        self.large.push(Some(value));
        self.large.len() as u32 - 1
    }

    /// Bytes by which the list of values beside the log grows with the next of them.
    fn large_growth(&self) -> usize {
        let full = self.large_free.is_empty() && self.large.len() == self.large.capacity();
        if full { PLACES * LARGE_PLACE } else { 0 }
    }

    fn free_large(&mut self, number: u32) {
        if let Some(value) = self.large[number as usize].take() {
            self.large_bytes -= large_cost(value.len());
            self.large_free.push(number);
        }
    }

    /// A sealed segment without a live item is free at once.
    fn free_if_empty(&mut self, number_: usize) {
        let segment = self.segment(number_);
        if segment.live == 0 && segment.queued {
            self.take_out(number_);
            self.release(number_);
        }
    }

    /// What lives of a segment has changed: if it stands in a queue, it is found among those as sparse as it is.
    #[inline]
    fn note_live(&mut self, number: usize) {
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
    fn put_in(&mut self, number_: usize, oldest: bool) {
        let segment = self.segment(number_);
        let (queue, level) = (segment.queue as usize, segment.level());
        if oldest {
            self.queues.push_front(queue, number_);
        } else {
            self.queues.push_back(queue, number_);
        }
        self.segment_mut(number_).queued = true;
        self.list_sparse(number_, SPARSE, level);
    }

    /// Takes a segment out of its queue.
    fn take_out(&mut self, number_: usize) {
        let segment = self.segment_mut(number_);
        segment.queued = false;
        let (queue, level) = (segment.queue as usize, segment.level);
        self.queues.remove(queue, number_);
        if level < SPARSE {
            self.sparse.remove(level, number_);
        }
    }

    fn release(&mut self, number: usize) {
        let segment = self.segments[number].take().expect("a segment in use");
        self.free.push(number);
        if self.spare.len() < RESERVE && segment.data.len() == self.segment_size {
            self.spare.push(segment.data);
        } else {
            self.log_bytes -= segment.data.len() + HEAP;
        }
    }

    /// Bytes by which the list of segments grows with the next of them.
    fn segment_growth(&self) -> usize {
        let full = self.free.is_empty() && self.segments.len() == self.segments.capacity();
        if full { PLACES * SEGMENT_PLACE } else { 0 }
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

    /// A new segment of so many bytes for a queue, neither open nor queued yet; None if there is no memory for it.
    fn new_segment(&mut self, queue: Queue, length: usize, tags: &Tags) -> Option<usize> {
        let is_spare = length == self.segment_size && !self.spare.is_empty();
        let added = if is_spare { 0 } else { length + HEAP };
        if self.headroom() < added + self.segment_growth() {
            return None;
        }
        let number = self.segment_place()?;
        let spare = if is_spare { self.spare.pop() } else { None };
        let data = spare.unwrap_or_else(|| {
            self.log_bytes += added;
            vec![0; length].into()
        });
        let bases = Bases::new(self.version, self.now, tags.clock());
        self.segments[number] = Some(Segment::new(data, bases, queue, self.appended));
        Some(number)
    }

    /// A new open segment for a queue; None if there is no memory for it.
    fn open_segment(&mut self, queue: Queue, tags: &Tags) -> Option<usize> {
        let number = self.new_segment(queue, self.segment_size, tags)?;
        self.seal(queue);
        self.open[queue as usize] = Some(number);
        Some(number)
    }

    fn seal(&mut self, queue: Queue) {
        if let Some(old) = self.open[queue as usize].take() {
            self.put_in(old, false);
            self.free_if_empty(old);
        }
    }

    /// Whether an item of so many bytes has a segment of its own.
    fn is_long(&self, bytes: usize) -> bool {
        bytes > self.segment_size / LONG_PART
    }

    /// Appends a record of at most `longest` bytes to a queue: to its open segment, or as a segment of its own if it is
    /// long. None if there is no memory for another segment.
    fn append(&mut self, queue: Queue, record: &Record<'_>, longest: usize, tags: &Tags) -> Option<Place> {
        if self.is_long(longest) {
            return self.append_long(queue, record, longest, tags);
        }
        for _ in 0..2 {
            if let Some(number) = self.open[queue as usize] {
                let segment = self.segments[number].as_mut().expect("an open segment");
                let encoded = Encoded::new(record, &segment.bases);
                if encoded.size <= segment.room() {
                    return Some(self.append_to(number, record, &encoded));
                }
            }
            self.open_segment(queue, tags)?;
        }
        None
    }

    #[inline(always)]
    fn append_to(&mut self, number: usize, record: &Record<'_>, encoded: &Encoded) -> Place {
        let segment = self.segments[number].as_mut().expect("a segment in use");
        let offset = segment.append(record, encoded);
        let queue = segment.queue as usize;
        self.queue_bytes[queue] += encoded.size;
        self.appended += encoded.size as u64;
        Place { segment: number, offset }
    }

    #[cold]
    fn append_long(&mut self, queue: Queue, record: &Record<'_>, longest: usize, tags: &Tags) -> Option<Place> {
        let number = self.new_segment(queue, longest, tags)?;
        let encoded = Encoded::new(record, &self.segment(number).bases);
        let place = self.append_to(number, record, &encoded);
        self.put_in(number, false);
        Some(place)
    }

    /// Sees to it that an item of at most `longest` bytes can be appended, and `beside` bytes can be taken for values beside
    /// the log and for the index; `kept` bytes are left free.
    #[inline(always)]
    fn make_room(&mut self, longest: usize, beside: usize, kept: usize, tags: &Tags, now: u64) -> Room {
        let low = RESERVE * self.segment_size + beside + kept;
        let enough = low + self.own_memory(longest) + PLACES * SEGMENT_PLACE;
        if self.spare.is_empty() && self.available() >= enough as isize {
            return Room::There;
        }
        while self.available() < enough as isize && self.shed() > 0 {}
        self.reclaim_room(longest, beside, kept, tags, now)
    }

    fn reclaim_room(&mut self, longest: usize, beside: usize, kept: usize, tags: &Tags, now: u64) -> Room {
        let low = RESERVE * self.segment_size + beside + kept;
        let mut room = Room::There;
        if self.available() < low as isize {
            room = Room::Made;
            for _ in 0..(self.items as usize / STEP_PART).clamp(STEP.0, STEP.1) {
                if self.reclaim(true, tags, now) == 0 {
                    break;
                }
            }
        }
        // The reserve is used up: what is left of the oldest goes without a look at who was asked for.
        let (mut idle, mut victims) = (0, 0);
        while self.lacks(longest, beside + kept) {
            room = Room::Made;
            let before = self.available();
            victims += 1;
            debug_assert!(victims <= (IDLE_VICTIMS + 1) * (self.segments.len() + 1), "segments are copied without end");
            if !self.evict_whole(tags, now) {
                return Room::Lacks;
            }
            idle = if self.available() > before { 0 } else { idle + 1 };
            if idle == IDLE_VICTIMS && !self.evict {
                return Room::Lacks;
            }
        }
        // Spare segments are memory for all that is no segment, too.
        let wanted = self.own_memory(longest) + self.segment_growth() + beside;
        self.trim_spare(wanted);
        room
    }

    /// Bytes that a long item takes as a segment of its own; none for others.
    fn own_memory(&self, longest: usize) -> usize {
        if self.is_long(longest) { longest + HEAP } else { 0 }
    }

    fn lacks(&self, longest: usize, beside: usize) -> bool {
        let has_room = |open: Option<usize>| open.is_some_and(|number| self.segment(number).room() >= longest);
        let wanted = match self.own_memory(longest) {
            0 if longest == 0 || self.open.into_iter().all(has_room) => 0,
            0 => self.segment_size + HEAP + self.segment_growth(),
            own => own + self.segment_growth(),
        };
        self.available() < (wanted + beside) as isize
    }

    /// Bytes that writing a value of so many bytes takes at most, beside others that are written in the same step: twice what
    /// lies in segments, for what those waste at their ends and the index grows by.
    pub(super) fn wanted(&self, key: Key<'_>, length: usize) -> usize {
        let around = 2 * (MOST_PLAIN + key.bytes.len());
        around + if length <= self.segment_size / LARGE_PART { 2 * length } else { large_cost(length) }
    }

    /// As [`wanted`](Shard::wanted), of an item that is in this shard: a value beside the log is written nowhere.
    pub(super) fn wanted_anew(&self, key: Key<'_>, length: usize) -> usize {
        self.wanted(key, if length <= self.segment_size / LARGE_PART { length } else { 0 })
    }

    /// Whether items that move, of so many bytes, may take more than what is kept free for them.
    pub(super) fn moves_too_much(&self, bytes: usize) -> bool {
        bytes > self.segment_size
    }

    /// Makes room for so many bytes without eviction, as far as what was flushed and what is dead can be given back; whether
    /// they can be written for sure then. It says no while some of the last segments are left, since it does not look how
    /// items would lie: the open ones may lack room, and one is begun for the rest.
    #[cold]
    pub(super) fn make_room_for(&mut self, bytes: usize, tags: &Tags, now: u64) -> bool {
        let wanted = (bytes + 3 * self.segment_size + self.kept()) as isize;
        // What could not be written if nothing were wasted is refused before anything is moved for it.
        if self.available() + ((self.rest_bytes + self.dead_bytes()) as isize) < wanted {
            return false;
        }
        while self.available() < wanted && self.shed() > 0 {}
        let mut idle = 0;
        while self.available() < wanted && idle < IDLE_VICTIMS {
            let before = self.available();
            if !self.evict_whole(tags, now) {
                break;
            }
            idle = if self.available() > before { 0 } else { idle + 1 };
        }
        self.available() >= wanted
    }

    /// Bytes of segments in use that no item of the index takes. Between two writes every value beside the log belongs to one
    /// item, so the bytes of the queues without these are those of items in segments in use, none of which holds more than
    /// its length; and spare segments all have the standard length.
    pub(super) fn dead_bytes(&self) -> usize {
        let spare = self.spare.len() * (self.segment_size + HEAP);
        let live = self.queue_bytes.iter().sum::<usize>() - self.large_bytes;
        self.log_bytes - spare - live
    }

    /// Bytes that come free at once when an item goes: its value beside the log, and a segment of its own.
    pub(super) fn freed_with(&self, key: Key<'_>, hash: u64) -> usize {
        let Some(found) = self.find(key, hash) else { return 0 };
        self.own_segment(&found) + self.large_len(self.record(found.place).value)
    }

    /// Bytes of the segment that an item has for itself, if it has.
    fn own_segment(&self, found: &Found) -> usize {
        let length = self.segment(found.place.segment).data.len();
        if length == self.segment_size { 0 } else { length + HEAP }
    }

    /// Bytes that only items that move may take: without eviction an item that is renamed, or whose expiry changes, is
    /// written anew before the old one goes, and must find room for that also when nothing else does.
    fn kept(&self) -> usize {
        let kept = (2 * self.segment_size).max(self.budget / KEPT_PART) + PLACES * SEGMENT_PLACE;
        if self.evict { 0 } else { kept }
    }

    /// Takes one victim apart to its end; false if there is none, or if nothing can go.
    fn evict_whole(&mut self, tags: &Tags, now: u64) -> bool {
        if self.victim.is_none() && !self.choose_victim() {
            return false;
        }
        while self.victim.is_some() {
            if self.reclaim(false, tags, now) == 0 {
                return false;
            }
        }
        true
    }

    /// The sealed segment whose items have come to their end.
    fn oldest(&self) -> Option<usize> {
        let fronts = [0, 1].map(|queue| self.queues.front(queue));
        let age = fronts.map(|front| front.map(|number| self.age(self.segment(number))));
        let [small, main] = fronts;
        let whole = self.queue_bytes.iter().sum();
        if self.selector.policy().takes_small(self.queue_bytes[0], whole, age) { small } else { main }
    }

    fn choose_victim(&mut self) -> bool {
        let sparsest = (0..SPARSE).find_map(|level| self.sparse.front(level));
        let (segment, why) = if sparsest.is_some() {
            (sparsest, Why::Sparse)
        } else if !self.evict {
            (None, Why::Sparse)
        } else {
            let mut oldest = self.oldest();
            if oldest.is_none() {
                // All that there is stands in open segments: a few items with large values, say.
                self.seal(Queue::Small);
                self.seal(Queue::Main);
                oldest = self.oldest();
            }
            self.full = true;
            (oldest, Why::Oldest)
        };
        let Some(segment) = segment else { return false };
        self.take_out(segment);
        self.segment_mut(segment).reclaimed = 0;
        self.victim = Some(Victim { segment, why });
        true
    }

    /// Looks at one item of the victim, choosing one first if there is none; returns the bytes looked at, 0 if there
    /// is nothing to reclaim. With `save` items that deserve it are copied on, else they go.
    fn reclaim(&mut self, save: bool, tags: &Tags, now: u64) -> usize {
        if self.victim.is_none() && !self.choose_victim() {
            return 0;
        }
        let Some(Victim { segment, why }) = self.victim else { return 0 };
        let at = self.segment(segment).reclaimed;
        if at >= self.segment(segment).used || self.segment(segment).live == 0 {
            self.victim = None;
            self.release(segment);
            return ALIGN;
        }
        let place = Place { segment, offset: at };
        let size = self.record(place).size;
        self.segment_mut(segment).reclaimed = at + size;
        self.fetch_ahead(segment, at + size);
        if !self.reclaim_item(place, why, save, tags, now) {
            // Nothing may go and there is nowhere to copy it: the segment stays as it is.
            self.victim = None;
            self.put_in(segment, true);
            return 0;
        }
        size
    }

    /// Has the processor fetch what looking at the item at `at` will need, and the memory behind it: half of what a write
    /// pays while memory is short are waits for these.
    fn fetch_ahead(&self, segment: usize, at: usize) {
        let segment = self.segment(segment);
        let Some(data) = segment.data.get(at..segment.used).filter(|data| !data.is_empty()) else { return };
        let key = Key { db: db_of(data, &segment.bases), bytes: key_of(data) };
        self.index.fetch_bucket(hash(&self.hasher, key));
        if let Some(later) = data.get(AHEAD_BYTES) {
            fetch(later);
        }
    }

    /// False if the item lives, may not go and cannot be copied.
    fn reclaim_item(&mut self, place: Place, why: Why, save: bool, tags: &Tags, now: u64) -> bool {
        let record = self.record(place);
        let hash = hash(&self.hasher, Key { db: record.db, bytes: record.key });
        let kept = self.is_kept(&record, tags, now);
        let expired = record.expires_at.is_some_and(|at| at <= now);
        let Some(found) = self.index.find(hash, |known| known == place) else { return true };
        let queue = self.segment(place.segment).queue;
        if !kept {
            self.stats.expired += u64::from(expired);
            self.drop_item(&found);
            return true;
        }
        let target = match (why, queue) {
            (Why::Sparse, queue) => Some((queue, found.freq)),
            // Copied for the time of errors only: the first to go.
            _ if expired => None,
            (Why::Oldest, queue) => self.selector.policy().next(queue, found.freq),
        };
        if (save || !self.evict) && target.is_some_and(|(queue, freq)| self.move_item(&found, queue, freq, tags)) {
            return true;
        }
        if self.evict {
            if queue == Queue::Small {
                self.remember(hash);
            }
            self.stats.evicted += 1;
            self.drop_item(&found);
        }
        self.evict
    }

    /// Copies an item to the open segment of a queue; false if there is no memory for it.
    fn move_item(&mut self, found: &Found, queue: Queue, freq: u8, tags: &Tags) -> bool {
        let from = found.place;
        // The segment is taken out while its item is copied to another.
        let segment = self.segments[from.segment].take().expect("a segment in use");
        let record = decode(&segment.data[from.offset..], &segment.bases);
        let beside = self.large_len(record.value);
        let size = record.size;
        let moved = self.append(queue, &record, record.longest(), tags);
        self.segments[from.segment] = Some(segment);
        let Some(place) = moved else { return false };
        self.index.update(found, place, freq);
        let segment = self.segment_mut(from.segment);
        segment.live -= size;
        let old = segment.queue as usize;
        self.queue_bytes[old] -= size + beside;
        self.queue_bytes[queue as usize] += beside;
        true
    }

    /// Ghosts remember about as many keys as there are items; the table grows with them, and forgets when it does.
    fn remember(&mut self, hash: u64) {
        let wanted = (self.items as usize).max(MIN_GHOSTS);
        let capacity = self.ghosts.capacity();
        if capacity < wanted * 3 / 4 || capacity > wanted * 4 {
            self.ghosts = Ghosts::new(wanted);
        }
        self.ghosts.insert(hash);
    }

    /// A step through the segments that looks at so many items: what nobody can have any more goes. Segments in which nothing is due are
    /// passed over unless the round is `thorough`, for what was invalidated. True when it came round.
    pub(super) fn sweep(&mut self, items: usize, tags: &Tags, thorough: bool, now: u64) -> bool {
        self.index.shrink_next(&mut self.shrink_at);
        for _ in 0..items {
            let number = self.sweep_at;
            let Some(place) = self.segments.get_mut(number) else {
                self.sweep_at = 0;
                self.sweep_all = std::mem::take(&mut self.flushed);
                return true;
            };
            let all = thorough || self.sweep_all;
            let wanted = place.as_mut().is_some_and(|segment| {
                let due = segment.swept > 0 || all || segment.next_expiry <= now;
                segment.swept < segment.used && segment.live > 0 && due
            });
            if wanted {
                self.sweep_item(number, tags, now);
                continue;
            }
            if let Some(segment) = place {
                segment.swept = 0;
            }
            self.sweep_at = number + 1;
        }
        false
    }

    /// Looks at the next item of a segment.
    fn sweep_item(&mut self, number: usize, tags: &Tags, now: u64) {
        let segment = self.segment_mut(number);
        if segment.swept == 0 {
            // Noted anew by what lives and by what is written meanwhile.
            segment.next_expiry = u64::MAX;
        }
        let place = Place { segment: number, offset: segment.swept };
        let record = self.record(place);
        let gone_at = record.gone_at().unwrap_or(u64::MAX);
        let kept = self.is_kept(&record, tags, now);
        let next = place.offset + record.size;
        let hash = hash(&self.hasher, Key { db: record.db, bytes: record.key });
        // Before the item goes, since its segment may go with it.
        let segment = self.segment_mut(number);
        segment.swept = next;
        if kept {
            segment.next_expiry = segment.next_expiry.min(gone_at);
            return;
        }
        if let Some(found) = self.index.find(hash, |known| known == place) {
            self.stats.expired += u64::from(gone_at <= now);
            self.drop_item(&found);
        }
    }

    /// Removes everything, or one database. The memory comes free step by step.
    pub(super) fn clear(&mut self, db: Option<u8>, options: &Options, least: usize) {
        self.leases.void_all(db);
        let forgotten = self.tracked.as_mut().map(|tracked| tracked.forget());
        forgotten.into_iter().for_each(|table| self.give_back(table));
        if let Some(db) = db {
            self.floors[usize::from(db)] = self.version;
            self.counts[usize::from(db)] = 0;
            self.expires[usize::from(db)] = 0;
            self.flushed = true;
            return;
        }
        let fresh = Shard {
            now: self.now,
            version: self.version,
            stats: self.stats,
            ..Shard::new(options, least, &self.hasher)
        };
        let mut old = std::mem::replace(self, fresh);
        std::mem::swap(&mut self.leases, &mut old.leases);
        std::mem::swap(&mut self.tracked, &mut old.tracked);
        (self.rests, self.rest_bytes) = (std::mem::take(&mut old.rests), std::mem::take(&mut old.rest_bytes));
        self.forgotten = std::mem::take(&mut old.forgotten);
        let rest = old.rest();
        if rest > LEAST_REST {
            self.rest_bytes += rest + old.aside();
            self.rests.push(old);
        }
        // Its budget may have been larger, by what other shards had passed to it.
        while self.used() > self.budget && self.shed() > 0 {}
    }

    /// Bytes that can be given back in pieces.
    pub(super) fn rest(&self) -> usize {
        self.log_bytes + self.large_bytes + self.index.held()
    }

    /// Bytes that are given back with the last piece.
    pub(super) fn aside(&self) -> usize {
        self.ghosts.bytes() + self.selector.bytes()
    }

    /// Gives back a piece of what was flushed; how many bytes, 0 when nothing is left.
    pub(super) fn shed(&mut self) -> usize {
        if let Some(table) = self.forgotten.last_mut() {
            let before = table.bytes();
            let given = if table.shed() { before - table.bytes() } else { before };
            self.rest_bytes -= given;
            if given == before {
                self.forgotten.pop();
            }
            return given;
        }
        let Some(old) = self.rests.last_mut() else { return 0 };
        let before = old.rest();
        old.shed_piece();
        let after = old.rest();
        self.rest_bytes -= before - after;
        if after == 0 {
            self.rest_bytes -= old.aside();
            self.rests.pop();
        }
        before - after
    }

    /// Gives back a segment, or a value beside the log, or else a table of the index.
    fn shed_piece(&mut self) {
        if let Some(data) = self.spare.pop() {
            self.log_bytes -= data.len() + HEAP;
        } else if let Some(segment) = pop_some(&mut self.segments) {
            self.log_bytes -= segment.data.len() + HEAP;
        } else if let Some(value) = pop_some(&mut self.large) {
            self.large_bytes -= large_cost(value.len());
        } else {
            self.index.shed_table(&mut self.shrink_at);
        }
    }

    /// Tells those who wait for keys that were changed in this step what is there now, or who is to load.
    pub(super) fn settle(&mut self, tags: &Tags) {
        for hash in self.leases.take_touched() {
            let Some((db, key)) = self.leases.key_of(hash) else { continue };
            let loaded =
                if self.leases.has_waiters(hash) { self.loaded(Key { db, bytes: &key }, hash, tags) } else { None };
            let moment = StepContext { token: self.next_version(), clock: tags.clock(), now: self.now };
            self.leases.settle(hash, loaded.as_ref(), moment);
        }
    }

    /// Ends waits and leases whose time is over.
    pub(super) fn tick_leases(&mut self, tags: &Tags, most: &mut usize) {
        let version = &mut self.version;
        self.leases.tick(
            &mut || {
                *version += 1;
                *version
            },
            tags.clock(),
            self.now,
            most,
        );
    }

    /// The connection that holds a lease is gone.
    pub(super) fn lost(&mut self, hold: Hold, connection: ConnectionId, tags: &Tags) {
        let moment = StepContext { token: self.next_version(), clock: tags.clock(), now: self.now };
        self.leases.lost(hold, connection, moment);
    }

    /// The live value of a key, or that there is none for certain, for those who wait for it.
    fn loaded(&self, key: Key<'_>, hash: u64, tags: &Tags) -> Option<Loaded> {
        let record = self.record(self.find(key, hash)?.place);
        let there = record.expires_at.is_none_or(|at| self.now < at) && self.is_kept(&record, tags, self.now);
        there.then(|| {
            let item = self.view(&record);
            Loaded::new(&item, item.is_stale(self.now))
        })
    }

    pub(super) fn len(&self, db: u8) -> u64 {
        self.counts[usize::from(db)]
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            items: self.items,
            used: self.used() as u64,
            expires: self.expires,
            tracked: self.tracked.as_ref().map_or(0, |known| known.len() as u64),
            tracked_pairs: self.tracked.as_ref().map_or(0, |known| known.pairs() as u64),
            ..self.stats
        }
    }

    #[inline(always)]
    pub(super) fn view<'a>(&'a self, record: &Record<'a>) -> Item<'a> {
        view(record, |number| {
            Value::Shared(self.large[number as usize].as_ref().expect("a value beside the log has its item"))
        })
    }

    #[inline]
    pub(super) fn is_live(&self, record: &Record<'_>, tags: &Tags, now: u64) -> bool {
        !record.absent && record.expires_at.is_none_or(|at| now < at) && self.is_kept(record, tags, now)
    }

    /// As [`is_live`](Shard::is_live), of the item at a place.
    #[inline]
    fn is_live_at(&self, place: Place, tags: &Tags, now: u64) -> bool {
        let segment = self.segment(place.segment);
        match plain_life(&segment.data[place.offset..], &segment.bases) {
            Some((version, expires_at)) => version > self.floors[0] && expires_at.is_none_or(|at| now < at),
            None => self.is_live(&self.record(place), tags, now),
        }
    }

    /// See `Index::scan_place`.
    pub(super) fn scan_place(&self, random: u64) -> u64 {
        self.index.scan_place(random)
    }

    /// Visits live items of a database; see `Index::scan`.
    pub(super) fn scan(
        &self,
        db: u8,
        cursor: u64,
        count: usize,
        tags: &Tags,
        visit: &mut dyn FnMut(&[u8], &Item<'_>),
    ) -> Option<u64> {
        if self.len(db) == 0 {
            return None;
        }
        self.index.scan(cursor, count, &mut |place| {
            let record = self.record(place);
            if record.db == db && self.is_live(&record, tags, self.now) {
                visit(record.key, &self.view(&record));
            }
        })
    }

    /// Writes a record over the item that is there, or as a new one. The record lies outside the segments.
    fn put(&mut self, record: &Record<'_>, how: Put, hash: u64, tags: &Tags, now: u64) -> Result<(), Refused> {
        let key = Key { db: record.db, bytes: record.key };
        self.tell_changed(hash, record.key);
        let found = self.find(key, hash);
        if let Some(found) = found
            && self.overwrite(&found, record)
        {
            self.selector.write(hash, self.items, self.full);
            return Ok(());
        }
        let longest = record.longest();
        let (growth, kept) = (self.index.growth(hash), if how == Put::Value { self.kept() } else { 0 });
        let (found, squeezed) = match self.make_room(longest, growth, kept, tags, now) {
            Room::There => (found, None),
            // The item may have been moved, or dropped, and its value beside the log with it.
            Room::Made => (self.find(key, hash), None),
            Room::Lacks if how == Put::Value => return Err(Refused::Full),
            Room::Lacks => {
                let squeezed = self.squeeze(longest).ok_or(Refused::Full)?;
                (self.find(key, hash), Some(squeezed))
            }
        };
        if how == Put::Change && found.is_none() {
            return Err(Refused::Full);
        }
        let (queue, freq) = match &found {
            Some(found) => (self.segment(found.place.segment).queue, found.freq),
            None if self.ghosts.take(hash) => (Queue::Main, 0),
            None => (self.queue_for_new(), 0),
        };
        self.selector.write(hash, self.items, self.full);
        let place = self.append(squeezed.unwrap_or(queue), record, longest, tags).ok_or(Refused::Full)?;
        match &found {
            Some(found) => {
                let kept = if let Stored::Large(number) = record.value { Some(number) } else { None };
                self.discount(found, kept);
                self.index.update(found, place, freq);
                self.free_if_empty(found.place.segment);
            }
            None => self.index.insert(hash, place, freq),
        }
        self.queue_bytes[squeezed.unwrap_or(queue) as usize] += self.large_len(record.value);
        self.count(record);
        Ok(())
    }

    /// Makes room for an item of at most `longest` bytes without any memory: the segment with the most dead bytes is
    /// compacted in its place, and is the open one of its queue from then on. Returns the queue; None if no segment has
    /// enough dead bytes.
    #[cold]
    fn squeeze(&mut self, longest: usize) -> Option<Queue> {
        let dead = |segment: &Segment| segment.data.len() - segment.live;
        let standard = |segment: &Segment| segment.queued && segment.data.len() == self.segment_size;
        let queued = self.segments.iter().enumerate().filter_map(|(number, segment)| Some((number, segment.as_ref()?)));
        let (number, _) = queued
            .filter(|(_, segment)| standard(segment) && dead(segment) >= longest)
            .max_by_key(|(_, segment)| dead(segment))?;
        self.take_out(number);
        self.compact(number);
        let queue = self.segment(number).queue;
        self.seal(queue);
        self.open[queue as usize] = Some(number);
        Some(queue)
    }

    /// Moves the items of a segment together, within it.
    fn compact(&mut self, number: usize) {
        let mut segment = self.segments[number].take().expect("a segment in use");
        let (mut at, mut end, mut next_expiry) = (0, 0, u64::MAX);
        while at < segment.used {
            let record = decode(&segment.data[at..], &segment.bases);
            let (size, key) = (record.size, Key { db: record.db, bytes: record.key });
            let gone_at = record.gone_at().unwrap_or(u64::MAX);
            let hash = hash(&self.hasher, key);
            if let Some(found) = self.index.find(hash, |known| known == Place { segment: number, offset: at }) {
                segment.data.copy_within(at..at + size, end);
                self.index.update(&found, Place { segment: number, offset: end }, found.freq);
                end += size;
                next_expiry = next_expiry.min(gone_at);
            }
            at += size;
        }
        segment.used = end;
        // Items stand elsewhere now: the sweep looks at all of them again. What it had noted so far are the expiries of those
        // that it had passed.
        (segment.swept, segment.reclaimed, segment.next_expiry) = (0, 0, next_expiry);
        self.segments[number] = Some(segment);
    }

    fn count(&mut self, record: &Record<'_>) {
        self.items += 1;
        if !record.absent && record.version > self.floors[usize::from(record.db)] {
            self.counts[usize::from(record.db)] += 1;
            self.expires[usize::from(record.db)] += u64::from(record.expires_at.is_some());
        }
    }

    /// Where a new item goes that no ghost speaks for. While nothing had to go yet, what the small queue has no share
    /// for fills the main queue: a loop, or the popular keys, are there from the start.
    fn queue_for_new(&self) -> Queue {
        let policy = self.selector.policy();
        let total = self.queue_bytes[0] + self.queue_bytes[1];
        let filled = !self.full && self.queue_bytes[0] * 100 > total * policy.small;
        if policy.is_recency() || filled { Queue::Main } else { Queue::Small }
    }

    /// Remembers that an item was asked for, unless it is so young that this says nothing.
    #[inline]
    fn touch(&mut self, found: &Found) {
        if found.freq == MAX_FREQ {
            return;
        }
        let segment = self.segment(found.place.segment);
        let age = self.age(segment) - found.place.offset;
        let freq = self.selector.policy().used(found.freq, segment.queue, age, self.queue_bytes.iter().sum());
        if freq != found.freq {
            self.index.update(found, found.place, freq);
        }
    }

    /// Bytes that were appended since a segment was opened.
    fn age(&self, segment: &Segment) -> usize {
        (self.appended - segment.since) as usize
    }

    /// Writes a record where the item lies, if it takes as many bytes.
    fn overwrite(&mut self, found: &Found, record: &Record<'_>) -> bool {
        let old = self.record(found.place);
        let segment = self.segment(found.place.segment);
        let encoded = Encoded::new(record, &segment.bases);
        let inline = matches!((old.value, record.value), (Stored::Inline(_), Stored::Inline(_)));
        if !inline || encoded.size != old.size {
            return false;
        }
        let db = usize::from(record.db);
        let counted = !old.absent && old.version > self.floors[db];
        let expired = counted && old.expires_at.is_some();
        // The same key and the same bytes: nothing but what is told of its database changes.
        self.counts[db] = self.counts[db] + u64::from(!record.absent) - u64::from(counted);
        let expires = !record.absent && record.expires_at.is_some();
        self.expires[db] = self.expires[db] + u64::from(expires) - u64::from(expired);
        let Place { segment, offset } = found.place;
        let segment = self.segment_mut(segment);
        encoded.write(record, &segment.bases, &mut segment.data[offset..]);
        segment.note_expiry(record);
        self.touch(found);
        true
    }

    pub(super) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

/// The last element that is there; those behind it go.
fn pop_some<T>(places: &mut Vec<Option<T>>) -> Option<T> {
    while let Some(place) = places.pop() {
        if place.is_some() {
            return place;
        }
    }
    None
}

/// Tags as bytes, on the stack.
fn tag_bytes<'a>(tags: &[u64], place: &'a mut [u8; 8 * MAX_TAGS]) -> &'a [u8] {
    let count = tags.len().min(MAX_TAGS);
    for (chunk, tag) in place.chunks_exact_mut(8).zip(tags) {
        chunk.copy_from_slice(&tag.to_le_bytes());
    }
    &place[..8 * count]
}

impl<'a> Entry<'a> {
    pub(super) fn new(
        shard: &'a mut Shard,
        tags: &'a Tags<'a>,
        key: Key<'a>,
        hash: u64,
        now: u64,
        slot: Option<Slot>,
    ) -> Entry<'a> {
        Entry { shard, tags, key, hash, now, slot }
    }

    /// The clock of this step; never behind what the shard has seen.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The live item, as a reader sees it: counted as hit or miss and remembered as used.
    #[inline(always)]
    pub fn get(&mut self) -> Option<Item<'_>> {
        // What most reads find: the item, with nothing that its life depends on but its time.
        if let Some(slot) = self.slot
            && self.key.db == 0
            && let Some(found) = self.shard.index.found(self.hash, slot)
            && let Some(plain) = self.shard.plain_at(found.place, self.key.bytes, self.now)
        {
            self.shard.hit(&found, self.hash);
            let data = &self.shard.segment(found.place.segment).data[found.place.offset..];
            let (version, expires_at) = (plain.version, plain.expires_at);
            return Some(Item { version, expires_at, ..Item::plain(&data[plain.value]) });
        }
        let Some(found) = self.shard.find(self.key, self.hash) else {
            self.shard.miss(self.hash);
            return None;
        };
        if !self.shard.is_live_at(found.place, self.tags, self.now) {
            self.drop_dead(&found);
            return None;
        }
        self.shard.hit(&found, self.hash);
        Some(self.shard.view(&self.shard.record(found.place)))
    }

    /// An item that was asked for is dead: a miss.
    #[cold]
    fn drop_dead(&mut self, found: &Found) {
        let gone = self.shard.record(found.place).gone_at().is_some_and(|at| at <= self.now);
        self.shard.miss(self.hash);
        if gone {
            self.shard.stats.expired += 1;
            self.shard.drop_item(found);
        }
    }

    /// The live item, leaving no trace.
    pub fn peek(&self) -> Option<Item<'_>> {
        let found = self.shard.find(self.key, self.hash)?;
        let record = self.shard.record(found.place);
        self.shard.is_live(&record, self.tags, self.now).then(|| self.shard.view(&record))
    }

    /// Writes a value with all that is kept beside it. Returns the new version.
    #[inline]
    pub fn set(&mut self, value: &[u8], meta: &Meta<'_>) -> Result<u64, Refused> {
        let mut place;
        let tags = if meta.tags.is_empty() {
            &[]
        } else {
            place = [0; 8 * MAX_TAGS];
            tag_bytes(meta.tags, &mut place)
        };
        let clock = self.tags.clock();
        let version = self.write(Value::Inline(value), Put::Value, |key, value, version| {
            Record::new(key.db, key.bytes, value, meta, tags, version, clock)
        })?;
        self.void();
        Ok(version)
    }

    /// Writes a value that was loaded under a lease granted when the tag clock stood at `clock`.
    pub(super) fn put_loaded(&mut self, value: &[u8], meta: &Meta<'_>, clock: u64) -> Result<u64, Refused> {
        let mut place = [0; 8 * MAX_TAGS];
        let tags = if meta.tags.is_empty() { &[] } else { tag_bytes(meta.tags, &mut place) };
        self.write(Value::Inline(value), Put::Value, |key, value, version| {
            Record::new(key.db, key.bytes, value, meta, tags, version, clock)
        })
    }

    /// The value was changed by somebody who was not asked to load it: what is being loaded is too old.
    #[inline]
    fn void(&mut self) {
        if !self.shard.leases.is_empty() {
            self.shard.leases.changed(self.hash, self.key);
            self.shard.leases.void(self.hash, self.key);
        }
    }

    /// Writes a value that its writer knows to be older than what is there; it is to be marked as stale. What is being
    /// loaded is none the older for it. Returns the new version.
    pub fn set_stale(&mut self, value: &[u8], meta: &Meta<'_>) -> Result<u64, Refused> {
        let clock = self.tags.clock();
        self.put_loaded(value, &Meta { fresh_until: Some(self.now), ..*meta }, clock)
    }

    /// As [`replace_as`](Entry::replace_as), with the version as its number.
    pub fn replace(&mut self, value: &[u8]) -> Result<u64, Refused> {
        self.replace_as(value, None)
    }

    /// Writes a value derived from the live one: flags, times, tags and tag clock stay, so that what was invalidated
    /// while it was derived stays so. Returns the new version. Must follow a [`peek`](Entry::peek) that found an item.
    pub fn replace_as(&mut self, value: &[u8], cas: Option<u64>) -> Result<u64, Refused> {
        let found = self.shard.find(self.key, self.hash).expect("an item to replace");
        let old = self.shard.record(found.place);
        let mut place = [0; 8 * MAX_TAGS];
        place[..old.tags.len()].copy_from_slice(old.tags);
        let tags = &place[..old.tags.len()];
        let like = Record { key: b"", value: Stored::Large(0), tags: &[], cas, ..old };
        let version = self.write(Value::Inline(value), Put::Value, |key, value, version| Record {
            key: key.bytes,
            value,
            version,
            tags,
            ..like
        })?;
        self.void();
        Ok(version)
    }

    /// The live value with all that is kept beside it.
    pub fn copied(&self) -> Option<Copied> {
        let found = self.shard.find(self.key, self.hash)?;
        let record = self.shard.record(found.place);
        if !self.shard.is_live(&record, self.tags, self.now) {
            return None;
        }
        let (value, beside) = match self.shard.view(&record).value {
            Value::Inline(bytes) => (Arc::from(bytes), false),
            Value::Shared(bytes) => (Arc::clone(bytes), true),
        };
        let Record { flags, expires_at, fresh_until, error_until, cost, written_at, clock, .. } = record;
        let tags = record.tags.to_vec();
        Some(Copied {
            db: self.key.db,
            value,
            beside,
            flags,
            expires_at,
            fresh_until,
            error_until,
            cost,
            written_at,
            tags,
            clock,
        })
    }

    /// Writes a value that was kept under another key. The tag clock stays that of its write, so that what was
    /// invalidated before stays so. Returns the new version.
    pub fn put_copied(&mut self, copy: &Copied) -> Result<u64, Refused> {
        self.put_from(copy, Put::Value)
    }

    /// As [`put_copied`](Entry::put_copied), of a value that its old key gives up afterwards: it may take what is kept free
    /// for that.
    pub(super) fn put_moved(&mut self, copy: &Copied) -> Result<u64, Refused> {
        self.put_from(copy, Put::Moved)
    }

    /// The tags of a copied item as they are in this database.
    fn tags_here(&self, copy: &Copied) -> Vec<u8> {
        let salt = (tag_salt(copy.db) ^ tag_salt(self.key.db)).to_le_bytes();
        copy.tags.iter().zip(salt.iter().cycle()).map(|(byte, salt)| byte ^ salt).collect()
    }

    fn put_from(&mut self, copy: &Copied, how: Put) -> Result<u64, Refused> {
        let value = if copy.beside { Value::Shared(&copy.value) } else { Value::Inline(&copy.value) };
        let tags = self.tags_here(copy);
        let version = self.write(value, how, |key, value, version| Record {
            db: key.db,
            key: key.bytes,
            value,
            version,
            flags: copy.flags,
            expires_at: copy.expires_at,
            fresh_until: copy.fresh_until,
            error_until: copy.error_until,
            cost: copy.cost,
            written_at: copy.written_at,
            absent: false,
            cas: None,
            tags: &tags,
            clock: copy.clock,
            size: 0,
        })?;
        self.void();
        Ok(version)
    }

    /// A client reads the key and keeps a copy: it is told once when the key changes. Whether the item has tags.
    pub fn track(&mut self, connection: ConnectionId) -> bool {
        let Some(tracked) = &mut self.shard.tracked else { return false };
        let gone = tracked.read(self.hash, self.key.bytes, connection);
        self.shard.tell(gone);
        let found = self.shard.find(self.key, self.hash);
        found.is_some_and(|found| !self.shard.record(found.place).tags.is_empty())
    }

    /// How often the live item was asked for lately, up to 3; leaves no trace.
    pub fn frequency(&self) -> Option<u8> {
        self.peek()?;
        self.shard.find(self.key, self.hash).map(|found| found.freq)
    }

    /// Bytes that the live item takes, with its place in the index.
    pub fn footprint(&self) -> Option<usize> {
        self.peek()?;
        let record = self.shard.record(self.shard.find(self.key, self.hash)?.place);
        Some(record.size + self.shard.large_len(record.value) + size_of::<u64>())
    }

    #[inline(always)]
    fn write<'r>(
        &mut self,
        value: Value<'r>,
        how: Put,
        record: impl FnOnce(Key<'r>, Stored<'r>, u64) -> Record<'r>,
    ) -> Result<u64, Refused>
    where
        'a: 'r,
    {
        let shard = &mut *self.shard;
        let bytes = value.bytes();
        if bytes.len() > shard.max_value {
            return Err(Refused::TooLarge);
        }
        let version = shard.next_version();
        if bytes.len() <= shard.segment_size / LARGE_PART {
            let record = record(self.key, Stored::Inline(bytes), version);
            shard.put(&record, how, self.hash, self.tags, self.now)?;
            return Ok(version);
        }
        let beside = large_cost(bytes.len()) + shard.large_growth();
        // Whatever shards have lent to each other at the moment: one that has lent memory is only full.
        if beside > shard.share && how == Put::Value {
            return Err(Refused::TooLarge);
        }
        if beside > shard.budget {
            return Err(Refused::Full);
        }
        // Room first: the value must not be held beside what it pushes out.
        let kept = if how == Put::Value { shard.kept() } else { 0 };
        if shard.make_room(0, beside, kept, self.tags, self.now) == Room::Lacks {
            return Err(Refused::Full);
        }
        let number = shard.keep_large(match value {
            Value::Inline(bytes) => Arc::from(bytes),
            Value::Shared(bytes) => Arc::clone(bytes),
        });
        let record = record(self.key, Stored::Large(number), version);
        let put = shard.put(&record, how, self.hash, self.tags, self.now);
        if put.is_err() {
            shard.free_large(number);
        }
        put.map(|()| version)
    }

    /// Removes the item; whether there was a live one.
    pub fn remove(&mut self) -> bool {
        // What is being loaded may be what was removed from the database: it is void, whether or not it is cached.
        if !self.shard.leases.is_empty() {
            self.shard.leases.void(self.hash, self.key);
        }
        let Some(found) = self.shard.find(self.key, self.hash) else { return false };
        let live = self.shard.is_live(&self.shard.record(found.place), self.tags, self.now);
        if live {
            self.shard.leases.changed(self.hash, self.key);
        }
        self.shard.next_version();
        self.shard.selector.remove(self.hash);
        self.shard.drop_item(&found);
        live
    }

    /// Sets when the live item expires; its version does not change. False if there is none, or if there is no memory
    /// for the longer item.
    pub fn expire(&mut self, at: Option<u64>) -> bool {
        self.rewrite(|record| record.expires_at = at)
    }

    /// Marks the live item as stale, under a new version: who reads it knows that it is to be loaded anew, and what is
    /// being loaded is too old. Where there is no memory for that the item goes. Whether there was one.
    pub fn mark_stale(&mut self, expires_at: Option<Option<u64>>, cas: Option<u64>) -> bool {
        let (version, now) = (self.shard.next_version(), self.now);
        let marked = self.rewrite(|record| {
            (record.version, record.cas, record.fresh_until) = (version, cas, Some(now));
            record.expires_at = expires_at.unwrap_or(record.expires_at);
        });
        if marked {
            self.void();
        }
        // What is known to be absent is not marked, and must not be believed any longer.
        marked || self.remove()
    }

    /// Writes the live item anew with something changed beside its value. False if there is none, or no memory.
    fn rewrite(&mut self, change: impl FnOnce(&mut Record<'_>)) -> bool {
        let Some(found) = self.shard.find(self.key, self.hash) else { return false };
        let old = self.shard.record(found.place);
        if !self.shard.is_live(&old, self.tags, self.now) {
            return false;
        }
        // The value is copied out, since where it lies may be taken apart to make room for it.
        let mut place = [0; 8 * MAX_TAGS];
        place[..old.tags.len()].copy_from_slice(old.tags);
        let tags = old.tags.len();
        let like = Record { key: b"", value: Stored::Large(0), tags: &[], ..old };
        let value = match old.value {
            Stored::Inline(value) => Ok(value.to_vec()),
            Stored::Large(number) => Err(number),
        };
        let value = value.as_ref().map_or_else(|number| Stored::Large(*number), |value| Stored::Inline(value));
        let mut record = Record { key: self.key.bytes, value, tags: &place[..tags], ..like };
        change(&mut record);
        // The segment of a long item is written anew and comes free at once.
        let own = self.shard.own_segment(&found);
        self.shard.budget += own;
        let put = self.shard.put(&record, Put::Change, self.hash, self.tags, self.now);
        self.shard.budget -= own;
        put.is_ok()
    }
}
