//! Passes on what happens in the store: to mailboxes, loaders and clients that keep copies.

use std::sync::Arc;

use super::loaders::Loaders;
use super::mailbox::{Event, Mailboxes};
use super::tracking::Tracking;
use crate::store::{Note, Sink};

/// Passes on what a step of the store means for others.
pub(super) struct Post {
    pub(super) mail: Arc<Mailboxes>,
    pub(super) loaders: Arc<Loaders>,
    pub(super) tracking: Arc<Tracking>,
}

impl Sink for Post {
    fn send(&self, note: Note, actor: u64) {
        match note {
            Note::Outcome(party, wait, outcome) => self.mail.post(party, Event::Outcome(wait, outcome)),
            Note::Wanted(db, key) => self.loaders.want(db, key),
            Note::Changed(key, readers) => self.tracking.changed(&key, &readers, actor, &self.mail),
            Note::Cleared | Note::TagsInvalidated if !self.tracking.any() => {}
            Note::Cleared => self.tracking.cleared(&self.mail),
            Note::TagsInvalidated => self.tracking.tags_invalidated(&self.mail),
        }
    }
}
