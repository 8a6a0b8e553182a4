//! COMMAND, and what memory is used for.

use std::sync::LazyLock;

use super::context::{Context, TOO_MUCH, read_pattern};
use crate::glob::STEPS_OF_A_KEY;
use crate::table::redis::{self, KeySpec, UNITS, Unit};
use crate::table::{Row, TABLE, lookup};
use crate::vocabulary::{Args, Error, Kind, Reply, SYNTAX, is};

/// What COMMAND tells of commands by name, in bytes: far more than anybody asks for.
const MOST_TOLD: usize = 4 << 20;

/// Words as Redis tells flags.
fn words(words: impl Iterator<Item = &'static str>) -> Reply {
    Reply::Set(words.map(Reply::Word).collect())
}

/// A command as COMMAND INFO tells it, with its subcommands.
fn describe(unit: &Unit) -> Reply {
    let int = |number: i32| Reply::Int(number.into());
    let (first, last, step) = unit.keys;
    Reply::Array(vec![
        Reply::bytes(&*unit.name),
        int(unit.arity),
        words(unit.flags.iter().copied()),
        int(first),
        int(last),
        int(step),
        words(unit.categories.iter().copied()),
        Reply::Set(unit.tips.iter().copied().map(Reply::bytes).collect()),
        Reply::Set(unit.specs.iter().map(describe_keys).collect()),
        Reply::Set(unit.subs().map(describe).collect()),
    ])
}

/// How a command uses keys.
fn describe_keys(spec: &KeySpec) -> Reply {
    let int = |number: i32| Reply::Int(number.into());
    let (first, last, step) = spec.range;
    let kind = |kind: &'static str, facts: Vec<(&'static str, Reply)>| {
        Reply::Map(vec![("type", Reply::bytes(kind)), ("spec", Reply::Map(facts))])
    };
    let numbers = |names: [(&'static str, i32); 3]| names.map(|(name, number)| (name, int(number))).to_vec();
    let find = match step {
        0 => kind("keynum", numbers([("keynumidx", 0), ("firstkey", 1), ("keystep", 1)])),
        _ => kind("range", numbers([("lastkey", last), ("keystep", step), ("limit", 0)])),
    };
    let mut facts = Vec::new();
    if !spec.notes.is_empty() {
        facts.push(("notes", Reply::bytes(spec.notes)));
    }
    facts.push(("flags", words(spec.flags.split(' '))));
    facts.push(("begin_search", kind("index", vec![("index", int(first))])));
    facts.push(("find_keys", find));
    Reply::Map(facts)
}

/// Every unit as COMMAND INFO tells it, in their order.
static UNITS_TOLD: LazyLock<Vec<Reply>> = LazyLock::new(|| UNITS.iter().map(describe).collect());

/// Every command.
pub(super) static ALL: LazyLock<Reply> = LazyLock::new(|| {
    let commands = UNITS.iter().zip(UNITS_TOLD.iter()).filter(|(unit, _)| !unit.is_sub());
    Reply::Array(commands.map(|(_, told)| Reply::Fixed(told)).collect())
});

/// Every row of the table as COMMAND DOCS tells it, in their order.
static ROWS_TOLD: LazyLock<Vec<Reply>> = LazyLock::new(|| TABLE.iter().map(document).collect());

fn documented(place: usize) -> (&'static str, Reply) {
    (&UNITS[place].name, Reply::Fixed(&ROWS_TOLD[place]))
}

/// All of them.
pub(super) static DOCUMENTS: LazyLock<Reply> = LazyLock::new(|| Reply::Map((0..TABLE.len()).map(documented).collect()));

/// Collects what is told of each name, unless that is too much.
fn told<T>(each: impl Iterator<Item = T>, memory: impl Fn(&T) -> usize) -> Result<Vec<T>, Error> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for one in each {
        bytes += memory(&one);
        if bytes > MOST_TOLD {
            return Err(TOO_MUCH);
        }
        all.push(one);
    }
    Ok(all)
}

