//! HELLO and AUTH: who a client is, and which version of RESP it speaks.

use crate::state::client::Client;
use crate::state::engine::Engine;
use crate::state::users::DEFAULT;
use crate::version::{REDIS_VERSION, VERSION};
use crate::vocabulary::{Error, Kind, Reply};

const NO_PASSWORD: Error = Error::new(
    Kind::Denied,
    "ERR AUTH <password> called without any password configured for the default user. \
     Are you sure your configuration is correct?",
);

const WRONG_PASSWORD: Error = Error::new(Kind::Denied, "WRONGPASS invalid username-password pair or user is disabled.");

/// Longest name that a client may give itself or its library: enough for any, and a bound on what is kept.
const MAX_NAME: usize = 256;

pub(super) fn printable(text: &[u8], what: &str) -> Result<Vec<u8>, Error> {
    if text.len() > MAX_NAME {
        return Err(Error::with(Kind::TooLarge, format!("ERR {what} cannot be longer than {MAX_NAME} bytes.")));
    }
    if !text.iter().all(u8::is_ascii_graphic) {
        let text = format!("ERR {what} cannot contain spaces, newlines or special characters.");
        return Err(Error::with(Kind::Malformed, text));
    }
    Ok(text.to_vec())
}

/// What a connection is told goes by who it was when it asked to be told.
const AS_ANOTHER: Error = Error::new(
    Kind::Denied,
    "ERR this connection listens, tracks or loads as another user: authenticate on a connection of its own",
);

/// A session belongs to the user who began it.
const OF_ANOTHER: Error = Error::new(
    Kind::Denied,
    "ERR the session of this connection is another user's: authenticate on a connection of its own",
);

/// Says who the client is.
pub(super) fn auth(engine: &Engine, client: &mut Client, user: Option<&[u8]>, password: &[u8]) -> Result<Reply, Error> {
    let name = user.unwrap_or(DEFAULT.as_bytes());
    if user.is_none() && engine.users.get(name).is_some_and(|user| user.needs_no_password()) {
        return Err(NO_PASSWORD);
    }
    let access = engine.users.authenticate(name, password).ok_or(WRONG_PASSWORD)?;
    let name = access.user().map(|user| user.name());
    let other = client.access.user().map(|user| user.name()) != name;
    if client.joined.as_ref().is_some_and(|joined| Some(joined.user()) != name) {
        return Err(OF_ANOTHER);
    }
    if other && (client.worker || client.subscriptions.is_some() || client.tracking.is_some()) {
        return Err(AS_ANOTHER);
    }
    if client.authenticate_as(&engine.users, access) { Ok(Reply::Ok) } else { Err(WRONG_PASSWORD) }
}

pub(super) fn hello(
    engine: &Engine,
    client: &mut Client,
    version: Option<u8>,
    user: Option<(&[u8], &[u8])>,
    name: Option<&[u8]>,
) -> Result<Reply, Error> {
    if client.worker && version == Some(2) {
        return Err(Error::new(Kind::Malformed, "ERR loads are pushed: a loader worker stays with RESP3"));
    }
    if let Some((user, password)) = user {
        auth(engine, client, Some(user), password)?;
    } else if client.access.user().is_none() {
        return Err(Error::new(
            Kind::Denied,
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> \
             <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        client.names.name = printable(name, "Client names")?;
    }
    client.resp = version.unwrap_or(client.resp);
    Ok(Reply::Map(vec![
        ("server", Reply::bytes("redis")),
        ("version", Reply::bytes(REDIS_VERSION)),
        ("proto", Reply::Int(client.resp.into())),
        ("id", Reply::Int(client.connection.id as i64)),
        ("mode", Reply::bytes("standalone")),
        ("role", Reply::bytes("master")),
        ("modules", Reply::Array(Vec::new())),
        ("globalcache", Reply::bytes(VERSION)),
    ]))
}
