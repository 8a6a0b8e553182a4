//! The sweep of a shard: drops what expired, was invalidated by a tag, or was flushed with its database, a few items at a time.

use super::hash::hash;
use super::index::Place;
use super::shard::Shard;
use super::tags::Tags;
use super::types::Key;

/// One round of the sweep through all shards.
#[derive(Default)]
pub(super) struct SweepRound {
    /// The shard it is in.
    pub(super) shard: usize,
    pub(super) begun: bool,
    /// The tag clock when it began: what was invalidated before is dropped when it ends.
    pub(super) clock: u64,
    /// The tag clock of the oldest live token, as far as it was seen.
    pub(super) oldest: u64,
    /// There were invalidations that no sweep had passed, so that it looks at every item.
    pub(super) thorough: bool,
}

impl Shard {
    /// A step through the segments that looks at so many items: what nobody can have any more goes. Segments in which nothing
    /// is due are passed over unless the round is `thorough`, for what was invalidated. True when it came round.
    pub(super) fn sweep(&mut self, items: usize, tags: &Tags, thorough: bool, now: u64) -> bool {
        self.index.shrink_next(&mut self.sweep.shrink_at);
        for _ in 0..items {
            let number = self.sweep.at;
            let Some(place) = self.log.segments.get_mut(number) else {
                self.sweep.at = 0;
                self.sweep.all = std::mem::take(&mut self.sweep.flushed);
                return true;
            };
            let all = thorough || self.sweep.all;
            let wanted = place.as_mut().is_some_and(|segment| {
                let due = segment.swept > 0 || all || segment.next_expiry <= now;
                segment.swept < segment.used && segment.live > 0 && due
            });
            if wanted {
                self.sweep_item(number, tags, now);
                continue;
            }
            if let Some(segment) = place {
                segment.swept = 0;
            }
            self.sweep.at = number + 1;
        }
        false
    }

    /// Looks at the next item of a segment.
    fn sweep_item(&mut self, number: usize, tags: &Tags, now: u64) {
        let segment = self.log.segment_mut(number);
        if segment.swept == 0 {
            // Noted anew by what lives and by what is written meanwhile.
            segment.next_expiry = u64::MAX;
        }
        let place = Place { segment: number, offset: segment.swept };
        let record = self.record(place);
        let gone_at = record.gone_at().unwrap_or(u64::MAX);
        let kept = self.is_kept(&record, tags, now);
        let next = place.offset + record.size;
        let hash = hash(&self.hasher, Key { db: record.db, bytes: record.key });
        // Before the item goes, since its segment may go with it.
        let segment = self.log.segment_mut(number);
        segment.swept = next;
        if kept {
            segment.next_expiry = segment.next_expiry.min(gone_at);
            return;
        }
        if let Some(found) = self.index.find(hash, |known| known == place) {
            self.stats.expired += u64::from(gone_at <= now);
            self.drop_item(&found);
        }
    }
}
