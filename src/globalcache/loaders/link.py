"""The connection of a worker to a server, without what it loads: loads come as pushes, answers go in one write.

RESP3 over asyncio. Everything that is said in one turn of the event loop leaves in one write. Errors that the server
answers with are logged: a worker cannot mend them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import hiredis

from globalcache.client.wire import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("globalcache.worker")

Load = tuple[bytes, int]


def command(*words: bytes) -> bytes:
    """Write one command."""
    return pack(words)


class Link(asyncio.Protocol):
    """One connection.

    `loads` is called with keys and tokens that arrived together, `lost` once when it is closed, and `refused` with what
    a command was for and the error that answered it.
    """

    def __init__(
        self,
        loads: Callable[[list[Load]], None],
        lost: Callable[[Link], None],
        refused: Callable[[Any, str], None],
    ) -> None:
        self._loads = loads
        self._lost = lost
        self._refused = refused
        # What each command without a reply yet was for, in the order in which they were sent.
        self._sent: deque[Any] = deque()
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._output: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._heard = self._pinged = self._loop.time()

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
        self._heard = self._loop.time()
        self._reader.feed(data)
        loads: list[Load] = []
        try:
            while (message := self._reader.gets()) is not False:
                if isinstance(message, hiredis.PushNotification):
                    if message[0] == b"load":
                        loads += [(key, token) for key, token in message[1:]]
                else:
                    self._answered(message)
        except hiredis.ProtocolError as error:
            log.error("not the server's protocol: %s", error)  # noqa: TRY400 - the text says it
            self.close()
        if loads:
            self._loads(loads)

    def _answered(self, message: Any) -> None:
        about = self._sent.popleft() if self._sent else None
        if isinstance(about, asyncio.Future):
            if not about.done():
                about.set_result(message)
        elif isinstance(message, hiredis.ReplyError):
            self._refused(about, str(message))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """End."""
        self._transport = None
        self._output.clear()
        for about in self._sent:
            if isinstance(about, asyncio.Future) and not about.done():
                about.set_result(hiredis.ReplyError("the connection was closed"))
        self._sent.clear()
        self._lost(self)

    async def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """Send commands and return their replies. Raises ConnectionError if one of them is an error."""
        replies = await self.ask_all(commands)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise ConnectionError(str(reply))
        return replies

    async def ask_all(self, commands: Sequence[bytes]) -> list[Any]:
        """Send commands and return their replies, errors among them."""
        if self._transport is None:
            raise ConnectionError("the connection was closed")
        futures = [self._loop.create_future() for _ in commands]
        for words, future in zip(commands, futures, strict=True):
            self.say(words, future)
        return [await future for future in futures]

    def say(self, data: bytes, about: Any = None) -> None:
        """Send a command, together with all else that is said in this turn of the loop; nothing if it is closed.

        `about` is handed to `refused` if the server answers with an error.
        """
        if self._transport is None:
            return
        if not self._output:
            self._loop.call_soon(self.flush)
        self._output.append(data)
        self._sent.append(about)

    def check(self, ping_after: float, dead_after: float) -> None:
        """Ask a server that has been silent for a sign of life; give the connection up if it stays silent. In seconds.

        A peer that vanished without a word would be waited for without an end: an idle worker sends nothing.
        """
        now = self._loop.time()
        if now - self._heard >= dead_after:
            self.abort()
        elif now - max(self._heard, self._pinged) >= ping_after:
            self._pinged = now
            # Whatever the answer is: a user who may not PING is heard as well.
            self.say(command(b"PING"), self._loop.create_future())

    def flush(self) -> None:
        """Send what was said so far."""
        if self._output and self._transport is not None:
            self._transport.write(b"".join(self._output))
        self._output.clear()

    def abort(self) -> None:
        """Close it at once, whatever was said."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close it when what was said is sent."""
        self.flush()
        if self._transport is not None:
            self._transport.close()
