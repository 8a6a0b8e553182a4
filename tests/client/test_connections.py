"""Connections: what is done when they were closed, are silent, answer nonsense, or carry too much."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import math
import socket
import ssl
import subprocess
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import hiredis
import hypothesis
import pytest

import globalcache
from globalcache import Cache
from globalcache.client import connection, connection_pool, lookup, multiplexed_connection
from globalcache.client.endpoint import Endpoint
from globalcache.client.wire import MOST_BYTES, MOST_KEYS, batches, key_batches
from globalcache.errors import AuthError, ConfigError, DeadlineError, UnavailableError, ValueTooLargeError
from globalcache.units import parse_duration
from tests.client.faces import Face
from tests.conftest import Wire, transport
from tests.faults.proxy import Proxy
from tests.faults.test_leases import until_none_held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ["threads", "tasks"]
# Bytes of the longest value, as the server of `small` tells.
LONGEST = 1000


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def proxy(server: globalcache.Server) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


@pytest.fixture
def face(kind: str, proxy: Proxy) -> Iterator[Face]:
    with Face(kind, f"globalcache://{proxy.address}", timeout=5) as face:
        yield face


@pytest.fixture
def silent() -> Iterator[int]:
    """Give a port that accepts connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Give the address of a peer that answers everything in the same way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(1 << 16)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        # What is accepted then ends it.
        listener.shutdown(socket.SHUT_RDWR)


def wait_until_closed(connection: Any) -> None:
    """Wait until the end of a connection has arrived here, or a reply that nobody asked for."""
    while connection.is_alive():
        pass


