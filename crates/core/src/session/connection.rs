//! What a session knows of its client, and what others may ask of it.

use super::fast_path;
use super::ticket::{Ticket, Tickets};
use crate::limits::Limits;
use crate::protocol::long_line::LongLine;
use crate::protocol::memcached;
use crate::protocol::resp::Reader;
use crate::protocol::sniff::Protocol;
use crate::state::client::Client;
use crate::state::engine::Engine;
use crate::state::users::Access;
use crate::state::waits::Waits;
use crate::store::ConnectionId;
use crate::vocabulary::Span;

/// What is to become of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Read on.
    Continue,
    /// Too many replies wait, or the turn has ended: read nothing until the output is taken, then feed the rest of the
    /// input again.
    Pause,
    /// A request waits for a load: read nothing, and feed the rest of the input again when the session says that it is
    /// [`ready`](Session::is_ready).
    Park,
    /// Send the output, then close.
    Close,
}

/// One client's side of the server.
pub struct Session {
    pub(super) client: Client,
    /// Address of the other end.
    pub(super) address: String,
    pub(super) protocol: Option<Protocol>,
    /// How far requests of words were read.
    pub(super) words: WordsRead,
    /// How far messages of JSON were read.
    pub(super) lines: LinesRead,
    /// Length below which the input need not be looked at again.
    pub(super) wanted: usize,
    /// The last number that was given to a request that waits.
    pub(super) number: u64,
    /// What the request at the front of the input waits for, or was told.
    pub(super) parked: Option<Waits>,
    /// A request that runs in turns: what follows is run when it is done.
    pub(super) under_way: Option<Ticket>,
    /// Requests that wait beside it.
    pub(super) tickets: Tickets,
    /// Requests are being run.
    pub(super) in_batch: bool,
    /// The peer sends nothing any more, so it cannot answer a lease.
    pub(super) peer_ended: bool,
}

/// How far requests of Redis or memcached were read.
#[derive(Default)]
pub(super) struct WordsRead {
    pub(super) resp: Reader,
    pub(super) memcached: memcached::Reader,
    /// Spans of a request that has not arrived whole.
    pub(super) partial: Vec<Span>,
}

/// How far messages of JSON were read.
#[derive(Default)]
pub(super) struct LinesRead {
    /// Messages sent so far.
    pub(super) sent: u64,
    /// A message that is longer than any that is run.
    pub(super) long: Option<Box<LongLine>>,
    /// Bytes at the front of the input in which no message ends.
    pub(super) searched: usize,
}

impl Session {
    /// A session of a connection.
    pub fn new(connection: ConnectionId) -> Session {
        Session {
            client: Client::new(connection),
            address: String::new(),
            protocol: None,
            words: WordsRead::default(),
            lines: LinesRead::default(),
            wanted: 0,
            number: 0,
            parked: None,
            under_way: None,
            tickets: Tickets::default(),
            in_batch: false,
            peer_ended: false,
        }
    }

    /// A session that speaks JSON from its first byte on.
    pub fn json(connection: ConnectionId) -> Session {
        Session { protocol: Some(Protocol::Json), ..Session::new(connection) }
    }

    /// A session that speaks memcached from its first byte on.
    pub fn memcached(connection: ConnectionId) -> Session {
        Session { protocol: Some(Protocol::Memcached), ..Session::new(connection) }
    }

    /// Tells the address of the other end, for those who look at connections.
    pub fn set_address(&mut self, address: String) {
        self.address = address;
    }

    /// The address of its messages.
    pub fn connection_id(&self) -> ConnectionId {
        self.client.connection
    }

    /// Length below which it is of no use to feed the input again.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Whether it said who it is, or nobody has to.
    #[inline]
    pub fn is_authenticated(&self) -> bool {
        self.client.access.user().is_some()
    }

    /// Whether it has still to say who it is.
    pub fn needs_auth(&self, engine: &Engine) -> bool {
        match self.client.access {
            Access::Unknown => engine.users.initial_access().user().is_none(),
            _ => !self.is_authenticated(),
        }
    }

    /// Whether a request waits at the front of the input.
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.parked.is_some() || self.under_way.is_some()
    }

    /// Whether that request can go on.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.under_way.is_some() || self.parked.as_ref().is_some_and(Waits::is_ready)
    }

    /// Whether the client is to get a reply to a request that waits for a load: in its place, or of a JSON client. What
    /// follows a ticket of RESP3 is a push, and libraries that use tickets read until they close.
    pub fn awaits_reply(&self) -> bool {
        self.is_parked() || self.protocol == Some(Protocol::Json) && !self.tickets.is_empty()
    }

    /// Whether the outcome of a wait is to follow, as a reply or under a ticket.
    pub fn is_waiting(&self) -> bool {
        self.is_parked() || !self.tickets.is_empty()
    }

    /// Bytes that the connection makes the server hold beside the buffers of its socket: queued and watched, what waits,
    /// leases, what it listens to and tracks.
    pub fn memory(&self) -> u64 {
        let waits = self.parked.as_ref().map_or(0, Waits::memory);
        let partial = self.words.partial.capacity() * size_of::<Span>();
        let line = self.lines.long.as_ref().map_or(0, |line| line.memory());
        let under_way = self.under_way.as_ref().map_or(0, Ticket::memory);
        (self.client.memory() + self.tickets.bytes + under_way + waits + partial + line) as u64
    }

    /// What the client may ask.
    #[inline]
    pub(super) fn limits<'e>(&self, engine: &'e Engine) -> &'e Limits {
        if self.is_authenticated() { &engine.limits } else { &engine.pre_auth_limits }
    }

    /// Whether a GET, SET or MGET of this client is nothing but a step of the store.
    #[inline]
    pub(super) fn is_plain(&self, engine: &Engine) -> bool {
        self.parked.is_none() && fast_path::is_open(&self.client, engine)
    }

    /// What was read ahead is read again when the session goes on.
    pub(super) fn read_again(&mut self) {
        self.words.resp = Reader::default();
        self.words.memcached = memcached::Reader::default();
        self.words.partial.clear();
        self.wanted = 0;
    }
}
