//! What is answered, whatever protocol it goes by.

use std::ops::Range;
use std::sync::Arc;

use super::error::Error;

/// Bytes of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blob {
    /// A part of the context's scratch buffer: small values are copied there under the lock.
    Scratch(Range<usize>),
    /// A large value, shared with the store.
    Shared(Arc<[u8]>),
    /// Bytes made for this reply.
    Owned(Vec<u8>),
}

impl Blob {
    /// The bytes; `scratch` is that of the context the reply was made in.
    pub fn bytes<'a>(&'a self, scratch: &'a [u8]) -> &'a [u8] {
        match self {
            Blob::Scratch(range) => &scratch[range.clone()],
            Blob::Shared(bytes) => bytes,
            Blob::Owned(bytes) => bytes,
        }
    }

    /// Bytes that it takes: those in the scratch buffer, too.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Blob::Scratch(range) => range.len(),
            Blob::Shared(bytes) => bytes.len(),
            Blob::Owned(bytes) => bytes.capacity(),
        }
    }
}

/// What was found under several keys, in the order they were asked for. Replies of hundreds of values are made of this,
/// not of a [`Reply`] for each: that took a fifth of the time of an MGET of 100 keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    /// Where the small values begin in the context's scratch buffer; they lie there one after another.
    start: usize,
    parts: Vec<Part>,
    shared: Vec<Arc<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Missing,
    /// Bytes of a small value, and its flags.
    Small(u32, u32),
    /// The next of the shared values, and its flags.
    Large(u32),
}

impl Values {
    /// Room for so many values, of which the small ones are appended to `scratch`.
    pub fn new(count: usize, scratch: &[u8]) -> Values {
        Values { start: scratch.len(), parts: Vec::with_capacity(count), shared: Vec::new() }
    }

    /// Nothing was found under the next key.
    #[inline(always)]
    pub fn push_missing(&mut self) {
        self.parts.push(Part::Missing);
    }

    /// Appends a small value that was found under the next key, with its flags.
    #[inline(always)]
    pub fn push_small(&mut self, bytes: &[u8], flags: u32, scratch: &mut Vec<u8>) {
        scratch.extend_from_slice(bytes);
        self.parts.push(Part::Small(bytes.len() as u32, flags));
    }

    /// Appends a large value that was found under the next key, with its flags.
    #[inline(always)]
    pub fn push_large(&mut self, bytes: &Arc<[u8]>, flags: u32) {
        self.shared.push(Arc::clone(bytes));
        self.parts.push(Part::Large(flags));
    }

    /// How many keys there were.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn memory(&self) -> usize {
        let each = self.parts.iter().map(|part| match part {
            Part::Small(length, _) => *length as usize,
            Part::Missing | Part::Large(_) => 0,
        });
        size_of_val(&*self.parts) + each.sum::<usize>() + self.shared.iter().map(|value| value.len()).sum::<usize>()
    }

    /// Whether nothing was found under some key.
    pub fn any_missing(&self) -> bool {
        self.parts.contains(&Part::Missing)
    }

    /// Under how many keys nothing was found.
    pub fn missing(&self) -> usize {
        self.parts.iter().filter(|part| **part == Part::Missing).count()
    }

    /// The values with their flags.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Option<(Piece<'_>, u32)>> {
        let (mut at, mut shared) = (self.start, self.shared.iter());
        self.parts.iter().map(move |part| match *part {
            Part::Missing => None,
            Part::Small(length, flags) => {
                let start = at;
                at += length as usize;
                Some((Piece::Scratch(start..at), flags))
            }
            Part::Large(flags) => shared.next().map(|value| (Piece::Shared(value), flags)),
        })
    }

    /// The same as a reply for each: null, a value, or a value and its flags unless they are 0.
    pub fn replies(&self) -> Vec<Reply> {
        let each = |(piece, flags)| {
            let value = Reply::Value(match piece {
                Piece::Scratch(range) => Blob::Scratch(range),
                Piece::Shared(value) => Blob::Shared(Arc::clone(value)),
            });
            if flags == 0 { value } else { Reply::Array(vec![value, Reply::Int(i64::from(flags))]) }
        };
        self.iter().map(|found| found.map_or(Reply::Null, each)).collect()
    }
}

/// One of several values.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A part of the context's scratch buffer.
    Scratch(Range<usize>),
    /// A large value.
    Shared(&'a Arc<[u8]>),
}

/// An item that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its value.
    pub value: Blob,
    /// The number to compare: its version, or what a client chose instead.
    pub version: u64,
    /// What the client keeps with it.
    pub flags: u32,
    /// Seconds it has to live, rounded up.
    pub ttl: Option<u32>,
    /// Bytes of the value.
    pub size: u32,
    /// Who loads it anew.
    pub recache: Recache,
}

