//! The clocks, which are read elsewhere and handed in.

/// The two clocks, in milliseconds, as read once per batch of input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: what all durations are measured with, so that a jump of the wall clock expires nothing.
    pub mono: u64,
    /// Unix time.
    pub wall: u64,
}
