//! Reading the cache commands (`CACHE.*`).

use super::words::arg;
use crate::limits::{INFLIGHT, LEASE, MAX_AGE, MAX_MILLIS, MAX_PATTERN, MAX_PATTERNS, MAX_SESSION, MAX_TAGS};
use crate::table::row::Row;
use crate::vocabulary::{
    Args, CacheCommand, Command, EntryOptions, Error, Kind, NOT_AN_INTEGER, PATTERN_TOO_LONG, SYNTAX, SetCondition,
    integer, is,
};

impl<'a> EntryOptions<'a> {
    fn new(args: Args<'a>) -> EntryOptions<'a> {
        let tags = args.to(0);
        EntryOptions { ttl: None, refresh: None, grace: None, cost: None, flags: 0, tags, absent: false }
    }

    /// Reads the option at `at`, if it is one of these; where the next one stands.
    fn read(&mut self, args: Args<'a>, at: usize) -> Result<Option<usize>, Error> {
        let Some(option) = args.get(at) else { return Ok(None) };
        if is(option, "TTL") {
            self.ttl = Some(millis(args, at + 1, 0)?);
        } else if is(option, "REFRESH") {
            self.refresh = Some(millis(args, at + 1, 0)?);
        } else if is(option, "GRACE") {
            self.grace = Some(millis(args, at + 1, 0)?);
        } else if is(option, "COST") {
            self.cost = Some(millis(args, at + 1, 0)?.min(u64::from(u32::MAX)) as u32);
        } else if is(option, "FLAGS") {
            let flags = u32::try_from(number(args, at + 1, 0, u32::MAX.into())?);
            self.flags = flags.map_err(|_| SYNTAX)?;
        } else if is(option, "TAGS") {
            let (tags, next) = list(args, at + 1, 0)?;
            if tags.len() > MAX_TAGS {
                return Err(Error::new(Kind::Malformed, "ERR an item has at most 17 tags"));
            }
            self.tags = tags;
            return Ok(Some(next));
        } else if is(option, "ABSENT") {
            self.absent = true;
            return Ok(Some(at + 1));
        } else {
            return Ok(None);
        }
        Ok(Some(at + 2))
    }

    /// Whether no value is to live for 0 ms. Absence may: it answers those that wait for the load, and is not kept.
    fn is_in_range(&self) -> bool {
        self.ttl != Some(0) || self.absent
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_in_range() { Ok(()) } else { Err(NOT_AN_INTEGER) }
    }
}

fn number(args: Args<'_>, at: usize, least: i64, most: i64) -> Result<i64, Error> {
    let number = integer(args.get(at).ok_or(SYNTAX)?)?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(NOT_AN_INTEGER) }
}

pub(crate) fn millis(args: Args<'_>, at: usize, least: i64) -> Result<u64, Error> {
    number(args, at, least, MAX_MILLIS).map(|millis| millis as u64)
}

pub(crate) fn token(args: Args<'_>, at: usize) -> Result<u64, Error> {
    number(args, at, 0, i64::MAX).map(|token| token as u64)
}

/// `n`, at least `least`, and as many arguments; and where the next one stands.
fn list(args: Args<'_>, at: usize, least: i64) -> Result<(Args<'_>, usize), Error> {
    let count = number(args, at, least, i64::from(u32::MAX))? as usize;
    let end = at + 1 + count;
    if end > args.len() { Err(SYNTAX) } else { Ok((args.to(end).from(at + 1), end)) }
}

fn command(command: CacheCommand<'_>) -> Result<Command<'_>, Error> {
    Ok(Command::Cache(command))
}

pub(crate) fn read_fetch<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut wait, mut lease, mut ticket, mut at) = (0, Some(LEASE), false, 1);
    while let Some(option) = args.get(at) {
        if is(option, "WAIT") {
            (wait, at) = (millis(args, at + 1, 0)?, at + 2);
        } else if is(option, "LEASE") {
            let length = millis(args, at + 1, 0)?.min(MAX_AGE);
            (lease, at) = (Some(length).filter(|length| *length > 0), at + 2);
        } else if is(option, "TICKET") {
            (ticket, at) = (true, at + 1);
        } else {
            return Err(SYNTAX);
        }
    }
    command(CacheCommand::Fetch { key: arg(args, 0), wait, lease, ticket })
}

pub(crate) fn read_fill<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    static OUT_OF_RANGE: Error = NOT_AN_INTEGER;
    let (mut keep, mut at, mut problem) = (EntryOptions::new(args), 3, None);
    while at < args.len() {
        at = match keep.read(args, at) {
            // Such a fill ends its lease, and those who wait get the value: the other options count.
            Err(error) if error == NOT_AN_INTEGER && !args.get(at).is_some_and(|option| is(option, "TAGS")) => {
                problem = Some(&OUT_OF_RANGE);
                at + 2
            }
            next => next?.ok_or(SYNTAX)?,
        };
    }
    if !keep.is_in_range() {
        (keep.ttl, problem) = (None, Some(&OUT_OF_RANGE));
    }
    command(CacheCommand::Fill { key: arg(args, 0), token: token(args, 1)?, value: arg(args, 2), keep, problem })
}

