"""A cache of either face, called in the same way: calls return what they return, awaited if need be."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Self

import globalcache


class Face:
    """A Cache, or an AsyncCache with a loop of its own that runs while a call does."""

    def __init__(self, kind: str, url: Any, **options: Any) -> None:
        self.runner = asyncio.Runner() if kind == "tasks" else None
        self.cache: Any = (
            globalcache.Cache(url, **options) if kind == "threads" else globalcache.AsyncCache(url, **options)
        )

    @property
    def server(self) -> Any:
        """The first server, below what users see."""
        return self.cache._servers[0]  # noqa: SLF001

    @property
    def endpoint(self) -> Any:
        """What its connections share."""
        return self.cache._state.servers.endpoints[0]  # noqa: SLF001

    def __call__(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method of the cache."""
        return self.run(lambda: getattr(self.cache, name)(*args, **options))

    def run(self, step: Any) -> Any:
        """Call a function, in the loop if there is one, and return what it or its awaitable gives."""
        if self.runner is None:
            return step()

        async def run() -> Any:
            result = step()
            return await result if inspect.isawaitable(result) else result

        return self.runner.run(run())

    def note_calls(self) -> list[tuple[Any, ...]]:
        """Return a list that grows with the words of each command that is sent to the first server by itself."""
        sent, call = list[tuple[Any, ...]](), self.server.call

        def note(*words: Any, **options: Any) -> Any:
            sent.append(words)
            return call(*words, **options)

        self.server.call = note
        return sent

    def turns(self) -> None:
        """Let what is ready in the loop happen."""
        if self.runner is not None:
            self.runner.run(asyncio.sleep(0.01))

    def close(self) -> None:
        """Close the connections."""
        if self.runner is None:
            self.cache.close()
        else:
            self.runner.run(self.cache.aclose())
            self.runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
