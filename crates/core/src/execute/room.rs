//! Whether a transaction fits where nothing may be evicted: EXEC is refused whole before its first request runs, not in the
//! middle of it.

use std::collections::HashMap;

use super::Held;
use super::keyspace::KeyCommand;
use super::scripts::{Script, ScriptCommand};
use super::text::TextCommand;
use crate::cache::{CacheCommand, Keep};
use crate::command::{Args, Command};
use crate::store::Key;

/// Digits of an integer with its sign.
const INTEGER: usize = 20;
/// Longest text of a number with a fraction.
const FRACTION: usize = 512;
/// What may be kept beside a value without tags: times, cost, flags.
const BESIDE: usize = 64;

/// The values that a transaction writes, with the greatest length that each can have.
pub(crate) struct Writes<'a, 'h> {
    held: &'h mut dyn Held,
    db: u8,
    values: Vec<(Key<'a>, usize)>,
    /// Lengths of values as they are after the requests so far.
    lengths: HashMap<(u8, &'a [u8]), usize>,
}

impl<'a, 'h> Writes<'a, 'h> {
    /// None yet; requests begin in a database.
    pub(crate) fn new(held: &'h mut dyn Held, db: u8) -> Writes<'a, 'h> {
        Writes { held, db, values: Vec::new(), lengths: HashMap::new() }
    }

    /// Whether all can be written for sure. A key that is written several times counts each time.
    pub(crate) fn fit(self) -> bool {
        self.held.fits(&mut self.values.into_iter())
    }

    /// Adds what a request writes.
    pub(crate) fn add(&mut self, command: &Command<'a>) {
        match *command {
            Command::Select(db) => self.db = db,
            Command::Set { key, value, .. } => self.write(key, value.len()),
            Command::MSet(pairs) => self.write_pairs(pairs),
            Command::Increment(key, _) => self.write(key, INTEGER),
            Command::Text(text) => self.add_text(&text),
            Command::Key(KeyCommand::Copy { from, to, db, rename, .. }) => {
                let (from, to) = (self.here(from), Key { db: db.unwrap_or(self.db), bytes: to });
                // What is renamed takes no more memory than before, unless its key becomes longer.
                self.copy(from, to, rename.is_none() || to.bytes.len() > from.bytes.len());
            }
            Command::Script(ScriptCommand::Run { script, keys, args }) => {
                let length = if script == Script::Exchange { args.get(0).map_or(0, <[u8]>::len) } else { INTEGER };
                keys.iter().filter(|_| script != Script::Clear).for_each(|key| self.write(key, length));
            }
            Command::Cache(
                CacheCommand::Set { key, value, keep, .. } | CacheCommand::Fill { key, value, keep, .. },
            ) => {
                self.write(key, value.len() + beside(&keep));
            }
            Command::Cache(CacheCommand::Increment { key, keep, .. }) => self.write(key, INTEGER + beside(&keep)),
            _ => {}
        }
    }

    fn add_text(&mut self, command: &TextCommand<'a>) {
        match *command {
            TextCommand::Append(key, more) => {
                let length = self.length(self.here(key));
                self.write(key, length + more.len());
            }
            TextCommand::SetRange(key, at, part) => {
                let length = self.length(self.here(key));
                self.write(key, length.max(part.len().saturating_add(at as usize)));
            }
            TextCommand::Add(key, _) => self.write(key, FRACTION),
            TextCommand::SetNew(key, value) => self.write(key, value.len()),
            TextCommand::SetAllNew(pairs) => self.write_pairs(pairs),
            _ => {}
        }
    }

    fn here(&self, bytes: &'a [u8]) -> Key<'a> {
        Key { db: self.db, bytes }
    }

    /// The length of a value; 0 if there is none.
    fn length(&mut self, key: Key<'a>) -> usize {
        let held = &mut self.held;
        let there = || held.entry(key).peek().map_or(0, |item| item.value.bytes().len());
        *self.lengths.entry((key.db, key.bytes)).or_insert_with(there)
    }

    fn write(&mut self, bytes: &'a [u8], length: usize) {
        let key = self.here(bytes);
        self.values.push((key, length));
        self.lengths.insert((key.db, bytes), length);
    }

    fn write_pairs(&mut self, pairs: Args<'a>) {
        let values = pairs.iter().skip(1).step_by(2);
        pairs.iter().step_by(2).zip(values).for_each(|(key, value)| self.write(key, value.len()));
    }

    fn copy(&mut self, from: Key<'a>, to: Key<'a>, grows: bool) {
        let length = self.length(from);
        self.lengths.insert((to.db, to.bytes), length);
        if grows {
            self.values.push((to, length + BESIDE + 8 * crate::cache::MAX_TAGS));
        }
    }
}

fn beside(keep: &Keep<'_>) -> usize {
    BESIDE + 8 * keep.tags.len()
}
