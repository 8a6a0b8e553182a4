//! Requests of words, as Redis and memcached have them: read ahead, then run in their order.

use super::connection::{Flow, Session};
use super::frame::{BATCH, Frame, Name, Plain};
use super::run::Run;
use crate::output::Output;
use crate::protocol::{Next, memcached, resp};
use crate::state::mailbox::Event;
use crate::table::lookup;
use crate::vocabulary::{Args, Reply};

impl Session {
    #[inline(always)]
    pub(super) fn feed_words(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        out: &mut Output,
        memcached: bool,
    ) -> (usize, Flow) {
        if let Some(request) = self.under_way.take() {
            if !self.go_on(run, request, out) {
                return (0, Flow::Park);
            }
            if self.client.quitting {
                return (input.len(), Flow::Close);
            }
        }
        let mut frames = std::mem::take(&mut run.scratch.frames);
        let end = self.feed_batches(run, input, &mut frames, out, memcached);
        run.scratch.frames = frames;
        end
    }

    #[inline(always)]
    fn feed_batches(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        frames: &mut Vec<Frame>,
        out: &mut Output,
        memcached: bool,
    ) -> (usize, Flow) {
        let mut start = 0;
        while start < input.len() {
            frames.clear();
            run.scratch.spans.clear();
            if !self.words.partial.is_empty() {
                run.scratch.spans.append(&mut std::mem::take(&mut self.words.partial));
            }
            let (end, stop) = self.read_ahead(run, input, start, frames, memcached);
            if frames.len() > 1 {
                run.prefetch(&self.client, input, frames, self.is_plain(run.engine));
            }
            if let Some(ended) = self.run_frames(run, input, frames, (end, &stop), out) {
                return ended;
            }
            start = end;
            match stop {
                None => {}
                Some(Next::Broken(error)) => {
                    if memcached {
                        memcached::encode_error(&error, out);
                    } else {
                        resp::encode(&Reply::Error(error), false, &[], out);
                    }
                    run.errors += 1;
                    return (input.len(), Flow::Close);
                }
                Some(Next::Close) => return (input.len(), Flow::Close),
                Some(_) => break,
            }
        }
        (start, Flow::Continue)
    }

    /// Runs what was read ahead; where the session goes on, and how, unless it is to read on. `end` is where these requests
    /// end, and `stop` why no more of them were read.
    #[inline(always)]
    fn run_frames(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        frames: &[Frame],
        (end, stop): (usize, &Option<Next>),
        out: &mut Output,
    ) -> Option<(usize, Flow)> {
        let start_of = |index: usize| frames.get(index).map_or(end, |frame| frame.start);
        let had_session = self.client.joined.is_some();
        let mut index = 0;
        while index < frames.len() {
            // Looked at each time: the request before may have begun a transaction, say.
            let plain = self.is_plain(run.engine);
            if !plain && self.client.tracking.is_some() && self.take_messages(run, out) == Flow::Close {
                return Some((input.len(), Flow::Close));
            }
            let count = self.run_next(run, input, &frames[index..], plain, out);
            if count == 0 {
                self.read_again();
                return Some((start_of(index + usize::from(self.under_way.is_some())), Flow::Park));
            }
            index += count;
            if self.client.quitting {
                return Some((input.len(), Flow::Close));
            }
            let waiting = index < frames.len();
            let ends = || {
                // What follows the greeting of a session is run behind its fence, and not at all if a newer one is there.
                let joins = self.client.joined.is_some() != had_session;
                joins || (waiting || stop.is_none()) && run.scratch.turn_end.is_past()
            };
            let full = out.len() > self.limits(run.engine).pause_output;
            if full || (waiting || end < input.len()) && ends() {
                // What was read ahead is read again when the output was taken.
                if waiting {
                    self.read_again();
                }
                return Some((start_of(index), Flow::Pause));
            }
        }
        None
    }

    /// Runs the first of these requests, or as many as are one step; how many those were. 0: it waits in its place.
    #[inline(always)]
    fn run_next(&mut self, run: &mut Run<'_>, input: &[u8], frames: &[Frame], plain: bool, out: &mut Output) -> usize {
        let frame = &frames[0];
        if plain {
            let count = frames.iter().take_while(|frame| frame.plain.is_some()).count();
            if count > 0 {
                return run.run_plain(&self.client, input, &frames[..count], out);
            }
            if run.run_many(&self.client, input, frame, out) {
                return 1;
            }
        }
        let done = match frame.name {
            Name::Redis(row) => self.run_resp(run, input, frame, row, out),
            Name::Memcached(call) => self.run_memcached(run, input, frame, call, out),
            Name::TooLong => self.refuse_too_long(run, input, frame, out),
        };
        done.into()
    }

    /// Takes the messages that were left for a client that keeps copies, before its next request is run: what it reads
    /// now may be newer than a change of another key that it was not told of yet.
    #[cold]
    fn take_messages(&mut self, run: &mut Run<'_>, out: &mut Output) -> Flow {
        let events = run.engine.mail.take_of(self.client.connection);
        if events.iter().any(|event| matches!(event, Event::Close)) {
            let connection = self.client.connection;
            events.into_iter().for_each(|event| run.engine.undelivered(connection, event, run.clock));
            return Flow::Close;
        }
        for event in events {
            self.deliver(run.engine, run.clock, run.scratch, event, out);
        }
        Flow::Continue
    }

    /// Reads up to a batch of requests; returns where the next one begins, and why it stopped if it did.
    #[inline]
    fn read_ahead(
        &mut self,
        run: &mut Run<'_>,
        input: &[u8],
        start: usize,
        frames: &mut Vec<Frame>,
        memcached: bool,
    ) -> (usize, Option<Next>) {
        let (mut at, mut first, mut last) = (start, 0, (None, None));
        // What follows the request that says who the client is may be longer: it is not read ahead.
        let limits = self.limits(run.engine);
        let most = if self.is_authenticated() { BATCH } else { 1 };
        let words = &mut self.words;
        while frames.len() < most && at < input.len() {
            let (spans, rest) = (&mut run.scratch.spans, &input[at..]);
            let next = if memcached {
                words.memcached.next(rest, spans, limits)
            } else {
                words.resp.next(rest, spans, limits)
            };
            match next {
                Next::Request(length) => {
                    let mut plain = None;
                    let name = if memcached {
                        Name::Memcached(words.memcached.call())
                    } else {
                        let word = spans.get(first).map(|name| &rest[name.start as usize..name.end as usize]);
                        // Those who send many requests at once mostly ask the same.
                        if word != last.0 {
                            last = (word, word.and_then(lookup));
                        }
                        plain = last.1.and_then(|row| Plain::new(row, Args::new(rest, &spans[first..])));
                        Name::Redis(last.1)
                    };
                    frames.push(Frame { start: at, spans: (first, spans.len()), name, plain });
                    first = spans.len();
                    at += length;
                    // What is skipped must not be read again, so nothing is read ahead behind it.
                    if if memcached { words.memcached.is_skipping() } else { words.resp.is_skipping() } {
                        if let (Some(_), Some(frame)) = (words.resp.too_long(), frames.last_mut()) {
                            (frame.name, frame.plain) = (Name::TooLong, None);
                        }
                        return (at, None);
                    }
                }
                Next::More(wanted) => {
                    words.partial.extend_from_slice(&spans[first..]);
                    self.wanted = wanted;
                    return (at, Some(Next::More(wanted)));
                }
                end => return (at, Some(end)),
            }
        }
        (at, None)
    }
}
