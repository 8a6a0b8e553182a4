//! One key of a locked shard: what plain commands do to it. Its leases and waits are in `fetch.rs`.

use std::sync::Arc;

use super::events::ConnectionId;
use super::hash::tag_salt;
use super::index::{Found, Slot};
use super::large_values::large_cost;
use super::record::{Record, Stored};
use super::room::{LARGE_PART, Room};
use super::shard::Shard;
use super::tags::Tags;
use super::types::{Item, Key, Meta, Refused, Value};
use super::write::Put;
use crate::limits::MAX_TAGS;

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
            let data = &self.shard.log.segment(found.place.segment).data[found.place.offset..];
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
        self.shard.emit(gone);
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
        Some(record.size + self.shard.large.cost_of(record.value) + size_of::<u64>())
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
        if bytes.len() > shard.limits.max_value {
            return Err(Refused::TooLarge);
        }
        let version = shard.next_version();
        if bytes.len() <= shard.log.segment_size / LARGE_PART {
            let record = record(self.key, Stored::Inline(bytes), version);
            shard.put(&record, how, self.hash, self.tags, self.now)?;
            return Ok(version);
        }
        let beside = large_cost(bytes.len()) + shard.large.growth();
        // Whatever shards have lent to each other at the moment: one that has lent memory is only full.
        if beside > shard.limits.share && how == Put::Value {
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
        let number = shard.large.insert(match value {
            Value::Inline(bytes) => Arc::from(bytes),
            Value::Shared(bytes) => Arc::clone(bytes),
        });
        let record = record(self.key, Stored::Large(number), version);
        let put = shard.put(&record, how, self.hash, self.tags, self.now);
        if put.is_err() {
            shard.large.remove(number);
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
        self.shard.eviction.selector.remove(self.hash);
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
