//! An item as bytes in a segment, with optional fields that cost nothing when they are absent.
//!
//! ```text
//! front   u8 bits | u8 key length | u16 value length | u32 version      then, if WIDE_LEN: u32 key | u32 value
//! key
//! fields  [u64 version if WIDE_NUM] [EXPIRY time] [FRESH time] [FLAGS u32]
//!         [EXT u8 database | u8 what | [error time] [cost u32] [written u64] [cas u64]] [TAGS u8 count | clock | u64 each]
//! value   or, if LARGE, the u32 number of a value beside the log
//! ```
//! Times, clocks and versions are u32 counted from the bases of the segment, or u64 if WIDE_NUM. The whole is padded to
//! [`ALIGN`] bytes. The key stands before the fields, so that comparing it needs no look at them.

use std::ops::Range;

use super::bases::Bases;
use super::types::{Item, Meta, Value};
use crate::limits::MAX_TAGS;

/// Items begin at multiples of this, so that an index slot needs fewer bits.
pub(super) const ALIGN: usize = 4;

const EXPIRY: u8 = 1;
const FRESH: u8 = 2;
const FLAGS: u8 = 4;
const TAGS: u8 = 8;
const LARGE: u8 = 16;
const WIDE_LEN: u8 = 32;
const WIDE_NUM: u8 = 64;
const EXT: u8 = 128;

/// In the second byte of EXT.
const ABSENT: u8 = 1;
const ERROR: u8 = 2;
const COST: u8 = 4;
const WRITTEN: u8 = 8;
const CAS: u8 = 16;

/// Longest front: with wide lengths.
const FRONT: usize = 16;

/// Longest fields: wide numbers, all of them, and all tags.
const MAX_FIELDS: usize = 8 * 4 + 4 + 2 + 4 + 8 + 8 + 1 + 8 + 8 * MAX_TAGS;

/// The value of an item as it lies in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored<'a> {
    Inline(&'a [u8]),
    /// Number of a value beside the log.
    Large(u32),
}

/// An item with its numbers made absolute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) db: u8,
    pub(super) key: &'a [u8],
    pub(super) value: Stored<'a>,
    pub(super) version: u64,
    pub(super) flags: u32,
    pub(super) expires_at: Option<u64>,
    pub(super) fresh_until: Option<u64>,
    pub(super) error_until: Option<u64>,
    pub(super) cost: Option<u32>,
    pub(super) written_at: Option<u64>,
    pub(super) absent: bool,
    pub(super) cas: Option<u64>,
    /// Tags, eight bytes each.
    pub(super) tags: &'a [u8],
    /// The tag clock at the write.
    pub(super) clock: u64,
    /// Bytes in the segment.
    pub(super) size: usize,
}

impl<'a> Record<'a> {
    /// What is written under a key; `tags` are those of `meta` as bytes.
    pub(super) fn new(
        db: u8,
        key: &'a [u8],
        value: Stored<'a>,
        meta: &Meta<'_>,
        tags: &'a [u8],
        version: u64,
        clock: u64,
    ) -> Record<'a> {
        Record {
            db,
            key,
            value,
            version,
            flags: meta.flags,
            expires_at: meta.expires_at,
            fresh_until: meta.fresh_until,
            error_until: meta.error_until,
            cost: meta.cost,
            written_at: meta.written_at,
            absent: meta.absent,
            cas: meta.cas,
            tags,
            clock,
            size: 0,
        }
    }

    /// Bytes that no segment needs more for, whatever its bases.
    pub(super) fn longest(&self) -> usize {
        let value = match self.value {
            Stored::Inline(value) => value.len(),
            Stored::Large(_) => 4,
        };
        (FRONT + self.key.len() + MAX_FIELDS - 8 * MAX_TAGS + self.tags.len() + value).next_multiple_of(ALIGN)
    }

    /// The second byte of EXT.
    #[inline(always)]
    fn what(&self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(self.absent, ABSENT)
            | bit(self.error_until.is_some(), ERROR)
            | bit(self.cost.is_some(), COST)
            | bit(self.written_at.is_some(), WRITTEN)
            | bit(self.cas.is_some(), CAS)
    }

    /// When nobody has any use for it any more.
    pub(super) fn gone_at(&self) -> Option<u64> {
        self.expires_at.map(|at| at.max(self.error_until.unwrap_or(0)))
    }
}

/// How a record lies in a segment: what its front says, and how long it is.
#[derive(Clone, Copy)]
pub(super) struct Encoded {
    bits: u8,
    value_len: usize,
    /// Bytes in the segment.
    pub(super) size: usize,
}

/// Writes from the beginning of a place on.
struct Writer<'a> {
    place: &'a mut [u8],
    at: usize,
    /// Numbers take eight bytes each, and count from nothing.
    wide: bool,
}

