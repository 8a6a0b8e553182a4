//! Keys of a shard that clients keep copies of: whoever read one is told once when it changes or goes.
//!
//! The table is bounded: when it is full a key leaves it, and those who have it are told as if it had changed.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::lease::Party;
use super::tags::Identity;

/// Keys that one shard remembers.
const MOST: usize = 1 << 16;

/// What is told of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// Nothing: nobody keeps copies.
    #[default]
    None,
    /// Changes of keys that somebody read.
    Read,
    /// Every change.
    All,
}

#[derive(Default)]
pub(super) struct Tracked {
    /// Who read the keys of a hash. Two keys of one hash are told together: too much, never too little.
    readers: HashMap<u64, Told, BuildHasherDefault<Identity>>,
    /// Every change is told.
    pub(super) all: bool,
}

/// Keys, and who is to be told of each.
pub(super) type Told = Vec<(Box<[u8]>, Vec<Party>)>;

impl Tracked {
    /// Somebody read a key. Returns what left the table to make room.
    pub(super) fn read(&mut self, hash: u64, key: &[u8], party: Party) -> Told {
        let mut gone = Told::new();
        if self.readers.len() >= MOST
            && !self.readers.contains_key(&hash)
            && let Some(any) = self.readers.keys().next().copied()
        {
            gone = self.readers.remove(&any).unwrap_or_default();
        }
        let keys = self.readers.entry(hash).or_default();
        match keys.iter_mut().find(|(known, _)| **known == *key) {
            Some((_, parties)) if parties.contains(&party) => {}
            Some((_, parties)) => parties.push(party),
            None => keys.push((key.into(), vec![party])),
        }
        gone
    }

    /// A key changed or went: who is to be told.
    pub(super) fn changed(&mut self, hash: u64, key: &[u8]) -> Told {
        let mut told = self.readers.remove(&hash).unwrap_or_default();
        if self.all && !told.iter().any(|(known, _)| **known == *key) {
            told.push((key.into(), Vec::new()));
        }
        told
    }

    /// Everything went; those who keep copies are told so all together.
    pub(super) fn forget(&mut self) {
        self.readers.clear();
    }

    /// Keys that somebody read.
    pub(super) fn len(&self) -> usize {
        self.readers.len()
    }
}
