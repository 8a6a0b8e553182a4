//! The index: from the hash of a key to the place of its item, in buckets of one cache line.
//!
//! It consists of many small tables, each chosen by bits of the hash and grown alone by an eighth, so there is never
//! one big rehash and little is empty. Within a table a 20-bit tag both chooses the bucket (its position in the range
//! of tags, so growing keeps the order and needs no look at any item) and tells most keys apart. A bucket that is full
//! spills into the next one and remembers that; lookups go on only past buckets that spilled.
//!
//! ```text
//! slot  tag 20 | segment 22 | offset / 4 18 | frequency 2 | spilled 1 (first slot only, of the bucket) | used 1
//! ```

use super::record::ALIGN;

const SLOTS: usize = 8;
const TAG_BITS: u32 = 20;
const USED: u64 = 1;
const SPILLED: u64 = 2;
const FREQ_SHIFT: u32 = 2;
const OFFSET_SHIFT: u32 = 4;
const SEGMENT_SHIFT: u32 = 22;
const TAG_SHIFT: u32 = 44;
const TAG_MASK: u64 = u64::MAX << TAG_SHIFT;

/// Longest segment that an offset can point into.
pub(super) const MAX_SEGMENT: usize = ALIGN << 18;
/// Most segments of a shard.
pub(super) const MAX_SEGMENTS: usize = 1 << 22;
/// Highest frequency that is remembered.
pub(super) const MAX_FREQ: u8 = 3;

/// Items that a table is made for: growing one moves at most about twice as many slots. With fewer, more of the tables
/// themselves are out of the cache of the processor.
const PER_TABLE: u64 = 8192;

#[derive(Clone)]
#[repr(align(64))]
struct Bucket([u64; SLOTS]);

#[derive(Clone, Default)]
struct Table {
    buckets: Box<[Bucket]>,
    used: u32,
}

/// Where an item lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: usize,
    pub(super) offset: usize,
}

/// A slot that was found; good until the index changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    table: usize,
    bucket: usize,
    slot: usize,
    pub(super) place: Place,
    pub(super) freq: u8,
}

/// Where something most likely stands in the table of a hash.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    bucket: usize,
    slot: usize,
}

pub(super) struct Index {
    tables: Box<[Table]>,
    /// Buckets of all tables.
    buckets: usize,
}

fn tag_of(hash: u64) -> u64 {
    hash & ((1 << TAG_BITS) - 1)
}

fn place_of(slot: u64) -> Place {
    Place {
        segment: (slot >> SEGMENT_SHIFT) as usize & (MAX_SEGMENTS - 1),
        offset: ((slot >> OFFSET_SHIFT) as usize & (MAX_SEGMENT / ALIGN - 1)) * ALIGN,
    }
}

fn freq_of(slot: u64) -> u8 {
    (slot >> FREQ_SHIFT) as u8 & MAX_FREQ
}

fn encode(tag: u64, place: Place, freq: u8) -> u64 {
    tag << TAG_SHIFT
        | (place.segment as u64) << SEGMENT_SHIFT
        | ((place.offset / ALIGN) as u64) << OFFSET_SHIFT
        | u64::from(freq) << FREQ_SHIFT
        | USED
}

impl Table {
    /// Whether it grows before the next slot is used: at most seven of eight are; with few buckets that would fill one
    /// bucket and spill at once.
    fn is_full(&self) -> bool {
        (self.used as usize + 1) * 8 > self.buckets.len() * SLOTS * 7
    }

    /// Buckets that it grows by.
    fn more(&self) -> usize {
        self.buckets.len() / 8 + 1
    }

    fn home(&self, tag: u64) -> usize {
        ((tag * self.buckets.len() as u64) >> TAG_BITS) as usize
    }

    /// The lowest tag whose home is a bucket, or one behind it.
    fn first_tag(&self, bucket: usize) -> u64 {
        ((bucket as u64) << TAG_BITS).div_ceil(self.buckets.len() as u64)
    }

