//! Maelstrom's messages: one JSON object a line, `{"src","dest","body":{"type","msg_id",...}}`.
//!
//! A reply has its keys in the order src, dest, body, and in the body type, in_reply_to, msg_id, then the rest, without
//! blanks. A line that is no message is answered with error 12 as far as its sender is known. Keys are strings or
//! numbers, and 3 and "3" are one key, since workloads use numbers and other protocols know only bytes.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::json_value::{append_compact, append_string, append_view};
use crate::limits::{LEASE, MAX_MILLIS, MAX_TAGS};
use crate::vocabulary::{
    Args, Blob, CacheCommand, Command, Condition, EntryOptions, Error, Expiry, Fetched, Kind, Reply, SetCondition,
    Span, State, integer,
};

type Raw<'a> = Option<&'a RawValue>;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    src: Cow<'a, str>,
    #[serde(borrow)]
    dest: Cow<'a, str>,
    #[serde(borrow)]
    body: &'a RawValue,
}

macro_rules! body {
    ($($field:ident),*) => {
        /// Fields of a body. Unknown ones are passed over, as the protocol asks.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Body<'a> {
            $(#[serde(borrow, deserialize_with = "present")] $field: Raw<'a>),*
        }
    };
}

body! {
    r#type, msg_id, node_id, node_ids, key, keys, tags, value, from, to, create_if_not_exists, ttl_ms, refresh_ms,
    grace_ms, cost_ms, absent, wait_ms, lease_ms, token, message, retry_ms, ms, by, user, password
}

/// A field that is there, null included; a plain Option would take null for nothing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Raw<'de>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

macro_rules! types {
    ($($kind:ident $name:literal),*) => {
        /// What a message asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Type { $($kind),* }

        const TYPES: &[(&str, Type)] = &[$(($name, Type::$kind)),*];
    };
}

types! {
    Init "init", Get "get", Set "set", Delete "delete", Cas "cas", Read "read",
    Write "write", Incr "incr", MGet "mget", Invalidate "invalidate", Auth "auth", Fetch "fetch",
    Fill "fill", Fail "fail", Renew "renew", Release "release", Inspect "inspect"
}

/// A message, or as much of it as could be understood.
#[derive(Debug, Default)]
pub struct Message {
    src: Option<String>,
    dest: Option<String>,
    msg_id: Option<String>,
    kind: Option<(&'static str, Type)>,
    /// Keys, tags and values in one buffer, so that commands borrow from it.
    arena: Vec<u8>,
    keys: Vec<Span>,
    tags: Vec<Span>,
    value: Span,
    from: Span,
    ttl: Option<u64>,
    by: i64,
    create: bool,
    user: Option<Span>,
    lease: Lease,
    /// Why a fill cannot be kept as it says.
    problem: Option<Error>,
}

/// What messages about freshness and leases carry. Times in milliseconds.
#[derive(Debug, Default)]
struct Lease {
    refresh: Option<u64>,
    grace: Option<u64>,
    cost: Option<u64>,
    absent: bool,
    wait: u64,
    length: Option<u64>,
    token: u64,
    retry: Option<u64>,
    millis: u64,
}

impl Lease {
    fn read(body: &Body<'_>) -> Result<Lease, Error> {
        let absent = body.absent.map_or(Ok(false), |raw| serde_json::from_str(raw.get()));
        Ok(Lease {
            refresh: body.refresh_ms.map(millis).transpose()?,
            grace: body.grace_ms.map(millis).transpose()?,
            cost: body.cost_ms.map(millis).transpose()?,
            absent: absent.map_err(|_| malformed("ERR absent is neither true nor false"))?,
            wait: body.wait_ms.map_or(Ok(0), millis)?,
            length: body.lease_ms.map(millis).transpose()?,
            token: body.token.map_or(Ok(0), read_token)?,
            retry: body.retry_ms.map(millis).transpose()?,
            millis: body.ms.map_or(Ok(0), millis)?,
        })
    }

