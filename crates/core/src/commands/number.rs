//! Numbers with a fraction, as INCRBYFLOAT reads, adds and writes them: in decimal, so that 0.1 and 0.2 make 0.3.
//!
//! Redis adds in 80 binary digits and rounds what it writes to 17 decimal ones, so both agree on what people write; where
//! they do not, decimal has no noise in the last places.

use crate::vocabulary::{Error, Kind};

/// Digits behind the point that are kept.
const PLACES: u32 = 17;
const ONE: i128 = 10i128.pow(PLACES);
/// Whole parts beyond this are added as binary numbers.
const LARGEST: i128 = ONE * 100_000_000_000_000_000_000;

const NO_FLOAT: Error = Error::new(Kind::Mismatch, "ERR value is not a valid float");
const NO_NUMBER: Error = Error::new(Kind::Malformed, "ERR increment would produce NaN or Infinity");

/// The sum of two numbers as text.
pub(crate) fn add(value: &[u8], by: &[u8]) -> Result<String, Error> {
    let (value, by) = (read(value)?, read(by)?);
    if let (Some(value), Some(by)) = (decimal(value), decimal(by))
        && let Some(sum) = value.checked_add(by)
    {
        return Ok(write(sum));
    }
    let float = |text: &str| text.parse::<f64>().map_err(|_| NO_FLOAT);
    let sum = float(value)? + float(by)?;
    if sum.is_finite() { Ok(format!("{sum}")) } else { Err(NO_NUMBER) }
}

/// Longest text that may be a number, as in Redis.
const MAX_NUMBER: usize = 5 * 1024 - 1;

/// The text of a number, if it is one and nothing else.
fn read(text: &[u8]) -> Result<&str, Error> {
    if text.len() > MAX_NUMBER {
        return Err(NO_FLOAT);
    }
    let text = std::str::from_utf8(text).map_err(|_| NO_FLOAT)?;
    match text.parse::<f64>() {
        Ok(number) if !number.is_nan() => Ok(text),
        _ => Err(NO_FLOAT),
    }
}

/// A number in units of the last place, if it has no more places and is not too large.
fn decimal(text: &str) -> Option<i128> {
    let (text, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut number = 0i128;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    let shift = PLACES as i32 + exponent - fraction.len() as i32;
    let scale = 10i128.checked_pow(shift.unsigned_abs())?;
    let number = if shift >= 0 {
        number.checked_mul(scale)?
    } else if number % scale == 0 {
        number / scale
    } else {
        return None;
    };
    (number <= LARGEST).then_some(if negative { -number } else { number })
}

fn write(number: i128) -> String {
    let (whole, fraction) = (number.unsigned_abs() / ONE as u128, number.unsigned_abs() % ONE as u128);
    let sign = if number < 0 { "-" } else { "" };
    let places = format!("{fraction:017}");
    match places.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        places => format!("{sign}{whole}.{places}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_what_people_expect() {
        for (value, by, sum) in [
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0.1", "0.2", "0.3"),
            ("0", "-5", "-5"),
            ("3", "-3.5", "-0.5"),
            ("1", "1e-17", "1.00000000000000001"),
            ("1e300", "1e300", &format!("{}", 2e300)),
            ("1e-30", "0", "0.000000000000000000000000000001"),
        ] {
            assert_eq!(add(value.as_bytes(), by.as_bytes()).as_deref(), Ok(sum));
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "abc", "1 ", " 1", "nan", "1.2.3", "0x10"] {
            assert_eq!(add(text.as_bytes(), b"1"), Err(NO_FLOAT), "{text:?}");
        }
        assert_eq!(add(&[b'1'; MAX_NUMBER + 1], b"1"), Err(NO_FLOAT), "a long value is not read");
        assert_eq!(add(b"1", b"inf"), Err(NO_NUMBER));
        assert_eq!(add(b"1.7e308", b"1.7e308"), Err(NO_NUMBER));
    }
}
