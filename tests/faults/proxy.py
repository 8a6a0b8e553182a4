"""A TCP proxy in user space that makes a link bad: slow, held back, cut, truncated, doubled, silent.

Each direction of a link reads into a queue and writes from it, so that what was sent while the link is held arrives
late even if its sender has closed meanwhile: the late write of a network that kept a packet. One thread runs all
links. It knows nothing of what it carries.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeAlias

    _Side: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CHUNK = 1 << 16


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset: without the linger of 0 seconds the other side would see an orderly end."""
    if writer.transport.is_closing():
        return
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Direction:
    """What happens to bytes that go one way. May be changed at any time; it holds for bytes that arrive from then on.

    `delay` is in seconds. `rate` is in bytes a second, 0 for no bound. `cut_after`: after so many more bytes of any
    link its two sides are reset, what came before is delivered: a truncated message. `double`: every piece that
    arrives is delivered twice. `silent`: what arrives is lost and nobody is told.
    """

    delay: float = 0.0
    rate: float = 0.0
    cut_after: int | None = None
    double: bool = False
    silent: bool = False
    delivered: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, piece: bytes) -> tuple[bytes, bool]:
        """Return what is to be delivered of `piece`, and whether the link is cut after it."""
        if self.silent:
            return b"", False
        piece *= 2 if self.double else 1
        if self.cut_after is None:
            return piece, False
        kept, self.cut_after = piece[: self.cut_after], self.cut_after - len(piece)
        cut = self.cut_after <= 0
        self.cut_after = None if cut else self.cut_after
        return kept, cut


class Proxy:
    """Listens on a free port of 127.0.0.1 and carries every connection to `target` (`host:port`).

    `to_server` and `to_client` say what happens to bytes. `hold()` keeps what is sent back, `release()` delivers it;
    `cut()` resets every link; with `refusing` set, new links are closed at once.
    """

    def __init__(self, target: str) -> None:
        self.host, port = target.rsplit(":", 1)
        self.port = int(port)
        self.to_server = Direction()
        self.to_client = Direction()
        self.refusing = False
        self.accepted = 0
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._run(self._start())

    def hold(self, *directions: Direction) -> None:
        """Keep what is sent in these directions, or in both, until `release()`."""
        self._call(*(direction.open.clear for direction in directions or (self.to_server, self.to_client)))

    def release(self, *directions: Direction) -> None:
        """Deliver what was held back, in its order, also for senders that have gone."""
        self._call(*(direction.open.set for direction in directions or (self.to_server, self.to_client)))

    def cut(self) -> None:
        """Reset every link; what was held back on it is lost."""
        self._call(self._cut)

    def close(self) -> None:
        """Cut everything and stop listening."""
        if self._loop.is_closed():
            return
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, *steps: Callable[[], object]) -> None:
        async def run() -> None:
            for step in steps:
                step()

        self._run(run())

    async def _start(self) -> None:
        self.to_server.open.set()
        self.to_client.open.set()
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK)
        self.address = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        self._listener.close()
        # A link that is being accepted gets its task in the next turns of the loop; cancelled before, it stays open.
        await self._turns()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        # A transport closes its socket a turn after it was told to.
        await self._turns()

    @staticmethod
    async def _turns() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def _cut(self) -> None:
        for writer in self._connections:
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry a new link until both its sides are closed."""
        self.accepted += 1
        try:
            if not self.refusing:
                to_server = await asyncio.open_connection(self.host, self.port, limit=_CHUNK)
                await self._link((reader, writer), to_server)
        except (OSError, asyncio.CancelledError):
            pass  # asyncio logs a handler that is cancelled as an error
        finally:
            _reset(writer)
            # One that is still sending what was delivered ends when the proxy does.
            writer.transport.abort()

    async def _link(self, client: _Side, server: _Side) -> None:
        both = (client[1], server[1])
        self._connections.update(both)
        ways = [
            self._loop.create_task(self._carry(client[0], server[1], self.to_server, both)),
            self._loop.create_task(self._carry(server[0], client[1], self.to_client, both)),
        ]
        try:
            await asyncio.wait(ways)
            for side in both:
                side.close()
            for side in both:
                with contextlib.suppress(OSError):
                    await side.wait_closed()
        finally:
            self._connections.difference_update(both)
            server[1].transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        both: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        """Carry one direction of one link until it ends."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        filler = self._loop.create_task(self._fill(reader, queue, direction))
        # A side that is gone already cannot be closed either: that is no ConnectionError.
        with contextlib.suppress(OSError):
            try:
                while True:
                    due, piece = await queue.get()
                    await asyncio.sleep(due - self._loop.time())
                    await direction.open.wait()
                    if not piece:
                        writer.write_eof()
                        break
                    kept, cut = direction.take(piece)
                    writer.write(kept)
                    await writer.drain()
                    direction.delivered += len(kept)
                    if cut:
                        # Half-closed first, so that what was delivered is not lost with the reset.
                        writer.write_eof()
                        self._drop(both, writer)
                        break
                    if direction.rate:
                        await asyncio.sleep(len(kept) / direction.rate)
            finally:
                filler.cancel()

    @staticmethod
    def _drop(both: tuple[asyncio.StreamWriter, asyncio.StreamWriter], delivered: asyncio.StreamWriter) -> None:
        for side in both:
            if side is delivered:
                side.close()
            else:
                _reset(side)

    async def _fill(
        self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]], direction: Direction
    ) -> None:
        """Read ahead: what has been sent is on its way, whatever becomes of the sender. An empty piece is the end."""
        piece = b"-"
        while piece:
            try:
                piece = await reader.read(_CHUNK)
            except ConnectionError:
                piece = b""
            queue.put_nowait((self._loop.time() + direction.delay, piece))
