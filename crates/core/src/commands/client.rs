//! CLIENT: what the server knows of this connection and of the others, and client tracking.

use std::sync::Arc;

use super::connection::printable;
use super::context::{Context, TOO_MUCH};
use crate::state::batch::Options;
use crate::state::client::Client;
use crate::state::clients::ClientInfo;
use crate::state::mailbox::Event;
use crate::state::tracking::{MAX_PREFIX, MAX_PREFIXES};
use crate::state::waits::Progress;
use crate::store::{Key, Outcome};
use crate::table::{Request, flag};
use crate::vocabulary::{Args, Blob, ClientCommand, Error, Filter, Kind, Replies, Reply, SYNTAX, integer, is};

pub(super) fn run(cx: &mut Context<'_>, client: &mut Client, command: &ClientCommand<'_>) -> Result<Reply, Error> {
    let text = |lines: String| Ok(Reply::Text(lines));
    match *command {
        ClientCommand::Id => Ok(Reply::Int(client.connection.id as i64)),
        ClientCommand::GetName if client.names.name.is_empty() => Ok(Reply::Null),
        ClientCommand::GetName => Ok(Reply::bytes(client.names.name.clone())),
        ClientCommand::SetName(name) => {
            client.names.name = printable(name, "Client names")?;
            Ok(Reply::Ok)
        }
        ClientCommand::SetInfo(version, value) => {
            let (place, what) = match version {
                true => (&mut client.names.lib_version, "lib-ver"),
                false => (&mut client.names.lib_name, "lib-name"),
            };
            *place = printable(value, what)?;
            Ok(Reply::Ok)
        }
        ClientCommand::Info => {
            let shown = cx.engine.clients.get(client.connection.id);
            text(shown.map_or_else(String::new, |shown| shown.line(cx.now) + "\n"))
        }
        ClientCommand::List(filter) => list(cx, &filter),
        ClientCommand::ListIds(ids) => list_ids(cx, ids),
        ClientCommand::Kill(filter, old) => kill(cx, client, &filter, old),
        ClientCommand::Reply(replies) => {
            // As in Redis, SKIP changes nothing where there are no replies.
            if (client.replies, replies) != (Replies::None, Replies::SkipNext) {
                client.replies = replies;
            }
            Ok(Reply::Ok)
        }
        ClientCommand::Track(args) => track(cx, client, args),
        ClientCommand::Untrack(args) => {
            read_options(cx, args)?;
            if client.tracking.take().is_some() {
                cx.engine.tracking.leave(client.connection, &cx.engine.store);
            }
            Ok(Reply::Ok)
        }
        ClientCommand::Caching(yes) => caching(client, yes),
        ClientCommand::TrackingInfo => Ok(tracking_info(client)),
        ClientCommand::Redirection => Ok(Reply::Int(redirection(client))),
    }
}

/// Connections that are looked at in one turn: two milliseconds.
const STEP: usize = 1024;
/// What a line about a connection costs, in keys that are looked at.
const LINE: usize = 16;

/// Looks at [`STEP`] connections at a time until `step` has found fewer; None if it goes on in another turn.
fn in_turns(
    cx: &mut Context<'_>,
    mut step: impl FnMut(&Context<'_>, &mut Progress) -> Result<usize, Error>,
) -> Result<Option<Box<Progress>>, Error> {
    cx.may_look()?;
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    loop {
        let count = step(cx, &mut progress)?;
        cx.waits.looked_at += count * LINE;
        if progress.bytes > cx.engine.limits.max_reply {
            return Err(TOO_MUCH);
        }
        if count < STEP {
            return Ok(Some(progress));
        }
        cx.may_look()?;
        if cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Ok(None);
        }
    }
}

/// The lines that were found, as one text.
fn joined(progress: &Progress) -> Reply {
    let text = |reply: &Reply| if let Reply::Text(text) = reply { text.clone() } else { String::new() };
    Reply::Text(progress.found.iter().map(text).collect())
}

/// A line about each connection.
fn list(cx: &mut Context<'_>, filter: &Filter<'_>) -> Result<Reply, Error> {
    let progress = in_turns(cx, |cx, progress| {
        let some = cx.engine.clients.some_from(progress.at, STEP);
        let meant = some.iter().filter(|shown| takes(filter, cx, shown));
        progress.keep(Reply::Text(meant.map(|shown| shown.line(cx.now) + "\n").collect()));
        progress.at = some.last().map_or(0, |last| last.connection.id + 1);
        Ok(some.len())
    })?;
    Ok(progress.map_or(Reply::Parked, |progress| joined(&progress)))
}

