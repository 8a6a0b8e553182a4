//! CONFIG: the settings of the server under the names that Redis tools look for. All are chosen at the start.

use super::context::{Context, read_pattern};
use super::info::reset_counts;
use crate::glob::STEPS_OF_A_KEY;
use crate::vocabulary::{Args, ConfigCommand, Error, Kind, Reply, is};

/// Every setting with its value.
fn settings(cx: &Context<'_>) -> Vec<(&'static str, String)> {
    let (engine, facts) = (cx.engine, &cx.engine.facts);
    let options = engine.store.options();
    vec![
        ("appendonly", "no".to_owned()),
        ("databases", crate::limits::DATABASES.to_string()),
        ("io-threads", facts.threads.to_string()),
        ("maxclients", facts.max_clients.to_string()),
        ("maxmemory", options.memory.to_string()),
        ("maxmemory-policy", engine.policy().to_owned()),
        ("notify-keyspace-events", String::new()),
        ("port", facts.port.to_string()),
        ("proto-max-bulk-len", engine.limits.max_value.to_string()),
        ("save", String::new()),
        ("timeout", facts.idle_seconds.to_string()),
    ]
}

pub(super) fn run(cx: &mut Context<'_>, command: &ConfigCommand<'_>) -> Result<Reply, Error> {
    cx.may_look()?;
    match *command {
        ConfigCommand::Get(patterns) => get(cx, patterns),
        ConfigCommand::Set(pairs) => set(cx, pairs),
        ConfigCommand::ResetStat => {
            reset_counts(cx.engine, cx.stats());
            Ok(Reply::Ok)
        }
    }
}

/// Settings whose names match one of these patterns.
fn get(cx: &mut Context<'_>, patterns: Args<'_>) -> Result<Reply, Error> {
    cx.may_look()?;
    let mut rows: Vec<_> = settings(cx).into_iter().map(|row| (row, false)).collect();
    // It takes as long to read a pattern as to look at a key.
    let mut spent = STEPS_OF_A_KEY;
    for text in patterns.iter() {
        let pattern = read_pattern(&text.to_ascii_lowercase())?;
        spent += STEPS_OF_A_KEY + text.len();
        for ((name, _), wanted) in &mut rows {
            *wanted |= pattern.matches_within(name.as_bytes(), &mut spent);
        }
    }
    cx.waits.looked_at += spent / STEPS_OF_A_KEY;
    let wanted = rows.into_iter().filter(|(_, wanted)| *wanted);
    Ok(Reply::Map(wanted.map(|((name, value), _)| (name, Reply::bytes(value))).collect()))
}

/// What a setting is already may be set; nothing else, since each is chosen at the start.
fn set(cx: &Context<'_>, pairs: Args<'_>) -> Result<Reply, Error> {
    let settings = settings(cx);
    let mut names = pairs.iter();
    while let Some(name) = names.next() {
        let known = settings.iter().find(|(known, _)| is(name, known));
        let shown = String::from_utf8_lossy(&name[..name.len().min(128)]);
        let (Some((_, value)), Some(wanted)) = (known, names.next()) else {
            let text = format!("ERR Unknown option or number of arguments for CONFIG SET - '{shown}'");
            return Err(Error::with(Kind::Malformed, text));
        };
        if !is(wanted, value) {
            let text =
                format!("ERR CONFIG SET failed (possibly related to argument '{shown}') - can't set immutable config");
            return Err(Error::with(Kind::Denied, text));
        }
    }
    Ok(Reply::Ok)
}
