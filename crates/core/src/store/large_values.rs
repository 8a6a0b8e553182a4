//! Values beside the log of a shard: those too long for a segment, which are sent without copying.

use std::sync::Arc;

use super::record::Stored;
use super::types::Value;

/// Places for values are added so many at a time: doubling them would take memory at once that no write asked for.
const PLACES: usize = 16;
/// What a place for a value takes: itself, and its number in the list of free ones.
const PLACE: usize = size_of::<Option<Arc<[u8]>>>() + size_of::<u32>();

/// The values beside the log, by the numbers that their items keep.
#[derive(Default)]
pub(super) struct LargeValues {
    /// A place per number; None is free.
    pub(super) values: Vec<Option<Arc<[u8]>>>,
    pub(super) free: Vec<u32>,
    /// What all values take.
    pub(super) bytes: usize,
}

/// What a value beside the log takes: its counters, and the rest of its last page.
pub(super) fn large_cost(length: usize) -> usize {
    (length + 32).next_multiple_of(4096)
}

impl LargeValues {
    /// Bytes of the list of values.
    pub(super) fn place_bytes(&self) -> usize {
        self.values.capacity() * PLACE
    }

    /// The value of an item, as readers see it.
    #[inline(always)]
    pub(super) fn get(&self, number: u32) -> Value<'_> {
        Value::Shared(self.values[number as usize].as_ref().expect("a value beside the log has its item"))
    }

    /// What the value of an item takes beside the log.
    pub(super) fn cost_of(&self, value: Stored<'_>) -> usize {
        match value {
            Stored::Inline(_) => 0,
            Stored::Large(number) => self.values[number as usize].as_ref().map_or(0, |value| large_cost(value.len())),
        }
    }

    pub(super) fn insert(&mut self, value: Arc<[u8]>) -> u32 {
        self.bytes += large_cost(value.len());
        if let Some(number) = self.free.pop() {
            self.values[number as usize] = Some(value);
            return number;
        }
        if self.values.len() == self.values.capacity() {
            self.values.reserve_exact(PLACES);
            self.free.reserve_exact(self.values.capacity());
        }
        self.values.push(Some(value));
        self.values.len() as u32 - 1
    }

    /// Bytes by which the list of values beside the log grows with the next of them.
    pub(super) fn growth(&self) -> usize {
        let full = self.free.is_empty() && self.values.len() == self.values.capacity();
        if full { PLACES * PLACE } else { 0 }
    }

    pub(super) fn remove(&mut self, number: u32) {
        if let Some(value) = self.values[number as usize].take() {
            self.bytes -= large_cost(value.len());
            self.free.push(number);
        }
    }

    /// Gives back a value; false when there is none left.
    pub(super) fn shed(&mut self) -> bool {
        let value = std::iter::from_fn(|| self.values.pop()).flatten().next();
        self.bytes -= value.as_ref().map_or(0, |value| large_cost(value.len()));
        value.is_some()
    }
}
