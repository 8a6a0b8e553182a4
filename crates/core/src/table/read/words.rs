//! What single arguments mean.

use crate::table::row::Row;
use crate::vocabulary::{Args, Error, Expiry, integer, is};

/// An argument that the arity promises.
pub(crate) fn arg<'a>(args: Args<'a>, index: usize) -> &'a [u8] {
    args.get(index).expect("the gate checked the arity")
}

/// Longest time from now in milliseconds: Redis keeps the moment of expiry in 63 bits, and refuses a time that would pass
/// them. No clock is at hand here: a moment of the year 2033 stands for now.
pub(crate) const LATEST: i64 = i64::MAX - 2_000_000_000_000;

/// When something expires, of so many milliseconds a unit.
pub(crate) fn read_time(row: &Row, text: &[u8], unit: i64, absolute: bool) -> Result<Expiry, Error> {
    let number = integer(text)?;
    let millis = number.checked_mul(unit).filter(|&millis| millis > 0).ok_or_else(|| row.invalid_expiry())?;
    if !absolute && millis > LATEST {
        return Err(row.invalid_expiry());
    }
    Ok(if absolute { Expiry::At(millis as u64) } else { Expiry::In(millis as u64) })
}

/// A unit of time behind an option: milliseconds of it, and whether it counts from 1970.
pub(crate) fn time_option(option: &[u8]) -> Option<(i64, bool)> {
    match () {
        () if is(option, "EX") => Some((1000, false)),
        () if is(option, "PX") => Some((1, false)),
        () if is(option, "EXAT") => Some((1000, true)),
        () if is(option, "PXAT") => Some((1, true)),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::lookup;

    /// As far from now as Redis 7.0 takes it, and beyond that.
    #[test]
    fn times_are_as_long_as_those_of_redis() {
        let row = lookup(b"SET").unwrap();
        for (text, unit, taken) in [
            ("9223370000000000000", 1, true),
            ("9223370000000000", 1000, true),
            ("9223372036854775807", 1, false),
            ("9223372036854775", 1000, false),
            ("9223372036854776", 1000, false),
        ] {
            assert_eq!(read_time(row, text.as_bytes(), unit, false).is_ok(), taken, "{text}");
        }
    }
}
