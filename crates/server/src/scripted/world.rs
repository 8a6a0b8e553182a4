//! A server without threads, one connection of which a test takes the turns, and its client.

use globalcache_core::clock::Now;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session, TurnEnd};
use globalcache_core::store::ConnectionId;

use super::socket::Socket;
use crate::connection::{Buffers, Connection, Ready, Turn};
use crate::stream::Stream;
use crate::{Admission, Options, Shared, engine};

/// What a client does, or the load that its request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
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
        admission: Admission::default(),
        loaders: vec!["u:*".to_owned()],
        load_limit: std::time::Duration::from_secs(30),
        shutdown: false,
        debug_time: false,
    }
}

/// Server threads and sockets without either: one connection, whose turns are taken when the test says so.
pub(super) struct World {
    pub(super) shared: Shared,
    pub(super) buffers: Buffers,
    pub(super) now: Now,
    pub(super) party: ConnectionId,
}

impl World {
    pub(super) fn new(short_turns: bool) -> World {
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
    pub(super) fn ask(&self, request: &str) {
        self.client(1 << 30, request).close(&self.shared.engine, self.now);
    }

    /// Another client of the same thread, after what it asks.
    pub(super) fn client(&self, id: u64, request: &str) -> Session {
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

    pub(super) fn open(&mut self, room: usize) -> Open<'_> {
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
pub(super) struct Open<'w> {
    pub(super) world: &'w mut World,
    pub(super) socket: Socket,
    pub(super) connection: Option<Connection>,
    pub(super) again: bool,
    pub(super) room: usize,
    /// What the client has read.
    pub(super) got: Vec<u8>,
}

impl Open<'_> {
    pub(super) fn take(&mut self, turn: Turn) {
        self.again |= turn == Turn::Again;
        assert_ne!(turn, Turn::TooMuch);
        if turn == Turn::Over
            && let Some(mut connection) = self.connection.take()
        {
            connection.leave(&self.world.shared, self.world.now);
        }
    }

    pub(super) fn turn(&mut self) {
        let World { shared, buffers, now, .. } = &mut *self.world;
        if let Some(connection) = &mut self.connection {
            let turn = connection.turn(shared, *now, buffers);
            self.take(turn);
        }
    }

    /// What a thread does between two waits; whether there was something to do.
    pub(super) fn round(&mut self) -> bool {
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

    pub(super) fn rounds(&mut self) {
        for _ in 0..1000 {
            if !self.round() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    pub(super) fn step(&mut self, step: Step, part: &str) {
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

    /// Whether something is still to be done.
    pub(super) fn rest(&self) -> bool {
        self.again || self.socket.0.lock().edge.is_some()
    }
}
