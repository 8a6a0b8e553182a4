//! One shard: a log of segments, the index over it, values beside it, and one budget for them all.
//!
//! A write appends to the open segment of its queue; the slot in the index says which copy of a key is the item.
//! When segments run short a victim is emptied, a few items per write: first a sparse one, whose live items all move
//! on, else the oldest of the small queue (what was used again moves to the main queue, the rest leaves a ghost) or of
//! the main queue (what was used moves on with one use less). One segment is kept in reserve for what moves.

use std::collections::VecDeque;

use memmap2::MmapMut;

use super::index::{At, Index, Place};
use super::item::{Base, Head, MOST_TAGS};
use super::tags::Tags;
use super::*;

/// Items that one write examines for the sake of room.
const STEP: usize = 24;
/// Items that one tick examines.
const SWEEP: usize = 2048;
const SMALL: usize = 0;
const MAIN: usize = 1;
/// Times may lie this far before the opening of a segment (a stale value keeps its `fresh_until`): ten days.
const PAST: u64 = 10 * 86_400_000;

struct Segment {
    map: Option<MmapMut>,
    end: usize,
    live: usize,
    base: Base,
    /// No item ends before.
    next_end: u64,
    tagged: bool,
    queue: usize,
}

struct Job {
    segment: usize,
    offset: usize,
    keep_all: bool,
    drop_all: bool,
}

/// Fingerprints of what was pushed out, in sets of eight; a ghost fades when as many items as are held were pushed out.
struct Ghosts {
    sets: Vec<[u32; 8]>,
    age: u32,
    pushed: u64,
}

pub(super) struct Shard {
    index: Index,
    segments: Vec<Segment>,
    free: Vec<usize>,
    unmapped: Vec<usize>,
    open: [Option<usize>; 2],
    queues: [VecDeque<usize>; 2],
    job: Option<Job>,
    large: Vec<Option<Arc<[u8]>>>,
    large_free: Vec<u32>,
    large_bytes: u64,
    ghosts: Ghosts,
    sweep: (usize, usize, u64),
    counts: Box<[u64; 256]>,
    floors: Box<[u64; 256]>,
    size: usize,
    budget: u64,
    evict: bool,
    max_value: usize,
    now: u64,
    version: u64,
    hasher: RandomState,
    tags: Arc<Tags>,
    number: usize,
    stats: Stats,
}

/// One key of a locked shard.
pub struct Entry<'a> {
    shard: &'a mut Shard,
    key: Key<'a>,
    hash: u64,
    now: u64,
}

impl Ghosts {
    fn new(budget: u64) -> Ghosts {
        Ghosts {
            sets: vec![[0; 8]; (budget / 1024).max(8) as usize],
            age: 16,
            pushed: 0,
        }
    }

    fn bytes(&self) -> u64 {
        self.sets.len() as u64 * 32
    }

    fn set(&self, hash: u64) -> (usize, u32) {
        (
            (((hash >> 32) * self.sets.len() as u64) >> 32) as usize,
            (hash as u32) << 12,
        )
    }

    fn push(&mut self, hash: u64, held: u64) {
        self.pushed += 1;
        if self.pushed * 8 >= held {
            self.pushed = 0;
            self.age = (self.age + 1) & 0xfff;
        }
        let (set, print) = self.set(hash);
        let age = self.age;
        let oldest = self.sets[set]
            .iter_mut()
            .max_by_key(|ghost| age.wrapping_sub(**ghost) & 0xfff);
        *oldest.expect("eight ghosts") = print | age;
    }

    fn take(&mut self, hash: u64) -> bool {
        let (set, print) = self.set(hash);
        let age = self.age;
        for ghost in &mut self.sets[set] {
            if *ghost & !0xfff == print && *ghost != 0 && (age.wrapping_sub(*ghost) & 0xfff) <= 8 {
                *ghost = 0;
                return true;
            }
        }
        false
    }
}