/// A line about each connection of these numbers.
fn list_ids(cx: &mut Context<'_>, ids: Args<'_>) -> Result<Reply, Error> {
    let progress = in_turns(cx, |cx, progress| {
        let some = ids.from(progress.at as usize).to(STEP);
        let mut lines = String::new();
        for id in some.iter() {
            let wrong = Error::new(Kind::Malformed, "ERR Invalid client ID");
            let id = integer(id).ok().and_then(|id| u64::try_from(id).ok()).ok_or(wrong)?;
            if let Some(shown) = cx.engine.clients.get(id) {
                lines += &(shown.line(cx.now) + "\n");
            }
        }
        progress.keep(Reply::Text(lines));
        progress.at += STEP as u64;
        Ok(some.len())
    })?;
    Ok(progress.map_or(Reply::Parked, |progress| joined(&progress)))
}

fn kill(cx: &mut Context<'_>, client: &mut Client, filter: &Filter<'_>, old: bool) -> Result<Reply, Error> {
    if let Some(user) = filter.user.filter(|user| cx.engine.users.get(user).is_none()) {
        let text = format!("ERR No such user '{}'", String::from_utf8_lossy(user));
        return Err(Error::with(Kind::NotFound, text));
    }
    let progress = in_turns(cx, |cx, progress| {
        let some = cx.engine.clients.some_from(progress.at, STEP);
        let meant = some.iter().filter(|shown| takes(filter, cx, shown));
        for shown in meant.filter(|shown| !(filter.skip_me && shown.connection == client.connection)) {
            progress.count += 1;
            if shown.connection == client.connection {
                progress.keep(Reply::Ok);
            } else {
                cx.engine.mail.post(shown.connection, Event::Close);
            }
        }
        progress.at = some.last().map_or(0, |last| last.connection.id + 1);
        Ok(some.len())
    })?;
    let Some(progress) = progress else { return Ok(Reply::Parked) };
    // It is one of them itself, and the answer is still sent.
    client.quitting |= !progress.found.is_empty();
    match (old, progress.count) {
        (true, 0) => Err(Error::new(Kind::NotFound, "ERR No such client")),
        (true, _) => Ok(Reply::Ok),
        (false, killed) => Ok(Reply::Int(killed)),
    }
}

fn refused(text: &'static str) -> Error {
    Error::new(Kind::Malformed, text)
}

/// Reads the options of CLIENT TRACKING.
fn read_options(cx: &Context<'_>, args: Args<'_>) -> Result<Options, Error> {
    let mut options = Options::default();
    let mut at = 0;
    while let Some(option) = args.get(at) {
        match args.get(at + 1) {
            _ if is(option, "BCAST") => options.broadcast = true,
            _ if is(option, "OPTIN") => options.opt_in = true,
            _ if is(option, "OPTOUT") => options.opt_out = true,
            _ if is(option, "NOLOOP") => options.no_loop = true,
            Some(_) if is(option, "REDIRECT") && options.redirect.is_some() => {
                return Err(refused("ERR A client can only redirect to a single other client"));
            }
            Some(id) if is(option, "REDIRECT") => {
                let id = integer(id)?;
                let shown = u64::try_from(id).ok().and_then(|id| cx.engine.clients.get(id));
                let nobody = refused("ERR The client ID you want redirect to does not exist");
                options.redirect = Some(shown.ok_or(nobody)?.connection);
                at += 1;
            }
            Some(prefix) if is(option, "PREFIX") => {
                if options.prefixes.len() == MAX_PREFIXES {
                    return Err(refused("ERR too many prefixes"));
                }
                if prefix.len() > MAX_PREFIX {
                    return Err(refused("ERR a prefix cannot be longer than 1024 bytes"));
                }
                options.prefixes.push(prefix.into());
                at += 1;
            }
            _ => return Err(SYNTAX),
        }
        at += 1;
    }
    Ok(options)
}