    /// Visits the slots whose home is a bucket, those of lower tags than `from` excepted.
    fn visit_home(&self, home: usize, from: u64, visit: &mut dyn FnMut(u64)) {
        for step in 0..self.buckets.len() {
            let bucket = &self.buckets[(home + step) % self.buckets.len()].0;
            let used = bucket.iter().filter(|slot| **slot & USED != 0);
            let mine = used.filter(|slot| **slot >> TAG_SHIFT >= from && self.home(**slot >> TAG_SHIFT) == home);
            mine.for_each(|slot| visit(*slot));
            if bucket[0] & SPILLED == 0 {
                return;
            }
        }
    }

    /// Puts a slot into the first bucket from its home on that has room.
    fn place(&mut self, slot: u64) {
        let mut at = self.home(slot >> TAG_SHIFT);
        loop {
            let bucket = &mut self.buckets[at].0;
            if let Some(free) = bucket.iter_mut().find(|free| **free & USED == 0) {
                // The mark of the bucket stands in its first slot, used or not.
                *free = slot & !SPILLED | *free & SPILLED;
                return;
            }
            bucket[0] |= SPILLED;
            at = (at + 1) % self.buckets.len();
        }
    }

    fn resize(&mut self, buckets: usize) {
        let old = std::mem::replace(&mut self.buckets, vec![Bucket([0; SLOTS]); buckets].into());
        for slot in old.iter().flat_map(|bucket| bucket.0).filter(|slot| slot & USED != 0) {
            self.place(slot);
        }
    }
}

impl Index {
    /// An index for at most about `items` items.
    pub(super) fn new(items: u64) -> Index {
        let tables = (items / PER_TABLE).next_power_of_two().min(1 << 28);
        Index { tables: vec![Table::default(); tables as usize].into(), buckets: 0 }
    }

    /// Where its tables lie.
    #[cfg(test)]
    pub(super) fn tables_at(&self) -> usize {
        self.tables.as_ptr() as usize
    }

    fn table_of(&self, hash: u64) -> usize {
        (hash >> TAG_BITS) as usize & (self.tables.len() - 1)
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.buckets * size_of::<Bucket>() + self.tables.len() * size_of::<Table>()
    }

    /// Bytes of its tables.
    pub(super) fn held(&self) -> usize {
        self.buckets * size_of::<Bucket>()
    }

    /// Gives back the memory of the next table behind `cursor` that has any, with what it holds.
    pub(super) fn shed_table(&mut self, cursor: &mut usize) {
        for _ in 0..self.tables.len() {
            *cursor = (*cursor + 1) % self.tables.len();
            let table = std::mem::take(&mut self.tables[*cursor]);
            self.buckets -= table.buckets.len();
            if !table.buckets.is_empty() {
                return;
            }
        }
    }

