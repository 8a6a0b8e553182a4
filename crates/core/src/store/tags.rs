//! Tags: invalidating one is O(1), whatever it covers.
//!
//! A clock counts invalidations, and a table keeps when each tag was last invalidated. An item with tags keeps the clock
//! of its write; it is dead if one of its tags was invalidated after it.
//!
//! An entry is forgotten when a sweep that began after it has ended and no live token was granted before it. The table is
//! bounded: when it is full the oldest entry goes and a floor rises to its clock. If a sweep has passed the entry, that is
//! the floor for grants, and only loads that began before it are refused; else it is the floor for items, and every tagged
//! item written before it counts as invalidated. Never stale, at worst colder.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{ArcRwLockReadGuard, ArcRwLockWriteGuard, RawRwLock, RwLock};

/// Tags are hashes already.
#[derive(Clone, Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Table {
    /// When each tag was last invalidated.
    when: HashMap<u64, u64, BuildHasherDefault<Identity>>,
    /// Invalidations in their order; those that a later one of the same tag replaced are still in it.
    order: VecDeque<(u64, u64)>,
    /// Items written before this clock count as invalidated.
    floor: u64,
    /// What was loaded under a lease granted before this clock counts as invalidated.
    grant_floor: u64,
    /// A sweep has dropped every item that was invalidated up to this clock.
    swept: u64,
}

/// The tags of a store.
pub(super) struct TagTable {
    clock: AtomicU64,
    table: Arc<RwLock<Table>>,
    most: usize,
}

/// The tags as one step of the store sees them. The table is locked at the first look at an item that has tags, and stays
/// locked until the step ends: a step of several keys sees all of an invalidation or nothing of it, and nothing is
/// invalidated between a look at an item and a write that depends on it.
///
/// Shards are locked before the table. Whoever waits for the table to write it holds no lock of it.
pub(super) struct Tags<'t> {
    shared: &'t TagTable,
    held: OnceCell<Guard>,
}

enum Guard {
    Read(ArcRwLockReadGuard<RawRwLock, Table>),
    Write(ArcRwLockWriteGuard<RawRwLock, Table>),
}

impl TagTable {
    /// Bytes that an entry takes, in the map and in the order, with the room that both keep.
    const ENTRY: usize = 2 * (16 + 1) + 2 * 16;

    /// A table that takes at most so many bytes.
    pub(super) fn new(bytes: usize) -> TagTable {
        TagTable { clock: AtomicU64::new(1), table: Arc::default(), most: (bytes / Self::ENTRY).max(16) }
    }

    /// The clock, to be kept with what is written now.
    #[inline]
    pub(super) fn clock(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// The tags for one step.
    #[inline(always)]
    pub(super) fn step(&self) -> Tags<'_> {
        Tags { shared: self, held: OnceCell::new() }
    }

    /// A sweep that began when the clock stood at `clock` has looked at every item and dropped those that were dead.
    pub(super) fn swept(&self, clock: u64) {
        let mut table = self.table.write();
        table.swept = table.swept.max(clock);
    }

    /// Forgets invalidations that a sweep has passed, unless a live token was granted before: `oldest` is the clock of
    /// the oldest one.
    pub(super) fn forget(&self, oldest: u64) {
        let mut table = self.table.write();
        let most = table.swept.min(oldest);
        while table.order.front().is_some_and(|(_, when)| *when <= most) {
            table.take_oldest();
        }
    }

    /// Whether any invalidation is remembered.
    pub(super) fn any(&self) -> bool {
        !self.table.read().order.is_empty()
    }

    /// Whether there are invalidations that no sweep has passed.
    pub(super) fn any_unswept(&self) -> bool {
        let table = self.table.read();
        table.order.back().is_some_and(|(_, when)| *when > table.swept)
    }
}

impl Tags<'_> {
    fn table(&self) -> &Table {
        match self.held.get_or_init(|| Guard::Read(self.shared.table.read_arc())) {
            Guard::Read(table) => table,
            Guard::Write(table) => table,
        }
    }

    /// The clock, to be kept with what is written now.
    #[inline]
    pub(super) fn clock(&self) -> u64 {
        self.shared.clock()
    }

    /// Whether an item with these tags, eight bytes each, written at `clock`, was invalidated since.
    pub(super) fn are_dead(&self, tags: &[u8], clock: u64) -> bool {
        let table = self.table();
        let mut tags = tags.chunks_exact(8).map(|tag| u64::from_le_bytes(tag.try_into().expect("eight bytes")));
        clock < table.floor || tags.any(|tag| table.when.get(&tag).is_some_and(|&when| when > clock))
    }

    /// Whether what is loaded with these tags, under a lease granted at `clock`, was invalidated since.
    pub(super) fn are_dead_for_grant(&self, tags: &[u64], clock: u64) -> bool {
        if tags.is_empty() {
            return false;
        }
        let table = self.table();
        clock < table.floor.max(table.grant_floor)
            || tags.iter().any(|tag| table.when.get(tag).is_some_and(|&when| when > clock))
    }

    /// Locks the table for a step that invalidates tags after it has looked at some.
    pub(super) fn hold_to_invalidate(&mut self) {
        if !matches!(self.held.get(), Some(Guard::Write(_))) {
            // A lock to read it must be gone before: this thread would wait for itself.
            self.held.take();
            self.held = OnceCell::from(Guard::Write(self.shared.table.write_arc()));
        }
    }

    /// Invalidates tags, all at once: when this returns, no item written before is alive.
    pub(super) fn invalidate(&mut self, tags: &[u64]) {
        self.hold_to_invalidate();
        let Some(Guard::Write(table)) = self.held.get_mut() else { unreachable!("it is locked to be written") };
        let now = self.shared.clock.fetch_add(1, Ordering::AcqRel) + 1;
        for &tag in tags {
            table.when.insert(tag, now);
            table.order.push_back((tag, now));
        }
        while table.order.len() > self.shared.most {
            table.make_room();
        }
    }
}