fn track(cx: &mut Context<'_>, client: &mut Client, args: Args<'_>) -> Result<Reply, Error> {
    let mut options = read_options(cx, args)?;
    let known = client.tracking.as_deref();
    compatible(&options, known)?;
    if options.broadcast {
        let known: &[Box<[u8]>] = known.map_or(&[], |known| &known.prefixes);
        overlap(&options.prefixes, known)?;
        if options.prefixes.is_empty() && !known.iter().any(|prefix| prefix.is_empty()) {
            options.prefixes.push(Box::default());
        }
        if known.len() + options.prefixes.len() > MAX_PREFIXES {
            return Err(refused("ERR too many prefixes"));
        }
        options.prefixes.extend(known.iter().cloned());
        options.prefixes.sort_unstable();
    }
    options.caching = known.is_some_and(|known| known.caching);
    cx.engine.tracking.join(client.connection, &client.access, &options, &cx.engine.store);
    client.tracking = Some(Box::new(options));
    Ok(Reply::Ok)
}

/// Whether options go together, and with those that the client has.
fn compatible(options: &Options, known: Option<&Options>) -> Result<(), Error> {
    if !options.prefixes.is_empty() && !options.broadcast {
        return Err(refused("ERR PREFIX option requires BCAST mode to be enabled"));
    }
    if known.is_some_and(|known| known.broadcast != options.broadcast) {
        return Err(refused(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then \
             re-enabling it with a different mode.",
        ));
    }
    if options.broadcast && (options.opt_in || options.opt_out) {
        return Err(refused("ERR OPTIN and OPTOUT are not compatible with BCAST"));
    }
    if options.opt_in && options.opt_out {
        return Err(refused("ERR You can't specify both OPTIN mode and OPTOUT mode"));
    }
    if known.is_some_and(|known| known.opt_in && options.opt_out || known.opt_out && options.opt_in) {
        return Err(refused(
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then \
             re-enabling it with a different mode.",
        ));
    }
    Ok(())
}

/// Prefixes of one client must not cover each other: it would be sent a key twice. The error names the first that is given,
/// as in Redis.
fn overlap(prefixes: &[Box<[u8]>], known: &[Box<[u8]>]) -> Result<(), Error> {
    let Some(at) = first_overlapping(prefixes, known) else { return Ok(()) };
    let one = &prefixes[at];
    let meet = |other: &[u8]| one.starts_with(other) || other.starts_with(one);
    let before = known.iter().find(|other| meet(other)).map(|other| ("an existing", other));
    let beside = || prefixes[at + 1..].iter().find(|other| meet(other)).map(|other| ("another provided", other));
    let Some((which, other)) = before.or_else(beside) else { return Ok(()) };
    let (one, other) = (String::from_utf8_lossy(one), String::from_utf8_lossy(other));
    let text = format!(
        "ERR Prefix '{one}' overlaps with {which} prefix '{other}'. Prefixes for a single client must not overlap."
    );
    Err(Error::with(Kind::Malformed, text))
}

/// The place of the first prefix that covers another one or is covered, whether that is given or known. In order, whatever
/// covers a prefix stands before it, and all between the two is covered as well.
fn first_overlapping(prefixes: &[Box<[u8]>], known: &[Box<[u8]>]) -> Option<usize> {
    let given = prefixes.iter().enumerate().map(|(at, prefix)| (&**prefix, Some(at)));
    let mut all: Vec<(&[u8], Option<usize>)> = given.chain(known.iter().map(|prefix| (&**prefix, None))).collect();
    all.sort_unstable();
    let (mut first, mut covering) = (None, Vec::<(&[u8], Option<usize>)>::new());
    let mut note = |at: Option<usize>| first = [first, at].into_iter().flatten().min();
    for (prefix, at) in all {
        while covering.last().is_some_and(|(other, _)| !prefix.starts_with(other)) {
            covering.pop();
        }
        if !covering.is_empty() {
            note(at);
        }
        covering.iter().for_each(|(_, at)| note(*at));
        covering.push((prefix, at));
    }
    first
}

fn caching(client: &mut Client, yes: Option<bool>) -> Result<Reply, Error> {
    match client.tracking.as_mut().filter(|options| options.opt_in || options.opt_out) {
        None => Err(refused(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        )),
        Some(options) if yes == Some(true) && !options.opt_in => {
            Err(refused("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."))
        }
        Some(options) if yes == Some(false) && !options.opt_out => {
            Err(refused("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."))
        }
        Some(_) if yes.is_none() => Err(SYNTAX),
        Some(options) => {
            options.caching = true;
            Ok(Reply::Ok)
        }
    }
}

