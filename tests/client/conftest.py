"""Coroutines as tests; one cache by every way there is to reach it, and one of each face behind a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trustme

import globalcache
from tests.client.faces import Face
from tests.conftest import Clock, transport
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


# Names of the caches of memory://, which live as long as the process.
_number = itertools.count()


class InThreads:
    """A Cache as tests of both faces see it: every call runs in a thread and is awaited."""

    def __init__(self, cache: globalcache.Cache) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self.cache, name)
        return functools.partial(asyncio.to_thread, call)

    def namespace(self, name: str) -> InThreads:
        return InThreads(self.cache.namespace(name))

    def stats(self) -> dict[str, Any]:
        return self.cache.stats()

    async def aclose(self) -> None:
        self.cache.close()

    def __repr__(self) -> str:
        return repr(self.cache)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutines, and close what they used while their loop still runs."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def run() -> None:
        async with asyncio.timeout(30):
            try:
                await pyfuncitem.obj(**arguments)
            finally:
                for argument in arguments.values():
                    if hasattr(argument, "aclose"):
                        await argument.aclose()

    asyncio.run(run())
    return True


@pytest.fixture(scope="session")
def unix_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[globalcache.Server]:
    path: Path = tmp_path_factory.mktemp("s") / "s"
    with globalcache.Server(listen=[f"unix://{path}"], memory="64MiB", threads=1) as server:
        yield server


@dataclass
class Tls:
    """A server that speaks TLS, and the context of a client that trusts it."""

    url: str
    context: ssl.SSLContext


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    authority, folder = trustme.CA(), tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    signed = authority.issue_cert("127.0.0.1")
    signed.private_key_and_cert_chain_pem.write_to_path(cert)
    signed.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = {"tls_cert": str(cert), "tls_key": str(key)}
    with globalcache.Server(listen=["tls://127.0.0.1:0"], memory="64MiB", threads=1, **options) as server:
        yield Tls("globalcaches://" + server.address.removeprefix("tls://"), context)


@pytest.fixture(params=["tcp", "unix", "tls", "memory"])
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a server that is empty."""
    if request.param == "memory":
        return f"memory://{next(_number)}"
    server = request.getfixturevalue({"tcp": "server", "unix": "unix_server", "tls": "tls_server"}[request.param])
    with globalcache.Cache(server.url, tls=getattr(server, "context", None)) as cache:
        transport(cache).call(b"FLUSHALL")
    return str(server.url)


@pytest.fixture(params=["tasks", "threads"])
def make(request: pytest.FixtureRequest, url: str) -> Callable[..., Any]:
    """Make caches with options; async ones, or Caches in threads that look like them."""
    # A machine that is busy must not look like a server that is away.
    common: dict[str, Any] = {"timeout": 20}
    if url.startswith("globalcaches:"):
        common["tls"] = request.getfixturevalue("tls_server").context

    def make(**options: Any) -> Any:
        if request.param == "tasks":
            return globalcache.AsyncCache(url, **common | options)
        return InThreads(globalcache.Cache(url, **common | options))

    return make


@pytest.fixture
def cache(make: Callable[..., Any]) -> Any:
    return make()


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
def small(kind: str) -> Iterator[Face]:
    """A cache whose server takes no long values, and has told so."""
    with globalcache.Server(max_value=LONGEST) as server, Face(kind, server.url, timeout=5) as face:
        face("ping")
        yield face


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
