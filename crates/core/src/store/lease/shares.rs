//! What each connection takes of the memory for leases.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::store::events::ConnectionId;
use crate::store::tags::Identity;

/// Part of a bound that one connection may take, as a divisor, once all that is taken leaves no more than a certain part of
/// it: a connection that is alone is refused nothing that nobody else needs, and others find room beside it.
const SHARE_PART: usize = 4;

/// Bytes that each connection has of something.
#[derive(Default)]
pub(super) struct Shares(pub(super) HashMap<u64, usize, BuildHasherDefault<Identity>>);

impl Shares {
    pub(super) fn take(&mut self, connection: ConnectionId, bytes: usize) {
        *self.0.entry(connection.id).or_default() += bytes;
    }

    pub(super) fn give_back(&mut self, connection: ConnectionId, bytes: usize) {
        if let Some(used) = self.0.get_mut(&connection.id) {
            *used = used.saturating_sub(bytes);
            if *used == 0 {
                self.0.remove(&connection.id);
            }
        }
    }

    /// Whether a connection may have so many bytes more, if it may have a share of `most`.
    pub(super) fn allow(&self, connection: ConnectionId, bytes: usize, most: usize) -> bool {
        self.0.get(&connection.id).is_none_or(|used| used + bytes <= most / SHARE_PART)
    }
}
