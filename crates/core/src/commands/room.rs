//! Whether a transaction fits where nothing may be evicted, and what its writes cost: EXEC is refused whole before its first
//! request runs, not in the middle of it.

use std::collections::HashMap;

use super::context::{BYTES_OF_A_KEY, MAX_COST};
use crate::store::{Key, Locked, MAX_INLINE, Written};
use crate::table::{Copies, Row, Uses, flag, redis};
use crate::vocabulary::{
    After, Args, CacheCommand, Command, Condition, EntryOptions, KeyCommand, Script, ScriptCommand, SetCondition,
    TextCommand,
};

/// Digits of an integer with its sign.
const INTEGER: usize = 20;
/// Longest text of a number with a fraction.
const FRACTION: usize = 512;
/// What may be kept beside a value without tags: times, cost, flags.
const BESIDE: usize = 64;
/// What the tags of a value take at most.
const TAGS: usize = 8 * crate::limits::MAX_TAGS;
/// What FLUSHALL costs, in keys that are looked at, beside the leases that it ends.
const FLUSH: usize = 256;

/// Whether what a transaction writes may cost too much: then it is looked at before anything of it is run.
pub(crate) fn may_cost_much<'a>(
    requests: impl Iterator<Item = (&'static Row, Args<'a>)>,
    max_value: usize,
    leases: usize,
) -> bool {
    let each = requests.map(|(row, args)| most_cost(row, args, max_value, leases));
    each.fold(0, usize::saturating_add) > MAX_COST
}

/// What a request that writes costs at most beyond its own bytes and keys.
fn most_cost(row: &Row, args: Args<'_>, max_value: usize, leases: usize) -> usize {
    match (row.uses, row.copies) {
        (Uses::AllKeys, _) => FLUSH + leases,
        (_, Copies::Long) => max_value / BYTES_OF_A_KEY,
        (_, Copies::TwoShort) => 2 * MAX_INLINE / BYTES_OF_A_KEY,
        (_, Copies::Short) => MAX_INLINE / BYTES_OF_A_KEY,
        (Uses::ValueBefore, _) if redis::asks_for_value(args) => MAX_INLINE / BYTES_OF_A_KEY,
        (_, Copies::Usual) if row.has(flag::WRITE) && row.has(flag::LOAD) => MAX_INLINE / BYTES_OF_A_KEY,
        (_, Copies::Usual) => 0,
    }
}

/// Bytes of a value that are copied with it: one that is longer is shared.
fn copied(length: usize) -> usize {
    if length > MAX_INLINE { 0 } else { length }
}

/// The values that a transaction writes, with the greatest length that each can have.
pub(crate) struct Writes<'a, 'h, 's> {
    held: &'h mut Locked<'s>,
    db: u8,
    values: Vec<Written<'a>>,
    /// Longest value.
    max_value: usize,
    /// Bytes that are copied of values that are there.
    copied: usize,
    /// Times that databases are emptied.
    flushes: usize,
    /// The greatest lengths that values can have after the requests so far; None where there is none for sure.
    lengths: HashMap<(u8, &'a [u8]), Option<usize>>,
}

