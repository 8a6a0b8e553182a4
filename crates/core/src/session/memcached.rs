//! Requests of memcached.

use super::connection::Session;
use super::frame::Frame;
use super::run::{Run, Scratch};
use crate::commands::cache::end_unread_fill;
use crate::commands::context::Context;
use crate::commands::execute::execute_request;
use crate::commands::gate;
use crate::output::Output;
use crate::protocol::memcached::{self, KeyBuffer, MAX_KEY};
use crate::state::engine::Engine;
use crate::table::Request;
use crate::vocabulary::{Args, Command, MemcachedCommand, Mode, Reply};

impl Session {
    /// Runs a request; false if it has to wait in its place.
    #[inline]
    pub(super) fn run_memcached(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        frame: &Frame,
        call: memcached::Call,
        out: &mut Output,
    ) -> bool {
        let Scratch { values, spans, .. } = &mut *run.scratch;
        let args = frame.args(input, spans);
        let mut buffer: KeyBuffer = [0; MAX_KEY];
        let (command, form) = match call.read(args, &mut buffer, &run.engine.limits) {
            Some(Ok(read)) => read,
            refused => {
                let line = refused.and_then(Result::err);
                self.end_unread_memcached_fill(run.engine, run.now.mono, call, args, line);
                if let Some(line) = line {
                    run.commands += 1;
                    run.errors += 1;
                    memcached::refuse(line, out);
                }
                return true;
            }
        };
        run.commands += 1;
        values.clear();
        let request = Request::of(&command);
        if let Err(error) = gate::permit(&self.client, &request) {
            run.errors += 1;
            if self.client.access.user().is_none() {
                memcached::refuse(self.authenticate_by_set(run.engine, &command), out);
            } else {
                memcached::encode(&form, &Reply::Error(error), &[], out);
            }
            return true;
        }
        let mut waits = self.parked.take().unwrap_or_default();
        waits.in_turns = true;
        self.number_waits(&mut waits);
        let mut cx = Context::new(run.engine, run.now, self.client.connection.id, values, &mut waits);
        let reply = execute_request(&mut cx, &mut self.client, &request, &command);
        drop(cx);
        if matches!(reply, Reply::Parked) {
            self.parked = Some(waits);
            return false;
        }
        run.errors += u64::from(matches!(reply, Reply::Error(_)));
        memcached::encode(&form, &reply, values, out);
        true
    }

    /// A lease ends that a request would have filled which could not be read.
    #[cold]
    fn end_unread_memcached_fill(
        &mut self,
        engine: &Engine,
        now: u64,
        call: memcached::Call,
        args: Args<'_>,
        line: Option<&str>,
    ) {
        let mut buffer: KeyBuffer = [0; MAX_KEY];
        if let Some(fill) = call.fill(args, &mut buffer) {
            let too_large = line == Some(memcached::TOO_LARGE);
            let why = if too_large { "the value is too large" } else { "its fill could not be read" };
            end_unread_fill(engine, &mut self.client, now, fill, why);
        }
    }

    /// What is answered to a client that has not said who it is: memcached has no command for that, so a first `set` of
    /// any key says it, with `user password` as its value.
    #[cold]
    fn authenticate_by_set(&mut self, engine: &Engine, command: &Command<'_>) -> &'static str {
        let Command::Memcached(MemcachedCommand::Store { value, mode: Mode::Set, version: None, .. }) = command else {
            return "CLIENT_ERROR unauthenticated";
        };
        let mut words = value.splitn(2, |byte| *byte == b' ');
        let (user, password) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let access = engine.users.authenticate(user, password);
        let known = access.is_some_and(|access| self.client.authenticate_as(&engine.users, access));
        if known { "STORED" } else { "CLIENT_ERROR authentication failure" }
    }
}