pub(crate) fn read_fail<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let retry = match (args.get(3), args.len()) {
        (None, _) => None,
        (Some(option), 5) if is(option, "RETRY") => Some(millis(args, 4, 0)?.min(MAX_AGE)),
        _ => return Err(SYNTAX),
    };
    command(CacheCommand::Fail { key: arg(args, 0), token: token(args, 1)?, message: arg(args, 2), retry })
}

pub(crate) fn read_set<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut keep, mut only, mut at) = (EntryOptions::new(args), SetCondition::Always, 2);
    while let Some(option) = args.get(at) {
        if is(option, "NX") && only == SetCondition::Always {
            (only, at) = (SetCondition::Absent, at + 1);
        } else if is(option, "IFVERSION") && only == SetCondition::Always {
            (only, at) = (SetCondition::Version(token(args, at + 1)?), at + 2);
        } else {
            at = keep.read(args, at)?.ok_or(SYNTAX)?;
        }
    }
    keep.check()?;
    command(CacheCommand::Set { key: arg(args, 0), value: arg(args, 1), keep, only })
}

pub(crate) fn read_incr<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut keep, mut at) = (EntryOptions::new(args), 2);
    while at < args.len() {
        at = keep.read(args, at)?.ok_or(SYNTAX)?;
    }
    if keep.absent {
        return Err(SYNTAX);
    }
    keep.check()?;
    command(CacheCommand::Increment { key: arg(args, 0), delta: integer(arg(args, 1))?, keep })
}

pub(crate) fn read_invalidate<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut keys, mut tags, mut at) = (None, None, 0);
    while let Some(option) = args.get(at) {
        let given = match option {
            option if is(option, "KEYS") => &mut keys,
            option if is(option, "TAGS") => &mut tags,
            _ => return Err(SYNTAX),
        };
        let (names, next) = list(args, at + 1, 0)?;
        // Once each, also where the first list is empty.
        if given.replace(names).is_some() {
            return Err(SYNTAX);
        }
        at = next;
    }
    let (keys, tags) = (keys.unwrap_or(args.to(0)), tags.unwrap_or(args.to(0)));
    crate::vocabulary::check_keys(keys.iter())?;
    Ok(Command::Invalidate { keys, tags })
}

/// Whether a command may name these patterns: no more than can be served, and none that is too long.
fn check_patterns(globs: Args<'_>) -> Result<(), Error> {
    if globs.len() > MAX_PATTERNS {
        return Err(Error::new(Kind::TooLarge, "ERR too many patterns in one command; at most 1024 are taken"));
    }
    if globs.iter().any(|glob| glob.len() > MAX_PATTERN) {
        return Err(PATTERN_TOO_LONG);
    }
    Ok(())
}

pub(crate) fn read_loader<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let count = args.len();
    let last = count.checked_sub(2).and_then(|at| args.get(at)).filter(|_| count > 2);
    let (patterns, inflight) = if last.is_some_and(|option| is(option, "INFLIGHT")) {
        (args.to(count - 2), number(args, count - 1, 1, INFLIGHT.1 as i64)? as u64)
    } else {
        (args, INFLIGHT.0)
    };
    check_patterns(patterns)?;
    command(CacheCommand::Loader { patterns, inflight })
}

pub(crate) fn read_forget<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    check_patterns(args)?;
    command(CacheCommand::Forget(args))
}

pub(crate) fn read_session<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut tickets, mut servers, mut at) = (false, None, 2);
    while let Some(option) = args.get(at) {
        if is(option, "TICKETS") {
            (tickets, at) = (true, at + 1);
        } else if is(option, "SERVERS") && args.get(at + 1).is_some_and(|hash| hash.len() <= MAX_SESSION) {
            (servers, at) = (args.get(at + 1), at + 2);
        } else {
            return Err(SYNTAX);
        }
    }
    let id = arg(args, 0);
    if id.is_empty() || id.len() > MAX_SESSION {
        return Err(Error::new(Kind::Malformed, "ERR the name of a session has 1 to 64 bytes"));
    }
    command(CacheCommand::Session { id, generation: token(args, 1)?, tickets, servers })
}

/// The key and the token of a fill, as far as they can be read.
pub(crate) fn fill_of(args: Args<'_>) -> Option<(&[u8], u64)> {
    Some((args.get(0)?, token(args, 1).ok()?))
}