impl Writer<'_> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        self.place[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline(always)]
    fn number(&mut self, number: u64, base: u64) {
        if self.wide {
            self.put(&number.to_le_bytes());
        } else {
            self.put(&(number.saturating_sub(base) as u32).to_le_bytes());
        }
    }
}

impl Encoded {
    /// How a record lies in a segment with these bases.
    #[inline(always)]
    pub(super) fn new(record: &Record<'_>, bases: &Bases) -> Encoded {
        let value_len = match record.value {
            Stored::Inline(value) => value.len(),
            Stored::Large(_) => 4,
        };
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let bits = bit(record.expires_at.is_some(), EXPIRY)
            | bit(record.fresh_until.is_some(), FRESH)
            | bit(record.flags != 0, FLAGS)
            | bit(!record.tags.is_empty(), TAGS)
            | bit(matches!(record.value, Stored::Large(_)), LARGE)
            | bit(record.key.len() > 255 || value_len > 65_535, WIDE_LEN)
            | bit(!fits(record, bases), WIDE_NUM)
            | bit(record.db != 0 || record.what() != 0, EXT);
        let mut size = 8 + record.key.len() + value_len + if bits & EXPIRY != 0 { 4 } else { 0 };
        if bits & !EXPIRY != 0 {
            size = 8 + record.key.len() + value_len + rare_len(record, bits);
        }
        Encoded { bits, value_len, size: size.next_multiple_of(ALIGN) }
    }

    /// Writes the record to the beginning of `place`, a segment with the same bases.
    #[inline]
    pub(super) fn write(&self, record: &Record<'_>, bases: &Bases, place: &mut [u8]) {
        let bits = self.bits;
        let mut out = Writer { place: &mut place[..self.size], at: 8, wide: bits & WIDE_NUM != 0 };
        let mut front = u64::from(bits);
        if bits & WIDE_LEN != 0 {
            out.put(&(record.key.len() as u32).to_le_bytes());
            out.put(&(self.value_len as u32).to_le_bytes());
        } else {
            front |= (record.key.len() as u64) << 8 | (self.value_len as u64) << 16;
        }
        if !out.wide {
            front |= (record.version - bases.version) << 32;
        }
        out.place[..8].copy_from_slice(&front.to_le_bytes());
        out.put(record.key);
        if bits & !EXPIRY != 0 {
            write_fields(record, bits, bases, &mut out);
        } else if let Some(at) = record.expires_at {
            out.number(at, bases.time);
        }
        match record.value {
            Stored::Inline(value) => out.put(value),
            Stored::Large(number) => out.put(&number.to_le_bytes()),
        }
    }
}

/// What stands around the key and value of a record with rare fields takes beside the front.
fn rare_len(record: &Record<'_>, bits: u8) -> usize {
    let length = |is: bool, length: usize| if is { length } else { 0 };
    let wide = bits & WIDE_NUM != 0;
    let number = if wide { 8 } else { 4 };
    length(bits & WIDE_LEN != 0, 8)
        + length(wide, 8)
        + length(bits & EXPIRY != 0, number)
        + length(bits & FRESH != 0, number)
        + length(bits & FLAGS != 0, 4)
        + length(bits & EXT != 0, 2)
        + length(record.error_until.is_some(), number)
        + length(record.cost.is_some(), 4)
        + length(record.written_at.is_some(), 8)
        + length(record.cas.is_some(), 8)
        + length(bits & TAGS != 0, 1 + number + record.tags.len())
}

fn write_fields(record: &Record<'_>, bits: u8, bases: &Bases, out: &mut Writer<'_>) {
    if out.wide {
        out.put(&record.version.to_le_bytes());
    }
    for at in [record.expires_at, record.fresh_until].into_iter().flatten() {
        out.number(at, bases.time);
    }
    if record.flags != 0 {
        out.put(&record.flags.to_le_bytes());
    }
    if bits & EXT != 0 {
        out.put(&[record.db, record.what()]);
        if let Some(at) = record.error_until {
            out.number(at, bases.time);
        }
        if let Some(cost) = record.cost {
            out.put(&cost.to_le_bytes());
        }
        // The time of a write lies before the base of whatever segment the item is copied to: always wide.
        for number in [record.written_at, record.cas].into_iter().flatten() {
            out.put(&number.to_le_bytes());
        }
    }
    if !record.tags.is_empty() {
        out.put(&[(record.tags.len() / 8) as u8]);
        out.number(record.clock, bases.clock);
        out.put(record.tags);
    }
}

/// Whether all numbers fit u32 counted from the bases. Times before the base are as good as the base: an item that is
/// stale or expired already stays so.
fn fits(record: &Record<'_>, bases: &Bases) -> bool {
    let near = |number: u64, base: u64| number >= base && number - base <= u64::from(u32::MAX);
    let soon = |at: Option<u64>| at.is_none_or(|at| at.saturating_sub(bases.time) <= u64::from(u32::MAX));
    near(record.version, bases.version)
        && (record.tags.is_empty() || near(record.clock, bases.clock))
        && soon(record.expires_at)
        && soon(record.fresh_until)
        && soon(record.error_until)
}

