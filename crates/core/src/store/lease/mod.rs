//! Leases: at most one party at a time holds the lease to load a key; everyone else gets a stale value or waits.
//!
//! A lease is a state of its key, changed only under the lock of the key's shard. The rules, and what goes wrong
//! without each:
//!
//! 1. Tokens come from the counter of versions, so none is ever granted twice: not by a later life of the server either.
//! 2. A change of the value *voids*: no token granted before is good for storing any more. Else: A reads v1 from the
//!    database, B writes v2 and removes the key, A stores v1, and v1 stays. Expiry, eviction and new times to live void
//!    nothing: what a load returns is as good as before.
//! 3. A lease that passes on (its time is over, its holder is gone) voids nothing either, nor does a failure: every other
//!    token since the last void stays good until it is too old, and the first to store wins. Else a query slower than the
//!    lease is never stored.
//! 4. Who waits remembers how often the key was voided and the tag clock when it joined. A refused value is handed,
//!    unstored, to those who joined before what refused it; the others go on waiting, since they may have seen the write.
//! 5. At most one voided load runs beside the valid one. Else a key that is invalidated faster than it is loaded starts
//!    one more query with each invalidation.
//! 6. At most two holders in a row may end or let their time pass, then all who wait get an error. Else a row that kills
//!    its loader kills one after another. A failure holds the key off for a while, so that a database in trouble is asked
//!    seldom. A waiter that is gone and a lease that could not be delivered are no failures: nobody has tried to load.
//!    Nor is it one if a lease lapses whose connection is gone while others of the same client are there: that client has
//!    not renewed what it does not know of, because it was interrupted before it read the grant.
//! 7. A lease that is released is granted again at once, but not to one that releases it again and again: then it rests.
//!    Else server and worker hand it back and forth as fast as they can.
//! 8. Whom a step concerns is decided from what the key is when the step is over: inside a transaction nobody is shown
//!    what was there for a moment.

mod due;
mod fetch;
mod fill;
mod grant;
mod holders;
mod holds;
mod key_lease;
mod request;
mod shares;
mod table;
mod watch;

pub use holds::{Hold, Holds};
pub use key_lease::{Changes, HoldOff};
pub use request::{FetchRequest, FetchResult};
pub(super) use request::{StepContext, TokenCheck};
pub(super) use table::Leases;