impl Shard {
    pub(super) fn new(
        options: &Options,
        number: usize,
        hasher: RandomState,
        tags: Arc<Tags>,
    ) -> Shard {
        let budget = (options.memory - Tags::bytes(options.memory).min(options.memory / 8))
            / options.shards as u64;
        // A power of two that gives 256 segments where it can, of at most 1 MiB and at least one machine page.
        let size = (budget / 256)
            .max(1)
            .next_power_of_two()
            .clamp(4096, 1 << 20) as usize;
        let size = if size > 4096 && budget / (size as u64) < 200 {
            size / 2
        } else {
            size
        };
        Shard {
            index: Index::new(budget),
            segments: Vec::new(),
            free: Vec::new(),
            unmapped: Vec::new(),
            open: [None; 2],
            queues: Default::default(),
            job: None,
            large: Vec::new(),
            large_free: Vec::new(),
            large_bytes: 0,
            ghosts: Ghosts::new(budget),
            sweep: (0, 0, 0),
            counts: Box::new([0; 256]),
            floors: Box::new([0; 256]),
            size,
            budget,
            evict: options.evict,
            max_value: options.max_value,
            now: 0,
            version: options.epoch,
            hasher,
            tags,
            number,
            stats: Stats::default(),
        }
    }

    /// Time never goes back within a shard, whatever clock reading a thread comes with.
    pub(super) fn advance(&mut self, now: u64) -> u64 {
        self.now = self.now.max(now);
        self.now
    }

    fn used(&self) -> u64 {
        let mapped = self.segments.len() - self.unmapped.len();
        (mapped * self.size) as u64
            + self.index.bytes()
            + self.large_bytes
            + (self.large.len() * 20) as u64
            + self.ghosts.bytes()
    }

    fn bytes(&self, place: Place) -> &[u8] {
        &self.segments[place.segment]
            .map
            .as_ref()
            .expect("a mapped segment")[place.offset..]
    }

    fn head(&self, place: Place) -> Head {
        Head::read(self.segments[place.segment].base, self.bytes(place))
    }

    #[inline]
    fn find(&self, key: Key<'_>, hash: u64) -> Option<(At, Place, Head)> {
        let mut head = Head::default();
        let (at, place) = self.index.find(hash, |place| {
            let bytes = self.bytes(place);
            head = Head::read(self.segments[place.segment].base, bytes);
            &bytes[head.key.0..head.key.1] == key.bytes && head.db == key.db
        })?;
        Some((at, place, head))
    }

    /// Whether a reader may see it.
    fn lives(&self, head: &Head, now: u64) -> bool {
        head.version > self.floors[head.db as usize]
            && head.expires_at.is_none_or(|at| now < at)
            && !self.tag_dead(head)
    }

    fn tag_dead(&self, head: &Head) -> bool {
        head.tag_count > 0
            && self
                .tags
                .read()
                .dead(&head.tags[..head.tag_count as usize], head.clock)
    }

    /// Whether a reader may see it, or a failed load still hand it out.
    fn useful(&self, head: &Head, now: u64) -> bool {
        head.version > self.floors[head.db as usize]
            && head.ends_at().is_none_or(|at| now < at)
            && !self.tag_dead(head)
    }