    /// Whether a `set` with these is more than a plain one.
    fn is_plain(&self) -> bool {
        self.refresh.is_none() && self.grace.is_none() && self.cost.is_none() && !self.absent
    }
}

fn malformed(text: &'static str) -> Error {
    Error::new(Kind::Malformed, text)
}

fn string(raw: Raw<'_>, missing: &'static str) -> Result<String, Error> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).ok_or(malformed(missing))
}

impl Message {
    /// Reads a line into `self`, which keeps what was understood if an error is returned.
    pub fn read(&mut self, line: &[u8]) -> Result<(), Error> {
        let envelope: Envelope<'_> = serde_json::from_slice(line)
            .map_err(|_| malformed("ERR not a message: {\"src\":...,\"dest\":...,\"body\":{...}} on one line"))?;
        self.src = Some(envelope.src.into_owned());
        self.dest = Some(envelope.dest.into_owned());
        let body: Body<'_> =
            serde_json::from_str(envelope.body.get()).map_err(|_| malformed("ERR body is not an object"))?;
        if let Some(id) = body.msg_id {
            integer(id.get().as_bytes()).map_err(|_| malformed("ERR msg_id is not an integer"))?;
            self.msg_id = Some(id.get().to_owned());
        }
        let name = string(body.r#type, "ERR body has no type")?;
        let kind = TYPES.iter().find(|(known, _)| *known == name);
        let kind = *kind.ok_or_else(|| Error::with(Kind::Unknown, format!("ERR unknown type '{name}'")))?;
        self.kind = Some(kind);
        self.read_fields(kind.1, &body)
    }

    fn read_fields(&mut self, kind: Type, body: &Body<'_>) -> Result<(), Error> {
        match kind {
            Type::Init => {
                string(body.node_id, "ERR init needs node_id, a string")?;
                let ids = body.node_ids.and_then(|raw| serde_json::from_str::<Vec<String>>(raw.get()).ok());
                ids.ok_or(malformed("ERR init needs node_ids, a list of strings"))?;
            }
            Type::Auth => {
                if let Some(user) = body.user {
                    self.user = Some(self.keep(string(Some(user), "ERR user is not a string")?.as_bytes()));
                }
                self.value = self.keep(string(body.password, "ERR auth needs password, a string")?.as_bytes());
            }
            Type::MGet => self.keys = self.read_keys(body.keys.ok_or(malformed("ERR mget needs keys"))?)?,
            Type::Invalidate => {
                self.keys = body.keys.map_or(Ok(Vec::new()), |raw| self.read_keys(raw))?;
                self.tags = body.tags.map_or(Ok(Vec::new()), |raw| self.read_keys(raw))?;
                if body.keys.is_none() && body.tags.is_none() {
                    return Err(malformed("ERR invalidate needs keys or tags"));
                }
            }
            _ => {
                let key = self.read_key(body.key.ok_or(malformed("ERR the message needs a key"))?)?;
                self.keys = vec![key];
            }
        }
        if matches!(kind, Type::Fill | Type::Fail | Type::Renew | Type::Release) && body.token.is_none() {
            return Err(malformed("ERR the message needs a token"));
        }
        if kind == Type::Fill {
            self.lease.token = body.token.map_or(Ok(0), read_token)?;
        }
        match kind {
            Type::Set | Type::Write | Type::Fill => {
                self.read_lease(kind, body)?;
                self.tags = body.tags.map_or(Ok(Vec::new()), |raw| self.read_keys(raw))?;
                if self.tags.len() > MAX_TAGS {
                    return Err(malformed("ERR an item has at most 17 tags"));
                }
                if !self.lease.absent || body.value.is_some() {
                    self.value = self.read_value(body.value, "ERR the message needs a value")?;
                }
                match body.ttl_ms.map(read_ttl).transpose() {
                    Err(error) if kind == Type::Fill => self.problem = Some(error),
                    ttl => self.ttl = ttl?,
                }
            }
            Type::Fetch | Type::Renew | Type::Release => self.lease = Lease::read(body)?,
            Type::Fail => {
                self.lease = Lease::read(body)?;
                self.value = self.keep(string(body.message, "ERR fail needs message, a string")?.as_bytes());
            }
            Type::Cas => {
                self.from = self.read_value(body.from, "ERR cas needs from")?;
                self.value = self.read_value(body.to, "ERR cas needs to")?;
                let create = body.create_if_not_exists.map_or(Ok(false), |raw| serde_json::from_str(raw.get()));
                self.create = create.map_err(|_| malformed("ERR create_if_not_exists is neither true nor false"))?;
            }
            Type::Incr => {
                let by = body.by.map_or(Ok(1), |raw| integer(raw.get().as_bytes()));
                self.by = by.map_err(|_| malformed("ERR by is not an integer"))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads what a value is kept with. A fill with a time out of range ends its lease all the same.
    fn read_lease(&mut self, kind: Type, body: &Body<'_>) -> Result<(), Error> {
        match Lease::read(body) {
            Err(error) if kind == Type::Fill => {
                let absent = body.absent.is_some_and(|raw| raw.get() == "true");
                (self.lease.absent, self.problem) = (absent, Some(error));
            }
            lease => self.lease = lease?,
        }
        Ok(())
    }

    /// The key and the token of a fill, although it could not be read whole.
    pub fn fill(&self) -> Option<(&[u8], u64)> {
        let fills = self.kind.is_some_and(|(_, kind)| kind == Type::Fill) && self.lease.token > 0;
        self.keys().get(0).filter(|_| fills).map(|key| (key, self.lease.token))
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        Span { start, end: self.arena.len() as u32 }
    }

    fn read_key(&mut self, raw: &RawValue) -> Result<Span, Error> {
        match raw.get().as_bytes() {
            text @ [b'-' | b'0'..=b'9', ..] => Ok(self.keep(text)),
            _ => Ok(self.keep(string(Some(raw), "ERR a key is a string or a number")?.as_bytes())),
        }
    }

    fn read_keys(&mut self, raw: &RawValue) -> Result<Vec<Span>, Error> {
        let list: Vec<&RawValue> =
            serde_json::from_str(raw.get()).map_err(|_| malformed("ERR keys and tags are lists"))?;
        list.into_iter().map(|raw| self.read_key(raw)).collect()
    }

    fn read_value(&mut self, raw: Raw<'_>, missing: &'static str) -> Result<Span, Error> {
        let start = self.arena.len() as u32;
        append_compact(raw.ok_or(malformed(missing))?.get().as_bytes(), &mut self.arena);
        Ok(Span { start, end: self.arena.len() as u32 })
    }

    fn part(&self, span: Span) -> &[u8] {
        &self.arena[span.start as usize..span.end as usize]
    }

    /// The keys it names.
    pub fn keys(&self) -> Args<'_> {
        Args::new(&self.arena, &self.keys)
    }

    /// Bytes of the longest value it carries.
    pub fn value_len(&self) -> usize {
        self.part(self.value).len().max(self.part(self.from).len())
    }

    /// What it asks for; None for init, which the codec answers alone.
    pub fn command(&self) -> Option<Command<'_>> {
        let key = self.keys().get(0).unwrap_or_default();
        let value = self.part(self.value);
        let set = |expiry, condition| Command::Set { key, value, expiry, condition, get: false };
        let Lease { token, wait, length, retry, millis, .. } = self.lease;
        let keep = || EntryOptions {
            ttl: self.ttl,
            refresh: self.lease.refresh,
            grace: self.lease.grace,
            cost: self.lease.cost.map(|cost| cost.min(u64::from(u32::MAX)) as u32),
            flags: 0,
            tags: Args::new(&self.arena, &self.tags),
            absent: self.lease.absent,
        };
        Some(match self.kind?.1 {
            Type::Init => return None,
            Type::Get | Type::Read => Command::Get(key),
            Type::Set | Type::Write if !self.lease.is_plain() || !self.tags.is_empty() => {
                Command::Cache(CacheCommand::Set { key, value, keep: keep(), only: SetCondition::Always })
            }
            Type::Fetch => {
                let lease = Some(length.unwrap_or(LEASE)).filter(|length| *length > 0);
                Command::Cache(CacheCommand::Fetch { key, wait, lease, ticket: false })
            }
            Type::Fill => {
                Command::Cache(CacheCommand::Fill { key, token, value, keep: keep(), problem: self.problem.as_ref() })
            }
            Type::Fail => Command::Cache(CacheCommand::Fail { key, token, message: value, retry }),
            Type::Renew => Command::Cache(CacheCommand::Renew { key, token, millis }),
            Type::Release => Command::Cache(CacheCommand::Release(key, token)),
            Type::Inspect => Command::Cache(CacheCommand::Inspect(key)),
            Type::Set | Type::Write => set(self.ttl.map_or(Expiry::Never, Expiry::In), Condition::Always),
            Type::Cas if self.create => set(Expiry::Never, Condition::EqualsJsonOrAbsent(self.part(self.from))),
            Type::Cas => set(Expiry::Never, Condition::EqualsJson(self.part(self.from))),
            Type::Delete => Command::Delete(self.keys()),
            Type::Incr => Command::Increment(key, self.by),
            Type::MGet => Command::MGet(self.keys()),
            Type::Invalidate => Command::Invalidate { keys: self.keys(), tags: Args::new(&self.arena, &self.tags) },
            Type::Auth => Command::Auth(self.user.map(|user| self.part(user)), value),
        })
    }

    /// Appends the answer, whose own number is `msg_id`. `scratch` is that of the context the reply was made in.
    pub fn answer(&self, reply: &Reply, msg_id: u64, scratch: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"src\":");
        append_string(self.dest.as_deref().unwrap_or("cache"), out);
        out.extend_from_slice(b",\"dest\":");
        match &self.src {
            Some(src) => append_string(src, out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"body\":{\"type\":\"");
        let failed = match (reply, self.kind) {
            (Reply::Error(error), _) => Some((code(error.kind), error.text.as_ref())),
            (Reply::Null, Some((_, Type::Read))) => Some((code(Kind::NotFound), "ERR no such key")),
            _ => None,
        };
        out.extend_from_slice(if failed.is_some() { b"error" } else { self.name().as_bytes() });
        out.extend_from_slice(if failed.is_some() { b"\"" } else { b"_ok\"" });
        if let Some(id) = &self.msg_id {
            out.extend_from_slice(b",\"in_reply_to\":");
            out.extend_from_slice(id.as_bytes());
        }
        out.extend_from_slice(b",\"msg_id\":");
        out.extend_from_slice(itoa::Buffer::new().format(msg_id).as_bytes());
        match failed {
            Some((code, text)) => {
                out.extend_from_slice(b",\"code\":");
                out.extend_from_slice(itoa::Buffer::new().format(code).as_bytes());
                out.extend_from_slice(b",\"text\":");
                append_string(text.strip_prefix("ERR ").unwrap_or(text), out);
            }
            None => self.append_result(reply, scratch, out),
        }
        out.extend_from_slice(b"}}\n");
    }

    fn name(&self) -> &'static str {
        self.kind.map_or("", |(name, _)| name)
    }

    fn append_result(&self, reply: &Reply, scratch: &[u8], out: &mut Vec<u8>) {
        let field: &[u8] = match self.kind {
            Some((_, Type::Get | Type::Read | Type::Incr)) => b",\"value\":",
            Some((_, Type::MGet)) => b",\"values\":",
            Some((_, Type::Invalidate)) => b",\"count\":",
            Some((_, Type::Fetch)) => return append_fetched(reply, scratch, out),
            Some((_, Type::Inspect)) => return append_facts(reply, scratch, out),
            Some((_, Type::Fill)) => return append_filled(reply, out),
            Some((_, Type::Fail | Type::Renew | Type::Release)) => {
                let held: &[u8] = if *reply == Reply::Int(1) { b",\"held\":true" } else { b",\"held\":false" };
                return out.extend_from_slice(held);
            }
            _ => return,
        };
        out.extend_from_slice(field);
        append_reply(reply, scratch, out);
    }
}

fn append_reply(reply: &Reply, scratch: &[u8], out: &mut Vec<u8>) {
    match reply {
        Reply::Value(Blob::Scratch(range)) => append_view(&scratch[range.clone()], out),
        Reply::Value(blob) => append_view(blob.bytes(scratch), out),
        Reply::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
        Reply::Array(replies) => append_replies(replies, scratch, out),
        Reply::Values(values) => append_replies(&values.replies(), scratch, out),
        _ => out.extend_from_slice(b"null"),
    }
}

/// A token or version: a string, since not every reader of JSON keeps 63 bits of a number.
fn append_number(name: &str, number: Option<u64>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    match number {
        Some(number) => {
            out.extend_from_slice(b"\":\"");
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            out.push(b'"');
        }
        None => out.extend_from_slice(b"\":null"),
    }
}

fn append_replies(replies: &[Reply], scratch: &[u8], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, reply) in replies.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        append_reply(reply, scratch, out);
    }
    out.push(b']');
}

