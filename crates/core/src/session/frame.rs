//! Requests that were read and not run yet.

use crate::protocol::memcached;
use crate::store::AHEAD;
use crate::table::{Fast, Row};
use crate::vocabulary::{Args, Command, Condition, Expiry, check_keys};

/// Requests that are read ahead, so that their index buckets are on the way to the processor before the first runs.
pub(super) const BATCH: usize = AHEAD;

/// Longest value that is written in one step with others, since nobody else gets at their shards meanwhile.
const MAX_TOGETHER: usize = 4096;

/// A request that was read and not run yet.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) start: usize,
    pub(super) spans: (usize, usize),
    pub(super) name: Name,
    /// It is nothing but a step of the store.
    pub(super) plain: Option<Plain>,
}

/// What the first word of a request names.
#[derive(Clone, Copy)]
pub(super) enum Name {
    Redis(Option<&'static Row>),
    Memcached(memcached::Call),
    /// As `Redis`, of a request that ends before an argument that is too long: the last that was read.
    TooLong,
}

/// A step of the store, on the key that is the first argument.
#[derive(Clone, Copy)]
pub(super) enum Plain {
    Get,
    /// Writes the second argument.
    Set(Expiry),
}

impl Plain {
    /// What a request is, if its row has a short way and its words are as plain as that.
    #[inline]
    pub(super) fn new(row: &'static Row, args: Args<'_>) -> Option<Plain> {
        let plain = match (row.fast?, args.len()) {
            (Fast::Get, 2) => Plain::Get,
            (Fast::Set, 3) => Plain::Set(Expiry::Never),
            (Fast::Set, 5) => match (row.read)(row, args.from(1)) {
                Ok(Command::Set { expiry: Expiry::Keep, .. }) => return None,
                Ok(Command::Set { expiry, condition: Condition::Always, get: false, .. }) => Plain::Set(expiry),
                _ => return None,
            },
            _ => return None,
        };
        let short = args.get(2).is_none_or(|value| value.len() <= MAX_TOGETHER);
        (short && check_keys(args.get(1).into_iter()).is_ok()).then_some(plain)
    }
}