impl Table {
    /// Takes the oldest invalidation out; its clock, unless a later one of the same tag replaced it.
    fn take_oldest(&mut self) -> Option<u64> {
        let (tag, when) = self.order.pop_front()?;
        let last = self.when.get(&tag) == Some(&when);
        if last {
            self.when.remove(&tag);
        }
        last.then_some(when)
    }

    /// The oldest invalidation goes, and a floor rises instead. When a sweep has passed it, no item depends on it any
    /// more, but a load that began before it may.
    fn make_room(&mut self) {
        let Some(when) = self.take_oldest() else { return };
        let floor = if when <= self.swept { &mut self.grant_floor } else { &mut self.floor };
        *floor = when.max(*floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalidate(table: &TagTable, tags: &[u64]) {
        table.step().invalidate(tags);
    }

    fn dead(table: &TagTable, tag: u64, clock: u64) -> bool {
        table.step().are_dead(&tag.to_le_bytes(), clock)
    }

    fn dead_for_grant(table: &TagTable, tag: u64, clock: u64) -> bool {
        table.step().are_dead_for_grant(&[tag], clock)
    }

    #[test]
    fn what_was_written_before_is_dead_and_what_comes_after_lives() {
        let tags = TagTable::new(1 << 20);
        let before = tags.clock();
        assert!(!dead(&tags, 1, before));
        invalidate(&tags, &[1, 2]);
        assert!(dead(&tags, 1, before) && dead(&tags, 2, before) && !dead(&tags, 3, before));
        assert!(!dead(&tags, 1, tags.clock()));
        invalidate(&tags, &[1]);
        tags.swept(before + 1);
        tags.forget(u64::MAX);
        assert!(dead(&tags, 1, before + 1) && !dead(&tags, 2, before + 1));
        assert_eq!(tags.table.read().order.len(), 1);
        assert_eq!((tags.table.read().floor, tags.table.read().grant_floor), (0, 0));
        assert!(tags.any_unswept());
    }

    /// A load begins, its tag and another one are invalidated, and two sweeps pass. The load is refused because of its own
    /// tag as long as its token lives, and a load of any other tag never is.
    #[test]
    fn an_invalidation_is_kept_while_a_token_is_older() {
        let tags = TagTable::new(1 << 20);
        let granted = tags.clock();
        invalidate(&tags, &[1]);
        invalidate(&tags, &[2]);
        tags.swept(tags.clock());
        tags.forget(granted);
        assert!(!tags.any_unswept() && tags.any());
        assert!(dead_for_grant(&tags, 1, granted) && dead_for_grant(&tags, 2, granted));
        assert!(!dead_for_grant(&tags, 3, granted));
        // The token is answered; the oldest one that is left was granted between the two.
        tags.forget(granted + 1);
        assert!(!dead_for_grant(&tags, 1, granted + 1) && dead_for_grant(&tags, 2, granted + 1));
        tags.forget(u64::MAX);
        assert!(!tags.any());
    }

    #[test]
    fn a_table_that_overflows_kills_too_much_and_never_too_little() {
        let tags = TagTable::new(0);
        let first = tags.clock();
        for tag in 0..1000 {
            invalidate(&tags, &[tag]);
        }
        assert!(tags.table.read().order.len() <= 16);
        assert!((0..1000).all(|tag| dead(&tags, tag, first)));
        assert!(!dead(&tags, 5000, tags.clock()) && dead(&tags, 5000, first));
    }

    /// The table is full of invalidations that a sweep has passed, kept for a slow load. More come: those go first, no
    /// item counts as dead because of them, and only loads that began before the newest that went are refused.
    #[test]
    fn what_a_sweep_has_passed_raises_the_floor_for_grants() {
        let tags = TagTable::new(0);
        let granted = tags.clock();
        (0..16).for_each(|tag| invalidate(&tags, &[tag]));
        tags.swept(tags.clock());
        tags.forget(granted);
        invalidate(&tags, &[100]);
        assert!(!dead(&tags, 5000, granted) && dead(&tags, 100, granted));
        assert!(dead_for_grant(&tags, 5000, granted) && !dead_for_grant(&tags, 5000, granted + 1));
    }

    /// One tag is invalidated more often than the table has places: items of other tags stay.
    #[test]
    fn one_tag_alone_raises_no_floor() {
        let tags = TagTable::new(0);
        let first = tags.clock();
        (0..1000).for_each(|_| invalidate(&tags, &[1]));
        assert!(dead(&tags, 1, first) && !dead(&tags, 2, first));
        assert!(dead_for_grant(&tags, 1, first) && !dead_for_grant(&tags, 2, first));
    }

    /// A step has seen that one item is alive; the invalidation of its tag waits until the step is over.
    #[test]
    fn nothing_is_invalidated_within_a_step() {
        let tags = TagTable::new(1 << 20);
        let clock = tags.clock();
        let step = tags.step();
        assert!(!step.are_dead(&1u64.to_le_bytes(), clock));
        assert!(tags.table.try_write().is_none(), "who invalidates waits");
        assert!(!step.are_dead(&2u64.to_le_bytes(), clock));
        drop(step);
        invalidate(&tags, &[1, 2]);
        // Both at once.
        let step = tags.step();
        assert!(step.are_dead(&1u64.to_le_bytes(), clock) && step.are_dead(&2u64.to_le_bytes(), clock));
        assert_eq!(step.clock(), clock + 1);
    }
}
