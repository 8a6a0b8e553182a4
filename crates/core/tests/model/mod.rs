//! A model of a store of a page, and the operations that both run: for tests and for fuzzing. Every answer is compared, and
//! every effect: what is refused must have lacked memory, and what is gone must have been counted as evicted. A store of
//! small segments is checked as a whole after every step.

use std::collections::{BTreeSet, HashMap};

use globalcache_core::store::{
    ConnectionId, Entry, FetchRequest, FetchResult, Item, Key, Meta, Options, Refused, Store, shards_for,
};

/// A step.
#[derive(Clone, Debug)]
pub enum Op {
    Set {
        db: u8,
        key: u16,
        size: usize,
        fill: u8,
        ttl: Option<u64>,
        fresh: Option<u64>,
        flags: u32,
        tags: Vec<u8>,
        absent: bool,
    },
    Get {
        db: u8,
        key: u16,
    },
    GetMany {
        db: u8,
        keys: Vec<u16>,
    },
    Remove {
        db: u8,
        key: u16,
    },
    Expire {
        db: u8,
        key: u16,
        ttl: Option<u64>,
    },
    Replace {
        db: u8,
        key: u16,
        size: usize,
        fill: u8,
    },
    Lease {
        db: u8,
        key: u16,
    },
    /// Under one of the tokens that were granted for the key, good or not.
    Fill {
        db: u8,
        key: u16,
        which: usize,
        size: usize,
        fill: u8,
        ttl: Option<u64>,
        tags: Vec<u8>,
    },
    /// Sets keys one after another: they lie side by side.
    SetRun {
        first: u16,
        count: u16,
        size: usize,
        ttl: Option<u64>,
        tags: Vec<u8>,
    },
    /// Removes keys that were set one after another: whole segments become empty.
    RemoveRun {
        first: u16,
        count: u16,
    },
    /// As [`Op::ExpireRun`], while a crowd of watched keys takes the memory that is kept free for it.
    ExpireInCrowd {
        first: u16,
        count: u16,
        ttl: Option<u64>,
    },
    /// Changes when keys expire that were set one after another, so that each is written anew.
    ExpireRun {
        first: u16,
        count: u16,
        ttl: Option<u64>,
    },
    Copy {
        from: (u8, u16),
        to: (u8, u16),
    },
    Rename {
        from: (u8, u16),
        to: (u8, u16),
    },
    Invalidate {
        tag: u8,
    },
    Clear {
        db: Option<u8>,
    },
    Wait {
        millis: u64,
    },
    Tick,
    /// Some steps of the sweep, each over so many items.
    Sweep {
        steps: usize,
        items: usize,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub value: Vec<u8>,
    pub version: u64,
    pub flags: u32,
    pub expires_at: Option<u64>,
    pub fresh_until: Option<u64>,
    pub tags: Vec<u8>,
    pub absent: bool,
}

/// A token, and what is known of it.
struct Token {
    token: u64,
    granted_at: u64,
    /// Nothing was written or removed since it was granted.
    good: bool,
    /// Tags that were invalidated since.
    dead: BTreeSet<u8>,
}

/// Milliseconds of a lease: some run out before they are filled.
const LEASE: u64 = 100;

fn key_of(key: u16) -> Vec<u8> {
    // Some keys are long, and one is as long as a key may be.
    let more = match key {
        LONGEST_KEY => 65_535 - b"key:NNN".len(),
        key if key % 10 == 3 => 300,
        // Of these two fill two thirds of a segment of 1,500 bytes, and no third fits. Some lie among short ones, others side
        // by side: then every segment has room for more, and no copy gains any.
        key if key % 10 == 7 || (150..LONGEST_KEY).contains(&key) => 500,
        _ => 0,
    };
    let mut name = format!("key:{key}").into_bytes();
    name.resize(name.len() + more, b'k');
    name
}

const LONGEST_KEY: u16 = 199;
/// Bytes that a crowd of watched keys may take above the budget of a shard.
const CROWD: usize = 64 << 10;

/// A store beside its model.
pub struct Test {
    pub store: Store,
    pub model: HashMap<(u8, u16), Known>,
    tokens: HashMap<(u8, u16), Vec<Token>>,
    pub now: u64,
    /// Whether the store may have forgotten something.
    forgetful: bool,
    memory: u64,
    /// Bytes above its budget that a shard may use; None: it is not checked as a whole.
    slack: Option<usize>,
    /// Items that went without being removed.
    lost: u64,
}

const MAX_VALUE: usize = 300_000;

fn options(memory: u64, shards: usize, evict: bool) -> Options {
    let seed = [7, 8, 9, 10];
    Options { memory, shards, evict, max_value: MAX_VALUE, seed, epoch: 1000, load_limit: 30_000 }
}

impl Test {
    pub fn new(memory: u64, evict: bool, forgetful: bool) -> Test {
        let shards = shards_for(memory, MAX_VALUE, 4);
        Test::of(Store::new(options(memory, shards, evict)), forgetful, None)
    }

