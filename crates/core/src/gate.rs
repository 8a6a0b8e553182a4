//! The gate: what every request has to pass before it runs, once and for all protocols: its keys.

use crate::command::{Error, Kind};

/// Longest key in bytes; its length has to fit two bytes of the item's header.
pub const MAX_KEY: usize = 65_535;

const BAD_KEY: Error = Error::new(Kind::TooLarge, "ERR a key has 1 to 65535 bytes");

/// Whether a command on `keys` may run.
#[inline]
pub fn admit<'a>(mut keys: impl Iterator<Item = &'a [u8]>) -> Result<(), Error> {
    if keys.all(|key| !key.is_empty() && key.len() <= MAX_KEY) { Ok(()) } else { Err(BAD_KEY) }
}
