//! What the numbers in a segment count from.

/// What the numbers in a segment count from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bases {
    pub(super) version: u64,
    pub(super) time: u64,
    pub(super) clock: u64,
}

impl Bases {
    /// Bases for a segment opened now: half the range of u32 lies before them, so that older items can be copied here
    /// without wide numbers.
    pub(super) fn new(version: u64, time: u64, clock: u64) -> Bases {
        const HALF: u64 = 1 << 31;
        Bases { version: version.saturating_sub(HALF), time, clock: clock.saturating_sub(HALF) }
    }
}