    /// A store of small segments, checked as a whole after every step.
    pub fn with_small_segments(memory: u64, shards: usize, evict: bool, segment: usize) -> Test {
        Test::of(Store::with_small_segments(options(memory, shards, evict), segment), evict, Some(0))
    }

    fn of(store: Store, forgetful: bool, slack: Option<usize>) -> Test {
        let memory = store.options().memory;
        Test { store, model: HashMap::new(), tokens: HashMap::new(), now: 50, forgetful, memory, slack, lost: 0 }
    }

    /// A write of so many bytes was refused: it must have been too long, or memory must have been short.
    fn refuse(&self, refused: Refused, bytes: usize) {
        let Options { memory, shards, evict, .. } = *self.store.options();
        let each = memory as usize / shards;
        let held = self.store.stats().used as usize;
        let with = format!("{refused:?}: {bytes} bytes beside {held} of {each}");
        match refused {
            Refused::TooLarge => assert!(bytes > MAX_VALUE.min(each / 2), "{with}"),
            Refused::Full if evict => assert!(bytes * 4 > each, "{with}"),
            Refused::Full => assert!(held + 4 * bytes > each / 4, "{with}"),
        }
    }

    /// Something is gone that nobody removed: it was evicted, and stays away.
    fn lose(&mut self, db: u8, key: u16) {
        self.model.remove(&(db, key));
        self.lost += 1;
        let evicted = self.store.stats().evicted;
        assert!(self.forgetful && self.lost <= evicted, "{db} {key}: {} items are gone, {evicted} evicted", self.lost);
    }

