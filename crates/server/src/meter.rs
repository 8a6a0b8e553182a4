//! How long turns take: of a connection in an I/O thread, of a step of upkeep in the thread that accepts connections.
//!
//! What counts is the processor time of the thread, so that a machine which runs something else meanwhile does not make a
//! turn long. Reading it is a system call, too much for each turn. So the cycle counter of the processor is read after
//! each turn, a few instructions, and the clock of the thread only when [`NEAR`] cycles have passed since it was read
//! last. A turn is thus told up to half a millisecond too long, never too short.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::Shared;

/// Cycles after which the clock of the thread is read: a quarter to half a millisecond.
const NEAR: u64 = 1 << 20;
/// Cycles after which a connection's turn is over, with what it has not asked yet left for the next one: 1 to 2 ms.
pub(crate) const TURN: u64 = 1 << 22;

/// Cycles, or nanoseconds where the processor has no such counter that is easily read.
#[inline]
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it only reads a counter.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Measures the turns of one thread.
#[derive(Default)]
pub(crate) struct Meter {
    /// When the clock of the thread was read last, and what it said.
    read: u64,
    time: Duration,
}

impl Meter {
    /// The thread begins to work after it has waited.
    #[inline]
    pub(crate) fn begin(&mut self) -> u64 {
        let now = ticks();
        if now.wrapping_sub(self.read) > NEAR {
            (self.read, self.time) = (now, thread_time());
        }
        now
    }

    /// A turn has ended, and the next one begins at the moment that is returned.
    #[inline]
    pub(crate) fn lap(&mut self, shared: &Shared) -> u64 {
        let now = ticks();
        if now.wrapping_sub(self.read) > NEAR {
            self.measure(now, shared);
        }
        now
    }

    #[cold]
    fn measure(&mut self, now: u64, shared: &Shared) {
        let before = std::mem::replace(&mut self.time, thread_time());
        self.read = now;
        let turn = self.time.saturating_sub(before).as_micros() as u64;
        shared.engine.counters.longest_turn.fetch_max(turn, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine;
    use crate::scripted::options;

    /// A turn that takes three milliseconds of the processor is told, whatever came before it; one that takes nothing
    /// is not.
    #[test]
    fn a_long_turn_is_told_by_its_processor_time() {
        let options = options();
        let shared = Shared::new(options.clone(), engine(&options, &[]), None);
        let longest = || shared.engine.counters.longest_turn.load(Relaxed);
        let mut meter = Meter::default();
        meter.begin();
        for _ in 0..1000 {
            meter.lap(&shared);
        }
        assert!(longest() < 2_000, "{}", longest());
        let (begun, wanted) = (thread_time(), Duration::from_millis(3));
        while thread_time() - begun < wanted {}
        meter.lap(&shared);
        assert!((3_000..6_000).contains(&longest()), "{}", longest());
    }
}
