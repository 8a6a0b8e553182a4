"""The connection of a worker to a server, without what it loads: loads come as pushes, answers go in one write.

RESP3 over asyncio. Everything that is said in one turn of the event loop leaves in one write. Errors that the server
answers with are logged: a worker cannot mend them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import hiredis

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("globalcache.worker")

Load = tuple[bytes, int]


def command(*words: bytes) -> bytes:
    """Write one command."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Link(asyncio.Protocol):
    """One connection; `loads` is called with keys and tokens that arrived together, `lost` once when it is closed."""

    def __init__(self, loads: Callable[[list[Load]], None], lost: Callable[[], None]) -> None:
        self._loads = loads
        self._lost = lost
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._output: list[bytes] = []
        self._greeting: list[asyncio.Future[Any]] = []
        self._loop = asyncio.get_running_loop()

    @property
    def is_open(self) -> bool:
        """Whether answers arrive."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand on what arrived."""
        self._reader.feed(data)
        loads: list[Load] = []
        try:
            while (message := self._reader.gets()) is not False:
                if isinstance(message, hiredis.PushNotification):
                    if message[0] == b"load":
                        loads += [(key, token) for key, token in message[1:]]
                elif self._greeting:
                    self._greeting.pop(0).set_result(message)
                elif isinstance(message, hiredis.ReplyError):
                    log.warning("the server refused an answer: %s", message)
        except hiredis.ProtocolError as error:
            log.error("not the server's protocol: %s", error)  # noqa: TRY400 - the text says it
            self.close()
        if loads:
            self._loads(loads)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """End."""
        self._transport = None
        self._output.clear()
        for future in self._greeting:
            if not future.done():
                future.set_result(hiredis.ReplyError("the connection was closed"))
        self._lost()

    async def ask(self, commands: Sequence[bytes]) -> Any:
        """Send commands before the first load; returns the last reply. Raises ConnectionError if one is an error."""
        replies = [self._loop.create_future() for _ in commands]
        self._greeting += replies
        self.say(b"".join(commands))
        reply = None
        for future in replies:
            reply = await future
            if isinstance(reply, hiredis.ReplyError):
                raise ConnectionError(str(reply))
        return reply

    def say(self, data: bytes) -> None:
        """Send, together with all else that is said in this turn of the loop; nothing if it is closed."""
        if self._transport is None:
            return
        if not self._output:
            self._loop.call_soon(self.flush)
        self._output.append(data)

    def flush(self) -> None:
        """Send what was said so far."""
        if self._output and self._transport is not None:
            self._transport.write(b"".join(self._output))
        self._output.clear()

    def close(self) -> None:
        """Close it when what was said is sent."""
        self.flush()
        if self._transport is not None:
            self._transport.close()
