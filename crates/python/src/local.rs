//! The engine of a server inside a Python process, without sockets: bytes go in and come out by connection, and time is
//! an argument. One step per call under one lock, which is never held while Python runs.

use std::sync::Arc;

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Key, Options, Value};
use globalcache_server::{MIN_MEMORY, epoch, random_seed, read_clocks};
use parking_lot::Mutex;
use pyo3::exceptions::{PyConnectionResetError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// A server of this process alone.
#[pyclass(frozen)]
pub(crate) struct LocalServer {
    /// Locked only by who holds the interpreter's lock, which is not given up meanwhile. So a fork, which needs that lock as
    /// well, copies no step that is half done and no lock that nobody would unlock.
    state: Mutex<State>,
}

struct State {
    engine: Arc<Engine>,
    scratch: Scratch,
    connections: Vec<Option<Connection>>,
    /// How many there were, closed ones too: the number of one is never used twice.
    opened: u64,
    /// Connections that were told something by what others did.
    told: Vec<usize>,
    /// What the wall clock is ahead of the clock that the caller reads, in milliseconds.
    ahead: u64,
}

struct Connection {
    session: Session,
    /// The beginning of a request, or requests behind one that waits.
    input: Vec<u8>,
    /// What was answered and not taken.
    output: Output,
    /// The session ended it.
    closed: bool,
}

impl State {
    fn now(&self, mono: u64) -> Now {
        Now { mono, wall: mono + self.ahead }
    }

    fn connect(&mut self, json: bool) -> usize {
        let place = self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
        self.opened += 1;
        let party = ConnectionId { mailbox: 0, slot: place as u32, id: self.opened };
        let session = if json { Session::json(party) } else { Session::new(party) };
        let connection = Connection { session, input: Vec::new(), output: Output::default(), closed: false };
        if place == self.connections.len() {
            self.connections.push(Some(connection));
        } else {
            self.connections[place] = Some(connection);
        }
        place
    }

    /// Runs what has arrived on a connection, as far as it may be.
    fn run(&mut self, place: usize, now: Now) {
        let Some(Connection { session, input, output, closed }) = &mut self.connections[place] else { return };
        if *closed {
            return;
        }
        loop {
            let (taken, flow) = session.feed(&self.engine, now, &mut self.scratch, input, output);
            input.drain(..taken);
            match flow {
                Flow::Pause => {}
                Flow::Close => {
                    *closed = true;
                    input.clear();
                    session.close(&self.engine, now);
                    return;
                }
                _ => return,
            }
        }
    }

    /// Ends what is due, and delivers what connections have for one another.
    fn exchange(&mut self, now: Now) {
        self.engine.tick(now);
        self.engine.tick_leases(now);
        while self.engine.mail.has_pending(0) {
            for (party, event) in self.engine.mail.take(0) {
                let place = party.slot as usize;
                match self.connections.get_mut(place) {
                    Some(Some(Connection { session, output, closed, .. }))
                        if session.connection_id() == party && !*closed =>
                    {
                        if session.deliver(&self.engine, now, &mut self.scratch, event, output) == Flow::Close {
                            *closed = true;
                            session.close(&self.engine, now);
                        }
                        if session.is_ready() {
                            self.run(place, now);
                        }
                        self.told.push(place);
                    }
                    _ => self.engine.undelivered(party, event, now),
                }
            }
            self.engine.pump(now);
        }
    }

    /// Closes all connections. Each keeps its place until it is closed there: nobody else's may be taken for it.
    fn close_all(&mut self, now: Now) {
        let time = self.engine.time(now).mono;
        let open = |connection: &&mut Connection| !connection.closed;
        for connection in self.connections.iter_mut().flatten().filter(open) {
            connection.session.leave_waits(&self.engine, time);
        }
        for connection in self.connections.iter_mut().flatten().filter(open) {
            connection.session.close(&self.engine, now);
            connection.closed = true;
            (connection.input, connection.output) = (Vec::new(), Output::default());
        }
        self.exchange(now);
        self.told.clear();
    }

    /// What a connection is answered and told so far, which connections were told something, and whether this one is to be
    /// answered more.
    fn take(&mut self, place: usize) -> PyResult<(Vec<u8>, Vec<usize>, bool)> {
        let gone = || PyConnectionResetError::new_err("the server closed the connection");
        let connection = self.connections.get_mut(place).and_then(Option::as_mut).ok_or_else(gone)?;
        if connection.output.is_empty() && connection.closed {
            return Err(gone());
        }
        let waits = connection.session.is_waiting();
        Ok((connection.output.take_bytes(), std::mem::take(&mut self.told), waits))
    }
}

/// What was sent to a connection, the connections for which there is something to take, and whether more will follow.
type Taken<'py> = (Bound<'py, PyBytes>, Vec<usize>, bool);

