//! Messages of JSON, one a line.

use super::connection::{Flow, Session};
use super::run::Run;
use super::ticket::{Kept, TOO_MANY_WAIT};
use crate::commands::cache::end_unread_fill;
use crate::commands::context::Context;
use crate::commands::execute::execute_request;
use crate::commands::gate;
use crate::output::Output;
use crate::protocol::json::Message;
use crate::state::waits::Waits;
use crate::table::Request;
use crate::vocabulary::{Error, Kind, Reply, check_keys, too_long};

/// Bytes of a message beside its value: envelope, keys and names.
const JSON_SLACK: usize = 256 << 10;

impl Session {
    pub(super) fn feed_json(&mut self, run: &mut Run<'_>, input: &[u8], out: &mut Output) -> (usize, Flow) {
        let limits = self.limits(run.engine);
        let limit = (limits.max_value + JSON_SLACK).min(limits.max_request);
        let mut start = 0;
        while start < input.len() {
            let rest = &input[start..];
            if self.lines.long.is_some() {
                let Some(taken) = self.skip_long_line(run, rest, out) else {
                    let over = self.lines.long.is_none();
                    return (input.len(), if over { Flow::Close } else { Flow::Continue });
                };
                start += taken;
            } else {
                let searched = std::mem::take(&mut self.lines.searched);
                let found = memchr::memchr(b'\n', &rest[searched..rest.len().min(limit)]);
                let Some(end) = found.map(|end| searched + end) else {
                    if rest.len() >= limit {
                        self.lines.long = Some(Box::default());
                        continue;
                    }
                    self.lines.searched = rest.len();
                    break;
                };
                start += end + 1;
                let line = rest[..end].trim_ascii();
                if !line.is_empty() {
                    run.commands += 1;
                    self.run_json(run, line, Waits::default(), out);
                }
            }
            let full = out.len() > run.engine.limits.pause_output;
            if full || start < input.len() && run.scratch.turn_end.is_past() {
                return (start, Flow::Pause);
            }
        }
        (start, Flow::Continue)
    }

    /// Skips what has arrived of a message that is too long, and answers it at its end; how many bytes that took. None if
    /// it goes on, or is longer than a request may be: then it is answered and not followed any more.
    #[cold]
    fn skip_long_line(&mut self, run: &mut Run<'_>, input: &[u8], out: &mut Output) -> Option<usize> {
        let most = if self.limits(run.engine).max_skipped == 0 { 0 } else { run.engine.limits.max_request };
        let line = self.lines.long.as_mut()?;
        let taken = line.take(input);
        if line.length() <= most && taken.is_none() {
            return None;
        }
        let line = self.lines.long.take()?;
        let mut message = Message::default();
        let known = message.read(line.kept()).is_ok();
        let max_value = run.engine.limits.max_value;
        run.commands += 1;
        let reply = if known && line.length() <= most && line.longest() > max_value {
            let permitted = check_keys(message.keys().iter()).and_then(|()| self.permit(&message));
            permitted.map_or_else(Reply::Error, |()| self.refuse_value(run, &message, line.longest()))
        } else {
            Reply::Error(Error::new(Kind::TooLarge, "ERR the message is too long"))
        };
        self.answer(run, &message, &reply, out);
        taken.filter(|_| line.length() <= most)
    }

    /// What is answered to a message whose value is too long. A lease that it would have filled ends.
    #[cold]
    fn refuse_value(&mut self, run: &Run<'_>, message: &Message, length: usize) -> Reply {
        let error = too_long(length, run.engine.limits.max_value);
        if let Some(fill) = message.fill() {
            end_unread_fill(run.engine, &mut self.client, run.now.mono, fill, &error.text);
        }
        Reply::Error(error)
    }

    /// Whether the client may ask for what a message asks.
    fn permit(&self, message: &Message) -> Result<(), Error> {
        message.command().map_or(Ok(()), |command| gate::permit(&self.client, &Request::of(&command)))
    }

    pub(super) fn run_json(&mut self, run: &mut Run<'_>, line: &[u8], mut waits: Waits, out: &mut Output) {
        let mut message = Message::default();
        run.scratch.values.clear();
        self.client.later.unordered = true;
        self.number_waits(&mut waits);
        let admitted = message.read(line).and_then(|()| check_keys(message.keys().iter()));
        if let Err(error) = &admitted
            && let Some(fill) = message.fill()
        {
            end_unread_fill(run.engine, &mut self.client, run.now.mono, fill, &error.text);
        }
        let length = message.value_len();
        let reply = match admitted.and_then(|()| self.permit(&message)) {
            Err(error) => Reply::Error(error),
            Ok(()) if length > run.engine.limits.max_value => self.refuse_value(run, &message, length),
            Ok(()) => message.command().map_or(Reply::Ok, |command| {
                let mut cx =
                    Context::new(run.engine, run.now, self.client.connection.id, &mut run.scratch.values, &mut waits);
                execute_request(&mut cx, &mut self.client, &Request::of(&command), &command)
            }),
        };
        if !matches!(reply, Reply::Parked) {
            self.give_back(run.engine, run.now.mono, &waits);
            self.answer(run, &message, &reply, out);
        } else if self.tickets.is_full() {
            waits.leave(run.engine, &self.client, run.now.mono);
            self.answer(run, &message, &Reply::Error(TOO_MANY_WAIT), out);
        } else {
            self.tickets.keep(waits, Kept::Json(line.into()), self.client.db);
        }
    }

    fn answer(&mut self, run: &mut Run<'_>, message: &Message, reply: &Reply, out: &mut Output) {
        run.errors += u64::from(matches!(reply, Reply::Error(_)));
        message.answer(reply, self.lines.sent, &run.scratch.values, out.bytes());
        self.lines.sent += 1;
    }
}
