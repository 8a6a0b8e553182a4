"""The connection of a worker to a server, without what it loads: loads come as pushes, answers go in one write.

Errors that the server answers with are logged: a worker cannot mend them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import hiredis

from globalcache.client.resp_connection import RespConnection
from globalcache.client.wire import Reply, Words, pack
from globalcache.errors import ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("globalcache.worker")

PushedLoad = tuple[bytes, int]


class WorkerConnection(RespConnection):
    """One connection. Each request has a future, or what it was for.

    `loads` is called with keys and tokens that arrived together, `lost` once when it is closed, and `refused` with what
    a command was for and the error that answered it.
    """

    def __init__(
        self,
        loads: Callable[[list[PushedLoad]], None],
        lost: Callable[[WorkerConnection], None],
        refused: Callable[[Any, str], None],
    ) -> None:
        super().__init__(asyncio.get_running_loop())
        self._loads = loads
        self._lost = lost
        self._refused = refused
        self._pushed: list[PushedLoad] = []
        self._heard = self._pinged = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Hand on what arrived."""
        self._heard = self.loop.time()
        super().data_received(data)
        if self._pushed:
            pushed, self._pushed = self._pushed, []
            self._loads(pushed)

    def _push(self, push: Any) -> None:
        if push[0] == b"load":
            self._pushed += [(key, token) for key, token in push[1:]]

    def _take(self, entry: Any, reply: Reply) -> None:
        if isinstance(reply, Exception):
            self._refused(entry, str(reply))

    def _unreadable(self, error: Exception) -> None:
        if not isinstance(error, hiredis.ProtocolError):
            raise error
        log.error("not the server's protocol: %s", error)
        self.close()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """End."""
        self.give_up(ConnectionError("the connection was closed"))
        self._transport = None
        self._lost(self)

    def _fail(self, entry: Any, error: Exception, *, was_sent: bool) -> None:  # noqa: ARG002
        if isinstance(entry, asyncio.Future) and not entry.done():
            entry.set_exception(error)
            entry.exception()  # seen: nobody awaits the answer to PING

    async def ask(self, commands: Sequence[Words]) -> list[Reply]:
        """Send commands and return their replies. Raises ConnectionError if one of them is an error."""
        replies = await self.ask_all(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise ConnectionError(str(reply))
        return replies

    async def ask_all(self, commands: Sequence[Words]) -> list[Reply]:
        """Send commands and return their replies, errors among them. Raises ConnectionError if it is closed."""
        if self.closed is not None:
            raise ConnectionError("the connection was closed")
        return await super().ask_all(commands)

    def say(self, data: bytes, about: Any = None) -> None:
        """Send a command, together with all else that is said in this turn of the loop; nothing if it is closed.

        `about` is handed to `refused` if the server answers with an error.
        """
        if self.closed is None:
            self.send(data, about)

    def check(self, ping_after: float, dead_after: float) -> None:
        """Ask a server that has been silent for a sign of life; give the connection up if it stays silent. In seconds.

        A peer that vanished without a word would be waited for without an end: an idle worker sends nothing.
        """
        now = self.loop.time()
        if now - self._heard >= dead_after:
            self.abort()
        elif now - max(self._heard, self._pinged) >= ping_after:
            self._pinged = now
            # Whatever the answer is: a user who may not PING is heard as well.
            self.say(pack((b"PING",)), self.loop.create_future())

    def abort(self) -> None:
        """Close it at once, whatever was said."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close it when what was said is sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
