//! CONFIG: the settings of the server under the names that Redis tools look for. All are chosen at the start.

use super::Context;
use crate::command::{Args, Blob, Command, Error, Kind, Reply, Row, is};
use crate::glob;

/// A command on the configuration.
#[derive(Clone, Copy, Debug)]
pub enum ConfigCommand<'a> {
    /// Settings whose names match one of these patterns.
    Get(Args<'a>),
    /// Changes settings: name, value, name, value ...
    Set(Args<'a>),
    /// What INFO counts begins again from 0.
    ResetStat,
}

pub(crate) fn read_config<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = args.get(0).unwrap_or_default();
    Ok(Command::Config(match args.len() {
        2.. if is(sub, "GET") => ConfigCommand::Get(args.from(1)),
        3.. if is(sub, "SET") => ConfigCommand::Set(args.from(1)),
        1 if is(sub, "RESETSTAT") => ConfigCommand::ResetStat,
        1 if is(sub, "REWRITE") => {
            return Err(Error::new(Kind::Unknown, "ERR The server is running without a config file"));
        }
        _ => {
            let known = ["get", "set", "resetstat", "rewrite"].into_iter().find(|name| is(sub, name));
            return Err(known.map_or_else(|| row.unknown_subcommand(sub), |name| row.wrong_subcommand_arity(name)));
        }
    }))
}

/// Every setting with its value.
fn settings(cx: &Context<'_>) -> Vec<(&'static str, String)> {
    let (engine, facts) = (cx.engine, &cx.engine.facts);
    let options = engine.store.options();
    vec![
        ("appendonly", "no".to_owned()),
        ("databases", crate::store::DATABASES.to_string()),
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
    match *command {
        ConfigCommand::Get(patterns) => {
            let mut rows: Vec<_> = settings(cx).into_iter().map(|row| (row, false)).collect();
            for pattern in patterns.iter() {
                let pattern = pattern.to_ascii_lowercase();
                for ((name, _), wanted) in &mut rows {
                    *wanted |= glob::matches(&pattern, name.as_bytes());
                }
            }
            let text = |value: String| Reply::Value(Blob::Owned(value.into_bytes()));
            let wanted = rows.into_iter().filter(|(_, wanted)| *wanted);
            Ok(Reply::Map(wanted.map(|((name, value), _)| (Reply::word(name), text(value))).collect()))
        }
        ConfigCommand::Set(pairs) => set(cx, pairs),
        ConfigCommand::ResetStat => {
            cx.engine.reset_counts(cx.stats());
            Ok(Reply::Ok)
        }
    }
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
