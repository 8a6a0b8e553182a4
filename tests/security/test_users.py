"""Who may do what, through every door; and that nobody is told what he may not know."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

import globalcache
from globalcache import Cache
from tests.conftest import GLOBALCACHE, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Process


def rule(password: str) -> str:
    return "#" + hashlib.sha256(password.encode()).hexdigest()


USERS = f"""
user admin on {rule("sesame")} allkeys allchannels +@all
user app on {rule("app")} ~shop:* %R~public:* &news.* +@all -@admin -@dangerous
user reader on {rule("read")} allkeys +@read +@connection
user gone off {rule("gone")} allkeys +@all
"""


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.acl"
    path.write_text(USERS)
    return path


@pytest.fixture
def guarded(users: Path) -> Iterator[globalcache.Server]:
    with globalcache.Server(memory="16MiB", users_file=users) as server:
        yield server


def client(server: globalcache.Server, user: str, password: str, **options: Any) -> Any:
    return redis.Redis.from_url(server.redis_url, username=user, password=password, decode_responses=True, **options)


def test_nothing_is_asked_before_one_said_who_one_is(guarded: globalcache.Server) -> None:
    with Wire(guarded.address) as wire:
        wire.ask(b"GET x\r\n", b"-NOAUTH Authentication required.\r\n")
        wire.ask(b"INFO\r\n", b"-NOAUTH Authentication required.\r\n")
        wire.ask(b"CACHE.FETCH x\r\n", b"-NOAUTH Authentication required.\r\n")
        wire.ask(b"AUTH wrong\r\n", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")
        wire.ask(b"AUTH nobody app\r\n", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")
        wire.ask(b"AUTH gone gone\r\n", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")
        wire.ask(b"AUTH app app\r\n", b"+OK\r\n")
        wire.ask(b"SET shop:1 x\r\n", b"+OK\r\n")
        wire.ask(b"ACL WHOAMI\r\n", b"$3\r\napp\r\n")
        wire.ask(b"RESET\r\n", b"+RESET\r\n")
        wire.ask(b"GET shop:1\r\n", b"-NOAUTH Authentication required.\r\n")


def test_what_follows_the_login_in_one_packet_may_be_long(guarded: globalcache.Server) -> None:
    value = b"v" * 100_000
    with Wire(guarded.address) as wire:
        wire.send(b"*3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$3\r\napp\r\n")
        wire.send(b"*3\r\n$3\r\nSET\r\n$6\r\nshop:1\r\n$100000\r\n" + value + b"\r\n")
        wire.expect(b"+OK\r\n+OK\r\n")
    with Wire(guarded.address) as wire:
        wire.send(b"*3\r\n$3\r\nSET\r\n$6\r\nshop:1\r\n$100000\r\n")
        assert wire.rest().startswith(b"-ERR Protocol error: invalid bulk length")
    with Wire(guarded.address) as wire:
        wire.send(b"*11\r\n")
        assert wire.rest().startswith(b"-ERR Protocol error: invalid multibulk length")


def test_a_user_has_its_commands_and_keys(guarded: globalcache.Server) -> None:
    app, reader, admin = (client(guarded, *who) for who in (("app", "app"), ("reader", "read"), ("admin", "sesame")))
    admin.set("public:1", "p")
    admin.set("secret:1", "s")
    assert app.set("shop:1", "1")
    assert app.get("public:1") == "p"
    for refused in (
        lambda: app.get("secret:1"),
        lambda: app.set("public:1", "x"),
        lambda: app.mget("shop:1", "secret:1"),
        lambda: app.rename("shop:1", "secret:2"),
        lambda: app.copy("secret:1", "shop:2"),
        lambda: app.execute_command("CACHE.INVALIDATE", "TAGS", "1", "t", "KEYS", "1", "secret:1"),
        lambda: app.execute_command("CACHE.INVALIDATE", "KEYS", "1", "secret:1"),
        lambda: app.memory_usage("secret:1"),
        lambda: app.execute_command("EVALSHA", "0" * 40, "1", "secret:1"),
        app.flushdb,
        lambda: app.config_get("*"),
        app.client_list,
        lambda: app.execute_command("ACL", "LIST"),
        lambda: app.publish("other", "x"),
        lambda: reader.set("shop:1", "x"),
        lambda: reader.execute_command("CACHE.FILL", "shop:1", "1", "x"),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            refused()
    assert app.execute_command("ACL", "WHOAMI") == "app"


def test_nobody_is_told_the_name_of_a_key_that_he_may_not_read(guarded: globalcache.Server) -> None:
    admin, app = client(guarded, "admin", "sesame"), client(guarded, "app", "app")
    admin.mset({"shop:1": "1", "secret:1": "s", "public:1": "p"})
    with pytest.raises(redis.exceptions.NoPermissionError):
        app.keys("*")
    assert sorted(app.scan_iter()) == ["public:1", "shop:1"]
    assert {app.randomkey() for _ in range(50)} <= {"public:1", "shop:1"}
    with Wire(guarded.address) as wire:
        wire.send(b"HELLO 3 AUTH app app\r\nCLIENT TRACKING ON BCAST\r\nPING\r\n")
        while b"PONG" not in wire.socket.recv(1 << 16):
            pass
        admin.set("secret:1", "t")
        admin.set("shop:1", "2")
        got = b""
        while b"shop:1" not in got:
            got += wire.socket.recv(1 << 16)
        assert b"secret" not in got
    with Wire(guarded.address) as wire:
        wire.send(b"HELLO 3 AUTH app app\r\nCACHE.LOADER *\r\nCACHE.LOADER shop:*\r\nQUIT\r\n")
        got = wire.rest()
        assert b"-NOPERM" in got
        assert got.endswith(b"+OK\r\n+OK\r\n")
    with Wire(guarded.address) as wire:
        wire.ask(b"AUTH app app\r\n", b"+OK\r\n")
        wire.send(b"PSUBSCRIBE *\r\nSUBSCRIBE other\r\nSUBSCRIBE news.a\r\nQUIT\r\n")
        got = wire.rest()
        assert got.count(b"-NOPERM") == 2
        assert b"news.a" in got


def test_who_may_not_fill_gets_no_lease(guarded: globalcache.Server) -> None:
    reader = client(guarded, "reader", "read")
    assert reader.execute_command("CACHE.FETCH", "shop:9")[:3] == ["miss", None, 0]
    assert client(guarded, "app", "app").execute_command("CACHE.FETCH", "shop:9")[2] > 0


def test_a_transaction_is_judged_when_it_is_queued(guarded: globalcache.Server) -> None:
    with Wire(guarded.address) as wire:
        wire.ask(b"AUTH app app\r\n", b"+OK\r\n")
        wire.ask(b"MULTI\r\n", b"+OK\r\n")
        wire.send(b"GET secret:1\r\nEXEC\r\nQUIT\r\n")
        got = wire.rest()
        assert got.startswith(b"-NOPERM")
        assert b"-EXECABORT" in got


def test_memcached_logs_in_by_its_first_set(guarded: globalcache.Server) -> None:
    with Wire(guarded.address) as wire:
        wire.ask(b"get shop:1\r\n", b"CLIENT_ERROR unauthenticated\r\n")
        wire.ask(b"set x 0 0 9\r\napp wrong\r\n", b"CLIENT_ERROR authentication failure\r\n")
        wire.ask(b"set x 0 0 7\r\napp app\r\n", b"STORED\r\n")
        wire.ask(b"set shop:1 0 0 1\r\nv\r\n", b"STORED\r\n")
        wire.ask(b"get shop:1\r\n", b"VALUE shop:1 0 1\r\nv\r\nEND\r\n")
        wire.send(b"get secret:1\r\n")
        assert wire.socket.recv(1 << 10).startswith(b"CLIENT_ERROR NOPERM")


def test_json_logs_in_by_a_message(guarded: globalcache.Server) -> None:
    with Wire(guarded.address) as wire, wire.socket.makefile("rb") as lines:

        def ask(**body: Any) -> dict[str, Any]:
            wire.send(json.dumps({"src": "c", "dest": "cache", "body": {"msg_id": 1, **body}}).encode() + b"\n")
            reply: dict[str, Any] = json.loads(lines.readline())["body"]
            return reply

        assert ask(type="get", key="shop:1")["code"] == 14
        assert ask(type="auth", user="app", password="no")["code"] == 14
        assert ask(type="auth", user="app", password="app")["type"] == "auth_ok"
        assert ask(type="set", key="shop:1", value=1)["type"] == "set_ok"
        assert ask(type="get", key="secret:1")["code"] == 14
        assert ask(type="fetch", key="secret:1")["code"] == 14


def test_our_client_logs_in_by_its_url(guarded: globalcache.Server) -> None:
    with Cache(guarded.url.replace("://", "://app:app@")) as cache:
        cache.set("shop:1", {"a": 1})
        assert cache.get("shop:1") == {"a": 1}
        assert "app:app" not in repr(cache)
    wrong = guarded.url.replace("://", "://app:wrong@")
    with Cache(wrong, on_error="raise") as cache, pytest.raises(globalcache.AuthError):
        cache.get("shop:1")


def test_no_answer_tells_a_password(guarded: globalcache.Server) -> None:
    admin = client(guarded, "admin", "sesame")
    told = str(
        [
            admin.execute_command("ACL", "LIST"),
            admin.execute_command("ACL", "GETUSER", "app"),
            admin.info(),
            admin.config_get("*"),
            admin.client_list(),
            repr(guarded.settings),
        ]
    )
    for secret in ("sesame", rule("app")[1:], rule("read")[1:]):
        assert secret not in told


def test_a_signal_reads_users_again(serve: Callable[..., Process], users: Path) -> None:
    process = serve("--users-file", str(users))
    kept, changed = (redis.Redis.from_url(f"redis://{who}@{process.address}") for who in ("reader:read", "app:app"))
    kept.ping()
    changed.ping()
    users.write_text(USERS.replace(rule("app"), rule("new")))
    process.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            redis.Redis.from_url(f"redis://app:new@{process.address}").ping()
            break
        except redis.exceptions.AuthenticationError:
            time.sleep(0.02)
    kept.ping()
    with pytest.raises(redis.exceptions.AuthenticationError):
        changed.ping()
    users.write_text("nonsense")
    process.process.send_signal(signal.SIGHUP)
    assert process.process.stderr is not None
    while "nothing is changed" not in (line := process.process.stderr.readline()):
        assert line
    redis.Redis.from_url(f"redis://app:new@{process.address}").ping()


def test_a_password_alone_is_that_of_whoever_names_nobody(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("open sesame\n")
    with globalcache.Server(memory="16MiB", password_file=path) as server:
        assert redis.Redis.from_url(server.redis_url, password="open sesame").ping()
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis.from_url(server.redis_url).ping()


def test_a_public_address_needs_a_login(users: Path) -> None:
    with pytest.raises(globalcache.ConfigError, match="--insecure allows it"):
        globalcache.Server(listen=["0.0.0.0:0"], memory="16MiB")
    with globalcache.Server(listen=["0.0.0.0:0"], memory="16MiB", users_file=users) as server:
        assert server.address.startswith("0.0.0.0:")


def test_hash_password_prints_a_rule() -> None:
    done = subprocess.run([GLOBALCACHE, "hash-password"], input="app\n", capture_output=True, text=True, check=True)
    assert done.stdout == rule("app") + "\n"


def test_a_health_check_needs_no_password(guarded: globalcache.Server) -> None:
    done = subprocess.run([GLOBALCACHE, "ping", "-u", guarded.url], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "NOAUTH\n")
