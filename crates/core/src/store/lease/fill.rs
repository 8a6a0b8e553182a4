//! How loads end: with a value, a failure, or a change of the key meanwhile.

use std::sync::Arc;

use super::key_lease::{Lease, REMEMBERED, Waiter};
use super::request::{StepContext, TokenCheck};
use super::table::Leases;
use crate::store::events::{Loaded, Outcome};
use crate::store::types::Key;

impl Leases {
    /// The value of a key was changed or taken away by somebody who was not asked to load it.
    pub(in crate::store) fn void(&mut self, hash: u64, key: Key<'_>) {
        let Some(lease) = self.get_mut(hash, key) else { return };
        if lease.is_loading() {
            // Whoever reads what this load brings reads what was there before the change.
            lease.changes.written = lease.changes.written.wrapping_add(1);
        }
        self.list_bytes += lease.void();
        self.touched.push(hash);
        self.recount(hash);
    }

    /// Everything was taken away, or everything in one database. That is no change for watchers: an item that somebody wrote
    /// was counted then, and one that was loaded may go at any time. Leases that nobody uses are many, perhaps, and all
    /// shards are locked: they count as gone, and go when their keys or their room are wanted.
    pub(in crate::store) fn void_all(&mut self, db: Option<u8>) {
        let all = db.map_or(0..self.unused.flushed.len(), |db| usize::from(db)..usize::from(db) + 1);
        self.unused.flushed[all].fill(self.unused.left);
        let of_db = |lease: &Lease| db.is_none_or(|db| db == lease.db);
        for (hash, lease) in self.map.iter_mut().filter(|(_, lease)| lease.place.unused == 0 && of_db(lease)) {
            self.list_bytes += lease.void();
            self.holders.recount(lease);
            // A void load goes on, and nobody waits for it.
            if !lease.waiters.is_empty() || !lease.is_used() {
                self.touched.push(*hash);
            }
        }
    }

    /// After a step that changed a key: those who wait get what is there now, or somebody loads.
    pub(in crate::store) fn settle(&mut self, hash: u64, value: Option<&Loaded>, moment: StepContext) {
        if let Some(loaded) = value {
            self.answer(hash, |_| Some(Outcome::Loaded(loaded.clone())));
            if let Some(lease) = self.map.get_mut(&hash) {
                lease.hold_off = None;
            }
        } else {
            self.grant_next(hash, moment);
        }
        self.drop_if_idle(hash, moment.now);
    }

    /// Whether a value loaded under `token` may be stored. Those who wait are told by [`filled`](Leases::filled), or
    /// here if it may not: `refused_by_tags` says whether a tag was invalidated since a clock; `value` is what was loaded.
    pub(in crate::store) fn check_fill_token(
        &mut self,
        hash: u64,
        key: Key<'_>,
        token: u64,
        loaded: &dyn Fn() -> Loaded,
        refused_by_tags: impl FnOnce(u64) -> bool,
        now: u64,
    ) -> TokenCheck {
        let Some(lease) = self.get_mut(hash, key) else { return TokenCheck::Late };
        if let Some(place) = lease.voided.iter().position(|voided| voided.token == token) {
            let voided = lease.voided.remove(place);
            let loaded = Outcome::Loaded(loaded());
            // A tag may have been invalidated between the grant and the void: who joined after that must not have it.
            let may = |waiter: &Waiter| waiter.voids < voided.number && waiter.clock <= voided.clock;
            self.answer(hash, |waiter| may(waiter).then(|| loaded.clone()));
            self.touched.push(hash);
            return TokenCheck::Changed;
        }
        let Some(grant) = lease.good(token, now) else { return TokenCheck::Late };
        let clock = grant.clock;
        if refused_by_tags(clock) {
            // Who has the lease now, if it passed on, may have read after the invalidation.
            if !lease.forget_passed_on(token) {
                let grown = lease.void();
                lease.forget_voided(token);
                self.list_bytes += grown;
                self.recount(hash);
            }
            // Who joined when the clock stood as at the grant has seen no invalidation that the load has not.
            let loaded = Outcome::Loaded(loaded());
            self.answer(hash, |waiter| (waiter.clock <= clock).then(|| loaded.clone()));
            self.touched.push(hash);
            return TokenCheck::TagInvalidated;
        }
        TokenCheck::Good(clock)
    }

    /// A load has ended with a value, stored or not.
    pub(in crate::store) fn filled(&mut self, hash: u64, loaded: Option<&Loaded>, now: u64) {
        let Some(lease) = self.map.get_mut(&hash) else { return };
        lease.end();
        lease.hold_off = None;
        if let Some(loaded) = loaded {
            self.answer(hash, |_| Some(Outcome::Loaded(loaded.clone())));
        }
        self.drop_if_idle(hash, now);
    }

    /// A load has ended without a value. Those who wait get `kept`, if something may still be handed out, or the
    /// message. Whether the token meant anything.
    pub(in crate::store) fn fail(
        &mut self,
        hash: u64,
        key: Key<'_>,
        token: u64,
        (message, retry): (&Arc<str>, Option<u64>),
        kept: Option<&Loaded>,
        now: u64,
    ) -> bool {
        let Some(lease) = self.get_mut(hash, key) else { return false };
        if lease.forget_voided(token) {
            self.touched.push(hash);
            return true;
        }
        if lease.good(token, now).is_none() {
            return false;
        }
        // Who has the lease now, if it passed on, may still succeed; and a failure that comes while the key is held off
        // for another one says nothing new.
        let another = lease.forget_passed_on(token);
        lease.grants.retain(|grant| grant.token != token);
        if another || !lease.held && lease.held_off(now).is_some() {
            return true;
        }
        lease.hold_off(message, retry, now);
        let until = lease.hold_off.as_ref().map_or(now, |hold_off| hold_off.until + REMEMBERED);
        let outcome = kept.map_or_else(|| Outcome::Failed(Arc::clone(message)), |kept| Outcome::Loaded(kept.clone()));
        self.answer(hash, |_| Some(outcome.clone()));
        self.schedule(hash, until);
        self.drop_if_idle(hash, now);
        true
    }
}