impl<'a, 'h, 's> Writes<'a, 'h, 's> {
    /// None yet; requests begin in a database.
    pub(crate) fn new(held: &'h mut Locked<'s>, db: u8, max_value: usize) -> Writes<'a, 'h, 's> {
        Writes { held, db, values: Vec::new(), max_value, copied: 0, flushes: 0, lengths: HashMap::new() }
    }

    /// What they cost beyond the bytes and keys of their requests, in keys that are looked at.
    pub(crate) fn cost(&self) -> usize {
        let flush = FLUSH + if self.flushes > 0 { self.held.stats().leases as usize } else { 0 };
        (self.copied / BYTES_OF_A_KEY).saturating_add(self.flushes.saturating_mul(flush))
    }

    /// Whether all can be written for sure. A key that is written several times counts each time.
    pub(crate) fn fit(self) -> bool {
        self.held.fits(self.values.into_iter())
    }

    /// Adds what a request writes.
    pub(crate) fn add(&mut self, command: &Command<'a>) {
        match *command {
            Command::Select(db) => self.db = db,
            Command::Set { key, value, condition, get, .. } => {
                if get {
                    self.copied += copied(self.length(self.here(key)).unwrap_or(0));
                }
                self.write(key, value.len(), condition == Condition::Always);
            }
            Command::MSet(pairs) => self.write_pairs(pairs, true),
            Command::Delete(keys) => keys.iter().for_each(|key| self.remove(self.here(key))),
            // What is no number stays as it is.
            Command::Increment(key, _) => self.write(key, INTEGER, false),
            Command::Expire { key, .. } | Command::Persist(key) => self.change(key),
            Command::Flush { .. } => self.flushes += 1,
            Command::Text(text) => self.add_text(&text),
            Command::Key(KeyCommand::Copy { from, to, db, replace, rename }) => {
                let (from, to) = (self.here(from), Key { db: db.unwrap_or(self.db), bytes: to });
                // What is renamed takes no more memory than before, unless its key becomes longer; but perhaps that of another
                // shard.
                let grows = rename.is_none() || to.bytes.len() > from.bytes.len();
                self.copy(from, to, grows, |is_free| rename.is_some() && (replace || is_free));
            }
            Command::Script(ScriptCommand::Run { script, keys, args }) => {
                let length = if script == Script::Exchange { args.get(0).map_or(0, <[u8]>::len) } else { INTEGER };
                for key in keys.iter().filter(|_| script != Script::Clear) {
                    self.change(key);
                    self.write(key, length, false);
                }
            }
            Command::Cache(
                CacheCommand::Set { key, value, keep, .. } | CacheCommand::Fill { key, value, keep, .. },
            ) => {
                let always = matches!(command, Command::Cache(CacheCommand::Set { only: SetCondition::Always, .. }));
                self.write(key, value.len() + beside(&keep), always);
            }
            Command::Cache(CacheCommand::Increment { key, keep, .. }) => {
                self.write(key, INTEGER + beside(&keep), false);
            }
            _ => {}
        }
    }

    fn add_text(&mut self, command: &TextCommand<'a>) {
        match *command {
            TextCommand::Append(key, more) => {
                let length = self.length(self.here(key)).unwrap_or(0);
                self.make(key, length + more.len());
            }
            TextCommand::SetRange(key, at, part) => {
                let length = self.length(self.here(key)).unwrap_or(0);
                self.make(key, length.max(part.len().saturating_add(at as usize)));
            }
            TextCommand::Add(key, _) => self.write(key, FRACTION, false),
            TextCommand::SetNew(key, value) => self.write(key, value.len(), false),
            TextCommand::SetAllNew(pairs) => self.write_pairs(pairs, false),
            TextCommand::Take(key, after) => {
                self.copied += copied(self.length(self.here(key)).unwrap_or(0));
                match after {
                    After::Stay => {}
                    After::Remove => self.remove(self.here(key)),
                    After::Persist | After::Expire(..) => self.change(key),
                }
            }
            _ => {}
        }
    }

    fn here(&self, bytes: &'a [u8]) -> Key<'a> {
        Key { db: self.db, bytes }
    }

    /// The greatest length that a value can have; None if there is none.
    fn length(&mut self, key: Key<'a>) -> Option<usize> {
        let held = &mut self.held;
        let there = || held.entry(key).peek().map(|item| item.value.bytes().len());
        *self.lengths.entry((key.db, key.bytes)).or_insert_with(there)
    }

    /// A value is written for sure, or perhaps: then the one before may stay.
    fn write(&mut self, bytes: &'a [u8], length: usize, surely: bool) {
        let key = self.here(bytes);
        self.values.push(Written { key, length, from: None });
        let before = if surely { None } else { self.length(key) };
        self.lengths.insert((key.db, bytes), before.max(Some(length)));
    }

    /// A value is made of the one that is there; one that would be too long is refused before that.
    fn make(&mut self, bytes: &'a [u8], length: usize) {
        if length <= self.max_value {
            self.copied += length;
        }
        self.write(bytes, length, false);
    }

    fn write_pairs(&mut self, pairs: Args<'a>, surely: bool) {
        let values = pairs.iter().skip(1).step_by(2);
        pairs.iter().step_by(2).zip(values).for_each(|(key, value)| self.write(key, value.len(), surely));
    }

    /// Something beside a value changes: its item is written anew.
    fn change(&mut self, bytes: &'a [u8]) {
        let key = self.here(bytes);
        if let Some(length) = self.length(key) {
            self.copied += copied(length);
            self.values.push(Written { key, length: length + BESIDE + TAGS, from: Some(key) });
        }
    }

    fn remove(&mut self, key: Key<'a>) {
        self.lengths.insert((key.db, key.bytes), None);
    }

    /// A value is copied, unless there is one that stays; the first one goes if it is moved and nothing is in its way.
    fn copy(&mut self, from: Key<'a>, to: Key<'a>, grows: bool, moves: impl FnOnce(bool) -> bool) {
        let (Some(length), before) = (self.length(from), self.length(to)) else { return };
        self.copied += copied(length);
        self.lengths.insert((to.db, to.bytes), before.max(Some(length)));
        let from_before = (!grows).then_some(from);
        self.values.push(Written { key: to, length: length + BESIDE + TAGS, from: from_before });
        if from != to && moves(before.is_none()) {
            self.remove(from);
        }
    }
}

