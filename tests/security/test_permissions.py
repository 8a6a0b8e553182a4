"""Every command in every key position against users who may not: what is refused, and that nothing else is.

Commands and the places of their keys are asked of the server, so a new one is tested once it is in the table. Keys
that stand elsewhere are listed here, and so are commands without any: a new one of those fails until somebody has
thought about it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.cluster

import globalcache
from tests.conftest import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MINE, OTHER = b"mine:1", b"other:1"
SECRET = "#" + hashlib.sha256(b"secret").hexdigest()

# Before authentication, so nobody is refused them.
FOR_EVERYBODY = {"auth", "hello", "quit", "reset"}
# What a login allows, or another right: whoever may fill may answer for a lease in any way.
IMPLIED = {"cache.session", "cache.fail", "cache.renew", "cache.release", "cache.cancel"}
# What names no key in a fixed place: about connections and the server, or tested below.
WITHOUT_KEYS = {
    *("acl", "cache.cancel", "cache.forget", "cache.invalidate", "cache.loader", "cache.session", "client", "command"),
    *(
        "config",
        "dbsize",
        "discard",
        "echo",
        "eval",
        "evalsha",
        "exec",
        "flushall",
        "flushdb",
        "function",
        "info",
        "keys",
    ),
    *(
        "lastsave",
        "memory",
        "multi",
        "object",
        "ping",
        "psubscribe",
        "publish",
        "pubsub",
        "punsubscribe",
        "randomkey",
        "scan",
    ),
    *("script", "select", "subscribe", "time", "unsubscribe", "unwatch"),
}
# Requests with one key or pattern that is not in a fixed place, to be filled in.
ELSEWHERE = [
    [b"EVALSHA", b"0" * 40, b"1", b"?"],
    [b"EVALSHA", b"0" * 40, b"2", MINE, b"?"],
    [b"EVAL", b"return 1", b"1", b"?"],
    [b"MEMORY", b"USAGE", b"?"],
    [b"OBJECT", b"ENCODING", b"?"],
    [b"CACHE.INVALIDATE", b"KEYS", b"2", MINE, b"?"],
    [b"CACHE.INVALIDATE", b"KEYS", b"1", b"?", b"TAGS", b"1", b"t"],
    [b"CACHE.INVALIDATE", b"TAGS", b"2", b"t", b"KEYS", b"KEYS", b"1", b"?"],
    [b"CACHE.LOADER", b"mine:*", b"?"],
    [b"CACHE.LOADER", b"?", b"INFLIGHT", b"1"],
    [b"CACHE.FORGET", b"?"],
]
CHANNELS = [
    [b"PUBLISH", b"?", b"m"],
    [b"SUBSCRIBE", b"mine:1", b"?"],
    [b"PSUBSCRIBE", b"mine:*", b"?"],
]


def table() -> dict[str, Any]:
    with globalcache.Server(memory="32MiB", threads=1) as server, redis.Redis.from_url(server.redis_url) as client:
        found: dict[str, Any] = client.command()
    return found


TABLE = table()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[globalcache.Server]:
    path: Path = tmp_path_factory.mktemp("users") / "users.acl"
    lines = [f"user keyless on {SECRET} ~mine:* &mine:* +@all", f"user all on {SECRET} allkeys allchannels +@all"]
    lines += [f"user writer on {SECRET} %W~mine:* +@all"]
    lines += [f"user no-{name} on {SECRET} allkeys allchannels +@all -{name}" for name in TABLE]
    lines += [f"user only-{name} on {SECRET} allkeys allchannels +{name}" for name in TABLE]
    path.write_text("\n".join(lines))
    with globalcache.Server(memory="16MiB", threads=1, users_file=path) as server:
        yield server


def encode(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def answer(server: globalcache.Server, user: str, words: list[bytes]) -> bytes:
    """Return what comes back on a request of a user, up to the end of the connection."""
    with Wire(server.address) as wire:
        wire.ask(encode([b"AUTH", user.encode(), b"secret"]), b"+OK\r\n")
        wire.send(encode(words) + b"QUIT\r\n")
        return wire.rest()


def requests(name: str) -> Iterator[tuple[list[bytes], list[int]]]:
    """Make requests of a command that name only keys of `mine:*`, with the places of those keys."""
    facts = TABLE[name]
    arity, first, last, step = facts["arity"], facts["first_key_pos"], facts["last_key_pos"], facts["step_count"]
    for more in (0, 1, 2) if last < 0 else (0,):
        length = max(abs(arity), first + (last - first if last > 0 else 0) + 1) + more * step
        if arity < 0 or length == arity:
            words = [name.upper().encode()] + [b"1"] * (length - 1)
            end = last if last > 0 else length + last
            places = list(range(first, end + 1, step))
            for place in places:
                words[place] = MINE
            yield words, places


def test_every_command_is_thought_of() -> None:
    keyless = {name for name, facts in TABLE.items() if facts["first_key_pos"] == 0}
    assert keyless - FOR_EVERYBODY == WITHOUT_KEYS


@pytest.mark.parametrize("name", sorted(set(TABLE) - FOR_EVERYBODY - WITHOUT_KEYS))
def test_a_key_in_any_place_is_refused_to_who_may_not_use_it(server: globalcache.Server, name: str) -> None:
    tried = 0
    for words, places in requests(name):
        assert b"NOPERM" not in answer(server, "keyless", words), words
        for place in places:
            denied = [*words[:place], OTHER, *words[place + 1 :]]
            assert answer(server, "keyless", denied).startswith(b"-NOPERM this user has no permissions to access"), (
                denied
            )
            tried += 1
    assert tried > 0


@pytest.mark.parametrize(
    ("words", "mine"), [(w, b"mine:*" if b"FORGET" in w[0] or b"LOADER" in w[0] else MINE) for w in ELSEWHERE]
)
def test_a_key_behind_a_count_or_a_word_is_refused_as_well(
    server: globalcache.Server, words: list[bytes], mine: bytes
) -> None:
    filled = [mine if word == b"?" else word for word in words]
    assert b"NOPERM" not in answer(server, "keyless", filled)
    for other in (OTHER, b"*", b"mine?*"):
        filled = [other if word == b"?" else word for word in words]
        assert answer(server, "keyless", filled).startswith(b"-NOPERM"), filled


@pytest.mark.parametrize("words", CHANNELS)
def test_a_channel_is_refused_to_who_may_not_use_it(server: globalcache.Server, words: list[bytes]) -> None:
    mine = b"mine:*" if words[0] == b"PSUBSCRIBE" else MINE
    assert b"NOPERM" not in answer(server, "keyless", [mine if word == b"?" else word for word in words])
    for other in (OTHER, b"*"):
        assert answer(server, "keyless", [other if word == b"?" else word for word in words]).startswith(b"-NOPERM")


@pytest.mark.parametrize("name", sorted(set(TABLE) - FOR_EVERYBODY - IMPLIED))
def test_a_command_is_refused_to_who_may_not_run_it(server: globalcache.Server, name: str) -> None:
    words = [name.upper().encode(), *[b"1"] * (abs(TABLE[name]["arity"]) - 1)]
    refusal = f"NOPERM User no-{name} has no permissions to run the '{name}' command\r\n".encode()
    answered = answer(server, f"no-{name}", words)
    assert answered.startswith(b"-EXECABORT" if name == "exec" else b"-NOPERM")
    assert refusal in answered
    assert not answer(server, "all", words).startswith(b"-NOPERM")
    # Loads are sent to who may fill.
    if name != "cache.loader":
        assert not answer(server, f"only-{name}", words).startswith(b"-NOPERM")


@pytest.mark.parametrize(
    "words",
    [[b"GET", MINE], [b"SET", MINE, b"v", b"GET"], [b"SET", MINE, b"v", b"IFEQ", b"x"], [b"GETSET", MINE, b"v"]],
)
def test_who_may_only_write_is_told_no_value(server: globalcache.Server, words: list[bytes]) -> None:
    assert answer(server, "writer", words).startswith(b"-NOPERM")
    assert answer(server, "writer", [b"SET", MINE, b"v"]) == b"+OK\r\n+OK\r\n"


@pytest.mark.parametrize("name", sorted(IMPLIED))
def test_what_another_right_or_a_login_allows_is_not_refused(server: globalcache.Server, name: str) -> None:
    words = [name.upper().encode(), *[MINE] * (abs(TABLE[name]["arity"]) - 1)]
    for user in ("only-cache.fill", f"no-{name}") if name != "cache.session" else ("only-get", "no-cache.session"):
        assert b"NOPERM" not in answer(server, user, words), user
    if name not in {"cache.session", "cache.cancel"}:
        assert answer(server, "only-get", words).startswith(b"-NOPERM")


@pytest.mark.parametrize("words", [["FLUSHALL"], ["FLUSHDB"]])
def test_who_may_not_use_all_keys_may_not_remove_them_all(server: globalcache.Server, words: list[str]) -> None:
    request = [word.encode() for word in words]
    assert answer(server, "keyless", request).startswith(b"-NOPERM")
    assert answer(server, "all", request).startswith(b"+OK")


def test_keys_and_channels_of_others_are_not_told(server: globalcache.Server) -> None:
    answer(server, "all", [b"MSET", MINE, b"m", OTHER, b"o"])
    for words in ([b"KEYS", b"*"], [b"SCAN", b"0", b"COUNT", b"100"], [b"RANDOMKEY"]):
        told = answer(server, "keyless", words)
        assert MINE in told
        assert OTHER not in told
    with Wire(server.address) as listener:
        listener.ask(b"AUTH all secret\r\n", b"+OK\r\n")
        listener.send(b"SUBSCRIBE mine:1 other:1\r\n")
        listener.expect(
            b"*3\r\n$9\r\nsubscribe\r\n$6\r\nmine:1\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$7\r\nother:1\r\n:2\r\n"
        )
        assert answer(server, "keyless", [b"PUBSUB", b"CHANNELS"]) == b"*1\r\n$6\r\nmine:1\r\n+OK\r\n"
        counts = answer(server, "keyless", [b"PUBSUB", b"NUMSUB", b"mine:1", b"other:1"])
        assert counts == b"*4\r\n$6\r\nmine:1\r\n:1\r\n$7\r\nother:1\r\n:0\r\n+OK\r\n"


def test_a_redirected_message_has_only_permitted_keys(server: globalcache.Server) -> None:
    with Wire(server.address) as receiver, Wire(server.address) as reader, Wire(server.address) as writer:
        receiver.send(b"HELLO 3 AUTH keyless secret\r\nCLIENT ID\r\n")
        got = b""
        while b"\r\n:" not in got or not got.endswith(b"\r\n"):
            got += receiver.socket.recv(4096)
        number = int(got.rpartition(b":")[2])
        reader.ask(b"AUTH all secret\r\nCLIENT TRACKING ON REDIRECT %d BCAST\r\n" % number, b"+OK\r\n+OK\r\n")
        writer.ask(b"AUTH all secret\r\nSET other:1 x\r\nSET mine:1 x\r\n", b"+OK\r\n" * 3)
        receiver.expect(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$6\r\nmine:1\r\n")


def test_who_listens_tracks_or_loads_stays_who_it_is(server: globalcache.Server) -> None:
    for words in (b"SUBSCRIBE other:1", b"CLIENT TRACKING ON", b"CACHE.LOADER other:*"):
        with Wire(server.address) as wire:
            wire.send(b"HELLO 3 AUTH all secret\r\n%b\r\nAUTH keyless secret\r\nQUIT\r\n" % words)
            assert b"-ERR this connection listens, tracks or loads as another user" in wire.rest()
    assert b"-NOPERM" in answer(server, "no-cache.fill", [b"CACHE.LOADER", b"x:*"])


def test_a_transaction_is_judged_again_when_it_runs(server: globalcache.Server) -> None:
    with Wire(server.address) as wire:
        wire.ask(b"AUTH all secret\r\nMULTI\r\n", b"+OK\r\n+OK\r\n")
        wire.ask(
            b"SET other:1 before\r\nAUTH keyless secret\r\nSET other:1 after\r\nGET mine:1\r\n", b"+QUEUED\r\n" * 4
        )
        wire.send(b"EXEC\r\nQUIT\r\n")
        got = wire.rest()
        assert got.startswith(b"*4\r\n+OK\r\n+OK\r\n-NOPERM")
    assert answer(server, "all", [b"GET", OTHER]) == b"$6\r\nbefore\r\n+OK\r\n"


MEMCACHED = [
    (b"get ?", "mget"),
    (b"get mine:1 ?", "mget"),
    (b"gets ? mine:1", "mget"),
    (b"gat 10 mine:1 ?", "getex"),
    (b"gats 10 ?", "getex"),
    (b"set ? 0 0 1\r\nv", "set"),
    (b"add ? 0 0 1\r\nv", "setnx"),
    (b"replace ? 0 0 1\r\nv", "setnx"),
    (b"append ? 0 0 1\r\nv", "setnx"),
    (b"prepend ? 0 0 1\r\nv", "setnx"),
    (b"cas ? 0 0 1 1\r\nv", "setnx"),
    (b"delete ?", "del"),
    (b"incr ? 1", "incr"),
    (b"decr ? 1", "incr"),
    (b"touch ? 10", "expire"),
    (b"mg ? v", "get"),
    (b"mg ? v T10", "getex"),
    (b"mg ? v N30", "cache.fetch"),
    (b"mg ? v R30", "cache.fetch"),
    (b"mg ? v N30 T10", "getex"),
    (b"md ? I T30", "del"),
    (b"ms ? 1 MA\r\nv", "setnx"),
    (b"ms ? 1\r\nv", "set"),
    (b"md ?", "del"),
    (b"ma ?", "incr"),
    (b"me ?", "get"),
]


@pytest.mark.parametrize(("request_", "row"), MEMCACHED)
def test_memcached_is_judged_by_the_row_that_does_the_same(
    server: globalcache.Server, request_: bytes, row: str
) -> None:
    def ask(user: bytes, key: bytes) -> bytes:
        with Wire(server.address) as wire:
            secret = user + b" secret"
            wire.ask(b"set x 0 0 %d\r\n%b\r\n" % (len(secret), secret), b"STORED\r\n")
            wire.send(request_.replace(b"?", key) + b"\r\nquit\r\n")
            return wire.rest()

    assert ask(b"keyless", OTHER).startswith(b"CLIENT_ERROR NOPERM this user has no permissions to access")
    assert b"NOPERM" not in ask(b"keyless", MINE)
    refusal = f"CLIENT_ERROR NOPERM User no-{row} has no permissions to run the '{row}' command\r\n".encode()
    assert ask(f"no-{row}".encode(), MINE) == refusal


def test_memcached_gives_no_lease_to_who_may_not_fill(server: globalcache.Server) -> None:
    def ask(user: bytes) -> bytes:
        with Wire(server.address) as wire:
            secret = user + b" secret"
            wire.ask(b"set x 0 0 %d\r\n%b\r\n" % (len(secret), secret), b"STORED\r\n")
            wire.send(b"mg mine:lease v N30 c\r\nquit\r\n")
            return wire.rest()

    assert ask(b"no-cache.fill") == b"EN\r\n"
    assert b" W" in ask(b"all")


@pytest.mark.parametrize("line", [b"flush_all", b"flush_all 100"])
def test_memcached_removes_everything_only_for_who_may(server: globalcache.Server, line: bytes) -> None:
    with Wire(server.address) as wire:
        wire.ask(b"set x 0 0 14\r\nkeyless secret\r\n", b"STORED\r\n")
        wire.send(line + b"\r\nquit\r\n")
        assert wire.rest().startswith(b"CLIENT_ERROR NOPERM")


JSON: list[tuple[dict[str, Any], str]] = [
    ({"type": "get", "key": "?"}, "get"),
    ({"type": "read", "key": "?"}, "get"),
    ({"type": "set", "key": "?", "value": 1}, "set"),
    ({"type": "set", "key": "?", "value": 1, "tags": ["t"]}, "cache.set"),
    ({"type": "write", "key": "?", "value": 1}, "set"),
    ({"type": "delete", "key": "?"}, "del"),
    ({"type": "cas", "key": "?", "from": 1, "to": 2}, "setnx"),
    ({"type": "incr", "key": "?"}, "incr"),
    ({"type": "mget", "keys": ["mine:1", "?"]}, "mget"),
    ({"type": "mget", "keys": ["?", "mine:1"]}, "mget"),
    ({"type": "invalidate", "keys": ["mine:1", "?"]}, "cache.invalidate"),
    ({"type": "fetch", "key": "?"}, "cache.fetch"),
    ({"type": "fill", "key": "?", "token": "1", "value": 1}, "cache.fill"),
    ({"type": "fail", "key": "?", "token": "1", "message": "m"}, "cache.fail"),
    ({"type": "renew", "key": "?", "token": "1", "ms": 1}, "cache.renew"),
    ({"type": "release", "key": "?", "token": "1"}, "cache.release"),
    ({"type": "inspect", "key": "?"}, "cache.inspect"),
]


@pytest.mark.parametrize(("body", "row"), JSON)
def test_json_is_judged_by_the_row_that_does_the_same(
    server: globalcache.Server, body: dict[str, Any], row: str
) -> None:
    def ask(user: str, key: str) -> str:
        filled = json.loads(json.dumps(body).replace("?", key))
        with Wire(server.address) as wire, wire.socket.makefile("rb") as lines:
            for message in ({"type": "auth", "user": user, "password": "secret"}, filled):
                wire.send(json.dumps({"src": "c", "dest": "cache", "body": {"msg_id": 1, **message}}).encode() + b"\n")
                reply = json.loads(lines.readline())["body"]
        return str(reply.get("text", ""))

    assert ask("keyless", OTHER.decode()).startswith("NOPERM this user has no permissions to access")
    assert "NOPERM" not in ask("keyless", MINE.decode())
    user = "only-get" if row in IMPLIED else f"no-{row}"
    assert ask(user, MINE.decode()) == f"NOPERM User {user} has no permissions to run the '{row}' command"