#[pymethods]
impl LocalServer {
    #[new]
    #[pyo3(signature = (*, memory, max_value, now))]
    fn new(memory: u64, max_value: usize, now: u64) -> PyResult<LocalServer> {
        if memory < MIN_MEMORY {
            return Err(PyValueError::new_err(format!("memory: at least {MIN_MEMORY} bytes are needed")));
        }
        let wall = read_clocks().wall;
        let limits = Limits { pause_output: usize::MAX, max_value, ..Limits::default() };
        let options = Options {
            memory,
            shards: 1,
            evict: true,
            max_value,
            seed: random_seed(),
            epoch: epoch(wall),
            load_limit: limits.load_limit,
        };
        let facts = Facts { pid: std::process::id(), threads: 1, started: now, ..Facts::default() };
        let state = State {
            engine: Arc::new(Engine::new(options, limits, facts, 1)),
            scratch: Scratch::default(),
            connections: Vec::new(),
            opened: 0,
            told: Vec::new(),
            ahead: wall.saturating_sub(now),
        };
        Ok(LocalServer { state: Mutex::new(state) })
    }

    /// Opens a connection, which speaks JSON or what its first byte says; returns its place.
    #[pyo3(signature = (*, json = false))]
    fn connect(&self, json: bool) -> usize {
        self.state.lock().connect(json)
    }

    /// Runs requests of a connection, and ends waits and leases whose time is over.
    fn ask<'py>(&self, py: Python<'py>, place: usize, data: &[u8], now: u64) -> PyResult<Taken<'py>> {
        let mut state = self.state.lock();
        let now = state.now(now);
        if let Some(Some(connection)) = state.connections.get_mut(place) {
            connection.input.extend_from_slice(data);
            state.run(place, now);
            state.exchange(now);
        }
        let (answer, told, waits) = state.take(place)?;
        drop(state);
        Ok((PyBytes::new(py, &answer), told, waits))
    }

    /// What CACHE.FETCH answers if there is a fresh value and nobody is to load it: the value, its version, the
    /// milliseconds that it lives on (-1: no end) and its flags. As short as possible, for it is what is asked most.
    fn fresh<'py>(&self, py: Python<'py>, key: &[u8], now: u64) -> Option<(Bound<'py, PyBytes>, u64, i64, u32)> {
        let state = self.state.lock();
        let key = Key { db: 0, bytes: key };
        let found = state.engine.store.with(key, now, |entry| {
            let item = entry.fresh()?;
            let ttl = item.expires_at.map_or(-1, |at| at.saturating_sub(now) as i64);
            let bytes = match item.value {
                Value::Inline(bytes) => bytes,
                Value::Shared(bytes) => bytes,
            };
            Some((bytes.to_vec(), item.version, ttl, item.flags))
        });
        drop(state);
        found.map(|(bytes, version, ttl, flags)| (PyBytes::new(py, &bytes), version, ttl, flags))
    }

    /// Closes a connection: its leases pass on. Returns the connections for which there is something to take.
    fn close(&self, place: usize, now: u64) -> Vec<usize> {
        let mut state = self.state.lock();
        let now = state.now(now);
        if let Some(mut connection) = state.connections.get_mut(place).and_then(Option::take) {
            if !connection.closed {
                connection.session.close(&state.engine, now);
            }
            state.exchange(now);
        }
        std::mem::take(&mut state.told)
    }

    /// This process is a fork: whoever had the connections is not here. They are closed, so that their leases pass on; what
    /// is stored stays.
    fn after_fork(&self, now: u64) {
        let mut state = self.state.lock();
        let now = state.now(now);
        state.close_all(now);
    }
}
