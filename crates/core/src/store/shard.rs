//! One shard: a plain map for now.

use super::*;

struct Slot {
    value: Box<[u8]>,
    version: u64,
    flags: u32,
    expires_at: Option<u64>,
    fresh_until: Option<u64>,
    absent: bool,
}

pub(super) struct Shard {
    map: HashMap<(u8, Box<[u8]>), Slot>,
    now: u64,
    version: u64,
    max_value: usize,
    stats: Stats,
}

/// One key of a locked shard.
pub struct Entry<'a> {
    shard: &'a mut Shard,
    key: Key<'a>,
    now: u64,
}

impl Shard {
    pub(super) fn new(options: &Options) -> Shard {
        Shard {
            map: HashMap::new(),
            now: 0,
            version: options.epoch,
            max_value: options.max_value,
            stats: Stats::default(),
        }
    }

    /// Time never goes back within a shard, whatever clock reading a thread comes with.
    pub(super) fn advance(&mut self, now: u64) -> u64 {
        self.now = self.now.max(now);
        self.now
    }

    pub(super) fn sweep(&mut self, now: u64) {
        self.map.retain(|_, slot| slot.expires_at.is_none_or(|at| now < at));
    }

    pub(super) fn clear(&mut self, db: Option<u8>) {
        self.map.retain(|key, _| db.is_some_and(|db| key.0 != db));
    }

    pub(super) fn len(&self, db: u8, now: u64) -> u64 {
        let now = self.now.max(now);
        self.map
            .iter()
            .filter(|(key, slot)| key.0 == db && !slot.absent && slot.expires_at.is_none_or(|at| now < at))
            .count() as u64
    }

    pub(super) fn each(&self, db: u8, now: u64, visit: &mut dyn FnMut(&[u8], &Item<'_>)) {
        let now = self.now.max(now);
        for (key, slot) in &self.map {
            if key.0 == db && !slot.absent && slot.expires_at.is_none_or(|at| now < at) {
                visit(&key.1, &slot.item());
            }
        }
    }

    pub(super) fn stats(&self) -> Stats {
        Stats { items: self.map.len() as u64, ..self.stats }
    }
}

impl Slot {
    fn item(&self) -> Item<'_> {
        Item {
            value: Value::Inline(&self.value),
            version: self.version,
            flags: self.flags,
            expires_at: self.expires_at,
            fresh_until: self.fresh_until,
            absent: self.absent,
        }
    }
}

impl<'a> Entry<'a> {
    pub(super) fn new(shard: &'a mut Shard, key: Key<'a>, _hash: u64, now: u64) -> Entry<'a> {
        Entry { shard, key, now }
    }

    /// The clock of this step; never behind what the shard has seen.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The live item, as a reader sees it: counted as hit or miss and remembered as used.
    pub fn get(&mut self) -> Option<Item<'_>> {
        let found = self.peek().is_some();
        if found {
            self.shard.stats.hits += 1;
        } else {
            self.shard.stats.misses += 1;
        }
        self.peek()
    }

    /// The live item, leaving no trace.
    pub fn peek(&self) -> Option<Item<'_>> {
        let slot = self.shard.map.get(&(self.key.db, Box::from(self.key.bytes)))?;
        (!slot.absent && slot.expires_at.is_none_or(|at| self.now < at)).then(|| slot.item())
    }

    /// Writes a value with all that is kept beside it; voids the lease of the key. Returns the new version.
    pub fn set(&mut self, value: &[u8], meta: &Meta<'_>) -> Result<u64, Refused> {
        if value.len() > self.shard.max_value {
            return Err(Refused::TooLarge);
        }
        self.shard.version += 1;
        let slot = Slot {
            value: value.into(),
            version: self.shard.version,
            flags: meta.flags,
            expires_at: meta.expires_at,
            fresh_until: meta.fresh_until,
            absent: meta.absent,
        };
        self.shard.map.insert((self.key.db, self.key.bytes.into()), slot);
        Ok(self.shard.version)
    }

    /// Writes a value derived from the live one: flags, times, tags and tag clock stay.
    /// Returns the new version. Must follow a [`peek`](Entry::peek) that found an item.
    pub fn replace(&mut self, value: &[u8]) -> Result<u64, Refused> {
        let item = self.peek().expect("an item to replace");
        let meta =
            Meta { flags: item.flags, expires_at: item.expires_at, fresh_until: item.fresh_until, ..Meta::default() };
        self.set(value, &meta)
    }

    /// Removes the item and voids the lease; whether there was a live one.
    pub fn remove(&mut self) -> bool {
        let live = self.peek().is_some();
        self.shard.version += 1;
        self.shard.map.remove(&(self.key.db, Box::from(self.key.bytes)));
        live
    }

    /// Sets when the live item expires; neither its version nor a lease changes. Whether there was one.
    pub fn expire(&mut self, at: Option<u64>) -> bool {
        if self.peek().is_none() {
            return false;
        }
        let slot = self.shard.map.get_mut(&(self.key.db, Box::from(self.key.bytes))).expect("just seen");
        slot.expires_at = at;
        true
    }
}
