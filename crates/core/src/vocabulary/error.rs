//! Why something was not done.

use std::borrow::Cow;

/// Whose fault an error is; each protocol has its own way to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such command.
    Unknown,
    /// The command cannot be understood.
    Malformed,
    /// The command may not be run, or not by this client.
    Denied,
    /// The value that is there is not what the command needs.
    Mismatch,
    /// There is no such key.
    NotFound,
    /// Something is longer than its limit.
    TooLarge,
    /// Memory is full and nothing may be evicted.
    OutOfMemory,
    /// What the key needs could not be loaded.
    LoadFailed,
    /// There is too much to do at the moment.
    Busy,
    /// The outcome comes later, under a ticket: an error in its form only, so that every client sees that it is no value.
    Waiting,
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Whose fault it is.
    pub kind: Kind,
    /// Code and text as Redis spells them: `ERR syntax error`.
    pub text: Cow<'static, str>,
}

impl Error {
    /// An error with a text known when this was compiled.
    pub const fn new(kind: Kind, text: &'static str) -> Error {
        Error { kind, text: Cow::Borrowed(text) }
    }

    /// An error with a text made for the occasion.
    pub fn with(kind: Kind, text: String) -> Error {
        Error { kind, text: Cow::Owned(text) }
    }
}

/// The options do not fit together.
pub const SYNTAX: Error = Error::new(Kind::Malformed, "ERR syntax error");

/// An argument, or the value, is no number of 64 bits.
pub const NOT_AN_INTEGER: Error = Error::new(Kind::Malformed, "ERR value is not an integer or out of range");

/// The error of a value of so many bytes, where `most` are allowed.
pub fn too_long(length: usize, most: usize) -> Error {
    Error::with(Kind::TooLarge, format!("ERR value of {length} bytes is more than max-value {most}"))
}

/// The item has another version than the command wants.
pub const OTHER_VERSION: Error = Error::new(Kind::Mismatch, "ERR the item has another version");

/// The command wants an item that has a version, and there is none.
pub const NO_SUCH_ITEM: Error = Error::new(Kind::NotFound, "ERR no such item");

/// A pattern is longer than patterns may be.
pub const PATTERN_TOO_LONG: Error =
    Error::new(Kind::TooLarge, "ERR a pattern is too long; at most 1024 bytes are taken");
