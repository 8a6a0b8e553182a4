"""Users beside redis-server: the same rules are taken, and allow and refuse the same requests."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import redis

import globalcache
from tests.wire.redis_wire import Raw, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = ["a:1", "a:2", "b:1", "c"]
GLOBS = ["a:*", "b:*", "*1", "c", "[ab]:1", "*"]
# Requests, with ? for a key and ! for a channel.
REQUESTS = (
    """
GET ?|SET ? v|SET ? v GET|SET ? v NX|SET ? v EX 100|GETSET ? v|GETDEL ?|GETEX ?|MGET ? ?|MSET ? 1 ? 2|MSETNX ? 1 ? 2
SETNX ? v|APPEND ? v|SETRANGE ? 0 v|GETRANGE ? 0 1|STRLEN ?|INCR ?|DECRBY ? 2|INCRBYFLOAT ? 1|SETEX ? 10 v
PSETEX ? 10000 v|DEL ? ?|UNLINK ?|EXISTS ? ?|TYPE ?|TOUCH ?|TTL ?|PTTL ?|EXPIRE ? 100|PERSIST ?|EXPIRETIME ?|COPY ? ?
RENAME ? ?|RENAMENX ? ?|MOVE ? 1|OBJECT ENCODING ?|OBJECT FREQ ?|MEMORY USAGE ?|MEMORY STATS|WATCH ? ?|UNWATCH|MULTI
DISCARD|EXEC|EVAL return 1 1 ?|EVAL return 1 0|EVALSHA 0000000000000000000000000000000000000000 2 ? ?|SCAN 0|KEYS *
RANDOMKEY|DBSIZE|PING|ECHO x|SELECT 0|TIME|LASTSAVE|INFO nosuch|COMMAND COUNT|COMMAND INFO get|COMMAND GETKEYS GET x
CLIENT ID|CLIENT INFO|CLIENT LIST|CLIENT KILL ID 999999|CLIENT GETNAME|CLIENT SETNAME x|CLIENT REPLY ON
CLIENT NO-EVICT OFF|CLIENT TRACKING OFF|CLIENT CACHING YES|CLIENT TRACKINGINFO|CLIENT GETREDIR|CONFIG GET save
CONFIG RESETSTAT|CONFIG SET nosuch 1|ACL WHOAMI|ACL LIST|ACL USERS|ACL CAT|ACL GETUSER u0|PUBLISH ! x|SUBSCRIBE !
PSUBSCRIBE !|UNSUBSCRIBE !|PUNSUBSCRIBE !|PUBSUB CHANNELS|PUBSUB NUMSUB !|PUBSUB NUMPAT|SCRIPT EXISTS x|SCRIPT FLUSH
SCRIPT LOAD x|FUNCTION FLUSH|HELLO|NOSUCH x|GET|SUBSTR ? 0 1|SETEX ?
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
CATEGORIES = [
    *("keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog"),
    *("geo", "stream", "pubsub", "admin", "fast", "slow", "blocking", "dangerous", "connection"),
    *("transaction", "scripting", "all"),
]
NAMES = [
    *("get", "set", "mget", "mset", "del", "exists", "expire", "copy", "rename", "incr", "client"),
    *("config", "acl", "command", "object", "memory", "script", "eval", "subscribe", "publish", "pubsub"),
    *("ping", "info", "watch", "multi", "exec", "scan", "keys", "hset", "lpush", "debug", "client|id"),
    *("client|kill", "client|list", "config|get", "config|set", "acl|whoami", "object|encoding"),
    *("memory|usage", "pubsub|channels", "script|exists", "client|pause", "function", "nosuch"),
    *("client|nosuch",),
]


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


def rule(random_: random.Random) -> str:
    kind = random_.randrange(10)
    if kind < 4:
        return random_.choice("++-") + "@" + random_.choice(CATEGORIES)
    if kind < 6:
        return random_.choice("+-") + random_.choice(NAMES)
    if kind < 8:
        return random_.choice(["~", "~", "%R~", "%W~", "%RW~", "%r~"]) + random_.choice(GLOBS)
    if kind == 8:
        return "&" + random_.choice(["news", "n*", "other", "*"])
    words = "allkeys ALLKEYS resetkeys allchannels resetchannels nocommands AllCommands clearselectors sanitize-payload"
    return random_.choice([*words.split(), "reset", "on", "skip-sanitize-payload", "~", "%X~a", "nonsense", "(+get"])


