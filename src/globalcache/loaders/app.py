"""`shop:cache`: the cache of an application, found by the name of its module, and the workers that run its loaders."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from globalcache.client.address import Address
from globalcache.client.decorators import Decorators
from globalcache.client.login import with_password
from globalcache.client.tls import tls_context
from globalcache.errors import ConfigError
from globalcache.loaders.worker import Worker, patterns_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from globalcache.client.loader import Loader

# Connections of a worker to one server, unless it has more namespaces: a server takes a thousand from all workers.
_MOST_CONNECTIONS = 16


def find(target: str) -> Any:
    """Import `module:cache` from the current folder or the path and return the cache.

    `module` alone stands for `module:cache`. Raises ConfigError if there is no such cache, and whatever the module
    raises.
    """
    module, _, name = target.partition(":")
    if not module or module.startswith(".") or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"{target}: should look like shop:cache, a module and the cache in it")
    if "" not in sys.path and os.getcwd() not in sys.path:  # noqa: PTH109 - as Python writes it there
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    found: Any = importlib.import_module(module)
    for part in (name or "cache").split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Decorators):
        raise ConfigError(f"{target}: there is no cache of this name in {module}")
    if not _spaces(found):
        raise ConfigError(f"{target}: the cache has no loaders: decorate a function with @cache.loader")
    return found


def _spaces(cache: Any) -> list[Any]:
    """Return the cache and those of its namespaces that have loaders."""
    state, names = cache._state, cache._names  # noqa: SLF001 - a worker is the other half of its cache
    found = [space for space, loaders in state.loaders.items() if loaders and space[: len(names)] == names]
    return [type(cache)._of(state, space) for space in found]  # noqa: SLF001


def patterns(cache: Any) -> list[str]:
    """Return the patterns of the keys that the workers of a cache load."""
    found = (patterns_of(space.loaders.values(), space.key_prefix) for space in _spaces(cache))
    return [pattern.decode() for some in found for pattern in some]


def templates(cache: Any) -> list[str]:
    """Return the templates of the keys, for people to read."""
    return [
        space.key_prefix + loader.template.template for space in _spaces(cache) for loader in space.loaders.values()
    ]


def _apart(loaders: Iterable[Loader], most: int) -> list[list[Loader]]:
    """Return loaders in so many groups at most, which have a connection each.

    A server sends so many loads over a connection at a time. If all were those of a slow loader, loads of another one
    would wait for them. Loaders whose keys begin alike stay together: a key may match the patterns of both.
    """
    groups: list[list[Loader]] = []
    for loader in sorted(loaders, key=lambda loader: loader.template.prefix):
        if groups and loader.template.prefix.startswith(groups[-1][0].template.prefix):
            groups[-1].append(loader)
        else:
            groups.append([loader])
    most = min(most, len(groups))
    return [list(itertools.chain(*groups[place::most])) for place in range(most)]


async def work(cache: Any, url: str | None, ready: Callable[[], None] = lambda: None) -> None:
    """Run a worker for every server of a cache, or for the one at `url`, until SIGTERM or SIGINT."""
    state = cache._state  # noqa: SLF001
    addresses = [Address.parse(url)] if url else [with_password(address) for address in state.servers.addresses]
    spaces = _spaces(cache)
    most = max(1, _MOST_CONNECTIONS // len(spaces))
    parts = [(space, loaders) for space in spaces for loaders in _apart(space.loaders.values(), most)]
    # Each has a connection to each server, which is ready when it knows of them all.
    workers = [
        [
            Worker(
                loaders,
                at,
                state.values.encode,
                prefix=space.key_prefix,
                tags=space._keyspace.own_tags,  # noqa: SLF001
                tls=tls_context(at, state.servers.tls),
                tell_text=state.failures.tell_text,
            )
            for space, loaders in parts
        ]
        for at in addresses
    ]
    known = [0] * len(workers)

    def one_ready(place: int) -> None:
        known[place] += 1
        if known[place] % len(parts) == 0:
            ready()

    def stop() -> None:
        for worker in itertools.chain(*workers):
            worker.stop()

    runs = (worker.run(partial(one_ready, place)) for place, some in enumerate(workers) for worker in some)
    with _on_signals(stop):
        await asyncio.gather(*runs)


@contextlib.contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` in the running loop at SIGTERM and SIGINT.

    Not by `add_signal_handler`: it takes the descriptor that a process may have set for its signals, and a child that
    an application forks would stop its parent by the signals that it gets.
    """
    loop = asyncio.get_running_loop()
    before = {
        number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
