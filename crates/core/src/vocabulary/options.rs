//! On what writes depend, and when what they write expires.

/// When a written value expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Never, or when memory is wanted.
    #[default]
    Never,
    /// As the value before it.
    Keep,
    /// After so many milliseconds.
    In(u64),
    /// At so many milliseconds of the wall clock.
    At(u64),
}

/// On what a SET depends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition<'a> {
    /// On nothing.
    #[default]
    Always,
    /// There is no such key.
    Absent,
    /// There is such a key.
    Present,
    /// The value has these bytes.
    Equals(&'a [u8]),
    /// The value is, as JSON, equal to this JSON text.
    EqualsJson(&'a [u8]),
    /// As [`EqualsJson`](Condition::EqualsJson), or there is no such key.
    EqualsJsonOrAbsent(&'a [u8]),
}

/// How EXPIRE minds the expiry that a key has already; with nothing set it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpireWhen {
    /// Only a key that has none.
    pub none: bool,
    /// Only a key that has one.
    pub some: bool,
    /// Only later than it is.
    pub later: bool,
    /// Only sooner than it is.
    pub sooner: bool,
}