fn beside(keep: &EntryOptions<'_>) -> usize {
    BESIDE + 8 * keep.tags.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Meta, Options, Store};
    use crate::table::lookup;
    use crate::vocabulary::Span;

    /// The key "k" has a value of 1000 bytes, "short" one of 10, and "other" has none. How long a value can be after some
    /// requests: what is gone counts no more, and what may have stayed still counts.
    #[test]
    fn lengths_follow_the_requests() {
        let options = Options {
            memory: 16 << 20,
            shards: 1,
            evict: false,
            max_value: 1 << 20,
            seed: [1, 2, 3, 4],
            epoch: 1,
            load_limit: 30_000,
        };
        let store = Store::new(options);
        for (key, length) in [("k", 1000), ("short", 10)] {
            let key = Key { db: 0, bytes: key.as_bytes() };
            store.with(key, 1, |entry| entry.set(&vec![b'v'; length], &Meta::default()).unwrap());
        }
        for (requests, (db, key), length) in [
            ("DEL k", (0, "k"), None),
            ("UNLINK other k", (0, "k"), None),
            ("GETDEL k", (0, "k"), None),
            ("GETEX k", (0, "k"), Some(1000)),
            ("DEL k|APPEND k abc", (0, "k"), Some(3)),
            ("GETDEL k|SETRANGE k 4 abc", (0, "k"), Some(7)),
            ("MOVE k 1", (0, "k"), None),
            ("MOVE k 1", (1, "k"), Some(1000)),
            ("MOVE k 1|APPEND k abc", (0, "k"), Some(3)),
            ("SELECT 1|SET k v|SELECT 0|MOVE k 1", (0, "k"), Some(1000)),
            ("RENAME k other|APPEND k a", (0, "k"), Some(1)),
            ("RENAME k k", (0, "k"), Some(1000)),
            ("RENAME other k", (0, "k"), Some(1000)),
            ("RENAMENX short k", (0, "k"), Some(1000)),
            ("RENAMENX short k", (0, "short"), Some(10)),
            ("RENAMENX short other", (0, "short"), None),
            ("COPY short k", (0, "k"), Some(1000)),
            ("COPY k other", (0, "k"), Some(1000)),
            ("SET k v", (0, "k"), Some(1)),
            ("MSET other a k v", (0, "k"), Some(1)),
            // What is not written for sure may leave a longer value.
            ("SETNX k v", (0, "k"), Some(1000)),
            ("SET k v NX|APPEND k a", (0, "k"), Some(1001)),
            ("SET k v IFEQ w", (0, "k"), Some(1000)),
            ("MSETNX k v", (0, "k"), Some(1000)),
            ("INCR k", (0, "k"), Some(1000)),
            ("INCRBYFLOAT k 1", (0, "k"), Some(1000)),
            ("CACHE.SET k v NX", (0, "k"), Some(1000)),
            ("CACHE.FILL k 1 v", (0, "k"), Some(1000)),
            ("CACHE.INCR k 1", (0, "k"), Some(1000)),
        ] {
            let found = store.with_everything(1, |all| length_after(all, requests, (db, key)));
            assert_eq!(found, length, "{key} of {db} after {requests}");
        }
    }

    fn length_after(held: &mut Locked<'_>, requests: &str, (db, key): (u8, &str)) -> Option<usize> {
        let lines: Vec<(Vec<u8>, Vec<Span>)> = requests.split('|').map(spans_of).collect();
        let mut writes = Writes::new(held, 0, 1 << 20);
        for (bytes, spans) in &lines {
            let args = Args::new(bytes, spans);
            let row = lookup(args.get(0).unwrap()).unwrap();
            writes.add(&(row.read)(row, args.from(1)).unwrap());
        }
        writes.length(Key { db, bytes: key.as_bytes() })
    }

    fn spans_of(line: &str) -> (Vec<u8>, Vec<Span>) {
        let start = |word: &str| word.as_ptr() as usize - line.as_ptr() as usize;
        let span = |word: &str| Span { start: start(word) as u32, end: (start(word) + word.len()) as u32 };
        (line.as_bytes().to_vec(), line.split(' ').map(span).collect())
    }
}
