//! Who holds how many leases of a shard.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::key_lease::Lease;
use crate::store::tags::Identity;

/// How many leases each connection holds, and how many belong to no connection.
#[derive(Default)]
pub(super) struct Holders {
    pub(super) by_connection: HashMap<u64, usize, BuildHasherDefault<Identity>>,
    pub(super) unbound: usize,
}

impl Holders {
    /// Who holds a lease may be another one now, or nobody.
    #[inline]
    pub(super) fn recount(&mut self, lease: &mut Lease) {
        let holder = lease.holder().map(|grant| grant.holder.map(|connection| connection.id));
        if holder != lease.place.counted {
            self.replace(std::mem::replace(&mut lease.place.counted, holder), holder);
        }
    }

    pub(super) fn replace(&mut self, before: Option<Option<u64>>, after: Option<Option<u64>>) {
        match after {
            Some(Some(id)) => *self.by_connection.entry(id).or_default() += 1,
            Some(None) => self.unbound += 1,
            None => {}
        }
        match before {
            Some(Some(id)) => {
                if let Some(count) = self.by_connection.get_mut(&id) {
                    *count -= 1;
                    if *count == 0 {
                        self.by_connection.remove(&id);
                    }
                }
            }
            Some(None) => self.unbound -= 1,
            None => {}
        }
    }

    /// Each connection that holds any, or None, with their number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<u64>, usize)> {
        self.by_connection.iter().map(|(id, count)| (Some(*id), *count)).chain([(None, self.unbound)])
    }
}
