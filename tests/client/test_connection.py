"""One connection: its deadlines, and what answers it that is no server."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache import Cache
from globalcache.client import connection
from globalcache.errors import DeadlineError, UnavailableError
from tests.client.conftest import answering, wait_until_closed
from tests.client.faces import Face
from tests.conftest import transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.proxy import Proxy


@pytest.fixture
def silent() -> Iterator[int]:
    """Give a port that accepts connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


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