fn u16_at(data: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([data[at], data[at + 1]]))
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes"))
}

/// Where the key of the item at the beginning of `data` lies.
#[inline]
pub(super) fn key_of(data: &[u8]) -> &[u8] {
    let (start, length) = if data[0] & WIDE_LEN == 0 { (8, usize::from(data[1])) } else { (16, u16_at(data, 8)) };
    &data[start..start + length]
}

/// The database of the item at the beginning of `data`.
#[inline]
pub(super) fn db_of(data: &[u8], bases: &Bases) -> u8 {
    if data[0] & EXT == 0 { 0 } else { decode_all(data, bases).db }
}

/// Version and expiry of an item that has neither tags nor a database but 0 nor anything else that its life depends on:
/// what a look needs that finds most items alive.
#[inline(always)]
pub(super) fn plain_life(data: &[u8], bases: &Bases) -> Option<(u64, Option<u64>)> {
    let bits = data[0];
    if bits & !(EXPIRY | LARGE) != 0 {
        return None;
    }
    let expires_at = (bits & EXPIRY != 0).then(|| bases.time + u64::from(u32_at(data, 8 + usize::from(data[1]))));
    Some((bases.version + u64::from(u32_at(data, 4)), expires_at))
}

/// Reads the item at the beginning of `data`.
#[inline(always)]
pub(super) fn decode<'a>(data: &'a [u8], bases: &Bases) -> Record<'a> {
    let Some(plain) = plain(data, bases) else { return decode_all(data, bases) };
    let size = plain.value.end.next_multiple_of(ALIGN);
    Record {
        db: 0,
        key: &data[plain.key],
        value: Stored::Inline(&data[plain.value]),
        version: plain.version,
        flags: 0,
        expires_at: plain.expires_at,
        fresh_until: None,
        error_until: None,
        cost: None,
        written_at: None,
        absent: false,
        cas: None,
        tags: &[],
        clock: 0,
        size,
    }
}

/// What most items are: nothing but a key, a value beside it, and perhaps an expiry, in database 0.
pub(super) struct Plain {
    pub(super) version: u64,
    pub(super) expires_at: Option<u64>,
    /// Where the key lies.
    pub(super) key: Range<usize>,
    /// Where the value lies.
    pub(super) value: Range<usize>,
}

/// Reads the item at the beginning of `data` without a look at each field, if it is a plain one.
#[inline(always)]
pub(super) fn plain(data: &[u8], bases: &Bases) -> Option<Plain> {
    if data[0] & !EXPIRY != 0 {
        return None;
    }
    let (key_end, value_len) = (8 + usize::from(data[1]), u16_at(data, 2));
    let version = bases.version + u64::from(u32_at(data, 4));
    let expires = data[0] & EXPIRY != 0;
    let expires_at = if expires { Some(bases.time + u64::from(u32_at(data, key_end))) } else { None };
    let at = key_end + if expires { 4 } else { 0 };
    Some(Plain { version, expires_at, key: 8..key_end, value: at..at + value_len })
}

fn decode_all<'a>(data: &'a [u8], bases: &Bases) -> Record<'a> {
    let bits = data[0];
    let (start, key_len, value_len) = if bits & WIDE_LEN == 0 {
        (8, usize::from(data[1]), u16_at(data, 2))
    } else {
        (16, u16_at(data, 8), u32_at(data, 12) as usize)
    };
    let key = &data[start..start + key_len];
    let mut at = start + key_len;
    let mut record = Record {
        db: 0,
        key,
        value: Stored::Large(0),
        version: bases.version + u64::from(u32_at(data, 4)),
        flags: 0,
        expires_at: None,
        fresh_until: None,
        error_until: None,
        cost: None,
        written_at: None,
        absent: false,
        cas: None,
        tags: &[],
        clock: 0,
        size: 0,
    };
    if bits & !LARGE != 0 {
        at = decode_fields(data, at, bases, &mut record);
    }
    let value = &data[at..at + value_len];
    record.value = if bits & LARGE == 0 { Stored::Inline(value) } else { Stored::Large(u32_at(value, 0)) };
    record.size = (at + value_len).next_multiple_of(ALIGN);
    record
}

