//! The server: what it tells of itself and of its commands.

use super::Context;
use crate::command::{Args, Blob, Reply, Row, flag};

pub(super) fn info(cx: &Context<'_>, sections: Args<'_>) -> String {
    let all = ["all", "default", "everything"];
    let named: Vec<String> = sections.iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let everything = named.is_empty() || named.iter().any(|name| all.contains(&name.as_str()));
    cx.engine.info(cx.now, |section| everything || named.iter().any(|name| name == section))
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