def rules(random_: random.Random) -> list[str]:
    words = [rule(random_) for _ in range(random_.randrange(1, 7))]
    if random_.randrange(3) == 0:
        words.insert(0, random_.choice(["+@all", "+@read", "+@write", "allkeys", "~*", "allchannels"]))
    selectors = random_.choice([0, 0, 1, 2])
    words.extend("(" + " ".join(rule(random_) for _ in range(3)) + ")" for _ in range(selectors))
    return words


def filled(random_: random.Random, request: str) -> list[bytes]:
    words = []
    for word in request.split(" "):
        chosen = random_.choice(KEYS) if word == "?" else random_.choice(["news", "other"]) if word == "!" else word
        words.append(chosen.encode())
    return words


def refused(port: int, user: str, words: list[bytes]) -> bool:
    """Return whether a user is refused a request; each is asked on a connection of its own."""
    with Raw(port) as raw:
        assert raw.ask(b"AUTH", user.encode(), b"pw") == b"+OK\r\n"
        return raw.ask(*words).startswith(b"-NOPERM")


def taken(client: Any, user: str, words: list[str]) -> bool:
    try:
        client.execute_command("ACL", "SETUSER", user, "reset", *words, "on", "resetpass", ">pw")
    except redis.exceptions.ResponseError:
        client.execute_command("ACL", "DELUSER", user)
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_random_users_may_do_the_same(redis_port: int, tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    client = redis.Redis(port=redis_port)
    users: dict[str, list[str]] = {}
    wrong: list[list[str]] = []
    while len(users) < 25:
        words = rules(random_)
        if taken(client, f"u{len(users)}", words):
            users[f"u{len(users)}"] = words
        else:
            wrong.append(words)
    path = tmp_path / "users.acl"
    lines = [f"user {name} {' '.join(words)} on resetpass >pw" for name, words in users.items()]
    path.write_text("\n".join([*lines, "user default on nopass ~* &* +@all"]))
    with globalcache.Server(memory="16MiB", threads=1, users_file=path) as server:
        ours = int(server.address.rsplit(":", 1)[1])
        for name, words in users.items():
            for request in random_.sample(REQUESTS, 40):
                asked = filled(random_, request)
                answers = [refused(port, name, asked) for port in (ours, redis_port)]
                assert answers[0] == answers[1], (words, asked)
    for words in wrong[:15]:
        path.write_text(f"user u {' '.join(words)} on resetpass >pw")
        with pytest.raises(globalcache.ConfigError):
            globalcache.Server(memory="16MiB", threads=1, users_file=path)


def test_categories_hold_the_same(redis_port: int) -> None:
    with globalcache.Server(memory="16MiB", threads=1) as server:
        ours: Any = redis.Redis.from_url(server.redis_url)
        theirs: Any = redis.Redis(port=redis_port)
        assert [*theirs.acl_cat(), "cache", "loader"] == ours.acl_cat()
        known = [{name for category in one.acl_cat() for name in one.acl_cat(category)} for one in (ours, theirs)]
        for category in theirs.acl_cat():
            assert set(ours.acl_cat(category)) & known[1] == set(theirs.acl_cat(category)) & known[0], category


@pytest.mark.parametrize(("user", "killed"), [("bob", True), ("default", False), ("nosuch", None)])
def test_connections_of_a_user_are_closed(redis_port: int, tmp_path: Path, user: str, killed: bool | None) -> None:
    """`CLIENT KILL USER` goes by the user of a connection, and knows who is no user."""
    client: Any = redis.Redis(port=redis_port)
    client.execute_command("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all")
    path = tmp_path / "users.acl"
    path.write_text("user default on nopass ~* &* +@all\nuser bob on >pw ~* &* +@all\n")
    with globalcache.Server(memory="16MiB", threads=1, users_file=path) as server:
        for port in (int(server.address.rsplit(":", 1)[1]), redis_port):
            with Raw(port) as bob, Raw(port) as other:
                assert bob.ask(b"AUTH", b"bob", b"pw") == b"+OK\r\n"
                reply = other.ask(b"CLIENT", b"KILL", b"USER", user.encode())
                if killed is None:
                    assert reply == b"-ERR No such user 'nosuch'\r\n"
                elif killed:
                    assert reply == b":1\r\n"
                    assert bob.file.read() == b""
                    continue
                assert bob.ask(b"PING") == b"+PONG\r\n"
