//! A transaction of a client: the requests that wait for EXEC, and the keys that it depends on.

use std::sync::Arc;

use super::key_list::{KeyList, Keyed};
use crate::store::{Changes, Key};
use crate::table::{Row, flag};
use crate::vocabulary::{Args, Command, Error, Kind, Reply, Span};

/// The transaction of a client.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// What it has begun.
    pub queue: Option<Box<Queue>>,
    /// What the next one depends on.
    pub watched: KeyList<Watched>,
}

/// Requests that wait for EXEC.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    requests: Vec<(&'static Row, usize)>,
    pub(crate) spoiled: bool,
}

/// A key as it was when it was watched.
#[derive(Clone, Debug)]
pub struct Watched {
    pub(crate) db: u8,
    pub(crate) key: Arc<[u8]>,
    pub(crate) state: Option<(u64, Option<u64>)>,
    /// How often the item had been changed, if there was none: there may be none again after a change.
    pub(crate) changes: Option<Changes>,
    /// The client has read the key since: what is loaded later is a change to what it has read.
    pub(crate) read: bool,
    /// The number of the WATCH: what was asked before it says nothing of the key as it was watched.
    pub(crate) number: u64,
}

impl Keyed for Watched {
    fn db(&self) -> u8 {
        self.db
    }

    fn key(&self) -> &Arc<[u8]> {
        &self.key
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Queue {
    /// Takes a request in.
    pub fn push(&mut self, row: &'static Row, args: Args<'_>, limit: usize) -> Reply {
        let size = |queue: &Queue| queue.bytes.len() + queue.spans.len() * size_of::<Span>();
        let alone = || Reply::Error(Error::new(Kind::Malformed, "ERR Command not allowed inside a transaction"));
        if row.has(flag::ALONE) {
            self.spoiled = true;
            return alone();
        }
        // What has subcommands is read now: one that there is not must not be found out only when the others run.
        if !row.subs.is_empty() {
            let refused = match (row.read)(row, args.from(1)) {
                Err(error) => Some(Reply::Error(error)),
                Ok(Command::Client(command)) if command.takes_locks() => Some(alone()),
                Ok(_) => None,
            };
            if let Some(refused) = refused {
                self.spoiled = true;
                return refused;
            }
        }
        for arg in args.iter() {
            if size(self) > limit {
                self.spoiled = true;
                return Reply::Error(Error::new(Kind::TooLarge, "ERR the transaction is too long"));
            }
            let start = self.bytes.len() as u32;
            self.bytes.extend_from_slice(arg);
            self.spans.push(Span { start, end: self.bytes.len() as u32 });
        }
        self.requests.push((row, self.spans.len()));
        Reply::Word("QUEUED")
    }

    /// How many were taken in.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Bytes that it holds.
    pub fn memory(&self) -> usize {
        let requests = self.requests.capacity() * size_of::<(&'static Row, usize)>();
        self.bytes.capacity() + self.spans.capacity() * size_of::<Span>() + requests
    }

    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static Row, Args<'_>)> + Clone {
        let ends = self.requests.iter().map(|(_, end)| *end);
        let starts = std::iter::once(0).chain(ends);
        self.requests.iter().zip(starts).map(|((row, end), start)| {
            let args = Args::new(&self.bytes, &self.spans[start..*end]);
            (*row, args)
        })
    }

    pub(crate) fn keys(&self, db: u8) -> impl Iterator<Item = Key<'_>> + Clone {
        self.requests().flat_map(move |(row, args)| row.keys(args).map(move |bytes| Key { db, bytes }))
    }

    /// Whether a request may touch more than the keys that it names in the selected database.
    pub(crate) fn is_wide(&self) -> bool {
        self.requests().any(|(row, _)| row.has(flag::WIDE) || row.keys.0 == 0 && !row.has(flag::CONNECTION))
    }
}
