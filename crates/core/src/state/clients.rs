//! The connections that there are, for CLIENT LIST and KILL: what each of them said of itself.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use crate::clock::Now;
use crate::store::ConnectionId;

/// A connection as others see it.
#[derive(Debug)]
pub struct ClientInfo {
    /// Where its messages go.
    pub connection: ConnectionId,
    /// Address of the other end; empty for a socket of this machine without one.
    pub address: String,
    since: u64,
    /// When it last asked something.
    last: AtomicU64,
    said: Mutex<ClientAttributes>,
}

/// What a client calls itself.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Name it gave itself.
    pub name: Vec<u8>,
    /// Library at the other end.
    pub lib_name: Vec<u8>,
    /// Its version.
    pub lib_version: Vec<u8>,
}

/// What a client has said of itself, and what it has set.
#[derive(Clone, Debug, Default)]
pub struct ClientAttributes {
    /// What it calls itself.
    pub names: Names,
    /// Selected database.
    pub db: u8,
    /// Version of RESP.
    pub resp: u8,
    /// Channels that it listens to.
    pub channels: usize,
    /// Patterns of channels that it listens to.
    pub patterns: usize,
    /// Commands in its transaction; -1 outside one.
    pub queued: i64,
    /// Keys that it watches.
    pub watched: usize,
    /// Whether it keeps copies of what it reads.
    pub tracking: bool,
    /// The connection that is sent its invalidations: 0 for itself, -1 without tracking.
    pub redirect: i64,
    /// The user that it said it is.
    pub user: String,
}

impl ClientInfo {
    /// It asks something.
    #[inline]
    pub fn touch(&self, now: Now) {
        self.last.store(now.mono, Relaxed);
    }

    /// Takes over what is known of a client.
    pub fn update(&self, info: ClientAttributes) {
        *self.said.lock() = info;
    }

    /// Whether it listens to channels.
    pub fn is_subscriber(&self) -> bool {
        let said = self.said.lock();
        said.channels + said.patterns > 0
    }

    /// The user that it said it is.
    pub fn user(&self) -> String {
        self.said.lock().user.clone()
    }

    /// Seconds since it came.
    pub fn age(&self, now: Now) -> u64 {
        now.mono.saturating_sub(self.since) / 1000
    }

    /// A line of CLIENT LIST.
    pub fn line(&self, now: Now) -> String {
        let said = self.said.lock().clone();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut flags = String::new();
        for (flag, is) in [('P', said.channels + said.patterns > 0), ('x', said.queued >= 0), ('t', said.tracking)] {
            if is {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let idle = now.mono.saturating_sub(self.last.load(Relaxed)) / 1000;
        let mut line = format!("id={} addr={} name={} ", self.connection.id, self.address, text(&said.names.name));
        let _ = write!(line, "age={} idle={idle} flags={flags} db={} ", self.age(now), said.db);
        let _ =
            write!(line, "sub={} psub={} multi={} watch={} ", said.channels, said.patterns, said.queued, said.watched);
        let _ = write!(line, "user={} redir={} resp={} ", said.user, said.redirect, said.resp);
        let _ = write!(line, "lib-name={} lib-ver={}", text(&said.names.lib_name), text(&said.names.lib_version));
        line
    }
}

/// All connections, by number.
#[derive(Default)]
pub struct Clients {
    all: Mutex<BTreeMap<u64, Arc<ClientInfo>>>,
}

impl Clients {
    /// A connection has asked for the first time.
    pub fn join(&self, connection: ConnectionId, info: ClientAttributes, address: &str, now: Now) -> Arc<ClientInfo> {
        let shown = Arc::new(ClientInfo {
            connection,
            address: address.to_owned(),
            since: now.mono,
            last: AtomicU64::new(now.mono),
            said: Mutex::new(info),
        });
        self.all.lock().insert(connection.id, Arc::clone(&shown));
        shown
    }

    /// A connection is gone.
    pub fn leave(&self, id: u64) {
        self.all.lock().remove(&id);
    }

    /// The connection of a number.
    pub fn get(&self, id: u64) -> Option<Arc<ClientInfo>> {
        self.all.lock().get(&id).cloned()
    }

    /// Some of them, oldest first, from a number on.
    pub fn some_from(&self, id: u64, most: usize) -> Vec<Arc<ClientInfo>> {
        self.all.lock().range(id..).take(most).map(|(_, shown)| Arc::clone(shown)).collect()
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Arc<ClientInfo>> {
        self.all.lock().values().cloned().collect()
    }
}
