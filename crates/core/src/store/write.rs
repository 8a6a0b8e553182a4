//! How an item comes to stand in a shard: over the one that is there, or appended to the log.

use super::bases::Bases;
use super::index::{Found, Place};
use super::record::{Encoded, Record, Stored};
use super::room::Room;
use super::segment::Queue;
use super::shard::Shard;
use super::tags::Tags;
use super::types::{Key, Refused};

/// What a write does to a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// A value comes, or replaces another.
    Value,
    /// What is there is written anew with something changed beside its value: no more is held afterwards.
    Change,
    /// A value comes from another key, which gives it up afterwards.
    Moved,
}

impl Shard {
    /// Writes a record over the item that is there, or as a new one. The record lies outside the segments.
    pub(super) fn put(
        &mut self,
        record: &Record<'_>,
        how: Put,
        hash: u64,
        tags: &Tags,
        now: u64,
    ) -> Result<(), Refused> {
        let key = Key { db: record.db, bytes: record.key };
        self.emit_changed(hash, record.key);
        let found = self.find(key, hash);
        if let Some(found) = found
            && self.overwrite(&found, record)
        {
            self.eviction.selector.write(hash, self.counts.items, self.eviction.full);
            return Ok(());
        }
        let longest = record.longest();
        let (growth, kept) = (self.index.growth(hash), if how == Put::Value { self.kept() } else { 0 });
        let (found, squeezed) = match self.make_room(longest, growth, kept, tags, now) {
            Room::There => (found, None),
            // The item may have been moved, or dropped, and its value beside the log with it.
            Room::Made => (self.find(key, hash), None),
            Room::Lacks if how == Put::Value => return Err(Refused::Full),
            Room::Lacks => {
                let squeezed = self.squeeze(longest).ok_or(Refused::Full)?;
                (self.find(key, hash), Some(squeezed))
            }
        };
        if how == Put::Change && found.is_none() {
            return Err(Refused::Full);
        }
        let (queue, freq) = match &found {
            Some(found) => (self.log.segment(found.place.segment).queue, found.freq),
            None if self.eviction.ghosts.take(hash) => (Queue::Main, 0),
            None => (self.eviction.queue_for_new(self.log.queue_bytes), 0),
        };
        self.eviction.selector.write(hash, self.counts.items, self.eviction.full);
        let place = self.append(squeezed.unwrap_or(queue), record, longest, tags).ok_or(Refused::Full)?;
        match &found {
            Some(found) => {
                let kept = if let Stored::Large(number) = record.value { Some(number) } else { None };
                self.unaccount(found, kept);
                self.index.update(found, place, freq);
                self.log.free_if_empty(found.place.segment);
            }
            None => self.index.insert(hash, place, freq),
        }
        self.log.queue_bytes[squeezed.unwrap_or(queue) as usize] += self.large.cost_of(record.value);
        self.counts.add(record);
        Ok(())
    }

    /// Writes a record where the item lies, if it takes as many bytes.
    fn overwrite(&mut self, found: &Found, record: &Record<'_>) -> bool {
        let old = self.record(found.place);
        let segment = self.log.segment(found.place.segment);
        let encoded = Encoded::new(record, &segment.bases);
        let inline = matches!((old.value, record.value), (Stored::Inline(_), Stored::Inline(_)));
        if !inline || encoded.size != old.size {
            return false;
        }
        let counted = self.counts.counts(&old);
        let expired = counted && old.expires_at.is_some();
        // The same key and the same bytes: nothing but what is told of its database changes.
        self.counts.replace(counted, expired, record);
        let Place { segment, offset } = found.place;
        let segment = self.log.segment_mut(segment);
        encoded.write(record, &segment.bases, &mut segment.data[offset..]);
        segment.note_expiry(record);
        self.touch(found);
        true
    }

    /// Appends a record of at most `longest` bytes to a queue: to its open segment, or as a segment of its own if it is
    /// long. None if there is no memory for another segment.
    pub(super) fn append(&mut self, queue: Queue, record: &Record<'_>, longest: usize, tags: &Tags) -> Option<Place> {
        if self.log.is_long(longest) {
            let (bases, headroom) = (self.bases(tags), self.headroom());
            return self.log.append_long(queue, record, longest, bases, headroom);
        }
        if let Some(place) = self.log.append(queue, record) {
            return Some(place);
        }
        let (bases, headroom) = (self.bases(tags), self.headroom());
        self.log.open_segment(queue, bases, headroom)?;
        self.log.append(queue, record)
    }

    /// What the numbers in a segment that is opened now count from.
    fn bases(&self, tags: &Tags) -> Bases {
        Bases::new(self.clock.version, self.clock.now, tags.clock())
    }
}
