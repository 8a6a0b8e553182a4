//! A socket that does what a test says, and every order in which a client, the server and a load can take their steps.
//!
//! The socket is that of the system in the respects that matter: an edge for what arrives, for the end of the peer and for
//! room after a write that was cut short, each told once, and several told together if nobody asks in between. The end and
//! what arrived before it are read in their order; a reset says that nothing can be sent any more.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use globalcache_core::clock::Now;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session, TurnEnd};
use globalcache_core::state::mailbox::Event;
use globalcache_core::store::{ConnectionId, Outcome};
use globalcache_core::vocabulary::{Blob, Reply};
use parking_lot::Mutex;

use crate::connection::{Buffers, Connection, Ready, Turn};
use crate::stream::Stream;
use crate::{Options, Shared, engine};

#[derive(Default)]
struct State {
    incoming: VecDeque<u8>,
    finished: bool,
    reset: bool,
    /// Bytes that it takes before the client has read.
    room: usize,
    /// A write was cut short: room is to be told.
    blocked: bool,
    sent: Vec<u8>,
    /// What is to be told with the next edge.
    edge: Option<Ready>,
}

impl State {
    fn tell(&mut self, ready: Ready) {
        let told = self.edge.get_or_insert_default();
        told.readable |= ready.readable;
        told.finished |= self.finished || self.reset;
        told.gone |= self.reset;
    }
}

/// The server's end of it; clones are the same socket.
#[derive(Clone, Default)]
pub(crate) struct Socket(Arc<Mutex<State>>);