fn decode_fields<'a>(data: &'a [u8], mut at: usize, bases: &Bases, record: &mut Record<'a>) -> usize {
    let bits = data[0];
    let wide = bits & WIDE_NUM != 0;
    if wide {
        record.version = u64_at(data, at);
        at += 8;
    }
    let number = |at: &mut usize, base: u64| {
        let (number, length) = if wide { (u64_at(data, *at), 8) } else { (base + u64::from(u32_at(data, *at)), 4) };
        *at += length;
        number
    };
    if bits & EXPIRY != 0 {
        record.expires_at = Some(number(&mut at, bases.time));
    }
    if bits & FRESH != 0 {
        record.fresh_until = Some(number(&mut at, bases.time));
    }
    if bits & FLAGS != 0 {
        record.flags = u32_at(data, at);
        at += 4;
    }
    if bits & EXT != 0 {
        let what = data[at + 1];
        record.db = data[at];
        record.absent = what & ABSENT != 0;
        at += 2;
        if what & ERROR != 0 {
            record.error_until = Some(number(&mut at, bases.time));
        }
        if what & COST != 0 {
            record.cost = Some(u32_at(data, at));
            at += 4;
        }
        if what & WRITTEN != 0 {
            record.written_at = Some(u64_at(data, at));
            at += 8;
        }
        if what & CAS != 0 {
            record.cas = Some(u64_at(data, at));
            at += 8;
        }
    }
    if bits & TAGS != 0 {
        let length = usize::from(data[at]) * 8;
        at += 1;
        record.clock = number(&mut at, bases.clock);
        record.tags = &data[at..at + length];
        at += length;
    }
    at
}

/// The item as those outside the store see it. `large` finds values beside the log.
#[inline(always)]
pub(super) fn view<'a>(record: &Record<'a>, large: impl FnOnce(u32) -> Value<'a>) -> Item<'a> {
    Item {
        value: match record.value {
            Stored::Inline(value) => Value::Inline(value),
            Stored::Large(number) => large(number),
        },
        version: record.version,
        flags: record.flags,
        expires_at: record.expires_at,
        fresh_until: record.fresh_until,
        error_until: record.error_until,
        cost: record.cost,
        written_at: record.written_at,
        absent: record.absent,
        cas: record.cas,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASES: Bases = Bases { version: 1 << 40, time: 1 << 20, clock: 100 };

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            db in 0u8..16,
            key in prop::collection::vec(any::<u8>(), 1..300),
            value in prop::collection::vec(any::<u8>(), 0..400),
            version in prop_oneof![(1u64 << 40)..(1 << 41), any::<u64>()],
            flags in prop_oneof![Just(0), any::<u32>()],
            times in prop::array::uniform3(prop::option::of(prop_oneof![(1u64 << 20)..(1 << 33), (1u64 << 20)..u64::MAX])),
            cost in prop::option::of(any::<u32>()),
            written_at in prop::option::of(any::<u64>()),
            absent in any::<bool>(),
            cas in prop::option::of(any::<u64>()),
            tags in prop::collection::vec(any::<u64>(), 0..=MAX_TAGS),
            clock in prop_oneof![100u64..1000, any::<u64>()],
            large in prop::option::of(any::<u32>()),
        ) {
            let tags: Vec<u8> = tags.iter().flat_map(|tag| tag.to_le_bytes()).collect();
            let record = Record {
                db, key: &key, value: large.map_or(Stored::Inline(&value), Stored::Large), version, flags,
                expires_at: times[0], fresh_until: times[1], error_until: times[2], cost, written_at, absent, cas,
                tags: &tags, clock: if tags.is_empty() { 0 } else { clock }, size: 0,
            };
            let encoded = Encoded::new(&record, &BASES);
            let mut place = vec![0xee; encoded.size];
            encoded.write(&record, &BASES, &mut place);
            let found = decode(&place, &BASES);
            prop_assert_eq!(found.size, encoded.size);
            prop_assert_eq!(key_of(&place), &key[..]);
            prop_assert_eq!(db_of(&place, &BASES), db);
            prop_assert_eq!(format!("{:?}", Record { size: 0, ..found }), format!("{record:?}"));
        }
    }

    #[test]
    fn the_usual_item_costs_twelve_bytes() {
        let meta = Meta { expires_at: Some(BASES.time + 60_000), ..Meta::default() };
        let record = Record::new(0, &[1; 16], Stored::Inline(&[2; 100]), &meta, &[], BASES.version + 5, 0);
        assert_eq!(Encoded::new(&record, &BASES).size, 16 + 100 + 12);
    }

    #[test]
    fn times_that_have_passed_stay_passed() {
        let meta = Meta { fresh_until: Some(5), expires_at: Some(BASES.time + 1), ..Meta::default() };
        let record = Record::new(0, b"k", Stored::Inline(b"v"), &meta, &[], BASES.version, 0);
        let encoded = Encoded::new(&record, &BASES);
        let mut place = vec![0; encoded.size];
        encoded.write(&record, &BASES, &mut place);
        assert_eq!(decode(&place, &BASES).fresh_until, Some(BASES.time));
    }
}
