"""A RESP3 connection of an event loop, for the tasks of a client and for a worker: both extend it.

What is sent within one turn of the loop travels in one write. Replies are given out in the order of the requests; each
request has in that order what waits for its reply. Pushes come at any time and have no request.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque
from typing import TYPE_CHECKING, Any

from globalcache.client.wire import MORE, Push, Reply, Waiting, Words, pack, reader, reply_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class RespConnection(asyncio.Protocol):
    """One connection. A reply goes to what was sent with its request: a future, or what `_take` knows.

    A tuple begins with a future as well, which is given lists without a lease at its third place.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, error: Callable[[str], Exception] = reply_error) -> None:
        self.loop = loop
        # Why it was closed.
        self.closed: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._open: deque[Any] = deque()
        self._output: list[bytes] = []
        # Requests that were answered.
        self._answered = 0
        parser = reader(error)
        self._feed, self._gets = parser.feed, parser.gets

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, waiting: Any) -> None:
        """Have a request sent with the others of this turn of the loop; its reply is for `waiting`."""
        if not self._output:
            self._begin()
        self._output.append(request)
        self._open.append(waiting)

    def _begin(self) -> None:
        """Have what is sent in this turn of the loop written at its end."""
        self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        output = self._output
        if output and self._transport is not None and self.closed is None:
            self._transport.write(output[0] if len(output) == 1 else b"".join(output))
        output.clear()

    def data_received(self, data: bytes) -> None:
        """Give out all replies and pushes that are whole."""
        self._feed(data)
        gets, waiting = self._gets, self._open
        answered = 0
        try:
            while (reply := gets()) is not MORE:
                kind = type(reply)
                if kind is Push:
                    self._push(reply)
                    continue
                entry = waiting.popleft() if waiting else None
                answered += 1
                # Nearly all have nothing to look at: these are given out without a call.
                if type(entry) is tuple:
                    if kind is list and not reply[2] and not entry[0].done():
                        entry[0].set_result(reply)
                    else:
                        self._take(entry, reply)
                elif type(entry) is not Future or kind is Waiting:
                    self._take(entry, reply)
                elif not entry.done():
                    entry.set_result(reply)
        except Exception as error:  # noqa: BLE001 - a stream that is no protocol is never read again
            self._unreadable(error)
        self._answered += answered

    def _take(self, entry: Any, reply: Reply) -> None:
        """Give a reply to what waits for it; `entry` is None if nothing does."""
        raise NotImplementedError

    def _push(self, push: Any) -> None:
        """Handle what came without a request."""
        raise NotImplementedError

    def _unreadable(self, error: Exception) -> None:
        """Close what sends no RESP."""
        raise NotImplementedError

    async def ask_all(self, commands: Sequence[Words]) -> list[Reply]:
        """Send several commands and return their replies; error replies are returned, not raised."""
        futures = [self.loop.create_future() for _ in commands]
        for words, future in zip(commands, futures, strict=True):
            self.send(pack(words), future)
        return [await future for future in futures]

    def give_up(self, error: Exception) -> None:
        """Close it at once; every request that stands open fails with `error`."""
        if self.closed is not None:
            return
        self.closed = error
        if self._transport is not None:
            self._transport.abort()
        sent = len(self._open) - len(self._output)
        entries = list(self._open)
        self._open.clear()
        self._output.clear()
        for place, entry in enumerate(entries):
            self._fail(entry, error, was_sent=place < sent)

    def _fail(self, entry: Any, error: Exception, *, was_sent: bool) -> None:
        """Tell what waits for a reply that none will come; `was_sent`: the server may have read the request."""
        raise NotImplementedError
