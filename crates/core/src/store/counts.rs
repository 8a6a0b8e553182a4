//! How many items a shard has, by database, and which of them were flushed.

use super::record::Record;
use crate::limits::DATABASES;

/// Items of a shard, in all and by database.
#[derive(Default)]
pub(super) struct Counts {
    /// All items that the index knows, dead ones included.
    pub(super) items: u64,
    /// Items of a database up to this version are gone.
    floors: [u64; DATABASES],
    /// Items that were neither flushed nor stand for an absent row.
    pub(super) live: [u64; DATABASES],
    /// Those of `live` that are to expire.
    pub(super) expires: [u64; DATABASES],
}

impl Counts {
    /// Whether the database was flushed after an item got this version.
    #[inline(always)]
    pub(super) fn is_flushed(&self, db: u8, version: u64) -> bool {
        version <= self.floors[usize::from(db)]
    }

    /// Whether an item counts for its database.
    #[inline(always)]
    pub(super) fn counts(&self, record: &Record<'_>) -> bool {
        !record.absent && !self.is_flushed(record.db, record.version)
    }

    /// An item came.
    pub(super) fn add(&mut self, record: &Record<'_>) {
        self.items += 1;
        if self.counts(record) {
            self.live[usize::from(record.db)] += 1;
            self.expires[usize::from(record.db)] += u64::from(record.expires_at.is_some());
        }
    }

    /// An item goes.
    pub(super) fn remove(&mut self, record: &Record<'_>) {
        if self.counts(record) {
            self.live[usize::from(record.db)] -= 1;
            self.expires[usize::from(record.db)] -= u64::from(record.expires_at.is_some());
        }
        self.items -= 1;
    }

    /// An item of the same key came in the place of another; `counted` and `expired` say how that one counted. Its version is
    /// new, so no flush has passed it.
    pub(super) fn replace(&mut self, counted: bool, expired: bool, record: &Record<'_>) {
        let db = usize::from(record.db);
        self.live[db] = self.live[db] + u64::from(!record.absent) - u64::from(counted);
        let expires = !record.absent && record.expires_at.is_some();
        self.expires[db] = self.expires[db] + u64::from(expires) - u64::from(expired);
    }

    /// A database is empty from this version on.
    pub(super) fn flush(&mut self, db: u8, version: u64) {
        let db = usize::from(db);
        (self.floors[db], self.live[db], self.expires[db]) = (version, 0, 0);
    }
}