    fn value<'s>(&'s self, place: Place, head: &Head) -> Value<'s> {
        let bytes = &self.bytes(place)[head.value.0..head.value.1];
        if !head.large {
            return Value::Inline(bytes);
        }
        let slot = u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize;
        Value::Shared(self.large[slot].as_ref().expect("a large value"))
    }

    fn item<'s>(&'s self, place: Place, head: &Head) -> Item<'s> {
        Item {
            value: self.value(place, head),
            version: head.version,
            flags: head.flags,
            expires_at: head.expires_at,
            fresh_until: head.fresh_until,
            absent: head.absent,
        }
    }

    /// Takes an item out: slot, bytes, large value, counts.
    fn forget(&mut self, at: At, place: Place, head: &Head) {
        self.release(place, head);
        self.index.remove(at);
        self.stats.items -= 1;
        if head.version > self.floors[head.db as usize] && !head.absent {
            self.counts[head.db as usize] -= 1;
        }
    }

    fn release(&mut self, place: Place, head: &Head) {
        if head.large {
            let bytes = &self.bytes(place)[head.value.0..head.value.1];
            let slot = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
            let value = self.large[slot as usize].take().expect("a large value");
            self.large_bytes -= value.len() as u64 + 16;
            self.large_free.push(slot);
        }
        self.abandon(place, head);
    }

    fn abandon(&mut self, place: Place, head: &Head) {
        let segment = &mut self.segments[place.segment];
        segment.live -= head.size;
        let (queue, idle) = (segment.queue, segment.live == 0);
        let busy = self
            .job
            .as_ref()
            .is_some_and(|job| job.segment == place.segment);
        if idle && !busy && self.open[queue] != Some(place.segment) {
            self.queues[queue].retain(|&sealed| sealed != place.segment);
            self.retire(place.segment);
        }
    }

    fn retire(&mut self, segment: usize) {
        self.segments[segment].end = 0;
        if self.used() > self.budget {
            self.segments[segment].map = None;
            self.unmapped.push(segment);
        } else {
            self.free.push(segment);
        }
    }

    /// Free segments, counting those that the budget still allows.
    fn spare(&self) -> usize {
        self.free.len() + (self.budget.saturating_sub(self.used()) / self.size as u64) as usize
    }

    fn obtain(&mut self, queue: usize, version: u64) -> Option<usize> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.used() + self.size as u64 <= self.budget => {
                let map = MmapMut::map_anon(self.size).ok()?;
                // A huge page would make a segment resident before it is written.
                let _ = map.advise(memmap2::Advice::NoHugePage);
                let number = self.unmapped.pop().unwrap_or(self.segments.len());
                if number == self.segments.len() {
                    self.segments.push(Segment {
                        map: None,
                        end: 0,
                        live: 0,
                        base: Base::default(),
                        next_end: 0,
                        tagged: false,
                        queue,
                    });
                }
                self.segments[number].map = Some(map);
                number
            }
            None => return None,
        };
        let segment = &mut self.segments[number];
        segment.base = Base {
            version: version.saturating_sub(3 << 30),
            time: self.now.saturating_sub(PAST),
            clock: self.tags.clock().saturating_sub(3 << 30),
        };
        (segment.next_end, segment.tagged, segment.queue) = (u64::MAX, false, queue);
        (segment.end, segment.live) = (0, 0);
        Some(number)
    }

    /// Appends to a queue's open segment, with the reserve open to it if `moving`.
    fn append(
        &mut self,
        queue: usize,
        head: &Head,
        key: &[u8],
        value: &[u8],
        moving: bool,
    ) -> Option<Place> {
        let fits = |shard: &Shard, number: usize| {
            let segment = &shard.segments[number];
            let (size, bits) = head.measure(segment.base, key.len(), value.len());
            (segment.end + size <= shard.size).then_some((size, bits))
        };
        let found = self.open[queue].and_then(|number| Some((number, fits(self, number)?)));
        let (number, (size, bits)) = match found {
            Some(found) => found,
            None => {
                if !moving && self.spare() < 2 {
                    return None;
                }
                let number = self.obtain(queue, self.version)?;
                if let Some(full) = self.open[queue].replace(number) {
                    if self.segments[full].live == 0 {
                        self.retire(full);
                    } else {
                        self.queues[queue].push_back(full);
                    }
                }
                (number, fits(self, number)?)
            }
        };
        let segment = &mut self.segments[number];
        let offset = segment.end;
        let map = segment.map.as_mut().expect("a mapped segment");
        head.write(
            segment.base,
            bits,
            key,
            value,
            &mut map[offset..offset + size],
        );
        segment.end += size;
        segment.live += size;
        segment.tagged |= head.tag_count > 0;
        segment.next_end = segment.next_end.min(head.ends_at().unwrap_or(u64::MAX));
        Some(Place {
            segment: number,
            offset,
        })
    }

    fn victim(&mut self, drop_all: bool) -> bool {
        let sealed = self.queues.iter().flatten().copied();
        let sparse = sealed.min_by_key(|&number| self.segments[number].live);
        let limit = if self.evict {
            self.size / 2
        } else {
            self.size / 8 * 7
        };
        let (segment, keep_all) = match sparse {
            None => return false,
            Some(number) if self.segments[number].live <= limit => (number, true),
            Some(_) if !self.evict => return false,
            Some(_) => {
                let total = self.queues[SMALL].len() + self.queues[MAIN].len();
                let small = self.queues[MAIN].is_empty() || self.queues[SMALL].len() * 10 > total;
                let queue = if small && !self.queues[SMALL].is_empty() {
                    SMALL
                } else {
                    MAIN
                };
                (self.queues[queue][0], false)
            }
        };
        let queue = self.segments[segment].queue;
        self.queues[queue].retain(|&number| number != segment);
        self.job = Some(Job {
            segment,
            offset: 0,
            keep_all,
            drop_all: drop_all && !keep_all,
        });
        true
    }

    /// Examines up to `limit` items of the victim; false when there is none.
    fn step(&mut self, limit: usize) -> bool {
        if self.job.is_none() && !self.victim(false) {
            return false;
        }
        for _ in 0..limit {
            let Some(job) = &self.job else { break };
            let (place, keep_all, drop_all) = (
                Place {
                    segment: job.segment,
                    offset: job.offset,
                },
                job.keep_all,
                job.drop_all,
            );
            let segment = &self.segments[place.segment];
            if place.offset >= segment.end || segment.live == 0 {
                self.segments[place.segment].live = 0;
                self.job = None;
                self.retire(place.segment);
                break;
            }
            let head = self.head(place);
            if let Some(job) = &mut self.job {
                job.offset += head.size;
            }
            self.examine(place, &head, keep_all, drop_all);
        }
        true
    }

    fn slot_of(&self, place: Place, head: &Head) -> Option<(At, u64)> {
        let bytes = &self.bytes(place)[head.key.0..head.key.1];
        let hash = self.hasher.hash_one(Key { db: head.db, bytes });
        Some((self.index.find(hash, |other| other == place)?.0, hash))
    }

    fn examine(&mut self, place: Place, head: &Head, keep_all: bool, drop_all: bool) {
        let Some((at, hash)) = self.slot_of(place, head) else {
            return;
        };
        let used = self.index.used(at);
        let from = self.segments[place.segment].queue;
        if !self.useful(head, self.now) {
            self.stats.expired += 1;
            return self.forget(at, place, head);
        }
        let idle = head.expires_at.is_some_and(|at| at <= self.now);
        let stays = keep_all || used > 0 && !drop_all && !idle;
        if stays {
            let bytes = self.bytes(place);
            let (key, value) = (
                bytes[head.key.0..head.key.1].to_vec(),
                bytes[head.value.0..head.value.1].to_vec(),
            );
            let (queue, left) = match (keep_all, from) {
                (true, _) => (from, used),
                (false, SMALL) => (MAIN, 0),
                (false, _) => (MAIN, used - 1),
            };
            if let Some(to) = self.append(queue, head, &key, &value, true) {
                self.index.redirect(at, to, left);
                return self.abandon(place, head);
            }
        }
        if from == SMALL {
            self.ghosts.push(hash, self.stats.items);
        }
        self.stats.evicted += 1;
        self.forget(at, place, head);
    }

    /// Finishes the work on one victim; false when there is none.
    fn reclaim(&mut self, drop_all: bool) -> bool {
        if self.job.is_none() && !self.victim(drop_all) {
            return false;
        }
        if let Some(job) = &mut self.job {
            job.drop_all |= drop_all && !job.keep_all;
        }
        while self.job.is_some() {
            self.step(STEP);
        }
        true
    }

    /// Puts an item into the log; pushes out what must go. After a few victims that gave nothing, all of one goes.
    fn write(
        &mut self,
        queue: usize,
        head: &Head,
        key: &[u8],
        value: &[u8],
    ) -> Result<Place, Refused> {
        for attempt in 0.. {
            if let Some(place) = self.append(queue, head, key, value, false) {
                return Ok(place);
            }
            if !self.reclaim(attempt > 3) {
                break;
            }
        }
        Err(Refused::Full)
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), Refused> {
        let reserve = 3 * self.size as u64;
        for attempt in 0.. {
            while self.used() + bytes + reserve > self.budget {
                let Some(number) = self.free.pop() else { break };
                self.segments[number].map = None;
                self.unmapped.push(number);
            }
            if self.used() + bytes + reserve <= self.budget {
                return Ok(());
            }
            if !self.reclaim(attempt > 3) {
                break;
            }
        }
        Err(Refused::Full)
    }

    fn store(
        &mut self,
        key: Key<'_>,
        hash: u64,
        value: &[u8],
        mut head: Head,
    ) -> Result<u64, Refused> {
        if value.len() > self.max_value {
            return Err(Refused::TooLarge);
        }
        if self.spare() < 3 && self.evict {
            self.step(STEP);
        }
        head.large = value.len() + key.bytes.len() > self.size / 8;
        if key.bytes.len() + 192 > self.size {
            return Err(Refused::TooLarge);
        }
        head.db = key.db;
        let slot_bytes;
        let mut slot = None;
        let bytes = if head.large {
            if value.len() as u64 > self.budget / 2 {
                return Err(Refused::TooLarge);
            }
            self.make_room(value.len() as u64 + 16)?;
            let number = self.large_free.pop().unwrap_or_else(|| {
                self.large.push(None);
                self.large.len() as u32 - 1
            });
            self.large_bytes += value.len() as u64 + 16;
            self.large[number as usize] = Some(value.into());
            slot = Some(number);
            slot_bytes = number.to_le_bytes();
            &slot_bytes[..]
        } else {
            value
        };
        let queue = match self.find(key, hash) {
            Some((_, place, _)) => self.segments[place.segment].queue,
            None if self.ghosts.take(hash) => MAIN,
            None => SMALL,
        };
        head.version = self.version + 1;
        let written = self.write(queue, &head, key.bytes, bytes).and_then(|to| {
            // Looked up again: making room may have moved or pushed out the old item.
            if let Some((at, place, old)) = self.find(key, hash) {
                self.release(place, &old);
                let used = self.index.used(at);
                self.index.redirect(at, to, used);
                if old.version > self.floors[old.db as usize] && !old.absent {
                    self.counts[old.db as usize] -= 1;
                }
                return Ok(());
            }
            while !self.index.insert(hash, to) {
                if !self.evict || !self.reclaim(true) {
                    let head = self.head(to);
                    self.abandon(to, &head);
                    return Err(Refused::Full);
                }
            }
            self.stats.items += 1;
            Ok(())
        });
        if let (Err(refused), Some(number)) = (written, slot) {
            self.large[number as usize] = None;
            self.large_free.push(number);
            self.large_bytes -= value.len() as u64 + 16;
            return Err(refused);
        }
        written?;
        self.version += 1;
        self.counts[key.db as usize] += u64::from(!head.absent);
        Ok(self.version)
    }

    /// A bounded stretch of the log: what ended goes. Segments where nothing can have ended are skipped.
    pub(super) fn sweep(&mut self, now: u64) {
        let (mut number, mut offset, mut started) = self.sweep;
        if number == 0 && offset == 0 {
            started = self.tags.clock();
        }
        let mut left = SWEEP;
        while left > 0 {
            left -= 1;
            let Some(segment) = self.segments.get(number) else {
                self.tags.swept(self.number, started);
                (number, offset) = (0, 0);
                break;
            };
            let idle = offset == 0 && segment.next_end > now && !segment.tagged;
            let busy = self.job.as_ref().is_some_and(|job| job.segment == number);
            if idle || busy || offset >= segment.end {
                (number, offset) = (number + 1, 0);
                continue;
            }
            let place = Place {
                segment: number,
                offset,
            };
            let head = self.head(place);
            if offset == 0 {
                self.segments[number].next_end = u64::MAX;
            }
            offset += head.size;
            if !self.useful(&head, now) {
                if let Some((at, _)) = self.slot_of(place, &head) {
                    self.stats.expired += 1;
                    self.forget(at, place, &head);
                }
            } else if let Some(at) = head.ends_at() {
                let segment = &mut self.segments[number];
                segment.next_end = segment.next_end.min(at);
            }
        }
        self.sweep = (number, offset, started);
    }

    pub(super) fn clear(&mut self, db: Option<u8>) {
        self.version += 1;
        if let Some(db) = db {
            self.floors[db as usize] = self.version;
            self.counts[db as usize] = 0;
            return;
        }
        self.index = Index::new(self.budget);
        self.segments.clear();
        self.free.clear();
        self.unmapped.clear();
        self.open = [None; 2];
        self.queues = Default::default();
        self.job = None;
        self.large.clear();
        self.large_free.clear();
        self.large_bytes = 0;
        self.sweep = (0, 0, 0);
        self.counts.fill(0);
        self.stats.items = 0;
    }

    pub(super) fn len(&self, db: u8) -> u64 {
        self.counts[db as usize]
    }

    pub(super) fn scan(
        &self,
        db: u8,
        cursor: u64,
        count: usize,
        visit: &mut dyn FnMut(&[u8], &Item<'_>),
    ) -> Option<u64> {
        self.index.walk(cursor, count, |place| {
            let head = self.head(place);
            if head.db == db && !head.absent && self.lives(&head, self.now) {
                visit(
                    &self.bytes(place)[head.key.0..head.key.1],
                    &self.item(place, &head),
                );
            }
        })
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            used: self.used(),
            ..self.stats
        }
    }

    #[inline]
    pub(super) fn touch(&self, hash: u64) {
        std::hint::black_box(self.index.touch(hash));
    }
}

