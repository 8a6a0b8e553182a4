//! Leases as the connections that hold them remember them.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::store::tags::Identity;

/// A lease as its holder remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The hash of its key.
    pub(in crate::store) hash: u64,
    pub(super) token: u64,
}

impl Hold {
    pub(in crate::store) fn new(hash: u64, token: u64) -> Hold {
        Hold { hash, token }
    }
}

impl Hash for Hold {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A hash already, and few tokens of one key are known at a time.
        state.write_u64(self.hash);
    }
}

/// The leases that a connection was granted and has not answered. Those that ended otherwise, because another connection
/// filled them, say, are forgotten when the list has doubled: it has at most twice as many as the connection holds, and a
/// few.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    all: HashSet<Hold, BuildHasherDefault<Identity>>,
    /// How many there may be before those that ended are looked for.
    most: usize,
    /// When a full list may be looked through again.
    full_until: u64,
}

impl Holds {
    /// How many there are before it is worth while to look for ended ones.
    const FEW: usize = 64;
    /// How often a list that is full is looked through, in milliseconds.
    const PAUSE: u64 = 100;

    /// A lease was granted to the connection; `stands` tells whether it still holds a lease.
    pub fn add(&mut self, hold: Hold, stands: impl FnMut(Hold) -> bool) {
        self.all.insert(hold);
        if self.all.len() > self.most.max(Self::FEW) {
            self.forget_ended(stands);
        }
    }

    /// The connection has answered for a lease.
    pub fn remove(&mut self, hold: Hold) {
        self.all.remove(&hold);
    }

    /// Whether it remembers a lease.
    pub fn has(&self, hold: Hold) -> bool {
        self.all.contains(&hold)
    }

    /// Whether the connection holds any lease.
    pub fn any(&mut self, mut stands: impl FnMut(Hold) -> bool) -> bool {
        while let Some(hold) = self.all.iter().next().copied() {
            if stands(hold) {
                return true;
            }
            self.all.remove(&hold);
        }
        false
    }

    /// Whether it holds so many leases.
    pub fn is_full(&mut self, limit: usize, now: u64, stands: impl FnMut(Hold) -> bool) -> bool {
        if self.all.len() >= limit && now >= self.full_until {
            self.forget_ended(stands);
            self.full_until = now + Self::PAUSE;
        }
        self.all.len() >= limit
    }

    /// Takes all of them.
    pub fn take(&mut self) -> impl Iterator<Item = Hold> + use<> {
        std::mem::take(self).all.into_iter()
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.all.capacity() * (size_of::<Hold>() + 1)
    }

    fn forget_ended(&mut self, mut stands: impl FnMut(Hold) -> bool) {
        self.all.retain(|hold| stands(*hold));
        self.most = 2 * self.all.len();
        self.all.shrink_to(self.most);
    }
}