    /// The slot of a hash whose place `is` the one that is looked for.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(Place) -> bool) -> Option<Found> {
        let number = self.table_of(hash);
        let table = &self.tables[number];
        if table.used == 0 {
            return None;
        }
        let tag = tag_of(hash);
        let wanted = tag << TAG_SHIFT | USED;
        let home = table.home(tag);
        let mut at = home;
        loop {
            let bucket = &table.buckets[at].0;
            for (slot, &word) in bucket.iter().enumerate() {
                if word & (TAG_MASK | USED) == wanted {
                    let place = place_of(word);
                    if is(place) {
                        return Some(Found { table: number, bucket: at, slot, place, freq: freq_of(word) });
                    }
                }
            }
            if bucket[0] & SPILLED == 0 {
                return None;
            }
            at = (at + 1) % table.buckets.len();
            if at == home {
                return None;
            }
        }
    }

    /// Bytes that the index grows by when a place is added under a hash.
    #[inline]
    pub(super) fn growth(&self, hash: u64) -> usize {
        let table = &self.tables[self.table_of(hash)];
        if table.is_full() { table.more() * size_of::<Bucket>() } else { 0 }
    }

    /// Adds a place under a hash. There must be none yet that `find` would take for it.
    pub(super) fn insert(&mut self, hash: u64, place: Place, freq: u8) {
        let number = self.table_of(hash);
        let table = &mut self.tables[number];
        if table.is_full() {
            let more = table.more();
            self.buckets += more;
            table.resize(table.buckets.len() + more);
        }
        table.used += 1;
        table.place(encode(tag_of(hash), place, freq));
    }

    fn slot(&mut self, found: &Found) -> &mut u64 {
        &mut self.tables[found.table].buckets[found.bucket].0[found.slot]
    }

    /// Points a found slot to another place, and sets its frequency.
    #[inline]
    pub(super) fn update(&mut self, found: &Found, place: Place, freq: u8) {
        let slot = self.slot(found);
        *slot = encode(*slot >> TAG_SHIFT, place, freq) | *slot & SPILLED;
    }

    /// Removes a found slot.
    pub(super) fn remove(&mut self, found: &Found) {
        *self.slot(found) &= SPILLED;
        self.tables[found.table].used -= 1;
    }

    /// Places in it.
    pub(super) fn len(&self) -> u64 {
        self.tables.iter().map(|table| u64::from(table.used)).sum()
    }

    /// Panics unless its counts are right; for tests.
    pub(super) fn check(&self) {
        assert_eq!(self.buckets, self.tables.iter().map(|table| table.buckets.len()).sum::<usize>(), "buckets");
        for table in &self.tables {
            let used = table.buckets.iter().flat_map(|bucket| bucket.0).filter(|slot| slot & USED != 0).count();
            assert_eq!(table.used as usize, used, "used slots of a table");
        }
    }

    /// Gives back the memory of a table that is less than half full; of the table after `cursor`, which goes round.
    pub(super) fn shrink_next(&mut self, cursor: &mut usize) {
        *cursor = (*cursor + 1) % self.tables.len();
        let table = &mut self.tables[*cursor];
        let wanted = (table.used as usize * 8).div_ceil(SLOTS * 6);
        if wanted * 2 <= table.buckets.len() {
            self.buckets -= table.buckets.len() - wanted;
            table.resize(wanted);
        }
    }

    /// Visits slots in an order that growing and shrinking keep: by table, then by tag. Visits about `count` from
    /// `cursor` on, all of one home bucket together, and returns the cursor to go on with; None when all were visited.
    pub(super) fn scan(&self, cursor: u64, count: usize, visit: &mut dyn FnMut(Place)) -> Option<u64> {
        let mut number = (cursor >> TAG_BITS) as usize;
        let mut from = tag_of(cursor);
        let mut left = count.max(1);
        while let Some(table) = self.tables.get(number) {
            let first = if table.used == 0 { table.buckets.len() } else { table.home(from) };
            for bucket in first..table.buckets.len() {
                if left == 0 {
                    return Some((number as u64) << TAG_BITS | table.first_tag(bucket));
                }
                table.visit_home(bucket, from, &mut |slot| {
                    left = left.saturating_sub(1);
                    visit(place_of(slot));
                });
            }
            (number, from) = (number + 1, 0);
            if left == 0 {
                return (number < self.tables.len()).then_some((number as u64) << TAG_BITS);
            }
        }
        None
    }

    /// A place for [`scan`](Index::scan) to begin from, by a number drawn at random.
    pub(super) fn scan_place(&self, random: u64) -> u64 {
        (self.table_of(random) as u64) << TAG_BITS | tag_of(random)
    }

    /// Has the processor fetch the table of a hash.
    #[inline]
    pub(super) fn fetch_table(&self, hash: u64) {
        fetch(&self.tables[self.table_of(hash)]);
    }

    /// Has the processor fetch the bucket of a hash.
    #[inline]
    pub(super) fn fetch_bucket(&self, hash: u64) {
        let table = &self.tables[self.table_of(hash)];
        if let Some(bucket) = table.buckets.get(table.home(tag_of(hash))) {
            fetch(bucket);
        }
    }

    /// The slot of a hash most likely, the first of its home bucket with its tag, and where its item lies.
    #[inline]
    pub(super) fn guess(&self, hash: u64) -> (Slot, Option<Place>) {
        let table = &self.tables[self.table_of(hash)];
        let tag = tag_of(hash);
        let bucket = table.home(tag);
        let slots = table.buckets.get(bucket).map_or(&[][..], |bucket| &bucket.0);
        let slot = slots.iter().position(|slot| *slot & (TAG_MASK | USED) == tag << TAG_SHIFT | USED);
        (Slot { bucket, slot: slot.unwrap_or(0) }, slot.map(|slot| place_of(slots[slot])))
    }

    /// What stands in a slot now, if it has the tag of the hash.
    #[inline]
    pub(super) fn found(&self, hash: u64, Slot { bucket, slot }: Slot) -> Option<Found> {
        let number = self.table_of(hash);
        let word = *self.tables[number].buckets.get(bucket)?.0.get(slot)?;
        let is = word & (TAG_MASK | USED) == tag_of(hash) << TAG_SHIFT | USED;
        is.then(|| Found { table: number, bucket, slot, place: place_of(word), freq: freq_of(word) })
    }
}

