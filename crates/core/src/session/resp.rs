//! Requests of Redis: from the row to the reply.

use super::connection::Session;
use super::frame::Frame;
use super::run::{Run, Scratch};
use crate::commands::cache::end_unread_fill;
use crate::commands::context::Context;
use crate::commands::execute::execute_request;
use crate::commands::{gate, transaction};
use crate::output::Output;
use crate::protocol::resp;
use crate::table::{Request, Row, fill_of, flag, lookup};
use crate::vocabulary::{Args, Blob, CacheCommand, Command, Kind, Replies, Reply, too_long};

impl Session {
    /// Runs a request; false if it has to wait in its place.
    #[inline]
    pub(super) fn run_resp(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        frame: &Frame,
        row: Option<&'static Row>,
        out: &mut Output,
    ) -> bool {
        let Scratch { values, spans, .. } = &mut *run.scratch;
        let args = frame.args(input, spans);
        if args.is_empty() {
            return true;
        }
        values.clear();
        self.skip_one_reply();
        let mut waits = self.parked.take().unwrap_or_default();
        waits.in_turns = true;
        self.number_waits(&mut waits);
        let mut cx = Context::new(run.engine, run.now, self.client.connection.id, values, &mut waits);
        let reply = self.reply_to(&mut cx, row, args);
        drop(cx);
        let reply = match reply {
            Reply::Parked => match self.park(run.engine, run.now, (row, args), waits, out) {
                Some(reply) => reply,
                None => return false,
            },
            reply => {
                if !waits.keys.is_empty() {
                    self.give_back(run.engine, run.now.mono, &waits);
                }
                reply
            }
        };
        // A request that waits in its place takes its CLIENT CACHING when it runs.
        self.client.end_caching(row);
        let reply = match reply {
            Reply::Value(Blob::Scratch(range)) if self.client.replies == Replies::All => {
                run.commands += 1;
                resp::bulk(&run.scratch.values[range], out.bytes());
                return true;
            }
            reply => reply,
        };
        if !self.tickets.is_empty() && self.client.resp != 3 {
            self.leave_tickets(run.engine, run.now);
        }
        self.send_reply(run, &reply, out);
        true
    }

    #[inline(always)]
    fn reply_to(&mut self, cx: &mut Context<'_>, row: Option<&'static Row>, args: Args<'_>) -> Reply {
        let row = match gate::admit(row, args, &self.client) {
            Ok(row) => row,
            Err(error) => {
                return Reply::Error(transaction::refused(cx.engine, cx.now.mono, &mut self.client, row, error));
            }
        };
        if self.client.only_listens() && !row.has(flag::LISTENER) {
            return Reply::Error(gate::only_listens(row));
        }
        if let Some(queue) = self.client.transaction.queue.as_mut().filter(|_| !row.has(flag::TRANSACTION)) {
            return queue.push(row, args, cx.engine.limits.max_request);
        }
        // By reference: a command is long, and moving it costs as much as reading it.
        match &(row.read)(row, args.from(1)) {
            Ok(Command::Cache(CacheCommand::Cancel(ticket))) => {
                Reply::Int(self.cancel(cx.engine, cx.now, *ticket).into())
            }
            Ok(command) => execute_request(cx, &mut self.client, &Request::new(row, args), command),
            Err(error) => {
                if row.has(flag::FILL)
                    && let Some(fill) = fill_of(args.from(1))
                {
                    end_unread_fill(cx.engine, &mut self.client, cx.now.mono, fill, &error.text);
                }
                Reply::Error(error.clone())
            }
        }
    }

    /// Answers a request of which an argument is too long. A lease that it would have filled ends: nobody else knows that
    /// this load is over.
    #[cold]
    pub(super) fn refuse_too_long(&mut self, run: &mut Run<'_>, input: &[u8], frame: &Frame, out: &mut Output) -> bool {
        let args = frame.args(input, &run.scratch.spans);
        let row = args.get(0).and_then(lookup);
        let length = self.words.resp.too_long().unwrap_or_default();
        let mut error = too_long(length, run.engine.limits.max_value);
        if let Some(Err(refused)) = row.map(|row| gate::permit(&self.client, &Request::new(row, args))) {
            error = refused;
        } else if row.is_some_and(|row| row.has(flag::FILL))
            && self.client.transaction.queue.is_none()
            && let Some(fill) = fill_of(args.from(1))
        {
            end_unread_fill(run.engine, &mut self.client, run.now.mono, fill, &error.text);
        }
        let error = transaction::refused(run.engine, run.now.mono, &mut self.client, row, error);
        self.skip_one_reply();
        self.send_reply(run, &Reply::Error(error), out);
        true
    }

    /// The reply to the command that is now run is skipped, if CLIENT REPLY SKIP stood before it.
    #[inline]
    fn skip_one_reply(&mut self) {
        if self.client.replies == Replies::SkipNext {
            self.client.replies = Replies::Skip;
        }
    }

    /// Sends a reply, if the client wants it. What is pushed comes whatever it wants.
    #[inline]
    pub(super) fn send_reply(&mut self, run: &mut Run<'_>, reply: &Reply, out: &mut Output) {
        run.commands += 1;
        run.errors += u64::from(matches!(reply, Reply::Error(error) if error.kind != Kind::Waiting));
        if self.client.replies == Replies::All || matches!(reply, Reply::Push(_) | Reply::Several(_)) {
            resp::encode(reply, self.client.resp == 3, &run.scratch.values, out);
        }
        if self.client.replies == Replies::Skip {
            self.client.replies = Replies::All;
        }
    }
}