impl Socket {
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let count = state.incoming.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(state.incoming.drain(..count)) {
            *place = byte;
        }
        match count {
            0 if state.reset => Err(ErrorKind::ConnectionReset.into()),
            0 if !state.finished => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    pub(crate) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.lock();
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let count = bytes.len().min(state.room);
        state.blocked = count < bytes.len();
        state.room -= count;
        state.sent.extend_from_slice(&bytes[..count]);
        match count {
            _ if state.reset => Err(ErrorKind::BrokenPipe.into()),
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

/// What a client does, or the load that its request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Sends the next part of what it has to send.
    Send,
    /// Sends no more.
    Finish,
    /// Is gone.
    Reset,
    /// Reads what was sent to it.
    Take,
    /// The value is there.
    Load,
}

/// Requests as a client sends them, part by part, and what it is answered when all have run.
struct Dialogue {
    parts: [&'static str; 3],
    replies: [&'static str; 3],
}

const DIALOGUES: [Dialogue; 3] = [
    Dialogue {
        parts: ["PING\r\nGET u:1\r\nEC", "HO abcdefghijklmnopqrstuvwxyz\r\n", "PING\r\nGET u:1\r\n"],
        replies: ["+PONG\r\n$1\r\nv\r\n", "$26\r\nabcdefghijklmnopqrstuvwxyz\r\n", "+PONG\r\n$1\r\nv\r\n"],
    },
    Dialogue {
        parts: ["mn\r\nget u:1\r\nset x 0 0", " 26\r\nabcdefghijklmnopqrstuvwxyz\r\n", "mn\r\nget u:1\r\n"],
        replies: ["MN\r\nVALUE u:1 0 1\r\nv\r\nEND\r\n", "STORED\r\n", "MN\r\nVALUE u:1 0 1\r\nv\r\nEND\r\n"],
    },
    // Answers come in any order: they are counted by what no other line has.
    Dialogue {
        parts: [
            "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":1,\"key\":\"u:1\"}}\n",
            "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":2,\"key\":\"x:1\"}}\n",
            "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":3,\"key\":\"u:1\"}}\n",
        ],
        replies: ["\"in_reply_to\":1,", "\"in_reply_to\":2,", "\"in_reply_to\":3,"],
    },
];
const JSON: usize = 2;

/// How the surroundings are: bytes that the socket takes, and whether every turn ends with its first request.
const SURROUNDINGS: [(usize, bool); 2] = [(5, false), (1 << 20, true)];

/// Options of a server without threads.
pub(crate) fn options() -> Options {
    Options {
        listen: Vec::new(),
        threads: 1,
        memory: 8 << 20,
        evict: true,
        max_value: 1 << 20,
        max_clients: 10,
        client_memory: 1 << 20,
        idle_timeout: std::time::Duration::ZERO,
        insecure: false,
        passwords: Vec::new(),
        users: String::new(),
        tls: None,
        loaders: vec!["u:*".to_owned()],
        load_limit: std::time::Duration::from_secs(30),
        shutdown: false,
        debug_time: false,
    }
}

/// Server threads and sockets without either: one connection, whose turns are taken when the test says so.
struct World {
    shared: Shared,
    buffers: Buffers,
    now: Now,
    party: ConnectionId,
}

impl World {
    fn new(short_turns: bool) -> World {
        let options = options();
        let mut engine = engine(&options, &[]);
        engine.limits.pause_output = 8;
        let mut buffers = Buffers::with_input(16);
        if short_turns {
            buffers.scratch.turn_end = TurnEnd::new(|| 1, 0);
        }
        let now = Now { mono: 1_000_000, wall: 1_000_000 };
        World { shared: Shared::new(options, engine, None), buffers, now, party: ConnectionId::default() }
    }

    /// Asks something as a client that leaves then.
    fn ask(&self, request: &str) {
        self.client(1 << 30, request).close(&self.shared.engine, self.now);
    }

    /// Another client of the same thread, after what it asks.
    fn client(&self, id: u64, request: &str) -> Session {
        let mut session = Session::new(ConnectionId { slot: id as u32, id, ..ConnectionId::default() });
        let (mut scratch, mut out) = (Scratch::default(), Output::default());
        let (mut rest, mut flow) = (request.as_bytes(), Flow::Pause);
        while flow == Flow::Pause {
            let (taken, then) = session.feed(&self.shared.engine, self.now, &mut scratch, rest, &mut out);
            out.take_bytes();
            (rest, flow) = (&rest[taken..], then);
        }
        session
    }

    fn open(&mut self, room: usize) -> Open<'_> {
        self.ask("DEL u:1\r\n");
        self.party.id += 1;
        let socket = Socket::default();
        socket.0.lock().room = room;
        let session = Session::new(self.party);
        let connection = Connection::new(Stream::Scripted(socket.clone()), session, self.party.id, self.now);
        Open { world: self, socket, connection: Some(connection), again: false, room, got: Vec::new() }
    }
}

/// A connection of that world, as its thread and its client see it.
struct Open<'w> {
    world: &'w mut World,
    socket: Socket,
    connection: Option<Connection>,
    again: bool,
    room: usize,
    /// What the client has read.
    got: Vec<u8>,
}

impl Open<'_> {
    fn take(&mut self, turn: Turn) {
        self.again |= turn == Turn::Again;
        assert_ne!(turn, Turn::TooMuch);
        if turn == Turn::Over
            && let Some(mut connection) = self.connection.take()
        {
            connection.leave(&self.world.shared, self.world.now);
        }
    }

    fn turn(&mut self) {
        let World { shared, buffers, now, .. } = &mut *self.world;
        if let Some(connection) = &mut self.connection {
            let turn = connection.turn(shared, *now, buffers);
            self.take(turn);
        }
    }

    /// What a thread does between two waits; whether there was something to do.
    fn round(&mut self) -> bool {
        let edge = self.socket.0.lock().edge.take();
        let again = std::mem::take(&mut self.again);
        if let (Some(edge), Some(connection)) = (edge, &mut self.connection) {
            connection.hear(edge);
            self.turn();
        }
        if again {
            self.turn();
        }
        let World { shared, buffers, now, party, .. } = &mut *self.world;
        let (mail, others): (Vec<_>, Vec<_>) = shared.engine.mail.take(0).into_iter().partition(|(to, _)| to == party);
        others.into_iter().for_each(|(to, event)| shared.engine.mail.post(to, event));
        let mailed = !mail.is_empty();
        if mailed && let Some(connection) = &mut self.connection {
            let open = mail.into_iter().fold(true, |open, (_, event)| open & connection.post(shared, *now, event));
            let turn = if open { connection.turn(shared, *now, buffers) } else { Turn::Over };
            self.take(turn);
        }
        edge.is_some() || again || mailed
    }

    fn rounds(&mut self) {
        for _ in 0..1000 {
            if !self.round() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn step(&mut self, step: Step, part: &str) {
        let mut state = self.socket.0.lock();
        match step {
            Step::Send => state.incoming.extend(part.as_bytes()),
            Step::Finish => state.finished = true,
            Step::Reset => state.reset = true,
            Step::Take => {
                self.got.append(&mut state.sent);
                state.room = self.room;
                if !std::mem::take(&mut state.blocked) {
                    return;
                }
            }
            Step::Load => return self.world.ask("SET u:1 v\r\n"),
        }
        state.tell(Ready { readable: step != Step::Take, ..Ready::default() });
    }
}

/// Calls `run` with every order of `steps`.
fn orders(steps: &mut Vec<Step>, from: usize, run: &mut impl FnMut(&[Step])) {
    if from == steps.len() {
        return run(steps);
    }
    for index in from..steps.len() {
        // Equal steps in another order are the same.
        if !steps[from..index].contains(&steps[index]) {
            steps.swap(from, index);
            orders(steps, from + 1, run);
            steps.swap(from, index);
        }
    }
}

/// Runs steps, with a round of the server after those whose bit is set, and then everything to its end.
fn run(world: &mut World, dialogue: usize, room: usize, steps: &[Step], served: u32) {
    let what = format!("dialogue {dialogue}, room {room}, {steps:?}, served {served:b}");
    let Dialogue { parts, replies } = &DIALOGUES[dialogue];
    let mut open = world.open(room);
    let mut sent = 0;
    for (index, &step) in steps.iter().enumerate() {
        open.step(step, parts.get(sent).copied().unwrap_or_default());
        sent += usize::from(step == Step::Send);
        // A client that sent its end sends nothing more.
        if served >> index & 1 == 1 {
            open.round();
        }
    }
    open.rounds();
    if steps.contains(&Step::Reset) {
        assert!(open.connection.is_none(), "a client that is gone is kept: {what}");
        return;
    }
    open.step(Step::Load, "");
    loop {
        open.rounds();
        let before = open.got.len();
        open.step(Step::Take, "");
        if !open.rest() && open.got.len() == before {
            break;
        }
    }
    let finished = steps.contains(&Step::Finish);
    assert_eq!(open.connection.is_none(), finished, "open although its client has ended, or closed before: {what}");
    check(&open.got, &replies[..sent], dialogue, &what);
    if !finished {
        open.step(Step::Finish, "");
        open.rounds();
        assert!(open.connection.is_none(), "kept when its client ended at last: {what}");
    }
}

impl Open<'_> {
    /// Whether something is still to be done.
    fn rest(&self) -> bool {
        self.again || self.socket.0.lock().edge.is_some()
    }
}

fn check(got: &[u8], replies: &[&str], dialogue: usize, what: &str) {
    let got = String::from_utf8_lossy(got);
    if dialogue == JSON {
        assert_eq!(got.lines().count(), replies.len(), "{what}: {got}");
        assert!(replies.iter().all(|reply| got.matches(reply).count() == 1), "{what}: {got}");
    } else {
        assert_eq!(got, replies.concat(), "{what}");
    }
}

/// Whatever the order in which a client sends, ends, is gone or reads, in which a load ends, and in which the thread comes
/// to take a turn in between: every request that arrived whole is answered, a client that has ended is not kept, one that
/// is gone is not kept even while its request waits, and all others are.
#[test]
fn no_order_of_steps_leaves_a_connection_alone() {
    use Step::{Finish, Load, Reset, Send, Take};
    for (room, short_turns) in SURROUNDINGS {
        let mut world = World::new(short_turns);
        for dialogue in 0..DIALOGUES.len() {
            for end in [&[Load][..], &[Load, Finish], &[Load, Reset], &[Finish], &[Reset]] {
                // Where everything is sent at once, reading changes nothing.
                let reads = if short_turns { &[][..] } else { &[Take] };
                let mut steps = [&[Send, Send, Send], reads, end].concat();
                orders(&mut steps, 0, &mut |steps| {
                    let end = steps.iter().position(|step| matches!(step, Finish | Reset)).unwrap_or(steps.len());
                    // Nobody sends after the end.
                    if steps[end..].contains(&Send) {
                        return;
                    }
                    for served in 0..1 << steps.len() {
                        run(&mut world, dialogue, room, steps, served);
                    }
                });
            }
        }
    }
}

/// A client sends a thousand requests at once. When the time of its turn has passed, the rest waits for the next turn, so
/// that other connections have theirs in between; each turn runs one request at least.
#[test]
fn a_long_pipeline_is_run_in_several_turns() {
    for part in ["PING\r\n", "mn\r\n", DIALOGUES[JSON].parts[1]] {
        let mut world = World::new(true);
        world.buffers = Buffers::with_input(64 << 10);
        world.buffers.scratch.turn_end = TurnEnd::new(|| 1, 0);
        let mut open = world.open(1 << 20);
        open.step(Step::Send, &part.repeat(100));
        for turns in 1..=100 {
            assert!(open.round());
            open.step(Step::Take, "");
            let answered = String::from_utf8_lossy(&open.got).lines().count();
            assert!(answered >= turns && answered <= 2 * turns, "{answered} answers after {turns} turns");
            if answered == 100 {
                break;
            }
        }
    }
}

/// A client reads a reply of six MiB as fast as it is sent, so no write is ever cut short and the system has nothing to tell.
/// The reply is sent in parts, with turns of other connections in between, and wholly; also to a client that has half-closed,
/// and while its next request waits for a load.
#[test]
fn a_long_reply_is_sent_in_several_turns() {
    for (ends, then) in [(false, ""), (true, ""), (false, "GET u:1\r\n"), (true, "GET u:1\r\n")] {
        let mut world = World::new(false);
        world.shared.options.client_memory = 1 << 30;
        let value = "x".repeat(1 << 20);
        world.ask(&format!("*3\r\n$3\r\nSET\r\n$1\r\nx\r\n${}\r\n{value}\r\n", value.len()));
        world.buffers = Buffers::with_input(64 << 10);
        let mut open = world.open(1 << 30);
        open.step(Step::Send, &format!("MGET x x x x x x\r\n{then}"));
        if ends {
            open.step(Step::Finish, "");
        }
        let mut turns = 0;
        while open.round() {
            turns += 1;
            let sent = open.got.len();
            open.step(Step::Take, "");
            assert!(open.got.len() - sent <= 2 << 20, "{} bytes in a turn", open.got.len() - sent);
        }
        assert!(turns >= 6, "{turns}");
        assert_eq!(open.got.len(), b"*6\r\n".len() + 6 * (b"$1048576\r\n\r\n".len() + value.len()));
        assert_eq!(open.connection.is_none(), ends && then.is_empty());
    }
}

/// A loader worker is sent a load and then closed by CLIENT KILL, both in one mailbox; or the load comes when the worker has
/// said QUIT. It never learns of the load, which goes to another worker at once, not when the lease has timed out.
#[test]
fn a_load_beside_the_end_of_its_worker_goes_to_another() {
    for quits in [false, true] {
        let mut world = World::new(false);
        let mut open = world.open(1 << 20);
        open.step(Step::Send, "HELLO 3\r\nCACHE.LOADER u:* INFLIGHT 1\r\n");
        open.rounds();
        let (first, now) = (open.world.party, open.world.now);
        let mut reader = open.world.client(100, "GET u:1\r\n");
        open.world.shared.engine.pump(now);
        let mut second = open.world.client(101, "HELLO 3\r\nCACHE.LOADER u:* INFLIGHT 1\r\n");
        if quits {
            open.step(Step::Send, "QUIT\r\n");
        } else {
            open.world.shared.engine.mail.post(first, Event::Close);
        }
        open.round();
        assert_eq!(open.connection.is_some(), quits);
        let engine = &open.world.shared.engine;
        engine.pump(now);
        let to_second: Vec<_> = engine.mail.take(0).into_iter().filter(|(to, _)| to.id == 101).collect();
        assert!(matches!(&to_second[..], [(_, Event::Load(0, key, _))] if **key == *b"u:1"), "{to_second:?}");
        reader.close(engine, now);
        second.close(engine, now);
    }
}

/// A message is delivered together with CLIENT KILL. What was written for that client is not sent to the next one that has
/// its turn in the same thread.
#[test]
fn what_a_killed_client_was_to_get_goes_to_nobody_else() {
    let mut world = World::new(false);
    let open = world.open(1 << 20);
    let mail = &open.world.shared.engine.mail;
    mail.post(open.world.party, Event::Push(Arc::new(Reply::word("secret"))));
    mail.post(open.world.party, Event::Close);
    let mut open = open;
    open.round();
    assert!(open.connection.is_none() && open.world.buffers.output.is_empty());
}

/// Leaves so many numbered messages for a connection.
fn publish(open: &Open<'_>, numbers: std::ops::Range<i64>) {
    for number in numbers {
        let push = Event::Push(Arc::new(Reply::Push(vec![Reply::word("message"), Reply::Int(number)])));
        open.world.shared.engine.mail.post(open.world.party, push);
    }
}

/// A client that keeps copies is left more messages than one turn delivers, then one more, and asks something. It gets all
/// messages in their order, and the reply, which may rest on newer values, behind them.
#[test]
fn a_reply_does_not_overtake_messages_of_earlier_rounds() {
    let mut world = World::new(true);
    world.shared.engine.limits.pause_output = 1 << 20;
    let mut open = world.open(1 << 20);
    open.step(Step::Send, "HELLO 3\r\n");
    open.rounds();
    open.step(Step::Send, "CLIENT TRACKING ON\r\n");
    open.rounds();
    open.step(Step::Take, "");
    open.got.clear();
    publish(&open, 0..2000);
    open.round();
    open.step(Step::Send, "PING\r\n");
    publish(&open, 2000..2001);
    open.rounds();
    open.step(Step::Take, "");
    let message = |number| format!(">2\r\n$7\r\nmessage\r\n:{number}\r\n");
    let expected: String = (0..2001).map(message).chain(["+PONG\r\n".to_owned()]).collect();
    assert_eq!(String::from_utf8_lossy(&open.got), expected);
}

/// A client is left a few messages that take long: outcomes of its requests, each of which runs a request again, then long
/// values. Once its turn has taken too long the others have theirs after each of them, not after hundreds.
#[test]
fn a_turn_ends_after_a_message_that_takes_long() {
    let mut world = World::new(true);
    let mut open = world.open(1 << 20);
    for wait in 0..3 {
        open.world.shared.engine.mail.post(open.world.party, Event::Outcome(wait, Outcome::Timeout));
    }
    let turns = (0..100).take_while(|_| open.round()).count();
    assert_eq!(turns, 3);
    for _ in 0..3 {
        let value = Reply::Value(Blob::Owned(vec![b'v'; 256 << 10]));
        open.world.shared.engine.mail.post(open.world.party, Event::Push(Arc::new(value)));
    }
    open.round();
    open.step(Step::Take, "");
    assert!((256 << 10..512 << 10).contains(&open.got.len()), "{}", open.got.len());
}

/// A client is left more messages than one turn delivers, and then nothing happens on its connection. It gets them all in the
/// turns that follow.
#[test]
fn messages_that_a_turn_leaves_are_sent_in_the_next() {
    let mut world = World::new(true);
    world.shared.engine.limits.pause_output = 1 << 20;
    let mut open = world.open(1 << 20);
    open.step(Step::Send, "PING\r\n");
    open.rounds();
    open.step(Step::Take, "");
    open.got.clear();
    publish(&open, 0..2000);
    open.rounds();
    open.step(Step::Take, "");
    let expected: String = (0..2000).map(|number| format!("*2\r\n$7\r\nmessage\r\n:{number}\r\n")).collect();
    assert_eq!(String::from_utf8_lossy(&open.got), expected);
}

/// A client is killed while messages of an earlier round wait for their delivery: it is closed at once, and gets none.
#[test]
fn a_killed_client_gets_no_messages_that_were_left_over() {
    let mut world = World::new(true);
    let mut open = world.open(1 << 20);
    publish(&open, 0..2000);
    open.round();
    open.step(Step::Take, "");
    let before = open.got.len();
    assert!(before > 0);
    publish(&open, 2000..4000);
    open.world.shared.engine.mail.post(open.world.party, Event::Close);
    open.again = false;
    open.round();
    open.step(Step::Take, "");
    assert!(open.connection.is_none());
    assert_eq!(open.got.len(), before);
}

/// Messages come faster than a connection's turns deliver them. Those that wait count as its memory.
#[test]
fn messages_that_wait_count_as_memory_of_their_connection() {
    let mut world = World::new(true);
    let mut open = world.open(1 << 20);
    for start in (0..20_000).step_by(1000) {
        publish(&open, start..start + 1000);
        let World { shared, now, .. } = &mut *open.world;
        for (_, event) in shared.engine.mail.take(0) {
            assert!(open.connection.as_mut().unwrap().post(shared, *now, event));
        }
    }
    let World { shared, buffers, now, .. } = &mut *open.world;
    let connection = open.connection.as_mut().unwrap();
    assert_eq!(connection.turn(shared, *now, buffers), Turn::TooMuch);
    assert!(connection.counted() > shared.options.client_memory);
}

/// A client deletes many keys in turns, with a turn of others in between, in which a newer connection of the same session
/// is welcomed. Nothing of the old request is run after that.
#[test]
fn a_request_in_turns_ends_with_the_session_of_its_client() {
    let mut world = World::new(true);
    world.buffers = Buffers::with_input(1 << 20);
    world.buffers.scratch.turn_end = TurnEnd::new(|| 1, 0);
    world.shared.options.client_memory = 1 << 30;
    let keys: Vec<String> = (0..20_000).map(|number| format!("k{number}")).collect();
    world.ask(&keys.iter().map(|key| format!("SET {key} v\r\n")).collect::<String>());
    let mut open = world.open(1 << 20);
    open.step(Step::Send, "CACHE.SESSION me 1\r\n");
    open.rounds();
    let words = ["UNLINK"].into_iter().chain(keys.iter().map(String::as_str));
    let words: String = words.map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    open.step(Step::Send, &format!("*{}\r\n{words}", keys.len() + 1));
    open.round();
    let left = open.world.shared.engine.store.stats().items;
    assert!((1..20_000).contains(&left), "{left}: the request has begun and has not ended");
    let _newer = open.world.client(100, "CACHE.SESSION me 2\r\n");
    open.turn();
    open.turn();
    assert_eq!(open.world.shared.engine.store.stats().items, left);
    open.rounds();
    assert_eq!(open.world.shared.engine.store.stats().items, left);
}

/// A request has arrived in part when other connections come to hold too much. The connection is a reason for that although
/// it holds what it held before. Nothing more of its request is read until there is room again, and then it goes on.
#[test]
fn a_request_pauses_while_all_connections_hold_too_much() {
    let mut world = World::new(false);
    world.buffers = Buffers::with_input(1 << 20);
    let value = "x".repeat(200_000);
    let (first, second) = value.split_at(100_000);
    let mut open = world.open(1 << 20);
    open.step(Step::Send, &format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$200000\r\n{first}"));
    open.rounds();
    open.step(Step::Send, &format!("{second}\r\n"));
    let World { shared, buffers, now, .. } = &mut *open.world;
    let (connection, total) = (open.connection.as_mut().unwrap(), &shared.engine.counters.client_bytes);
    let others = shared.options.client_memory;
    total.fetch_add(others, Relaxed);
    assert_eq!(connection.turn(shared, *now, buffers), Turn::TooMuch);
    let held = connection.counted();
    connection.hear(Ready { readable: true, ..Ready::default() });
    assert_eq!(connection.turn(shared, *now, buffers), Turn::TooMuch);
    assert_eq!(connection.counted(), held);
    total.fetch_sub(others, Relaxed);
    assert_eq!(connection.turn(shared, *now, buffers), Turn::Again);
    open.again = true;
    open.rounds();
    open.step(Step::Take, "");
    assert_eq!(String::from_utf8_lossy(&open.got), "+OK\r\n");
}
