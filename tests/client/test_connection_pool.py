"""The connections that the threads of a process share: which are used, which are closed, and how many there may be."""

from __future__ import annotations

import functools
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import hiredis
import pytest

import globalcache
from globalcache import Cache
from globalcache.client import connection_pool
from tests.client.conftest import wait_until_closed
from tests.conftest import Wire, transport

if TYPE_CHECKING:
    from tests.faults.proxy import Proxy


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
