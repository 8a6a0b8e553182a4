//! What a reader finds in the input.

use crate::vocabulary::Error;

/// What the input holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A whole request of so many bytes; its arguments, if any, are the spans that were added.
    Request(usize),
    /// The beginning of one. There is no use in asking again with less than so many bytes.
    More(usize),
    /// No request and none can follow.
    Broken(Error),
    /// No request, none can follow, and there is nothing to answer.
    Close,
}
