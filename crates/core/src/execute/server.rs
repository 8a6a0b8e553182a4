//! The server: what it tells of itself and of its commands.

use std::sync::atomic::Ordering::Relaxed;

use super::Context;
use crate::command::{Args, Blob, Error, Kind, Reply, Row, flag, lookup};

pub(super) fn info(cx: &Context<'_>, sections: Args<'_>) -> String {
    let all = ["all", "default", "everything"];
    let named: Vec<String> = sections.iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let everything = named.is_empty() || named.iter().any(|name| all.contains(&name.as_str()));
    let lens = std::array::from_fn(|db| cx.len(db as u8));
    let leases = cx.engine.count_leases(|visit| cx.each_holder(visit));
    cx.engine
        .info(cx.now, (&cx.stats(), leases), &lens, |section| everything || named.iter().any(|name| name == section))
}

pub(super) fn name_of(row: &Row) -> Reply {
    Reply::Value(Blob::Owned(row.name.to_ascii_lowercase().into_bytes()))
}

/// A row as COMMAND INFO tells it.
pub(super) fn describe(row: &'static Row) -> Reply {
    const FLAGS: [(u16, &str); 6] = [
        (flag::READ, "readonly"),
        (flag::WRITE, "write"),
        (flag::DENY_OOM, "denyoom"),
        (flag::FAST, "fast"),
        (flag::ADMIN, "admin"),
        (flag::NO_AUTH, "no_auth"),
    ];
    const CATEGORIES: [(u16, &str); 5] = [
        (flag::READ, "@read"),
        (flag::WRITE, "@write"),
        (flag::FAST, "@fast"),
        (flag::ADMIN, "@admin"),
        (flag::CONNECTION, "@connection"),
    ];
    let words = |table: &[(u16, &'static str)]| {
        Reply::Set(table.iter().filter(|(bit, _)| row.flags & bit != 0).map(|(_, word)| Reply::Word(word)).collect())
    };
    Reply::Array(vec![
        name_of(row),
        Reply::Int(row.arity.into()),
        words(&FLAGS),
        Reply::Int(row.keys.0.into()),
        Reply::Int(row.keys.1.into()),
        Reply::Int(row.keys.2.into()),
        words(&CATEGORIES),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

/// A row as COMMAND DOCS tells it.
pub(super) fn document(row: &'static Row) -> (Reply, Reply) {
    let facts = vec![
        (Reply::word("summary"), Reply::word(row.summary)),
        (Reply::word("since"), Reply::word(row.since)),
        (Reply::word("group"), Reply::word(row.group)),
    ];
    (name_of(row), Reply::Map(facts))
}

/// The keys among the words of a command.
pub(super) fn keys_of(words: Args<'_>) -> Result<Reply, Error> {
    let row = words.get(0).and_then(lookup);
    let row = row.ok_or(Error::new(Kind::Malformed, "ERR Invalid command specified"))?;
    if row.keys.0 == 0 {
        return Err(Error::new(Kind::Malformed, "ERR The command has no key arguments"));
    }
    if !row.takes(words.len()) {
        return Err(Error::new(Kind::Malformed, "ERR Invalid number of arguments specified for command"));
    }
    Ok(Reply::Array(row.keys(words).map(|key| Reply::Value(Blob::Owned(key.to_vec()))).collect()))
}

/// What memory is used for, of what Redis tells.
pub(super) fn memory_stats(cx: &Context<'_>) -> Reply {
    let stats = cx.stats();
    let clients = cx.engine.counters.client_bytes.load(Relaxed);
    let number = |name: &'static str, number: u64| (Reply::word(name), Reply::Int(number as i64));
    Reply::Map(vec![
        number("total.allocated", stats.used + clients),
        number("clients.normal", clients),
        number("keys.count", stats.items),
        number("keys.bytes-per-key", stats.used.checked_div(stats.items).unwrap_or(0)),
        number("dataset.bytes", stats.used),
    ])
}
