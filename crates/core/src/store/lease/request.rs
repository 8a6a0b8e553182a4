//! What is asked of leases, and what they answer.

use std::sync::Arc;

use crate::store::events::ConnectionId;
use crate::store::types::Item;

/// Who asks for a key and what for.
#[derive(Clone, Copy, Debug)]
pub struct FetchRequest {
    /// Who.
    pub connection: ConnectionId,
    /// The number under which the outcome is told, if it has to wait.
    pub wait: u64,
    /// Until when it would wait, if it does.
    pub deadline: Option<u64>,
    /// How long a lease it would take, in milliseconds, if it loads.
    pub lease: Option<u64>,
    /// Whether workers load the key.
    pub served: bool,
    /// Whether its lease ends with its connection.
    pub bound: bool,
}

/// What a fetch returns.
#[derive(Clone, Debug)]
pub enum FetchResult<'a> {
    /// A value, or the proof that there is no such row (`item.absent`); and a token, if the caller is to load it anew.
    Found {
        /// What is there.
        item: Item<'a>,
        /// Its time is over.
        stale: bool,
        /// The lease to load it anew, if the caller got it.
        token: Option<u64>,
    },
    /// Nothing is there, and the caller is to load it.
    Lease(u64),
    /// Somebody else loads it; the outcome is told when it is there.
    Waits,
    /// Somebody else loads it, and the caller does not wait.
    Busy,
    /// Nothing is there, nobody loads it, and the caller does not either.
    Nothing,
    /// The last load failed, too short a while ago to try again, for this reason.
    Failed(Arc<str>),
    /// Too many wait or load: the caller loads without a lease.
    Full,
}

/// What became of a FILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum TokenCheck {
    /// The token is good; the value is to be kept with this tag clock.
    Good(u64),
    /// The key was changed, or a tag of the value invalidated, since the token was granted; or the token means nothing.
    Changed,
    TagInvalidated,
    Late,
}

/// Why a lease passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// Its holder gave it up, never got it, or is a client that has other connections and did not renew it over them.
    Released,
    /// Its holder is gone.
    Ended,
    /// Its time is over.
    TimedOut,
}

/// The moment of a step: the token that it may grant, the tag clock, and the time.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct StepContext {
    pub(in crate::store) token: u64,
    pub(in crate::store) clock: u64,
    pub(in crate::store) now: u64,
}
