//! A list of what is known of some keys, in which a key is found without a search however long the list is: one command
//! may name a million keys.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use crate::store::Key;

/// What belongs to one key of one database.
pub(crate) trait Keyed {
    /// The database.
    fn db(&self) -> u8;
    /// The key.
    fn key(&self) -> &Arc<[u8]>;
}

/// Up to so many a search is faster than a table, and needs no memory.
const SEARCHED: usize = 16;

/// Bytes of the table for each key.
const TABLE: usize = 32;

type Places = HashMap<Arc<[u8]>, usize, RandomState>;

/// A list with at most one entry for each key.
#[derive(Clone, Debug)]
pub struct KeyList<T> {
    entries: Vec<T>,
    /// Where keys stand, by database.
    places: Vec<(u8, Places)>,
    /// Bytes of the keys.
    bytes: usize,
}

impl<T> Default for KeyList<T> {
    fn default() -> KeyList<T> {
        KeyList { entries: Vec::new(), places: Vec::new(), bytes: 0 }
    }
}

#[allow(private_bounds, reason = "lists are made in this crate alone")]
impl<T: Keyed> KeyList<T> {
    /// Where the entry of a key stands.
    pub fn position(&self, key: Key<'_>) -> Option<usize> {
        if self.entries.len() <= SEARCHED {
            return self.entries.iter().position(|entry| entry.db() == key.db && **entry.key() == *key.bytes);
        }
        let (_, places) = self.places.iter().find(|(db, _)| *db == key.db)?;
        places.get(key.bytes).copied()
    }

    /// Appends the entry of a key that has none.
    pub fn push(&mut self, entry: T) {
        self.bytes += entry.key().len();
        self.entries.push(entry);
        let first_unknown = match self.entries.len() {
            ..=SEARCHED => return,
            length if length == SEARCHED + 1 => 0,
            length => length - 1,
        };
        for (place, entry) in self.entries.iter().enumerate().skip(first_unknown) {
            let known = self.places.iter().position(|(db, _)| *db == entry.db());
            let known = known.unwrap_or_else(|| {
                self.places.push((entry.db(), Places::with_hasher(RandomState::new())));
                self.places.len() - 1
            });
            self.places[known].1.insert(Arc::clone(entry.key()), place);
        }
    }

    /// Bytes that the list holds.
    pub fn memory(&self) -> usize {
        let each = size_of::<T>() + if self.places.is_empty() { 0 } else { TABLE };
        self.entries.capacity() * each + self.bytes
    }
}

impl<T> KeyList<T> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.entries.iter()
    }

    /// The entry at a place.
    pub fn get(&self, place: usize) -> Option<&T> {
        self.entries.get(place)
    }

    /// The entry at a place, whose key stays what it is.
    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.entries.get_mut(place)
    }

    /// Removes all entries and gives their memory back.
    pub fn clear(&mut self) {
        *self = KeyList::default();
    }
}

impl<'a, T> IntoIterator for &'a KeyList<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;

    thread_local! {
        static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    struct Named(u8, Arc<[u8]>);

    impl Keyed for Named {
        fn db(&self) -> u8 {
            self.0
        }

        fn key(&self) -> &Arc<[u8]> {
            LOOKS.set(LOOKS.get() + 1);
            &self.1
        }
    }

    /// A command names 10,000 keys that are loaded: it asks for each of them before it waits, when it is told, and when it
    /// is run again.
    #[test]
    fn a_long_list_is_not_searched() {
        let mut list = KeyList::default();
        let keys: Vec<[u8; 4]> = (0..10_000u32).map(u32::to_le_bytes).collect();
        for bytes in &keys {
            assert_eq!(list.position(Key { db: 0, bytes }), None);
            list.push(Named(0, bytes[..].into()));
        }
        LOOKS.set(0);
        let found = keys.iter().filter_map(|bytes| list.position(Key { db: 0, bytes })).count();
        assert_eq!((found, LOOKS.get()), (10_000, 0));
    }

    #[test]
    fn each_key_is_found_in_lists_of_every_length() {
        let mut list = KeyList::default();
        for number in 0..100u8 {
            let (db, bytes) = (number % 3, [number / 3]);
            assert_eq!(list.position(Key { db, bytes: &bytes }), None);
            list.push(Named(db, bytes[..].into()));
            for (place, entry) in list.iter().enumerate() {
                assert_eq!(list.position(Key { db: entry.0, bytes: &entry.1 }), Some(place), "of {}", list.len());
            }
            assert_eq!(list.position(Key { db: 3, bytes: &bytes }), None);
        }
        assert!(list.memory() > 100 * (size_of::<Named>() + 1));
        list.clear();
        assert!(list.is_empty() && list.memory() == 0);
    }
}
