"""How loads and calls of several parts are run, for tasks; runner.py has it for threads, who need no asyncio."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from globalcache.client.runner import Failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence


class AsyncRunner:
    """Runs loads, and the parts of a call at the same time."""

    async def call(self, load: Callable[[], Any]) -> Any:
        """Run a load: a function, or one that gives an awaitable."""
        return await self.result_of(load())

    @staticmethod
    def is_own(error: BaseException) -> bool:
        """Return whether a load raised this by itself, rather than that its caller was cancelled or interrupted."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            return task is not None and not task.cancelling()
        return isinstance(error, SystemExit)

    async def result_of(self, value: Any) -> Any:
        """Return what a load gave, or gives when it is awaited."""
        return await value if inspect.isawaitable(value) else value

    async def each(self, work: Callable[[str], Awaitable[Any]], keys: Iterable[str]) -> list[Any]:
        """Return what came of each key, or Failed; all at once."""

        async def run(key: str) -> Any:
            try:
                return await work(key)
            except Exception as error:  # noqa: BLE001 - kept until all are done
                return Failed(error)

        return await asyncio.gather(*map(run, keys))

    async def deliver(
        self, send: Callable[[Any], Awaitable[Any]], parts: Sequence[Any], missed: Callable[[Any], object]
    ) -> list[Any]:
        """Return what `send` gave for each part; all at once, so that they are on their way if the caller is cancelled.

        `missed` is called then with those that had not begun.
        """
        waiting = dict(enumerate(parts))
        try:
            return await asyncio.gather(*(_begin(number, waiting, send) for number in range(len(parts))))
        except BaseException:
            for part in waiting.values():
                missed(part)
            raise


async def _begin(number: int, waiting: dict[int, Any], send: Callable[[Any], Awaitable[Any]]) -> Any:
    return await send(waiting.pop(number))
