//! Whether a shard has memory for something, and how it comes to have it.
//!
//! Memory is found in this order: what is free, what was flushed, a few items of a victim (`reclaim.rs`), whole victims.

use super::index::{Found, MAX_SEGMENT};
use super::large_values::large_cost;
use super::log::{GROWTH, HEAP, RESERVE};
use super::shard::Shard;
use super::tags::Tags;
use super::types::Key;

/// A value longer than this part of a segment lies beside the log.
pub(super) const LARGE_PART: usize = 8;
/// A value that is longer lies beside the log, however long segments are, and is never copied.
pub const MAX_INLINE: usize = MAX_SEGMENT / LARGE_PART;
/// What a value without rare fields takes beside itself and its key, at most: header, wide lengths, number, alignment.
const MOST_PLAIN: usize = 32;
/// Items that one write looks at while memory is short and a reserve is left, at least and at most: a few microseconds, for
/// the few writes until a segment is free. Were the work spread over all writes, each would take half as much again.
const STEP: (usize, usize) = (16, 64);
/// Part of the items that is looked at in one step, as a divisor: of few, a large step would leave much memory empty.
const STEP_PART: usize = 256;
/// Victims that may gain nothing one after the other before a write without eviction is refused: each has a quarter of dead
/// bytes at least, so of a few one gains a segment unless long items waste it again.
const IDLE_VICTIMS: usize = 16;
/// Part of the memory that is kept free without eviction, as a divisor: only items that move may take it.
const KEPT_PART: usize = 32;

/// Whether something can be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// There was room, and nothing was touched.
    There,
    /// Items were moved or dropped for it.
    Made,
    /// There is none.
    Lacks,
}

impl Shard {
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
    pub(super) fn trim_spare(&mut self, wanted: usize) {
        while self.used() + wanted > self.budget && self.log.drop_spare() {}
    }

    /// Bytes that segments and values may take before something has to go; less than nothing when the index, leases or
    /// ghosts have grown since the last write.
    pub(super) fn available(&self) -> isize {
        (self.budget + self.log.spare_bytes()) as isize - self.used() as isize
    }

    /// Bytes that only items that move may take: without eviction an item that is renamed, or whose expiry changes, is
    /// written anew before the old one goes, and must find room for that also when nothing else does.
    pub(super) fn kept(&self) -> usize {
        let kept = (2 * self.log.segment_size).max(self.budget / KEPT_PART) + GROWTH;
        if self.limits.evict { 0 } else { kept }
    }

    /// Sees to it that an item of at most `longest` bytes can be appended, and `beside` bytes can be taken for values beside
    /// the log and for the index; `kept` bytes are left free.
    #[inline(always)]
    pub(super) fn make_room(&mut self, longest: usize, beside: usize, kept: usize, tags: &Tags, now: u64) -> Room {
        let low = RESERVE * self.log.segment_size + beside + kept;
        let enough = low + self.log.own_memory(longest) + GROWTH;
        if self.log.spare.is_empty() && self.available() >= enough as isize {
            return Room::There;
        }
        while self.available() < enough as isize && self.flushed.shed() > 0 {}
        self.reclaim_room(longest, beside, kept, tags, now)
    }

    fn reclaim_room(&mut self, longest: usize, beside: usize, kept: usize, tags: &Tags, now: u64) -> Room {
        let low = RESERVE * self.log.segment_size + beside + kept;
        let mut room = Room::There;
        if self.available() < low as isize {
            room = Room::Made;
            for _ in 0..(self.counts.items as usize / STEP_PART).clamp(STEP.0, STEP.1) {
                if self.reclaim(true, tags, now) == 0 {
                    break;
                }
            }
        }
        // The reserve is used up: what is left of the oldest goes without a look at who was asked for.
        let (mut idle, mut victims) = (0, 0);
        while self.needs_room(longest, beside + kept) {
            room = Room::Made;
            let before = self.available();
            victims += 1;
            debug_assert!(
                victims <= (IDLE_VICTIMS + 1) * (self.log.segments.len() + 1),
                "segments are copied without end"
            );
            if !self.evict_whole(tags, now) {
                return Room::Lacks;
            }
            idle = if self.available() > before { 0 } else { idle + 1 };
            if idle == IDLE_VICTIMS && !self.limits.evict {
                return Room::Lacks;
            }
        }
        // Spare segments are memory for all that is no segment, too.
        let wanted = self.log.own_memory(longest) + self.log.growth() + beside;
        self.trim_spare(wanted);
        room
    }

    fn needs_room(&self, longest: usize, beside: usize) -> bool {
        let has_room = |open: Option<usize>| open.is_some_and(|number| self.log.segment(number).room() >= longest);
        let wanted = match self.log.own_memory(longest) {
            0 if longest == 0 || self.log.open.into_iter().all(has_room) => 0,
            0 => self.log.segment_size + HEAP + self.log.growth(),
            own => own + self.log.growth(),
        };
        self.available() < (wanted + beside) as isize
    }

    /// Bytes that writing a value of so many bytes takes at most, beside others that are written in the same step: twice what
    /// lies in segments, for what those waste at their ends and the index grows by.
    pub(super) fn wanted(&self, key: Key<'_>, length: usize) -> usize {
        let around = 2 * (MOST_PLAIN + key.bytes.len());
        around + if length <= self.log.segment_size / LARGE_PART { 2 * length } else { large_cost(length) }
    }

    /// As [`wanted`](Shard::wanted), of an item that is in this shard: a value beside the log is written nowhere.
    pub(super) fn wanted_anew(&self, key: Key<'_>, length: usize) -> usize {
        self.wanted(key, if length <= self.log.segment_size / LARGE_PART { length } else { 0 })
    }

    /// Whether items that move, of so many bytes, may take more than what is kept free for them.
    pub(super) fn moves_too_much(&self, bytes: usize) -> bool {
        bytes > self.log.segment_size
    }

    /// Makes room for so many bytes without eviction, as far as what was flushed and what is dead can be given back; whether
    /// they can be written for sure then. It says no while some of the last segments are left, since it does not look how
    /// items would lie: the open ones may lack room, and one is begun for the rest.
    #[cold]
    pub(super) fn make_room_for(&mut self, bytes: usize, tags: &Tags, now: u64) -> bool {
        let wanted = (bytes + 3 * self.log.segment_size + self.kept()) as isize;
        // What could not be written if nothing were wasted is refused before anything is moved for it.
        if self.available() + ((self.flushed.bytes + self.log.dead_bytes(self.large.bytes)) as isize) < wanted {
            return false;
        }
        while self.available() < wanted && self.flushed.shed() > 0 {}
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

    /// Bytes that come free at once when an item goes: its value beside the log, and a segment of its own.
    pub(super) fn freed_with(&self, key: Key<'_>, hash: u64) -> usize {
        let Some(found) = self.find(key, hash) else { return 0 };
        self.own_segment(&found) + self.large.cost_of(self.record(found.place).value)
    }

    /// Bytes of the segment that an item has for itself, if it has.
    pub(super) fn own_segment(&self, found: &Found) -> usize {
        let length = self.log.segment(found.place.segment).data.len();
        if length == self.log.segment_size { 0 } else { length + HEAP }
    }
}
