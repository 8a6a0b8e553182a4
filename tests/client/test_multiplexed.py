"""The connection that the tasks of a loop share."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache.client import multiplexed_connection
from globalcache.errors import UnavailableError
from tests.conftest import transport

if TYPE_CHECKING:
    from tests.faults.proxy import Proxy


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
        server: Any = globalcache.AsyncCache("globalcache://127.0.0.1:1")._state.servers.async_transports[0]  # noqa: SLF001
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
