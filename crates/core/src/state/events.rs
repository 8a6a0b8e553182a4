//! Passes on what happens in the store: to mailboxes, loaders and clients that keep copies.

use std::sync::Arc;

use super::loaders::Loaders;
use super::mailbox::{Event, Mailboxes};
use super::tracking::Tracking;
use crate::store::{EventSink, StoreEvent};

/// Passes on what a step of the store means for others.
pub(super) struct EventRouter {
    pub(super) mail: Arc<Mailboxes>,
    pub(super) loaders: Arc<Loaders>,
    pub(super) tracking: Arc<Tracking>,
}

impl EventSink for EventRouter {
    fn send(&self, event: StoreEvent, actor: u64) {
        match event {
            StoreEvent::Outcome(connection, wait, outcome) => self.mail.post(connection, Event::Outcome(wait, outcome)),
            StoreEvent::Wanted(db, key) => self.loaders.want(db, key),
            StoreEvent::Changed(key, readers) => self.tracking.changed(&key, &readers, actor, &self.mail),
            StoreEvent::Cleared | StoreEvent::TagsInvalidated if !self.tracking.any() => {}
            StoreEvent::Cleared => self.tracking.cleared(&self.mail),
            StoreEvent::TagsInvalidated => self.tracking.tags_invalidated(&self.mail),
        }
    }
}
