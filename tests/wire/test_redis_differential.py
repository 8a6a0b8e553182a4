"""The same random commands to redis-server 7 and to this server: every reply the same, byte for byte.

What is known to differ stands in `DIFFERENT`, each with its reason; docs/compatibility.md tells the same to users.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.wire.redis_wire import Raw, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    import globalcache

# What is not compared, and why. Commands of later versions than 7.0 are tested on their own.
DIFFERENT = {
    "SCAN, RANDOMKEY": "the order of keys is each server's own",
    "KEYS": "as SCAN; compared as a set",
    "INCRBYFLOAT": "added in decimal here, in 80 binary digits there; compared on numbers that are short in both",
    "OBJECT ENCODING": "told from the value here, remembered from its history there",
    "OBJECT FREQ, IDLETIME": "there an LRU clock, here the counter of the eviction policy, as with an LFU policy there",
    "empty keys": "refused here: a key has 1 to 65535 bytes",
    "unknown commands": "quoted words are shown as text here, as bytes up to the first zero there",
    "WATCH": "absent, loaded by a worker and gone by expiry, eviction or a flush counts as unchanged here",
    "IFEQ, DELIFEQ": "commands of Valkey",
}

KEYS = [b"a", b"b", b"c", b"key:4"]
VALUES = [b"", b"0", b"1", b"-7", b"10.5", b"hello", b"9223372036854775807", b"x" * 300, b"\x00\xff\r\n", b"01", b" 1"]
NUMBERS = [b"0", b"1", b"-1", b"5", b"100", b"-100", b"9223372036854775807", b"-9223372036854775808", b"x", b""]
TIMES = [b"100", b"100000", b"0", b"-1", b"x", b"9223372036854775807", b"4102444800"]
FLOATS = [b"0.5", b"-1.25", b"3", b"2.0e2", b"abc", b"", b"10.75", b"inf", b"nan"]
OPTIONS = [b"NX", b"XX", b"GET", b"KEEPTTL", b"EX", b"PX", b"EXAT", b"PXAT", b"FOO", b"100", b"5000", b"PERSIST"]
COMMANDS: dict[bytes, tuple[list[bytes], ...]] = {
    b"GET": (KEYS,),
    b"STRLEN": (KEYS,),
    b"SET": (KEYS, VALUES),
    b"SETNX": (KEYS, VALUES),
    b"GETSET": (KEYS, VALUES),
    b"GETDEL": (KEYS,),
    b"APPEND": (KEYS, VALUES),
    b"SETEX": (KEYS, TIMES, VALUES),
    b"PSETEX": (KEYS, [b"100000", b"0", b"x"], VALUES),
    b"GETRANGE": (KEYS, NUMBERS, NUMBERS),
    b"SUBSTR": (KEYS, NUMBERS, NUMBERS),
    b"SETRANGE": (KEYS, [b"0", b"3", b"40", b"-1", b"x", b"9223372036854775807"], VALUES),
    b"INCR": (KEYS,),
    b"DECR": (KEYS,),
    b"INCRBY": (KEYS, NUMBERS),
    b"DECRBY": (KEYS, NUMBERS),
    b"INCRBYFLOAT": ([b"float"], FLOATS),
    b"MGET": (KEYS, KEYS, KEYS),
    b"MSET": (KEYS, VALUES, KEYS, VALUES),
    b"MSETNX": (KEYS, VALUES, KEYS, VALUES),
    b"DEL": (KEYS, KEYS),
    b"UNLINK": (KEYS,),
    b"EXISTS": (KEYS, KEYS),
    b"TOUCH": (KEYS, KEYS),
    b"TYPE": (KEYS,),
    b"TTL": (KEYS,),
    b"EXPIRETIME": ([b"never", b"none"],),
    b"PEXPIRETIME": ([b"never", b"none"],),
    b"PERSIST": (KEYS,),
    b"EXPIRE": (KEYS, TIMES),
    b"PEXPIRE": (KEYS, [b"100000", b"0", b"-5", b"x", b"9223372036854775807"]),
    b"EXPIREAT": (KEYS, TIMES),
    b"PEXPIREAT": (KEYS, [b"4102444800000", b"1", b"x"]),
    b"RENAME": (KEYS, KEYS),
    b"RENAMENX": (KEYS, KEYS),
    b"COPY": (KEYS, KEYS),
    b"MOVE": (KEYS, [b"1", b"0", b"15", b"16", b"x"]),
    b"GETEX": (KEYS,),
    b"DBSIZE": (),
    b"SELECT": ([b"0", b"1", b"15", b"16", b"-1", b"x"],),
    b"PING": (),
    b"ECHO": (VALUES,),
    b"FLUSHDB": (),
    b"MULTI": (),
    b"EXEC": (),
    b"DISCARD": (),
    b"UNWATCH": (),
    b"RESET": (),
    b"NOSUCH": (KEYS, NUMBERS),
    b"OBJECT": ([b"REFCOUNT", b"NOSUCH"], [b"none"]),
    b"EVALSHA": ([b"0" * 40], [b"0"]),
}
EXTRA = {
    b"SET": OPTIONS,
    b"GETEX": OPTIONS,
    # GT and LT are compared where the moment is named: from now on, milliseconds between both servers would count.
    b"EXPIRE": [b"NX", b"XX", b"FOO"],
    b"PEXPIRE": [b"NX", b"XX"],
    b"EXPIREAT": [b"NX", b"XX", b"GT", b"LT"],
    b"COPY": [b"REPLACE", b"DB", b"1", b"FOO"],
    b"PING": [b"hello"],
    b"FLUSHDB": [b"ASYNC", b"SYNC", b"FOO"],
}
RARE = {b"FLUSHDB", b"RESET", b"SELECT", b"MULTI", b"NOSUCH"}


def command(choose: random.Random) -> list[bytes]:
    """Make a command up: mostly well formed, sometimes with too few or too many words."""
    name = choose.choice(list(COMMANDS))
    if name in RARE and choose.random() < 0.7:
        name = b"GET"
    words = [name, *(choose.choice(values) for values in COMMANDS[name])]
    extra = EXTRA.get(name, [])
    while extra and choose.random() < 0.5:
        words.append(choose.choice(extra))
    if choose.random() < 0.02:
        words.append(b"more")
    if len(words) > 1 and choose.random() < 0.02:
        words.pop()
    return words


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


def port_of(server: globalcache.Server) -> int:
    return int(server.address.rsplit(":", 1)[1])


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_random_commands_are_answered_as_redis_does(
    server: globalcache.Server, redis_port: int, resp: int, seed: int
) -> None:
    choose = random.Random(seed)
    with Raw(port_of(server), resp) as ours, Raw(redis_port, resp) as theirs:
        assert ours.ask(b"FLUSHALL") == theirs.ask(b"FLUSHALL")
        history = []
        for _ in range(500):
            words = command(choose)
            history.append(words)
            mine, other = ours.ask(*words), theirs.ask(*words)
            assert mine == other, history[-8:]
            if words[0] == b"RESET" and resp == 3 and mine == b"+RESET\r\n":
                ours.ask(b"HELLO", b"3")
                theirs.ask(b"HELLO", b"3")


@pytest.mark.parametrize("resp", [2, 3])
def test_transactions_that_watch_are_answered_as_redis_does(
    server: globalcache.Server, redis_port: int, resp: int
) -> None:
    disturb: list[list[bytes]] = [
        [b"SET", b"k", b"2"],
        [b"DEL", b"k"],
        [b"EXPIRE", b"k", b"100"],
        [b"APPEND", b"k", b"x"],
        [b"RENAME", b"k", b"l"],
        [b"FLUSHALL"],
        [b"SET", b"other", b"1"],
        [b"GET", b"k"],
        [b"PEXPIREAT", b"k", b"1"],
    ]
    for change in disturb:
        answers = []
        for port in (port_of(server), redis_port):
            with Raw(port, resp) as one, Raw(port) as two:
                one.ask(b"FLUSHALL")
                one.ask(b"SET", b"k", b"1")
                one.ask(b"WATCH", b"k")
                two.ask(*change)
                one.ask(b"MULTI")
                one.ask(b"INCR", b"k")
                one.ask(b"GET", b"k")
                answers.append(one.ask(b"EXEC"))
        assert answers[0] == answers[1], change


def test_a_watched_absent_key_changes_as_in_redis(server: globalcache.Server, redis_port: int) -> None:
    """A watches a key that is absent; B does this; A's transaction runs only if something was written."""
    disturb = [
        *(b"DEL k|UNLINK k|GETDEL k|EXPIRE k -1|RENAME k l|FLUSHALL|FLUSHDB|SET k 1 XX|SET other 1".split(b"|")),
        *(b"SET k 1|SET k 1;DEL k|SET k 1;EXPIRE k -1|SET k 1;FLUSHALL|SET l 1;RENAME l k".split(b"|")),
        b"SET k 1;RENAME k l",
        b"SET k 1 PX 9223370000000000000;DEL k",
    ]
    for changes in disturb:
        answers = []
        for port in (port_of(server), redis_port):
            with Raw(port) as one, Raw(port) as two:
                one.ask(b"FLUSHALL")
                one.ask(b"WATCH", b"k")
                told = [two.ask(*change.split()) for change in changes.split(b";")]
                one.ask(b"MULTI")
                one.ask(b"SET", b"mine", b"1")
                answers.append([*told, one.ask(b"EXEC")])
        assert answers[0] == answers[1], changes


