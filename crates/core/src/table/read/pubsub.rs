//! Reading the commands on channels.

use crate::limits::{MAX_CHANNEL, MAX_PATTERN};
use crate::table::row::Row;
use crate::vocabulary::{Args, Command, Error, Kind, PATTERN_TOO_LONG, PubSubCommand, SYNTAX, Topic};

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
    command(match row.sub(args)? {
        "numsub" => PubSubCommand::CountChannels(args.from(1)),
        "numpat" => PubSubCommand::CountPatterns,
        channels if args.len() > 2 => return Err(row.wrong_subcommand_arity(channels)),
        _ => PubSubCommand::Channels(args.get(1)),
    })
}
