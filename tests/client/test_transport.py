"""What both transports do with a request whose connection is lost: which is sent again, and which never twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache import Cache
from globalcache.client import connection_pool, multiplexed_connection
from globalcache.errors import UnavailableError
from tests.client.faces import Face
from tests.conftest import Wire, transport

if TYPE_CHECKING:
    from tests.faults.proxy import Proxy


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
