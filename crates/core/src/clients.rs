//! The connections that there are, for CLIENT LIST and KILL: what each of them said of itself.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::engine::Now;
use crate::execute::Client;
use crate::store::Party;
use crate::users::DEFAULT;

/// A connection as others see it.
#[derive(Debug)]
pub struct Shown {
    /// Where its messages go.
    pub party: Party,
    /// Address of the other end; empty for a socket of this machine without one.
    pub address: String,
    since: u64,
    /// When it last asked something.
    last: AtomicU64,
    said: Mutex<Said>,
}

/// What may change.
#[derive(Clone, Debug, Default)]
struct Said {
    name: Vec<u8>,
    lib_name: Vec<u8>,
    lib_version: Vec<u8>,
    db: u8,
    resp: u8,
    channels: usize,
    patterns: usize,
    queued: i64,
    watched: usize,
    tracking: bool,
    redirect: i64,
    user: String,
}

impl Shown {
    /// It asks something.
    #[inline]
    pub fn touch(&self, now: Now) {
        self.last.store(now.mono, Relaxed);
    }

    /// Takes over what is known of a client.
    pub fn update(&self, client: &Client) {
        let (channels, patterns) = client.subscriptions.as_ref().map_or((0, 0), |known| known.counts());
        let redirect = client.tracking.as_ref().map(|options| options.redirect.map_or(0, |party| party.id as i64));
        *self.said.lock() = Said {
            name: client.name.clone(),
            lib_name: client.lib_name.clone(),
            lib_version: client.lib_version.clone(),
            db: client.db,
            resp: client.resp,
            channels,
            patterns,
            queued: client.queue.as_ref().map_or(-1, |queue| queue.len() as i64),
            watched: client.watched.len(),
            tracking: client.tracking.is_some(),
            redirect: redirect.unwrap_or(-1),
            user: client.access.user().map_or(DEFAULT, |user| user.name()).to_owned(),
        };
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
        let mut line = format!("id={} addr={} name={} ", self.party.id, self.address, text(&said.name));
        let _ = write!(line, "age={} idle={idle} flags={flags} db={} ", self.age(now), said.db);
        let _ =
            write!(line, "sub={} psub={} multi={} watch={} ", said.channels, said.patterns, said.queued, said.watched);
        let _ = write!(line, "user={} redir={} resp={} ", said.user, said.redirect, said.resp);
        let _ = write!(line, "lib-name={} lib-ver={}", text(&said.lib_name), text(&said.lib_version));
        line
    }
}

/// All connections, by number.
#[derive(Default)]
pub struct Clients {
    all: Mutex<BTreeMap<u64, Arc<Shown>>>,
}

impl Clients {
    /// A connection has asked for the first time.
    pub fn join(&self, client: &Client, address: &str, now: Now) -> Arc<Shown> {
        let shown = Arc::new(Shown {
            party: client.party,
            address: address.to_owned(),
            since: now.mono,
            last: AtomicU64::new(now.mono),
            said: Mutex::default(),
        });
        shown.update(client);
        self.all.lock().insert(client.id, Arc::clone(&shown));
        shown
    }

    /// A connection is gone.
    pub fn leave(&self, id: u64) {
        self.all.lock().remove(&id);
    }

    /// The connection of a number.
    pub fn get(&self, id: u64) -> Option<Arc<Shown>> {
        self.all.lock().get(&id).cloned()
    }

    /// Some of them, oldest first, from a number on.
    pub fn some_from(&self, id: u64, most: usize) -> Vec<Arc<Shown>> {
        self.all.lock().range(id..).take(most).map(|(_, shown)| Arc::clone(shown)).collect()
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Arc<Shown>> {
        self.all.lock().values().cloned().collect()
    }
}
