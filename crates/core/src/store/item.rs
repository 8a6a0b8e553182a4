//! An item as bytes: a header of eight bytes, optional fields, key, value; padded to four bytes.
//!
//! ```text
//! u8 bits | u8 key length | u16 value length | u32 version | [fields] | key | value
//! ```
//! Version and times are kept as distances from the base of the segment. What does not fit makes the item WIDE:
//! all its numbers are then whole ones, so nothing is ever rounded. A rewrite into another segment encodes anew.

pub(super) const EXPIRY: u8 = 1;
const FRESH: u8 = 2;
const FLAGS: u8 = 4;
const TAGS: u8 = 8;
/// The value is a `u32`, the number of a value beside the log.
const LARGE: u8 = 16;
/// Lengths are `u32` for the value and `u16` for the key.
const LONG: u8 = 32;
/// Version, times and clock are `u64`.
const WIDE: u8 = 64;
/// A byte of further bits, and their fields.
const EXTRA: u8 = 128;

const ABSENT: u8 = 1;
const ERROR: u8 = 2;
const COST: u8 = 4;
const DATABASE: u8 = 8;

/// The largest number of tags of an item.
pub(super) const MOST_TAGS: usize = 16;

/// What the numbers of a segment count from.
#[derive(Clone, Copy, Default)]
pub(super) struct Base {
    pub version: u64,
    pub time: u64,
    pub clock: u64,
}

/// The fields of an item, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Head {
    pub version: u64,
    pub db: u8,
    pub flags: u32,
    pub expires_at: Option<u64>,
    pub fresh_until: Option<u64>,
    pub error_until: Option<u64>,
    pub cost: Option<u32>,
    pub absent: bool,
    pub large: bool,
    pub clock: u64,
    pub tags: [u64; MOST_TAGS],
    pub tag_count: u8,
    pub key: (usize, usize),
    pub value: (usize, usize),
    pub size: usize,
}

impl Head {
    /// When nothing of the item is of use any more.
    pub(super) fn ends_at(&self) -> Option<u64> {
        self.expires_at
            .map(|at| at.max(self.error_until.unwrap_or(0)))
    }

    fn wide(&self, base: Base) -> bool {
        let far = |number: u64, base: u64| {
            number
                .checked_sub(base)
                .is_none_or(|delta| delta > u32::MAX as u64)
        };
        far(self.version, base.version)
            || [self.expires_at, self.fresh_until, self.error_until]
                .iter()
                .flatten()
                .any(|&at| far(at, base.time))
            || self.tag_count > 0 && far(self.clock, base.clock)
    }

    fn extra(&self) -> u8 {
        (self.absent as u8 * ABSENT)
            | (self.error_until.is_some() as u8 * ERROR)
            | (self.cost.is_some() as u8 * COST)
            | ((self.db != 0) as u8 * DATABASE)
    }

    /// Bytes it takes with this key and value, padding included, and the bits that say so.
    pub(super) fn measure(&self, base: Base, key: usize, value: usize) -> (usize, u8) {
        let value = if self.large { 4 } else { value };
        let mut bits = 0;
        let mut size = 4 + key + value;
        let wide = self.wide(base);
        let number = if wide { 8 } else { 4 };
        size += number;
        let mut have = |bit: u8, bytes: usize| {
            bits |= bit;
            size += bytes;
        };
        if wide {
            have(WIDE, 0);
        }
        if self.expires_at.is_some() {
            have(EXPIRY, number);
        }
        if self.fresh_until.is_some() {
            have(FRESH, number);
        }
        if self.flags != 0 {
            have(FLAGS, 4);
        }
        if self.tag_count > 0 {
            have(TAGS, 1 + number + 8 * self.tag_count as usize);
        }
        if self.large {
            have(LARGE, 0);
        }
        if key > u8::MAX as usize || value > u16::MAX as usize {
            have(LONG, 6);
        }
        let extra = self.extra();
        if extra != 0 {
            let error = if extra & ERROR != 0 { number } else { 0 };
            have(
                EXTRA,
                1 + error + 4 * usize::from(extra & COST != 0) + usize::from(extra & DATABASE != 0),
            );
        }
        (size.next_multiple_of(4), bits)
    }