    pub fn with<R>(&self, db: u8, key: u16, f: impl FnOnce(&mut Entry<'_>) -> R) -> R {
        self.store.with(Key { db, bytes: &key_of(key) }, self.now, f)
    }

    fn known(&self, db: u8, key: u16) -> Option<&Known> {
        let known = self.model.get(&(db, key))?;
        (!known.absent && known.expires_at.is_none_or(|at| self.now < at)).then_some(known)
    }

    /// A value was written or removed: what is being loaded for it is not stored any more.
    fn void(&mut self, db: u8, key: u16) {
        self.tokens.entry((db, key)).or_default().iter_mut().for_each(|token| token.good = false);
    }

    fn lease(&mut self, db: u8, key: u16) {
        let party = ConnectionId { mailbox: 0, slot: 0, id: self.now };
        let request = FetchRequest {
            connection: party,
            wait: 0,
            deadline: None,
            lease: Some(LEASE),
            served: false,
            bound: false,
        };
        let granted = self.with(db, key, |entry| match entry.fetch(&request) {
            FetchResult::Lease(token) | FetchResult::Found { token: Some(token), .. } => Some(token),
            _ => None,
        });
        if let Some(token) = granted {
            let known = self.tokens.entry((db, key)).or_default();
            assert!(known.iter().all(|other| other.token < token), "a token was granted twice");
            known.push(Token { token, granted_at: self.now, good: true, dead: BTreeSet::new() });
        }
    }

    fn fill(&mut self, db: u8, key: u16, which: usize, value: Vec<u8>, ttl: Option<u64>, tags: Vec<u8>) {
        let known = self.tokens.entry((db, key)).or_default();
        let Some(index) = which.checked_rem(known.len()) else { return };
        let Token { token, granted_at, good, ref dead } = known[index];
        let tag_dead = tags.iter().any(|tag| dead.contains(tag));
        // Which tags were invalidated is forgotten in time: then none is taken to have been spared.
        let tag_spared = tags.is_empty() || dead.is_empty();
        let last = index + 1 == known.len();
        let hashes: Vec<u64> = tags.iter().map(|tag| self.store.tag_in(db, &[*tag])).collect();
        let expires_at = ttl.map(|ttl| self.now + ttl);
        let meta = Meta { expires_at, tags: &hashes, ..Meta::default() };
        let size = value.len();
        match self.with(db, key, |entry| entry.fill(token, &value, &meta)) {
            Ok(Some(version)) => {
                assert!(good && !tag_dead, "a value that was read before a change was stored after it");
                let known = Known { value, version, flags: 0, expires_at, fresh_until: None, tags, absent: false };
                self.model.insert((db, key), known);
                self.void(db, key);
            }
            // One that holds the lease still is not refused without a reason.
            Ok(None) => {
                let must = good && tag_spared && last && self.now < granted_at + LEASE;
                assert!(!must || self.forgetful, "a good value was refused");
                if !tag_spared {
                    // The load is over; who waited loads anew.
                    self.tokens.get_mut(&(db, key)).expect("there is a token").remove(index);
                }
            }
            Err(refused) => {
                self.refuse(refused, size + key_of(key).len());
                self.void(db, key);
            }
        }
    }

    fn copy(&mut self, from: (u8, u16), to: (u8, u16)) {
        let Some(copy) = self.with(from.0, from.1, |entry| entry.copied()) else { return };
        match self.with(to.0, to.1, |entry| entry.put_copied(&copy)) {
            Ok(_) => self.moved(from, to),
            Err(refused) => self.refuse(refused, self.model[&from].value.len() + key_of(to.1).len()),
        }
    }

    /// A value never needs more memory under another key that is no longer.
    fn rename(&mut self, from: (u8, u16), to: (u8, u16)) {
        let names = [from, to].map(|(_, key)| key_of(key));
        let [source, target] = [0, 1].map(|at| Key { db: [from, to][at].0, bytes: &names[at] });
        if source == target {
            return;
        }
        let renamed = self.store.with_all([source, target].into_iter(), self.now, |all| all.rename(source, target));
        match renamed {
            Ok(true) => {
                self.moved(from, to);
                self.model.remove(&from);
                self.void(from.0, from.1);
            }
            Ok(false) => assert!(self.forgetful || self.known(from.0, from.1).is_none()),
            // What a crowd has taken is not there for what moves.
            Err(refused) => assert!(names[1].len() > names[0].len() || self.slack == Some(CROWD), "{refused:?}"),
        }
    }

    /// A value stands under another key.
    fn moved(&mut self, from: (u8, u16), to: (u8, u16)) {
        let mut known = self.model[&from].clone();
        let version = self.with(to.0, to.1, |entry| entry.peek().map(|item| item.version));
        known.version = version.expect("what was written is there");
        self.model.insert(to, known);
        self.void(to.0, to.1);
    }

    /// What a reader can know: of an item that is stale, not since when, for a copied one keeps only that it is.
    fn seen_now(&self, known: &Known) -> Known {
        let fresh_until = known.fresh_until.map(|at| if at <= self.now { 0 } else { at });
        Known { tags: vec![], fresh_until, ..known.clone() }
    }

    /// Whether there was an item, as an operation told.
    fn compare(&mut self, db: u8, key: u16, there: bool) {
        if self.known(db, key).is_some() && !there {
            self.lose(db, key);
        }
        assert_eq!(self.known(db, key).is_some(), there, "{db} {key}");
    }

    fn agree(&mut self, db: u8, key: u16, found: Option<Known>) {
        match (found, self.known(db, key)) {
            (None, Some(_)) => self.lose(db, key),
            (found, known) => {
                assert_eq!(found.map(|found| self.seen_now(&found)), known.map(|known| self.seen_now(known)))
            }
        }
    }

    pub fn run(&mut self, op: Op) {
        self.run_one(op);
        if let Some(slack) = self.slack {
            self.store.check(slack);
        }
    }

    fn run_one(&mut self, op: Op) {
        match op {
            Op::Set { db, key, size, fill, ttl, fresh, flags, tags, absent } => {
                let value = vec![fill; size];
                let hashes: Vec<u64> = tags.iter().map(|tag| self.store.tag_in(db, &[*tag])).collect();
                let expires_at = ttl.map(|ttl| self.now + ttl);
                let fresh_until = fresh.map(|fresh| self.now + fresh);
                let meta = Meta { flags, expires_at, fresh_until, absent, tags: &hashes, ..Meta::default() };
                match self.with(db, key, |entry| entry.set(&value, &meta)) {
                    Ok(version) => {
                        let known = Known { value, version, flags, expires_at, fresh_until, tags, absent };
                        self.model.insert((db, key), known);
                        self.void(db, key);
                    }
                    Err(refused) => self.refuse(refused, size + key_of(key).len()),
                }
            }
            Op::SetRun { first, count, size, ttl, tags } => {
                for key in first..first + count {
                    let (fill, tags) = (key as u8, tags.clone());
                    self.run_one(Op::Set { db: 0, key, size, fill, ttl, fresh: None, flags: 0, tags, absent: false });
                }
            }
            Op::RemoveRun { first, count } => {
                (first..first + count).for_each(|key| self.run_one(Op::Remove { db: 0, key }));
            }
            Op::ExpireRun { first, count, ttl } => {
                (first..first + count).for_each(|key| self.run_one(Op::Expire { db: 0, key, ttl }));
            }
            Op::ExpireInCrowd { first, count, ttl } => {
                self.slack = self.slack.map(|_| CROWD);
                let names: Vec<String> = (0..200).map(|number| format!("watched:{number}")).collect();
                let keys = || names.iter().map(|name| Key { db: 0, bytes: name.as_bytes() });
                let is_watched = |key: &Key<'_>| {
                    self.store.with(*key, self.now, |entry| entry.watch(ConnectionId::default()).is_some())
                };
                let watched: Vec<Key<'_>> = keys().filter(is_watched).collect();
                self.run_one(Op::ExpireRun { first, count, ttl });
                watched
                    .iter()
                    .for_each(|key| self.store.with(*key, self.now, |entry| entry.unwatch(ConnectionId::default())));
            }
            Op::Copy { from, to } => self.copy(from, to),
            Op::Rename { from, to } => self.rename(from, to),
            Op::Lease { db, key } => self.lease(db, key),
            Op::Fill { db, key, which, size, fill, ttl, tags } => {
                self.fill(db, key, which, vec![fill; size], ttl, tags);
            }
            Op::Get { db, key } => {
                let found = self.with(db, key, |entry| entry.get().map(|item| seen(&item)));
                self.agree(db, key, found);
            }
            Op::GetMany { db, keys } => {
                let names: Vec<Vec<u8>> = keys.iter().map(|key| key_of(*key)).collect();
                let mut found = Vec::new();
                self.store.read_all(names.iter().map(|bytes| Key { db, bytes }), self.now, |now, item| {
                    assert_eq!(now, self.now);
                    found.push(item.map(|item| seen(&item)));
                    true
                });
                assert_eq!(found.len(), keys.len());
                found.into_iter().zip(keys).for_each(|(found, key)| self.agree(db, key, found));
            }
            Op::Remove { db, key } => {
                let removed = self.with(db, key, |entry| entry.remove());
                self.compare(db, key, removed);
                self.model.remove(&(db, key));
                self.void(db, key);
            }
            Op::Expire { db, key, ttl } => {
                let at = ttl.map(|ttl| self.now + ttl);
                let (done, there) = self.with(db, key, |entry| (entry.expire(at), entry.peek().is_some()));
                // One that is there all the same has found no memory.
                self.compare(db, key, done || there);
                if let (true, Some(known)) = (done, self.model.get_mut(&(db, key))) {
                    known.expires_at = at;
                }
            }
            Op::Replace { db, key, size, fill } => {
                let value = vec![fill; size];
                let done = self.with(db, key, |entry| entry.peek().is_some().then(|| entry.replace(&value)));
                if let (Some(Ok(version)), Some(known)) = (done, self.model.get_mut(&(db, key))) {
                    (known.value, known.version) = (value, version);
                    self.void(db, key);
                }
            }
            Op::Invalidate { tag } => {
                // A tag means the items of one database: those of both that are used.
                let all = [0, 3].map(|db| self.store.tag_in(db, &[tag]));
                self.store.invalidate_tags(&all);
                self.model.retain(|_, known| !known.tags.contains(&tag));
                self.tokens.values_mut().flatten().for_each(|token| token.dead.extend([tag]));
            }
            Op::Clear { db } => {
                self.store.clear(db, self.now);
                let stays = |known: u8| db.is_some_and(|db| known != db);
                self.model.retain(|(known, _), _| stays(*known));
                let gone = self.tokens.iter_mut().filter(|((known, _), _)| !stays(*known));
                gone.flat_map(|(_, tokens)| tokens).for_each(|token| token.good = false);
            }
            Op::Wait { millis } => self.now += millis,
            Op::Sweep { steps, items } => {
                self.store.sweep(steps, items, self.now);
            }
            Op::Tick => {
                self.store.tick(self.now);
                self.store.tick_leases(self.now);
            }
        }
        let used = self.store.stats().used;
        let most = self.memory + (self.slack.unwrap_or(0) * self.store.options().shards) as u64;
        assert!(used <= most, "{used} bytes of {most} are used");
    }

    /// Everything once more, and the whole of a scan.
    pub fn finish(&mut self) {
        for (db, key) in self.model.keys().copied().collect::<Vec<_>>() {
            let found = self.with(db, key, |entry| entry.peek().map(|item| seen(&item)));
            self.agree(db, key, found);
        }
        for db in [0, 3] {
            let mut scanned: HashMap<Vec<u8>, Known> = HashMap::new();
            let mut cursor = 0;
            loop {
                cursor = self
                    .store
                    .scan(db, cursor, 7, self.now, &mut |key, item| drop(scanned.insert(key.to_vec(), seen(item))));
                if cursor == 0 {
                    break;
                }
            }
            for key in 0..2000 {
                self.agree(db, key, scanned.remove(&key_of(key)));
            }
            assert!(scanned.is_empty(), "keys that nobody wrote: {scanned:?}");
        }
    }
}

fn seen(item: &Item<'_>) -> Known {
    Known {
        value: item.value.bytes().to_vec(),
        version: item.version,
        flags: item.flags,
        expires_at: item.expires_at,
        fresh_until: item.fresh_until,
        tags: vec![],
        absent: item.absent,
    }
}