fn head_of(meta: &Meta<'_>, clock: u64) -> Head {
    let mut tags = [0; MOST_TAGS];
    let count = meta.tags.len().min(MOST_TAGS);
    tags[..count].copy_from_slice(&meta.tags[..count]);
    Head {
        flags: meta.flags,
        expires_at: meta.expires_at,
        fresh_until: meta.fresh_until,
        error_until: meta.error_until,
        cost: meta.cost,
        absent: meta.absent,
        tags,
        tag_count: count as u8,
        clock,
        ..Head::default()
    }
}

impl<'a> Entry<'a> {
    pub(super) fn new(shard: &'a mut Shard, key: Key<'a>, hash: u64, now: u64) -> Entry<'a> {
        Entry {
            shard,
            key,
            hash,
            now,
        }
    }

    /// The clock of this step; never behind what the shard has seen.
    pub fn now(&self) -> u64 {
        self.now
    }

    fn live(&self) -> Option<(At, Place, Head)> {
        self.shard
            .find(self.key, self.hash)
            .filter(|(_, _, head)| self.shard.lives(head, self.now))
    }

    /// The live item, as a reader sees it: counted as hit or miss and remembered as used.
    #[inline]
    pub fn get(&mut self) -> Option<Item<'_>> {
        match self.live().filter(|(_, _, head)| !head.absent) {
            Some((at, place, head)) => {
                self.shard.stats.hits += 1;
                self.shard.index.touch_used(at);
                Some(self.shard.item(place, &head))
            }
            None => {
                self.shard.stats.misses += 1;
                None
            }
        }
    }

    /// The live item, leaving no trace.
    #[inline]
    pub fn peek(&self) -> Option<Item<'_>> {
        let (_, place, head) = self.live().filter(|(_, _, head)| !head.absent)?;
        Some(self.shard.item(place, &head))
    }

    /// The live item or the proof that there is none, leaving no trace.
    pub fn peek_or_absent(&self) -> Option<Item<'_>> {
        let (_, place, head) = self.live()?;
        Some(self.shard.item(place, &head))
    }

    /// Writes a value with all that is kept beside it; voids the lease of the key. Returns the new version.
    pub fn set(&mut self, value: &[u8], meta: &Meta<'_>) -> Result<u64, Refused> {
        let clock = if meta.tags.is_empty() {
            0
        } else {
            self.shard.tags.clock()
        };
        self.shard
            .store(self.key, self.hash, value, head_of(meta, clock))
    }

    /// Writes a value derived from the live one: flags, times, tags and tag clock stay.
    /// Returns the new version. Must follow a [`peek`](Entry::peek) that found an item.
    pub fn replace(&mut self, value: &[u8]) -> Result<u64, Refused> {
        let (_, _, head) = self.live().expect("an item to replace");
        self.shard.store(self.key, self.hash, value, head)
    }

    /// Removes the item and voids the lease; whether there was a live one.
    pub fn remove(&mut self) -> bool {
        let live = self.peek().is_some();
        self.shard.version += 1;
        if let Some((at, place, head)) = self.shard.find(self.key, self.hash) {
            self.shard.forget(at, place, &head);
        }
        live
    }

    /// Sets when the live item expires; neither its version nor a lease changes. Whether there was one.
    pub fn expire(&mut self, at: Option<u64>) -> bool {
        let Some((_, place, mut head)) = self.live().filter(|(_, _, head)| !head.absent) else {
            return false;
        };
        let segment = &self.shard.segments[place.segment];
        let (base, old) = (segment.base, head);
        head.expires_at = at;
        let bytes = self.shard.bytes(place);
        let (key, value) = (self.key.bytes, bytes[old.value.0..old.value.1].to_vec());
        let (size, bits) = head.measure(base, key.len(), value.len());
        let segment = &mut self.shard.segments[place.segment];
        if size == old.size {
            let map = segment.map.as_mut().expect("a mapped segment");
            head.write(
                base,
                bits,
                key,
                &value,
                &mut map[place.offset..place.offset + size],
            );
            segment.next_end = segment.next_end.min(head.ends_at().unwrap_or(u64::MAX));
            return true;
        }
        let queue = segment.queue;
        let Ok(to) = self.shard.write(queue, &head, key, &value) else {
            return false;
        };
        if let Some((at, place, old)) = self.shard.find(self.key, self.hash) {
            let used = self.shard.index.used(at);
            self.shard.index.redirect(at, to, used);
            self.shard.abandon(place, &old);
            return true;
        }
        self.shard.abandon(to, &head);
        false
    }
}