    /// Writes the item to the start of `out`; `value` is the number of the value if it lies beside the log.
    pub(super) fn write(&self, base: Base, bits: u8, key: &[u8], value: &[u8], out: &mut [u8]) {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        let long = bits & LONG != 0;
        put(&[bits, if long { 0 } else { key.len() as u8 }]);
        put(&(if long { 0 } else { value.len() as u16 }).to_le_bytes());
        let wide = bits & WIDE != 0;
        let number = |value: u64, base: u64, put: &mut dyn FnMut(&[u8])| {
            if wide {
                put(&value.to_le_bytes())
            } else {
                put(&((value - base) as u32).to_le_bytes())
            }
        };
        number(self.version, base.version, &mut put);
        if long {
            put(&(key.len() as u16).to_le_bytes());
            put(&(value.len() as u32).to_le_bytes());
        }
        if let Some(at) = self.expires_at {
            number(at, base.time, &mut put);
        }
        if let Some(at) = self.fresh_until {
            number(at, base.time, &mut put);
        }
        if self.flags != 0 {
            put(&self.flags.to_le_bytes());
        }
        if self.tag_count > 0 {
            put(&[self.tag_count]);
            number(self.clock, base.clock, &mut put);
            for tag in &self.tags[..self.tag_count as usize] {
                put(&tag.to_le_bytes());
            }
        }
        if bits & EXTRA != 0 {
            put(&[self.extra()]);
            if let Some(at) = self.error_until {
                number(at, base.time, &mut put);
            }
            if let Some(cost) = self.cost {
                put(&cost.to_le_bytes());
            }
            if self.db != 0 {
                put(&[self.db]);
            }
        }
        put(key);
        put(value);
    }

    /// Reads the item at the start of `from`.
    #[inline]
    pub(super) fn read(base: Base, from: &[u8]) -> Head {
        let bits = from[0];
        let mut at = 4;
        let u32_at = |at: &mut usize| {
            *at += 4;
            u32::from_le_bytes(from[*at - 4..*at].try_into().expect("four bytes"))
        };
        let u64_at = |at: &mut usize| {
            *at += 8;
            u64::from_le_bytes(from[*at - 8..*at].try_into().expect("eight bytes"))
        };
        let number = |at: &mut usize, base: u64| {
            if bits & WIDE != 0 {
                u64_at(at)
            } else {
                base + u32_at(at) as u64
            }
        };
        let mut head = Head {
            version: number(&mut at, base.version),
            ..Head::default()
        };
        let (mut key, mut value) = (
            from[1] as usize,
            u16::from_le_bytes([from[2], from[3]]) as usize,
        );
        if bits & LONG != 0 {
            key = u16::from_le_bytes([from[at], from[at + 1]]) as usize;
            at += 2;
            value = u32_at(&mut at) as usize;
        }
        if bits & EXPIRY != 0 {
            head.expires_at = Some(number(&mut at, base.time));
        }
        if bits & FRESH != 0 {
            head.fresh_until = Some(number(&mut at, base.time));
        }
        if bits & FLAGS != 0 {
            head.flags = u32_at(&mut at);
        }
        if bits & TAGS != 0 {
            head.tag_count = from[at];
            at += 1;
            head.clock = number(&mut at, base.clock);
            for tag in &mut head.tags[..head.tag_count as usize] {
                *tag = u64_at(&mut at);
            }
        }
        if bits & EXTRA != 0 {
            let extra = from[at];
            at += 1;
            head.absent = extra & ABSENT != 0;
            if extra & ERROR != 0 {
                head.error_until = Some(number(&mut at, base.time));
            }
            if extra & COST != 0 {
                head.cost = Some(u32_at(&mut at));
            }
            if extra & DATABASE != 0 {
                head.db = from[at];
                at += 1;
            }
        }
        head.large = bits & LARGE != 0;
        head.key = (at, at + key);
        head.value = (at + key, at + key + value);
        head.size = head.value.1.next_multiple_of(4);
        head
    }
}