/// Has the processor fetch the cache line of a place without waiting for it. Measured with 100,000 keys: reads in
/// batches of 64 take a fifth less processor time, MGET of 100 keys a third.
#[inline]
pub(super) fn fetch<T: ?Sized>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is a hint that reads nothing and never faults, whatever the address; the address is that
    // of a reference all the same.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast::<i8>());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    fn place(number: usize) -> Place {
        Place { segment: number % 7, offset: number * ALIGN }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_map_finds(
            operations in prop::collection::vec((0u64..400, 0u8..3), 1..2000),
            spread in prop::sample::select(&[1u64, 0x9e37_79b9_7f4a_7c15][..]),
        ) {
            let mut index = Index::new(10_000);
            let mut map = HashMap::new();
            for (number, (key, what)) in operations.into_iter().enumerate() {
                let hash = key.wrapping_mul(spread);
                let known = map.get(&key).copied();
                let found = index.find(hash, |place| Some(place) == known);
                prop_assert_eq!(found.map(|found| found.place), known);
                match (what, found) {
                    (0, Some(found)) => {
                        index.remove(&found);
                        map.remove(&key);
                    }
                    (_, Some(found)) => {
                        index.update(&found, place(number), 1);
                        map.insert(key, place(number));
                    }
                    (0, None) => {
                        let mut cursor = key as usize;
                        index.shrink_next(&mut cursor);
                    }
                    (_, None) => {
                        index.insert(hash, place(number), 0);
                        map.insert(key, place(number));
                    }
                }
            }
            for (key, known) in &map {
                let found = index.find(key.wrapping_mul(spread), |place| place == *known);
                prop_assert!(found.is_some());
            }
            let mut seen = Vec::new();
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                cursor = index.scan(at, 3, &mut |place| seen.push(place));
            }
            prop_assert_eq!(seen.len(), map.len());
        }
    }

    #[test]
    fn a_scan_misses_nothing_while_tables_grow_and_shrink() {
        let mut index = Index::new(100);
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for number in 0..500 {
            index.insert(hash(number), place(number as usize), 0);
        }
        let (mut seen, mut cursor, mut next) = (std::collections::HashSet::new(), Some(0), 500u64);
        while let Some(at) = cursor {
            cursor = index.scan(at, 10, &mut |place| {
                seen.insert(place.offset);
            });
            for _ in 0..20 {
                index.insert(hash(next), place(next as usize), 0);
                next += 1;
            }
        }
        assert!((0..500).all(|number| seen.contains(&place(number).offset)));
    }

    #[test]
    fn most_of_it_is_used() {
        let mut index = Index::new(1 << 17);
        for number in 0..1u64 << 17 {
            index.insert(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), place(number as usize % 1000), 0);
        }
        let each = index.bytes() as f64 / f64::from(1 << 17);
        assert!(each < 10.5, "{each} bytes of index for each item");
    }
}
