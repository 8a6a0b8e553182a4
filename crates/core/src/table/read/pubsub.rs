//! Reading the commands on channels.

use crate::limits::{MAX_CHANNEL, MAX_PATTERN};
use crate::table::row::Row;
use crate::vocabulary::{Args, Command, Error, Kind, PATTERN_TOO_LONG, PubSubCommand, SYNTAX, Topic, is};

const CHANNEL_TOO_LONG: Error =
    Error::new(Kind::TooLarge, "ERR the name of a channel is too long; at most 1024 bytes are taken");

fn command(command: PubSubCommand<'_>) -> Result<Command<'_>, Error> {
    Ok(Command::PubSub(command))
}

pub(crate) fn read_subscribe<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    if args.iter().any(|name| name.len() > MAX_CHANNEL) {
        return Err(CHANNEL_TOO_LONG);
    }
    command(PubSubCommand::Subscribe(Topic::Channel, args))
}

pub(crate) fn read_psubscribe<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    if args.iter().any(|pattern| pattern.len() > MAX_PATTERN) {
        return Err(PATTERN_TOO_LONG);
    }
    command(PubSubCommand::Subscribe(Topic::Pattern, args))
}

pub(crate) fn read_publish<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (channel, message) = (args.get(0).ok_or(SYNTAX)?, args.get(1).ok_or(SYNTAX)?);
    if channel.len() > MAX_CHANNEL {
        return Err(CHANNEL_TOO_LONG);
    }
    command(PubSubCommand::Publish(channel, message))
}

pub(crate) fn read_pubsub<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = args.get(0).ok_or(SYNTAX)?;
    command(match args.len() {
        1 | 2 if is(sub, "CHANNELS") => PubSubCommand::Channels(args.get(1)),
        _ if is(sub, "NUMSUB") => PubSubCommand::CountChannels(args.from(1)),
        1 if is(sub, "NUMPAT") => PubSubCommand::CountPatterns,
        _ => {
            let known = ["channels", "numpat"].into_iter().find(|name| is(sub, name));
            return Err(known.map_or_else(|| row.unknown_subcommand(sub), |name| row.wrong_subcommand_arity(name)));
        }
    })
}