fn redirection(client: &Client) -> i64 {
    client.tracking.as_ref().map_or(-1, |options| options.redirect.map_or(0, |connection| connection.id as i64))
}

fn tracking_info(client: &Client) -> Reply {
    let mut flags = Vec::new();
    let mut prefixes = Vec::new();
    match &client.tracking {
        None => flags.push("off"),
        Some(options) => {
            flags.push("on");
            let rest = [
                (options.broadcast, "bcast"),
                (options.opt_in, "optin"),
                (options.opt_in && options.caching, "caching-yes"),
                (options.opt_out, "optout"),
                (options.opt_out && options.caching, "caching-no"),
                (options.no_loop, "noloop"),
                (options.broken, "broken_redirect"),
            ];
            flags.extend(rest.iter().filter(|(is, _)| *is).map(|(_, name)| *name));
            prefixes.extend(options.prefixes.iter().map(|prefix| Reply::Value(Blob::Shared(Arc::from(&**prefix)))));
        }
    }
    Reply::Map(vec![
        ("flags", Reply::Set(flags.into_iter().map(Reply::bytes).collect())),
        ("redirect", Reply::Int(redirection(client))),
        ("prefixes", Reply::Array(prefixes)),
    ])
}

/// The keys of a command that reads are remembered for a client that keeps copies, before they are read.
#[cold]
pub(super) fn remember_reads(cx: &mut Context<'_>, client: &Client, request: &Request<'_>) {
    let Some(options) = &client.tracking else { return };
    let caching = cx.waits.caching.unwrap_or(options.caching);
    let wanted = !options.broadcast && if options.opt_in { caching } else { !(options.opt_out && caching) };
    if !wanted || !request.row.has(flag::READ) {
        return;
    }
    let (db, connection) = (client.db, client.connection);
    let tracking = &cx.engine.tracking;
    for bytes in request.keys() {
        let key = Key { db, bytes };
        // A value that was waited for is answered as it was loaded. If it is not there any more, the client is sent an
        // invalidation at once: the change came before this registration.
        let loaded = cx.waits.outcome(key).and_then(|outcome| match outcome {
            Outcome::Loaded(loaded) => Some((loaded.absent, loaded.version)),
            _ => None,
        });
        let version = cx.with(key, |entry, _| {
            // Before the look at the item: a tag that is invalidated between the two would reach nobody.
            if entry.track(connection) {
                tracking.tagged(connection.id);
            }
            entry.peek().map(|item| item.version)
        });
        let is_as_loaded = |absent, stored: Option<u64>| {
            if absent { version.is_none() } else { stored.is_some() && stored == version }
        };
        if loaded.is_some_and(|(absent, stored)| !is_as_loaded(absent, stored)) {
            tracking.changed_before(connection.id, bytes, &cx.engine.mail);
        }
    }
}

/// Whether a connection is meant.
fn takes(filter: &Filter<'_>, cx: &Context<'_>, shown: &ClientInfo) -> bool {
    !filter.nobody
        && filter.id.is_none_or(|id| shown.connection.id == id)
        && filter.address.is_none_or(|address| shown.address.as_bytes() == address)
        && filter.user.is_none_or(|user| shown.user().as_bytes() == user)
        && filter.subscribers.is_none_or(|wanted| shown.is_subscriber() == wanted)
        && filter.older.is_none_or(|age| shown.age(cx.now) >= age)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the look at each pair finds is found in order as well, whatever stands between a prefix and what covers it.
    #[test]
    fn overlapping_prefixes_are_found_in_order() {
        let names = ["", "a", "ab", "abc", "b", "ba", "c"];
        let pick = |bits: usize| -> Vec<Box<[u8]>> {
            let picked = names.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
            picked.map(|(_, name)| name.as_bytes().into()).rev().collect()
        };
        for (given, known) in (0..128).flat_map(|given| (0..128).map(move |known| (pick(given), pick(known)))) {
            let meet = |one: &[u8], other: &[u8]| one.starts_with(other) || other.starts_with(one);
            let wanted = (0..given.len()).find(|at| {
                let rest = given[at + 1..].iter().chain(&known);
                rest.into_iter().any(|other| meet(&given[*at], other))
            });
            assert_eq!(first_overlapping(&given, &known), wanted, "{given:?} {known:?}");
        }
    }
}