/// Commands and subcommands by name.
pub(super) fn describe_named(names: Args<'_>) -> Result<Reply, Error> {
    let place = |name: &[u8]| redis::place_of(&String::from_utf8_lossy(name));
    let each = names.iter().map(|name| place(name).map_or(Reply::Null, |place| Reply::Fixed(&UNITS_TOLD[place])));
    told(each, Reply::memory).map(Reply::Array)
}

/// The documentation of commands by name.
pub(super) fn document_named(names: Args<'_>) -> Result<Reply, Error> {
    let each = names.iter().filter_map(lookup).map(|row| documented(redis::place_of_row(row)));
    told(each, |(name, facts)| name.len() + facts.memory()).map(Reply::Map)
}

/// Names of commands and subcommands, of all or of those that a filter picks.
pub(super) fn list(cx: &mut Context<'_>, filter: Args<'_>) -> Result<Reply, Error> {
    cx.may_look()?;
    let (kind, wanted) = (filter.get(0), filter.get(1).unwrap_or_default());
    let lower = wanted.to_ascii_lowercase();
    let category = String::from_utf8_lossy(&lower);
    let is_pattern = kind.is_some_and(|kind| is(kind, "PATTERN"));
    let pattern = read_pattern(if is_pattern { &lower } else { b"" })?;
    let mut spent = UNITS.len() * STEPS_OF_A_KEY;
    let mut picks = |unit: &Unit| match kind {
        None => true,
        Some(kind) if is(kind, "ACLCAT") => unit.is_in(&category),
        Some(kind) if is(kind, "PATTERN") => pattern.matches_within(unit.name.as_bytes(), &mut spent),
        // There are no modules.
        Some(_) => false,
    };
    if kind.is_some_and(|kind| !["ACLCAT", "PATTERN", "MODULE"].iter().any(|known| is(kind, known))) {
        return Err(SYNTAX);
    }
    let picked = UNITS.iter().filter(|unit| picks(unit)).map(|unit| Reply::bytes(&*unit.name)).collect();
    cx.waits.looked_at += spent / STEPS_OF_A_KEY;
    Ok(Reply::Array(picked))
}

/// A row as COMMAND DOCS tells it.
fn document(row: &Row) -> Reply {
    let facts = [("summary", row.summary), ("since", row.since), ("group", row.group)];
    Reply::Map(facts.map(|(name, fact)| (name, Reply::bytes(fact))).into())
}

/// The keys among the words of a command, each with how it is used if that is asked.
pub(super) fn keys_of(line: Args<'_>, with_flags: bool) -> Result<Reply, Error> {
    let refuse = |text: &'static str| Error::new(Kind::Malformed, text);
    let row = line.get(0).and_then(lookup).ok_or(refuse("ERR Invalid command specified"))?;
    let unit = &UNITS[redis::place_in(row, line)];
    if unit.specs.is_empty() {
        return Err(refuse("ERR The command has no key arguments"));
    }
    let count = line.len() as i32;
    if !(count == unit.arity || unit.arity < 0 && count >= -unit.arity) {
        return Err(refuse("ERR Invalid number of arguments specified for command"));
    }
    let mut found = Vec::new();
    for spec in &unit.specs {
        let keys = spec.keys(line).ok_or(refuse("ERR Invalid arguments specified for command"));
        let keys = match keys {
            Err(_) if unit.flags.contains(&"no_mandatory_keys") => break,
            keys => keys?,
        };
        let flags = words(spec.in_words(row, line).flags.split(' '));
        found.extend(keys.map(|key| {
            let key = Reply::bytes(key);
            if with_flags { Reply::Array(vec![key, flags.clone()]) } else { key }
        }));
    }
    Ok(Reply::Array(found))
}

/// What memory is used for, of what Redis tells.
pub(super) fn memory_stats(cx: &Context<'_>) -> Reply {
    let stats = cx.stats();
    let clients = cx.engine.client_bytes();
    let number = |name: &'static str, number: u64| (name, Reply::Int(number as i64));
    Reply::Map(vec![
        number("total.allocated", stats.used + clients),
        number("clients.normal", clients),
        number("keys.count", stats.items),
        number("keys.bytes-per-key", stats.used.checked_div(stats.items).unwrap_or(0)),
        number("dataset.bytes", stats.used),
    ])
}
