//! Messages that were left for a connection: what they hold, and what their delivery costs.

use std::collections::VecDeque;

use globalcache_core::state::mailbox::Event;

/// What a turn delivers before it looks whether it has taken too long: so many short messages, or long ones of so many
/// bytes together for each of these, or one that runs a request or tells of many keys.
pub(super) const MESSAGES: u64 = 512;
const MESSAGE_BYTES: u64 = 256;
/// Messages whose place a connection keeps when it has none.
const KEEP_MAIL: usize = 4;

/// What a message may cost to deliver, as a count of short ones. Reading the clock is cheap beside running a request.
pub(super) fn cost_of(event: &Event) -> u64 {
    match event {
        Event::Outcome(..) | Event::Keys(..) => MESSAGES,
        event => 1 + event.memory() / MESSAGE_BYTES,
    }
}

/// Messages that are not written yet, oldest first.
#[derive(Default)]
pub(super) struct Mail {
    events: VecDeque<Event>,
    /// Bytes that they hold.
    bytes: u64,
}

impl Mail {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes that the messages hold.
    pub(super) fn memory(&self) -> u64 {
        self.bytes
    }

    pub(super) fn push(&mut self, event: Event) {
        self.bytes += event.memory();
        self.events.push_back(event);
    }

    /// The oldest message.
    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.bytes -= event.memory();
        Some(event)
    }

    /// Gives back the memory of a queue that was long and is empty.
    pub(super) fn shrink(&mut self) {
        if self.events.is_empty() && self.events.capacity() > KEEP_MAIL {
            self.events = VecDeque::new();
        }
    }

    /// All messages; none is left.
    pub(super) fn take_all(&mut self) -> VecDeque<Event> {
        self.bytes = 0;
        std::mem::take(&mut self.events)
    }
}