/// What the reader of an item is told of its being loaded anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recache {
    /// Its time is over.
    pub stale: bool,
    /// This reader has the lease, and its token is what [`Found::version`] tells.
    pub won: bool,
    /// Somebody else has it.
    pub taken: bool,
}

/// What is under a key that was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A value.
    Hit,
    /// A value whose time to be fresh is over.
    Stale,
    /// The proof that there is no such row.
    Absent,
    /// Nothing.
    Miss,
    /// Nothing yet: somebody else loads it.
    Waiting,
    /// Nothing: the time to wait is over.
    Timeout,
}

impl State {
    /// Its name, in all protocols.
    pub fn word(self) -> &'static str {
        match self {
            State::Hit => "hit",
            State::Stale => "stale",
            State::Absent => "absent",
            State::Miss => "miss",
            State::Waiting => "waiting",
            State::Timeout => "timeout",
        }
    }

    /// Whether there is an item.
    pub fn is_found(self) -> bool {
        matches!(self, State::Hit | State::Stale | State::Absent)
    }
}

/// What a fetch returns, whatever protocol it goes by. Times in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// What is there.
    pub state: State,
    /// The value; of a key that is known to be absent, the name of the exception that says so, if any.
    pub value: Option<Blob>,
    /// The lease, if the caller is to load it; the ticket, if it waits.
    pub token: Option<u64>,
    /// The item's version; None if there is none, or what was loaded could not be stored.
    pub version: Option<u64>,
    /// How long it has to live, if it expires.
    pub ttl: Option<u64>,
    /// What clients keep with it.
    pub flags: u32,
    /// How long ago it was written, if that is kept.
    pub age: Option<u64>,
}

impl Fetched {
    /// Nothing was found.
    pub fn nothing(state: State, token: Option<u64>) -> Fetched {
        Fetched { state, value: None, token, version: None, ttl: None, flags: 0, age: None }
    }

    /// How long it has to live, as clients are told: -1: it does not expire; -2: there is no item.
    pub fn ttl_told(&self) -> i64 {
        self.ttl.map_or(if self.state.is_found() { -1 } else { -2 }, |ttl| ttl as i64)
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It was done.
    Ok,
    /// A word, such as PONG.
    Word(&'static str),
    /// A number.
    Int(i64),
    /// Nothing: no such key, no value, not done.
    Null,
    /// Nothing where there would be several answers.
    NoArray,
    /// A value found under a key.
    Value(Blob),
    /// An item found under a key.
    Item(Found),
    /// What a fetch returns.
    Fetched(Box<Fetched>),
    /// The same with its age.
    Entry(Box<Fetched>),
    /// The version of what was written; None if it was not.
    Stored(Option<u64>),
    /// Text for people.
    Text(String),
    /// What was found under several keys.
    Values(Values),
    /// Several answers.
    Array(Vec<Reply>),
    /// Answers without order or repetition.
    Set(Vec<Reply>),
    /// Answers under names.
    Map(Vec<(&'static str, Reply)>),
    /// Something that was not asked for just now.
    Push(Vec<Reply>),
    /// Several answers, one after the other, to one request.
    Several(Vec<Reply>),
    /// The answer comes when what the command waits for is there.
    Parked,
    /// It was not done.
    Error(Error),
    /// What is the same whenever it is asked, made once.
    Fixed(&'static Reply),
}

impl Reply {
    /// Bytes that it takes until it is sent, with those that are copied for it.
    pub fn memory(&self) -> usize {
        let all = |replies: &[Reply]| replies.iter().map(Reply::memory).sum::<usize>();
        size_of::<Reply>()
            + match self {
                Reply::Value(blob) | Reply::Item(Found { value: blob, .. }) => blob.memory(),
                Reply::Fetched(fetched) | Reply::Entry(fetched) => {
                    size_of::<Fetched>() + fetched.value.as_ref().map_or(0, Blob::memory)
                }
                Reply::Text(text) => text.len(),
                Reply::Values(values) => values.memory(),
                Reply::Array(replies) | Reply::Set(replies) | Reply::Push(replies) | Reply::Several(replies) => {
                    all(replies)
                }
                Reply::Map(pairs) => pairs.iter().map(|(name, value)| name.len() + value.memory()).sum(),
                Reply::Error(error) => error.text.len(),
                Reply::Fixed(reply) => reply.memory(),
                _ => 0,
            }
    }

    /// A value of these bytes.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply::Value(Blob::Owned(bytes.into()))
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Reply {
        Reply::Error(error)
    }
}
