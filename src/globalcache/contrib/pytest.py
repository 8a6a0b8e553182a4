"""Fixtures for the tests of whoever uses the cache; pytest finds them where this package is installed.

globalcache          a Cache on memory:// with `clock`, `faults` and `stand_in_for` (contrib/testing.py)
globalcache_options  what that Cache is made with: override it in a conftest.py
globalcache_server   a server that is empty, with `url`; one serves all tests of a run

Nothing is imported before a test asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from globalcache import Server
    from globalcache.contrib.testing import CacheForTests


@pytest.fixture
def globalcache_options() -> dict[str, Any]:
    """Options of the cache that the fixture `globalcache` gives, as Cache takes them."""
    return {}


@pytest.fixture
def globalcache(globalcache_options: dict[str, Any]) -> Iterator[CacheForTests]:
    """Return an empty cache in memory whose clock the test moves and which it makes fail."""
    from globalcache.contrib.testing import CacheForTests  # noqa: PLC0415 - only if asked for

    cache = CacheForTests(**globalcache_options)
    yield cache
    cache.give_back()


@pytest.fixture(scope="session")
def _globalcache_server() -> Iterator[Server]:
    from globalcache.server import Server  # noqa: PLC0415 - only if asked for

    with Server(memory="64MiB", threads=1) as server:
        yield server


@pytest.fixture
def globalcache_server(_globalcache_server: Server) -> Server:
    """Return a running server that is empty."""
    from globalcache.client._sync.cache import Cache  # noqa: PLC0415 - only if asked for

    with Cache(_globalcache_server.url, on_error="raise") as cache:
        cache.command("FLUSHALL")
    return _globalcache_server