fn append_fetched(reply: &Reply, scratch: &[u8], out: &mut Vec<u8>) {
    let Reply::Fetched(fetched) = reply else { return };
    let Fetched { state, value, token, version, .. } = &**fetched;
    out.extend_from_slice(b",\"state\":\"");
    out.extend_from_slice(state.word().as_bytes());
    out.extend_from_slice(b"\",\"value\":");
    // A key that is known to be absent has no value here: what CACHE.FILL stored in its place is for Python clients.
    match value.as_ref().filter(|_| *state != State::Absent) {
        Some(value) => append_view(value.bytes(scratch), out),
        None => out.extend_from_slice(b"null"),
    }
    append_number("token", *token, out);
    append_number("version", *version, out);
    out.extend_from_slice(b",\"ttl_ms\":");
    out.extend_from_slice(itoa::Buffer::new().format(fetched.ttl_told()).as_bytes());
}

fn append_filled(reply: &Reply, out: &mut Vec<u8>) {
    let Reply::Stored(version) = reply else { return };
    let stored: &[u8] = if version.is_some() { b",\"stored\":true" } else { b",\"stored\":false" };
    out.extend_from_slice(stored);
    append_number("version", *version, out);
}

fn append_facts(reply: &Reply, scratch: &[u8], out: &mut Vec<u8>) {
    let Reply::Map(facts) = reply else { return };
    for (name, fact) in facts {
        if *name == "version" {
            let version = if let Reply::Int(version @ 1..) = fact { Some(*version as u64) } else { None };
            append_number("version", version, out);
            continue;
        }
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        append_reply(fact, scratch, out);
    }
}