def idle_connections(cache: Cache, count: int) -> list[Any]:
    """Have a pool of so many connections, by as many threads that ask at the same time."""
    barrier, taken = threading.Barrier(count), []
    server = transport(cache)

    def take() -> None:
        connection = server._take()  # noqa: SLF001
        taken.append(connection)
        barrier.wait(10)
        server._idle.append(connection)  # noqa: SLF001

    threads = [threading.Thread(target=take) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return taken


def test_closed_connections_are_not_used(proxy: Proxy) -> None:
    """Six idle connections are closed by the server or on the way; calls that are never sent twice work at once."""
    with Cache(f"globalcache://{proxy.address}", timeout=5) as cache:
        for name, args, right in (("incr", ("n",), 1), ("add", ("a", 1), True), ("has", ("a",), True)):
            taken = idle_connections(cache, 6)
            assert len(set(taken)) == 6
            proxy.cut()
            for connection in taken:
                wait_until_closed(connection)
            assert getattr(cache, name)(*args) == right
        for name, args, right in (("touch", ("a", 60), True), ("delete", ("a",), True)):
            taken = idle_connections(cache, 2)
            proxy.cut()
            for connection in taken:
                wait_until_closed(connection)
            assert getattr(cache, name)(*args) is right


def test_a_connection_in_use_when_the_cache_is_closed(server: globalcache.Server) -> None:
    """Another thread closes the cache while a request is on its way: its connection is closed when it is put back."""
    with Cache(server.url, timeout=20) as cache:
        assert cache.incr("n") == 1
        pool = transport(cache)._idle  # noqa: SLF001
        (connection,) = pool
        write = connection._write  # noqa: SLF001

        def write_and_close(data: bytes) -> int:
            cache.close()
            return int(write(data))

        connection._write = write_and_close  # noqa: SLF001
        assert cache.incr("n") == 2
        assert connection._socket is None  # noqa: SLF001
        assert not pool
        assert not transport(cache)._idle  # noqa: SLF001
        assert cache.incr("n") == 3  # over a new connection
        assert [len(pool.living), len(transport(cache)._idle.living)] == [0, 1]  # noqa: SLF001


@pytest.mark.parametrize("call", [("get_or_load", "x", lambda: 1), ("get_many", ["x"]), ("set_many", {"x": 1, "y": 2})])
def test_every_call_puts_back_into_the_pool_it_took_from(server: globalcache.Server, call: tuple[Any, ...]) -> None:
    with Cache(server.url, timeout=20) as cache:
        cache.set("x", 1)
        (connection,) = transport(cache)._idle  # noqa: SLF001
        write = connection._write  # noqa: SLF001
        connection._write = lambda data: (cache.close(), write(data))[1]  # type: ignore[func-returns-value]  # noqa: SLF001
        getattr(cache, call[0])(*call[1:])
        assert connection._socket is None  # noqa: SLF001


def test_one_death_ends_all_older_connections(proxy: Proxy) -> None:
    """What ended one ended those before it; they are closed, also if their end has not arrived."""
    with Cache(f"globalcache://{proxy.address}", timeout=5) as cache:
        taken = sorted(idle_connections(cache, 4), key=lambda connection: connection.number)
        server = transport(cache)
        server._idle.clear()  # noqa: SLF001
        server._idle.extend([taken[0], taken[3], taken[1], taken[2]])  # noqa: SLF001
        taken[2]._socket.shutdown(socket.SHUT_RD)  # noqa: SLF001 - as if the server had closed it
        for connection in taken:
            connection.used = 0.0
        assert cache.incr("n") == 1
        assert list(server._idle) == [taken[3]]  # noqa: SLF001


def test_tasks_notice_the_end_of_an_idle_connection(proxy: Proxy) -> None:
    """The end arrives between two calls of a loop that runs."""

    async def run() -> None:
        async with globalcache.AsyncCache(f"globalcache://{proxy.address}", timeout=5) as cache:
            assert await cache.incr("n") == 1
            (link,) = transport(cache)._connections.values()  # noqa: SLF001
            await asyncio.to_thread(proxy.cut)
            async with asyncio.timeout(10):
                while link.closed is None:  # noqa: ASYNC110 - it is no event
                    await asyncio.sleep(0)
            assert await cache.add("a", 1)

    asyncio.run(run())


def test_what_may_have_run_is_not_sent_twice(face: Face, proxy: Proxy, server: globalcache.Server) -> None:
    """The connection ends after the server has run the command and before its answer: the caller is told so."""
    assert face("incr", "n") == 1
    proxy.to_client.cut_after = 0
    with pytest.raises(UnavailableError):
        face("incr", "n")
    with Wire(server.address) as wire:
        wire.ask(b"GET n\r\n", b"$1\r\n2\r\n")


def test_reads_are_asked_again(face: Face, proxy: Proxy) -> None:
    """As before, with a read: it is asked again over another connection, whatever was sent."""
    assert face("set", "x", "value")
    proxy.to_client.cut_after = 0
    assert face("get", "x") == "value"
    proxy.to_client.cut_after = 0
    assert face("get_many", ["x"]) == {"x": "value"}
    proxy.to_client.cut_after = 0
    assert face("get_or_load", "x", lambda: "loaded") == "value"


def test_what_was_not_sent_is_sent_again(proxy: Proxy) -> None:
    """The connection was alive when it was looked at, and ends before a byte of the request is taken."""
    with Cache(f"globalcache://{proxy.address}", timeout=5) as cache:
        assert cache.incr("n") == 1
        (connection,) = transport(cache)._idle  # noqa: SLF001

        def refuse(_: bytes) -> int:
            raise BrokenPipeError

        connection._write = refuse  # noqa: SLF001
        assert cache.incr("n") == 2


CALLS = [("get", "x"), ("get_many", ["x"]), ("set", "x", 1), ("incr", "n"), ("invalidate", "x"), ("set_many", {"x": 1})]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_what_is_never_sent_is_unavailable(
    kind: str, call: tuple[Any, ...], server: globalcache.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection ends between the look at it and the write: callers get the class that errors.py lists."""
    with Face(kind, server.url, timeout=5, on_error="raise") as face:
        assert face("set", "x", 0)
        take, flush = connection_pool.ConnectionPool._take, multiplexed_connection.MultiplexedConnection._flush  # noqa: SLF001

        def take_closed(server: connection_pool.ConnectionPool) -> Any:
            connection = take(server)
            connection.close()
            return connection

        def flush_closed(link: multiplexed_connection.MultiplexedConnection) -> None:
            if link.synced_serial >= 0:
                link.give_up(UnavailableError("closed"))
            flush(link)

        monkeypatch.setattr(connection_pool.ConnectionPool, "_take", take_closed)
        monkeypatch.setattr(multiplexed_connection.MultiplexedConnection, "_flush", flush_closed)
        with pytest.raises(UnavailableError) as caught:
            face(*call)
        assert type(caught.value) is UnavailableError
        monkeypatch.undo()


CODE = """
import sys
{patch}
import signal, time
from globalcache import Cache
cache = Cache("globalcache://" + sys.argv[1], timeout=0.2)
print(cache.get("x"), flush=True)
sys.stdin.readline()
if sys.argv[2] == "signals":
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
print(cache.get("x"), cache.stats()["errors"] > 0)
"""
PATCHES = {
    "signals": "",
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
}


@pytest.mark.parametrize("how", PATCHES)
def test_deadlines_hold_without_the_kernel(proxy: Proxy, how: str) -> None:
    """The server is silent: sockets of green threads never block, and signals end a call of the kernel early."""
    with Cache(f"globalcache://{proxy.address}", timeout=5) as cache:
        assert cache.set("x", 1)
    command = [sys.executable, "-c", CODE.format(patch=PATCHES[how]), proxy.address, how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        proxy.hold()
        # Without a deadline it never ends.
        assert process.communicate("\n", timeout=30)[0] == "None True\n"
    proxy.release()


def test_a_silent_address_leaves_time_for_the_next(
    kind: str, server: globalcache.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host has two addresses. The first takes no connections and refuses none; the second is the server."""
    port = int(server.address.rsplit(":", 1)[1])
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # what is beyond its queue is not answered
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                other.connect(full.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", n)) for n in (full.getsockname()[1], port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with Face(kind, "globalcache://cache.example", timeout=2) as face:
            assert face("incr", "n") == 1


def test_addresses_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four silent addresses: each is given its share of what is left, so that all together keep the deadline."""
    now, given = [100.0], []

    def connect(_family: int, _place: Any, left: float) -> Any:
        given.append(left)
        now[0] += left
        raise TimeoutError

    monkeypatch.setattr(connection, "_connected", connect)
    monkeypatch.setattr("globalcache.client.connection.time.monotonic", lambda: now[0])
    with pytest.raises(TimeoutError):
        connection._open_one([(0, 0, 0, "", None)] * 4, 101.0)  # noqa: SLF001
    assert given == [0.25] * 4


def test_a_silent_tls_peer_costs_one_deadline(kind: str, silent: int) -> None:
    """The peer accepts and never answers the handshake; without a deadline the call would never end."""
    with Face(kind, f"globalcaches://127.0.0.1:{silent}", timeout=0.1, tls=ssl.create_default_context()) as face:
        assert face("get", "x") is None
        with pytest.raises(DeadlineError):
            face("incr", "n")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x46", b"$x\r\n", b""]
)
def test_what_is_no_server_is_an_outage(kind: str, answer: bytes) -> None:
    """A balancer, a TLS port, a cut stream: reads are misses, and no exception of another library comes out."""
    with answering(answer) as address, Face(kind, f"globalcache://{address}", timeout=5) as face:
        assert face("get", "x") is None
        assert face("set", "x", 1) is False
        assert face("get_or_load", "x", lambda: 2) == 2
        with pytest.raises(UnavailableError) as told:
            face("incr", "n")
        assert ("globalcaches://" in str(told.value)) == answer.startswith(b"\x15")


def test_a_connection_is_not_used_after_nonsense(face: Face, proxy: Proxy) -> None:
    """A reply comes twice: what follows on that connection would go to the wrong call, so there is no following."""
    assert face("set", "x", "value")
    proxy.to_client.double = True
    face("get", "x")
    proxy.to_client.double = False
    if face.runner is None:
        for connection in face.server._idle:  # noqa: SLF001
            wait_until_closed(connection)
            connection.used = 0.0
    face.turns()
    for number in range(3):
        assert face("incr", f"n{number}", 7) == 7
        assert face("get", "x") == "value"


def test_a_connection_is_not_used_after_a_protocol_error(kind: str, server: globalcache.Server) -> None:
    """The server answers a request that it cannot follow, and closes; the next call has another connection."""
    with Face(kind, server.url, timeout=5) as face:
        assert face("ping")
        connects = face.cache.stats()["connects"]
        request = b"*2\r\n$-5\r\n"
        reply = face.run(lambda: face.server._ask(request))  # noqa: SLF001 - no call of ours sends such a thing
        assert str(reply).startswith("ERR Protocol error")
        assert face("incr", "n") == 1
        assert face.cache.stats()["connects"] == connects + 1


def test_a_refused_login_pauses_attempts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attempts there is a pause as in an outage, however often the cache is asked."""
    with globalcache.Server(memory="16MiB", threads=1, password="sesame") as server, Proxy(server.address) as proxy:
        monkeypatch.setattr("globalcache.client.endpoint.time.monotonic", lambda: 100.0)
        with Face(kind, f"globalcache://:wrong@{proxy.address}") as face:
            for _ in range(20):
                with pytest.raises(AuthError):
                    face("get", "x")
        assert proxy.accepted == 1


def test_debts_that_may_not_be_paid_are_misses(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """More was lost than is remembered by name, and the user may not empty the server: misses, and one warning."""
    users = tmp_path / "users"
    users.write_text(f"user app on #{hashlib.sha256(b'pw').hexdigest()} ~* &* +@all -flushdb -cache.invalidate\n")
    with globalcache.Server(memory="16MiB", threads=1, users_file=str(users)) as server:
        with Face(kind, f"globalcache://app:pw@{server.address}", timeout=5) as face:
            assert face("set", "x", "old")
            face.endpoint.undelivered(tuple(b"%d" % number for number in range(20_000)), (), sent=True)
            with caplog.at_level(logging.WARNING, "globalcache"):
                for _ in range(5):
                    assert face("get", "x") is None
                assert face("get_or_load", "x", lambda: "new") == "new"
            assert len([record for record in caplog.records if "cannot be made good" in record.message]) == 1
        # Lost keys that are known by name are deleted instead.
        with Face(kind, f"globalcache://app:pw@{server.address}", timeout=5) as face:
            assert face("get", "x") == "old"
            face.endpoint.undelivered((b"x",), (), sent=True)
            assert face("get", "x") is None
            assert face("set", "x", "new")
            assert face("get", "x") == "new"


def test_a_connection_older_than_a_lost_write_is_not_read(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write is lost while a connection is greeted: it names the old generation, so it would fence nobody."""
    greeting, generations = Endpoint.greeting, []

    def lose_one(endpoint: Endpoint, generation: int) -> list[tuple[bytes, ...]]:
        generations.append(generation)
        if len(generations) == 1:
            endpoint.undelivered((b"k",), (), sent=True)
        return greeting(endpoint, generation)

    monkeypatch.setattr(Endpoint, "greeting", lose_one)
    assert face("get", "k") is None
    assert generations == [1, 2]
    assert face.endpoint.pending.generation == 2
    assert len(face.endpoint.pending) == 0


@pytest.fixture
def small(kind: str) -> Iterator[Face]:
    """A cache whose server takes no long values, and has told so."""
    with globalcache.Server(max_value=LONGEST) as server, Face(kind, server.url, timeout=5) as face:
        face("ping")
        yield face


def test_a_value_too_long_is_refused_before_it_is_sent(small: Face, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else who uses the connection is harmed; of several values the others are stored."""
    connects = small.cache.stats()["connects"]
    for call in ("set", "add"):
        with pytest.raises(ValueTooLargeError, match="max-value") as told:
            small(call, "x", "x" * LONGEST)
        assert isinstance(told.value, ValueError)
    with caplog.at_level(logging.WARNING, "globalcache"):
        assert small("set_many", {"a": 1, "long": "x" * LONGEST, "b": 2}) == 2
    assert small("get_many", ["a", "long", "b"]) == {"a": 1, "b": 2}
    assert "the value of long" in caplog.text
    assert small.cache.stats()["connects"] == connects


def test_a_loaded_value_too_long_is_given_to_all_who_wait(small: Face, caplog: pytest.LogCaptureFixture) -> None:
    """The caller and the waiters of its process get the value of one load; the lease ends; one warning an hour."""
    value, loads, begun = "x" * LONGEST, [], threading.Event()
    waiting = threading.Barrier(4)
    other = small.cache if small.runner is None else small.cache.sync

    def load() -> str:
        loads.append(1)
        begun.set()
        with Cache(small.cache._state.addresses[0].name) as below:  # noqa: SLF001
            while below.inspect("x")["waiters"] < 3:
                pass
        return value

    got: list[Any] = []
    sent: list[Any] = []
    call = small.server.call

    def note(*words: Any, **options: Any) -> Any:
        sent.append(words)
        return call(*words, **options)

    small.server.call = note

    def ask() -> None:
        waiting.wait(10)
        got.append(other.get_or_load("x", load))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    with caplog.at_level(logging.WARNING, "globalcache"):

        def load_first() -> str:
            waiting.wait(10)
            return load()

        assert small("get_or_load", "x", load_first) == value
        for thread in threads:
            thread.join(10)
        assert got == [value] * 3
        assert len(loads) == 1
        assert other.inspect("x")["lease"] == "none"
        assert [words[0] for words in sent if words[0] in {b"CACHE.FILL", b"CACHE.FAIL"}] == [b"CACHE.FAIL"]
        assert any(words[-1].startswith(b"too large (load ") for words in sent)
        other.invalidate("x")
        assert small("get_or_load_many", ["x", "y"], lambda _: {"x": value, "y": 1}) == {"x": value, "y": 1}
    assert small("get", "y") == 1
    warned = [record.message for record in caplog.records]
    assert len([text for text in warned if "load.<locals>.load" in text or "load_first" in text]) == 1
    assert all(value not in text for text in warned)
    if other is not small.cache:
        other.close()


def test_batches_hold_so_many_keys_and_bytes() -> None:
    """Both sides would otherwise write, and neither read."""
    keys = [b"%d" % number for number in range(2 * MOST_KEYS + 1)]
    assert [len(part) for part in key_batches(keys)] == [MOST_KEYS, MOST_KEYS, 1]
    assert [key for part in key_batches(keys) for key in part] == keys
    long = [b"x" * (MOST_BYTES // 2)] * 5
    assert [len(part) for part in key_batches(long)] == [2, 2, 1]
    assert [len(part) for part in key_batches([b"x" * MOST_BYTES * 2] * 2)] == [1, 1]
    commands = [(b"SET", key, b"v") for key in keys]
    assert [len(part) for part in batches(commands)] == [MOST_KEYS, MOST_KEYS, 1]
    assert list(batches([])) == []


def test_bulk_calls_read_between_their_batches(small: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent at once and not yet answered is one batch, whatever the call."""
    keys = [f"key{number}" for number in range(2 * MOST_KEYS + 10)]
    longest = most_at_once(small, monkeypatch)
    assert small("set_many", dict.fromkeys(keys, 1)) == len(keys)
    assert small("get_many", keys) == dict.fromkeys(keys, 1)
    assert small("delete_many", keys[:-5]) == len(keys) - 5
    assert small("invalidate", *keys) == 5
    loaded = small("get_or_load_many", keys, lambda keys: dict.fromkeys(keys, 2))
    assert loaded == dict.fromkeys(keys, 2)
    assert 0 < longest[0] <= MOST_KEYS * 200


def most_at_once(face: Face, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many bytes were sent at once at most."""
    longest = [0]

    def note(data: bytes) -> None:
        longest[0] = max(longest[0], len(data))

    if face.runner is None:
        ask = connection.Connection.ask

        def asking(connection: Any, request: bytes) -> Any:
            note(request)
            return ask(connection, request)

        monkeypatch.setattr(connection.Connection, "ask", asking)
    else:
        flush = multiplexed_connection.MultiplexedConnection._flush  # noqa: SLF001

        def flushing(link: Any) -> None:
            note(b"".join(link._output))  # noqa: SLF001
            flush(link)

        monkeypatch.setattr(multiplexed_connection.MultiplexedConnection, "_flush", flushing)
    return longest


def test_the_end_of_the_interpreter_fails_no_hit(server: globalcache.Server) -> None:
    """No thread can be started, and one refreshes: a stale value is returned all the same, and nothing hangs."""
    code = f"""
import atexit, threading, time
from globalcache import Cache
cache = Cache({server.url!r})
for key in "x", "y":
    cache.set(key, "old", ttl=60, refresh_after=0.001)
while not cache.get_entry("y").stale:
    pass
assert cache.get_or_load("x", lambda: time.sleep(60)) == "old"  # it is being refreshed at the end
def refuse(_):
    raise RuntimeError("can't create new thread at interpreter shutdown")
def last():
    threading.Thread.start = refuse
    print(cache.get_or_load("y", lambda: "new"), flush=True)
    print(cache.get_or_load("z", lambda: "loaded"), flush=True)
atexit.register(last)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=30, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("old\nloaded\n", "")
    until_none_held([server], ["x", "y", "z"])


def test_an_older_value_does_not_stand_in_for_a_later_failure(small: Face) -> None:
    """A loads a value that is too long, B invalidates it and fails to load: A hears of that failure and loads anew."""
    assert small("get_or_load", "x", lambda: "x" * LONGEST) == "x" * LONGEST
    with Cache(small.cache._state.addresses[0].name) as other:  # noqa: SLF001

        def fail() -> NoReturn:
            raise LookupError("x")

        other.invalidate("x")
        with pytest.raises(LookupError):
            other.get_or_load("x", fail)
    assert small("get_or_load", "x", lambda: "new") == "new"


def test_a_long_value_with_tags_is_loaded_by_each_who_asks(small: Face) -> None:
    """A loads it, B invalidates its tag, of which the server knows nothing: A may not return what it had."""
    with Cache(small.cache._state.addresses[0].name) as other:  # noqa: SLF001
        for _ in range(3):
            for letter in "ab":
                load = functools.partial(str, letter * LONGEST)
                assert small("get_or_load", "x", load, tags=["t"]) == letter * LONGEST
                assert other.get_or_load("x", load, tags=["t"]) == letter * LONGEST
                other.invalidate(tags=["t"])


@pytest.mark.parametrize("seconds", [0.05, 31, math.inf])
def test_a_connection_keeps_no_limit_of_its_last_use(server: globalcache.Server, seconds: float) -> None:
    """A call waits for a load, or has little of its time left: the next call on that connection has its own limit."""
    with Cache(server.url, timeout=5) as cache:
        below = transport(cache)
        connection = below._take()  # noqa: SLF001
        connection.limit(seconds)
        below._idle.append(connection)  # noqa: SLF001
        assert below._take() is connection  # noqa: SLF001
        assert connection._socket.gettimeout() == 5  # noqa: SLF001
        # That was the only look at it: another call needs none.
        assert connection.ready == connection.synced_serial


# Durations of every size and form.
SIZES = [
    0,
    -1,
    1e-9,
    5e-4,
    0.001,
    "1ms",
    "60d",
    86_400,
    86_401,
    1e10,
    1e300,
    math.inf,
    -math.inf,
    math.nan,
    2**63,
    10**400,
]
SIZES += ["1" * 400 + "d", timedelta.max, timedelta.min, True, "x", "", b"1"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["timeout", "wait", "default_ttl"])
@hypothesis.given(hypothesis.strategies.sampled_from(SIZES) | hypothesis.strategies.floats())
@hypothesis.settings(max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_a_duration_is_refused_at_once_or_used(server: globalcache.Server, option: str, kind: str, size: Any) -> None:
    """None may be found out to be too long by a socket. A value is sent that does not fit into one."""
    options: Any = {"on_error": "raise", option: size}
    try:
        face = Face(kind, server.url, **options)
    except ConfigError as error:
        assert str(error).startswith(f"{option}: ")  # noqa: PT017 - others are none
        return
    with face:
        value = "x" * (6 << 20)
        try:
            assert face("set", "duration", value)
            assert face("get_or_load", "duration", lambda: value) == value
            assert face("get_or_load_many", ["duration"], lambda keys: dict.fromkeys(keys, value)) == {
                "duration": value
            }
        except DeadlineError:
            assert parse_duration(size) < 1


def test_the_longest_timeout_is_told() -> None:
    for url, options in (("memory://", {"timeout": "60d"}), ("globalcache://127.0.0.1:1?timeout=60d", {})):
        with pytest.raises(ConfigError, match=r"timeout: .*: should be at most 86400 s"):
            Cache(url, **options)  # type: ignore[arg-type]


class Stop(BaseException):
    """What comes from outside, as the time limit of a green thread does."""


def stopping_after(steps: int) -> Any:
    """Return a trace function that raises Stop after so many steps of the modules of connections and leases."""
    left = [steps]

    def trace(frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(("connection.py", "connection_pool.py", "leases.py")):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] == 0:
                raise Stop
        return trace

    return trace


# One within a finalizer is printed, and goes on to nobody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["get", "get_or_load"])
def test_an_exception_between_any_two_steps_loses_no_room(
    server: globalcache.Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A call ends after each of its steps in turn; few connections are allowed, and all can be used afterwards."""
    monkeypatch.setattr(connection_pool, "MOST_CONNECTIONS", 3)
    with Cache(server.url, timeout=5) as cache:
        below = transport(cache)
        call = functools.partial(getattr(cache, name), "x", *[lambda: 1] * (name != "get"))
        step, ended = 0, False
        while not ended:
            step += 7
            cache.delete("x")
            tracing = sys.gettrace()
            sys.settrace(stopping_after(step))
            try:
                call()
                ended = True
            except Stop:
                pass
            finally:
                sys.settrace(tracing)
        assert step > 100
        # Not while the thread that releases what was interrupted has a connection.
        below.leases.tend()
        assert len(below._idle.living) == len(below._idle)  # noqa: SLF001
        assert len(set(idle_connections(cache, 3))) == 3


def test_a_crowd_that_waits_leaves_room_for_answers(
    server: globalcache.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More threads wait for one load than there may be connections: other calls, and the answer, find one at once."""
    monkeypatch.setattr(connection_pool, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(connection_pool, "_MOST_TAKEN", 4)
    begun, ending, looking = threading.Event(), threading.Event(), threading.Semaphore(0)
    loads: list[int] = []
    got: list[int] = []
    with Cache(server.url, timeout=2) as cache:
        below = transport(cache)
        look = below._looked_for  # noqa: SLF001

        def looked_for(*args: Any) -> Any:
            looking.release()
            return look(*args)

        below._looked_for = looked_for  # noqa: SLF001

        def load() -> int:
            loads.append(1)
            begun.set()
            ending.wait(10)
            return 7

        threads = [threading.Thread(target=lambda: got.append(cache.get_or_load("slow", load))) for _ in range(20)]
        threads[0].start()
        assert begun.wait(10)
        for thread in threads[1:]:
            thread.start()
        for _ in range(15):
            assert looking.acquire(timeout=10)
        assert cache.incr("n") == 1
        ending.set()
        for thread in threads:
            thread.join(10)
    assert got == [7] * 20
    assert loads == [1]


def token_of_load(worker: Wire) -> int:
    """Return the token of the first load that a worker is sent."""
    reader = hiredis.Reader()
    while True:
        reader.feed(worker.socket.recv(1 << 16))
        while (message := reader.gets()) is not False:
            if isinstance(message, hiredis.PushNotification):
                return int(message[1][1])


def test_readers_of_served_keys_leave_room_for_others(
    server: globalcache.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More threads read keys that a worker is slow to load than there may be connections; a write finds one at once."""
    monkeypatch.setattr(connection_pool, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(connection_pool, "_MOST_TAKEN", 4)
    looking, got = threading.Semaphore(0), list[Any]()
    with Cache(server.url, timeout=10, on_error="raise") as cache, Wire(server.address) as worker:
        below = transport(cache)
        look = below._asked_again  # noqa: SLF001

        def asked_again(request: bytes) -> Any:
            looking.release()
            return look(request)

        below._asked_again = asked_again  # noqa: SLF001
        worker.send(b"HELLO 3\r\nCACHE.LOADER served:* INFLIGHT 100\r\n")
        reads: list[Any] = [
            lambda: cache.get("served:1"),
            lambda: cache.get_many(["served:1"])["served:1"],
            lambda: cache.has("served:1") and 7,
            lambda: getattr(cache.get_entry("served:1"), "value", None),
            lambda: cache.touch("served:1") and 7,
            lambda: int(cache.command("GET", "served:1")),
        ] * 4
        threads = [threading.Thread(target=lambda read=read: got.append(read())) for read in reads]
        for thread in threads:
            thread.start()
        for _ in range(len(reads) - 5):
            assert looking.acquire(timeout=10)
        assert cache.incr("n") == 1
        worker.send(b"CACHE.FILL served:1 %d 7\r\n" % token_of_load(worker))
        for thread in threads:
            thread.join(10)
    assert got == [7] * 24


def test_a_name_server_that_is_silent_costs_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking a name up takes as long as the system likes. Nobody waits longer than the time-out; one thread looks."""
    asked, answering = [], threading.Event()

    def look(host: str, _: int, **options: int) -> list[Any]:
        if options["flags"]:
            raise socket.gaierror
        asked.append(host)
        answering.wait(30)
        return [host]

    monkeypatch.setattr(socket, "getaddrinfo", look)
    with Cache("globalcache://cache.example", timeout=0.05) as cache:
        assert cache.get("x") is None
        for _ in range(2):
            with pytest.raises(DeadlineError):
                lookup.addresses("cache.example", 7411, 0.0)
        answering.set()
        assert lookup.addresses("cache.example", 7411, math.inf) == ["cache.example"]
        assert asked == ["cache.example"]


def test_tasks_whose_connection_fails_get_errors_of_their_own() -> None:
    """Tasks share a connection, and so its end: notes that one adds, and its frames, are none of the others'."""
    with socket.socket() as refused:
        refused.bind(("127.0.0.1", 0))
        port = refused.getsockname()[1]

        async def run() -> list[Any]:
            async with globalcache.AsyncCache(f"globalcache://127.0.0.1:{port}", on_error="raise") as cache:
                return await asyncio.gather(*(cache.get(f"k{each}") for each in range(5)), return_exceptions=True)

        errors = asyncio.run(run())
    assert {type(error) for error in errors} == {UnavailableError}
    assert len(set(map(id, errors))) == 5


def test_requests_of_a_lost_connection_have_their_own_errors() -> None:
    async def run() -> None:
        server: Any = globalcache.AsyncCache("globalcache://127.0.0.1:1")._state.async_transports[0]  # noqa: SLF001
        loop = asyncio.get_running_loop()
        link = multiplexed_connection.MultiplexedConnection(server.endpoint, loop, server._leases_of(loop))  # noqa: SLF001
        futures = [link.ask(b"PING\r\n") for _ in range(3)]
        link._output.clear()  # noqa: SLF001 - sent
        futures += [link.ask(b"PING\r\n") for _ in range(3)]
        error = UnavailableError("gone")
        error.__cause__ = OSError("reset")
        link.give_up(error)
        failed = [future.exception() for future in futures]
        for _ in range(2):
            with pytest.raises(UnavailableError, match="gone") as caught:
                link.ask(b"PING\r\n")
            failed.append(caught.value)
        assert len({id(each) for each in (error, *failed)}) == 9
        assert [str(each.__cause__) for each in failed[:3] if each] == ["reset"] * 3
        assert error.__traceback__ is None

    asyncio.run(run())
