//! Commands that know of an item's flags and version: memcached's.

use super::args::Args;
use super::options::Expiry;

/// What a write of memcached does with the value that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Replaces it, or there was none.
    Set,
    /// Nothing: there must be none.
    Add,
    /// Replaces it: there must be one.
    Replace,
    /// Puts the new bytes behind it; flags and expiry stay.
    Append,
    /// Puts the new bytes before it; flags and expiry stay.
    Prepend,
}

/// What is asked by clients who keep an item's flags and version. Where a `version` is given the item must have it,
/// or nothing is done.
#[derive(Clone, Copy, Debug)]
pub enum MemcachedCommand<'a> {
    /// Items, each as of the moment it is looked at; the answer is an array unless there is one key.
    Get {
        /// Their keys.
        keys: Args<'a>,
        /// When those found expire from now on.
        expiry: Option<Expiry>,
    },
    /// One item with everything kept beside its value.
    MetaGet {
        /// Its key.
        key: &'a [u8],
        /// When it expires from now on.
        expiry: Option<Expiry>,
        /// Whether the value itself is wanted.
        value: bool,
        /// Whether the look counts as use.
        used: bool,
        /// Takes the lease if there is no item, for so long: the answer is an item without bytes.
        vivify: Option<Expiry>,
        /// Takes the lease if the item ends within this time.
        recache: Option<Expiry>,
    },
    /// Writes a value; the answer is the item, without its value, or nothing if `mode` forbids it. A `version` may also
    /// be a lease of the key: then the value was loaded under it.
    Store {
        /// The key.
        key: &'a [u8],
        /// The value, or the bytes to add to it.
        value: &'a [u8],
        /// What the client keeps with it.
        flags: u32,
        /// When it expires.
        expiry: Expiry,
        /// What is done with the value that is there.
        mode: Mode,
        /// The version the item must have.
        version: Option<u64>,
        /// Writes the value if there is none to add to; when it expires.
        vivify: Option<Expiry>,
        /// The number that the client wants to know the new version by.
        cas: Option<u64>,
        /// Stores the value as stale, with the expiry of what is there, if `version` is older than that.
        stale: bool,
    },
    /// Removes an item; the answer is nothing if there is none.
    Remove {
        /// Its key.
        key: &'a [u8],
        /// The version it must have.
        version: Option<u64>,
    },
    /// Keeps an item and marks it as stale, or takes only its value away; the answer is nothing if there is none.
    MetaDelete {
        /// Its key.
        key: &'a [u8],
        /// The version it must have.
        version: Option<u64>,
        /// Whether it is stale from now on.
        stale: bool,
        /// Whether its value and flags go.
        empty: bool,
        /// When it expires from now on.
        expiry: Option<Expiry>,
        /// The number that the client wants to know the new version by.
        cas: Option<u64>,
    },
    /// Counts in 64 bits without a sign: up with wrapping, down to 0 and no further.
    Arithmetic {
        /// The key.
        key: &'a [u8],
        /// By how much.
        delta: u64,
        /// Whether it is taken away.
        down: bool,
        /// What to begin with if there is none, and when that expires.
        initial: Option<(u64, Expiry)>,
        /// The version the item must have.
        version: Option<u64>,
        /// When the item expires from now on.
        expiry: Option<Expiry>,
        /// The number that the client wants to know the new version by.
        cas: Option<u64>,
    },
    /// Sets when an item expires; the answer is nothing if there is none.
    Touch {
        /// Its key.
        key: &'a [u8],
        /// When.
        expiry: Expiry,
    },
}