/// A token as it was told: a string, or a number.
fn read_token(raw: &RawValue) -> Result<u64, Error> {
    let text = raw.get().trim_matches('"');
    let token = integer(text.as_bytes()).ok().filter(|&token| token >= 0);
    token.map(|token| token as u64).ok_or(malformed("ERR a token is a number, best as a string"))
}

fn millis(raw: &RawValue) -> Result<u64, Error> {
    let millis = integer(raw.get().as_bytes()).ok().filter(|millis| (0..=MAX_MILLIS).contains(millis));
    millis.map(|millis| millis as u64).ok_or(malformed("ERR a time is a number of milliseconds, not below 0"))
}

fn read_ttl(raw: &RawValue) -> Result<u64, Error> {
    let millis = millis(raw).ok().filter(|&millis| millis > 0);
    millis.ok_or(malformed("ERR ttl_ms is not a number of milliseconds above 0"))
}

/// Maelstrom's error codes. All that are given here are definite: what was asked has not happened.
fn code(kind: Kind) -> u16 {
    match kind {
        Kind::Unknown => 10,
        Kind::OutOfMemory => 11,
        Kind::Malformed | Kind::TooLarge => 12,
        Kind::Denied => 14,
        // Nothing was done, and it may go well later.
        Kind::LoadFailed | Kind::Busy | Kind::Waiting => 11,
        Kind::NotFound => 20,
        Kind::Mismatch => 22,
    }
}