@pytest.mark.parametrize("resp", [2, 3])
def test_keys_and_scans_find_the_same(server: globalcache.Server, redis_port: int, resp: int) -> None:
    patterns = [b"*", b"user:*", b"user:?", b"[^u]*", b"*1*", b"user:[1-3]*", b"\\*", b"nosuch"]
    found: list[list[object]] = []
    for port in (port_of(server), redis_port):
        with Raw(port, resp) as raw:
            raw.ask(b"FLUSHALL")
            for number in range(300):
                raw.ask(b"SET", b"user:%d" % number if number % 3 else b"x%d" % number, b"v")
            raw.ask(b"SET", b"*", b"v")
            answers: list[object] = [sorted(raw.ask(b"KEYS", pattern).split(b"\r\n")) for pattern in patterns]
            cursor, keys = b"0", set()
            while True:
                parts = raw.ask(b"SCAN", cursor, b"MATCH", b"user:*", b"COUNT", b"20", b"TYPE", b"string").split(
                    b"\r\n"
                )
                cursor = parts[2]
                keys.update(parts[5::2])
                if cursor == b"0":
                    break
            answers += [keys, raw.ask(b"SCAN", b"x"), raw.ask(b"SCAN", b"0", b"COUNT", b"0"), raw.ask(b"DBSIZE")]
            answers.append(raw.ask(b"SCAN", b"0", b"FOO"))
            found.append(answers)
    assert found[0] == found[1]


def test_every_known_difference_has_a_reason() -> None:
    assert all(reason.strip() for reason in DIFFERENT.values())
