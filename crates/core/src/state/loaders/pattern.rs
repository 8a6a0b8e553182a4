//! Patterns that are served, and how costly it is to compare a key with them.

use crate::glob;
use crate::vocabulary::{Error, MAX_KEY, PATTERN_TOO_LONG};

pub(super) struct Pattern {
    /// Its database; `FORGOTTEN` if it is not served any more, and its place is free.
    pub(super) db: u8,
    pub(super) glob: Box<[u8]>,
    pub(super) read: glob::Pattern,
    /// What each key begins with that matches, and the steps that a key takes at most to be compared.
    pub(super) prefix: Box<[u8]>,
    pub(super) most_steps: usize,
    /// Workers that load what matches.
    pub(super) workers: usize,
}

/// The database of no pattern: the place of one that was forgotten is kept, since workers know theirs by their places.
pub(super) const FORGOTTEN: u8 = u8::MAX;

impl Pattern {
    pub(super) fn new(db: u8, glob: &[u8]) -> Result<Pattern, Error> {
        let read = glob::Pattern::new(glob).ok_or(PATTERN_TOO_LONG)?;
        let (prefix, most_steps) = (read.prefix().into(), read.most_steps(MAX_KEY));
        Ok(Pattern { db, glob: glob.into(), read, prefix, most_steps, workers: 0 })
    }

    pub(super) fn forgotten() -> Pattern {
        Pattern::new(FORGOTTEN, b"").expect("a short pattern")
    }

    pub(super) fn is_free(&self) -> bool {
        self.db == FORGOTTEN
    }

    pub(super) fn covers(&self, db: u8, key: &[u8]) -> bool {
        self.db == db && self.read.matches(key)
    }
}

/// More steps than any key takes to be compared with all these patterns. Most end at its first bytes: only patterns whose
/// prefixes cover each other can all look at the rest of one key.
pub(super) fn most_steps<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> usize {
    let mut all: Vec<&Pattern> = patterns.collect();
    all.sort_unstable_by_key(|pattern| (pattern.db, &pattern.prefix));
    // Patterns whose prefixes cover that of the next one, each with the steps of all of them so far.
    let (mut most, mut covering) = (0, Vec::<(&Pattern, usize)>::new());
    for pattern in all {
        let covers = |(one, _): &(&Pattern, usize)| one.db == pattern.db && pattern.prefix.starts_with(&one.prefix);
        while covering.last().is_some_and(|one| !covers(one)) {
            covering.pop();
        }
        let steps = covering.last().map_or(0, |(_, steps)| *steps) + pattern.most_steps;
        covering.push((pattern, steps));
        most = most.max(steps);
    }
    most
}
