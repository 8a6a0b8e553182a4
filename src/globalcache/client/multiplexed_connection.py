"""A client's connection for all tasks of an event loop, who ask at the same time.

A task that is cancelled leaves its place in the order of replies, so no reply goes to the wrong task. No call has a
timer of its own: a coarse clock notes how many requests had been sent, and when those of a whole time-out ago still
stand open, the connection is given up, for whatever follows would be late as well.

A reply with a token becomes a Lease before anybody else sees it; if the task that asked was cancelled in the turn of
the loop in which the reply came, the lease is taken back and released.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import Future
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from globalcache.client.endpoint import Endpoint, NotSentError, broken
from globalcache.client.raised import fresh
from globalcache.client.resp_connection import RespConnection
from globalcache.client.wire import Reply, Words, batches, is_fatal, pack, reply_error, ticket_of
from globalcache.errors import CacheError, DeadlineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from globalcache.client.leases import Lease
    from globalcache.client.leases_tasks import LoopLeases

# How often within a time-out the coarse clock looks.
_LOOKS = 8
# Beyond the server's own limit of a wait, so that its answer arrives first.
_GRACE = 1.0
# Requests that may stand open on one connection; a million tasks would otherwise queue without a limit.
_MOST_OPEN = 200_000


class PendingRequest:
    """A request of which more must be known than who awaits it: a FETCH that waits, or a write."""

    __slots__ = ("future", "key", "keys", "owner", "tags", "timer", "wait")

    def __init__(  # noqa: PLR0913, PLR0917 - by position, for speed
        self,
        future: Future[Reply],
        wait: float,
        key: bytes | None = None,
        keys: tuple[bytes, ...] = (),
        tags: tuple[bytes, ...] = (),
        owner: list[Lease] | None = None,
    ) -> None:
        self.future = future
        # For how long an outcome may follow, in seconds.
        self.wait = wait
        # The key of a FETCH, whose lease must be handed on if nobody awaits it any more.
        self.key = key
        # What a write changes: invalidated later if no answer comes, whoever awaits it.
        self.keys = keys
        self.tags = tags
        # The leases of a batch, which is responsible for them together.
        self.owner = owner
        self.timer: asyncio.TimerHandle | None = None


# A FETCH: the future, its wait, its key, and who is responsible for its lease if that is not who awaits the future.
_Fetch: TypeAlias = "tuple[Future[Reply], float, bytes, list[Lease] | None]"


class MultiplexedConnection(RespConnection):
    """A greeted connection. Each request has a future, a _Fetch or a PendingRequest."""

    def __init__(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop, leases: LoopLeases) -> None:
        super().__init__(loop, self._error)
        self.generation = endpoint.pending.generation
        self.synced_serial = -1
        self._endpoint = endpoint
        self._leases = leases
        self._tickets: dict[int, PendingRequest] = {}
        self._marks: deque[int] = deque(maxlen=_LOOKS)
        self._clock: asyncio.TimerHandle | None = None
        self._guard: AsyncGenerator[None] | None = None

    def _error(self, text: str) -> Exception:
        error = reply_error(text)
        if is_fatal(error):
            # Before anybody is told of it, so that nothing more is sent.
            self.loop.call_soon(self.lose, self._ended())
        return error

    async def close_with_loop(self) -> None:
        """Have the connection closed when the loop is shut down.

        Requests may be on their way then: nobody would read the leases that they are granted, and the server passes on
        only what a closed connection held. A loop tells nobody of its end but asynchronous generators.
        """
        self._guard = self._until_shutdown()
        await anext(self._guard)

    async def _until_shutdown(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._guard = None
            self.give_up(UnavailableError(f"{self._endpoint.address}: the event loop has ended"))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail whatever stands open."""
        self.lose((error and broken(self._endpoint, error)) or self._ended())

    def eof_received(self) -> None:
        """Fail whatever stands open at once, so that nothing more is sent."""
        self.lose(self._ended())

    def _ended(self) -> CacheError:
        return UnavailableError(f"{self._endpoint.address}: the server closed the connection")

    def ask(self, request: bytes) -> Future[Reply]:
        """Have a request sent with the others of this turn of the loop; what it gives is its reply."""
        # The same as `send`, without a call for what is asked most.
        if not self._output:
            self._begin()
        future: Future[Reply] = Future(loop=self.loop)
        self._output.append(request)
        self._open.append(future)
        return future

    def fetch(self, request: bytes, wait: float, key: bytes, owner: list[Lease] | None = None) -> Future[Reply]:
        """Have a FETCH sent as `ask` does. Its lease is put into `owner`, else it is whose who awaits the future."""
        if not self._output:
            self._begin()
        future: Future[Reply] = Future(loop=self.loop)
        self._output.append(request)
        # A PendingRequest is made of it if it has to wait: most are answered at once.
        self._open.append((future, wait, key, owner))
        return future

    def _begin(self) -> None:
        """Have what is asked for in this turn of the loop written at its end. What is closed has no output."""
        if self.closed is not None:
            raise fresh(self.closed)
        if len(self._open) > _MOST_OPEN:
            raise DeadlineError(f"{self._endpoint.address}: {_MOST_OPEN} requests stand open")
        self.loop.call_soon(self._flush)
        if self._clock is None:
            self._clock = self.loop.call_later(self._endpoint.timeout / _LOOKS, self._look)

    def _take(self, entry: Future[Reply] | PendingRequest | _Fetch | None, reply: Reply) -> None:
        if entry is None:
            raise UnavailableError(f"{self._endpoint.address}: an answer to nothing")
        if isinstance(entry, tuple):
            future, wait, key, owner = entry
            entry = PendingRequest(future, wait, key, owner=owner)
        elif not isinstance(entry, PendingRequest):
            entry = PendingRequest(entry, self._endpoint.timeout)
        ticket = ticket_of(reply)
        if ticket and not entry.future.done():
            self._tickets[ticket] = entry
            entry.timer = self.loop.call_later(entry.wait + _GRACE, self._late, ticket)
            entry.future.add_done_callback(lambda future: self._cancel(ticket) if future.cancelled() else None)
        elif ticket:
            self._tickets[ticket] = entry
            self._cancel(ticket)
        else:
            self._give(entry, reply)

    def _unreadable(self, error: Exception) -> None:
        known = broken(self._endpoint, error)
        self.lose(known or UnavailableError(f"{self._endpoint.address}: {error}"))

    def _give(self, entry: PendingRequest, reply: Reply) -> None:
        """Give a reply to whoever asked; a lease has an owner from here on."""
        if type(reply) is not list or entry.key is None or not reply[2]:
            if not entry.future.done():
                entry.future.set_result(reply)
        elif entry.future.done():
            self._leases.grant(entry.key, reply[2]).release()
        elif entry.owner is None:
            self._leases.grant_to(entry.future, entry.key, reply)
        else:
            reply = self._leases.own(entry.key, reply)
            entry.owner.append(reply.lease)
            entry.future.set_result(reply)

    def _push(self, push: list[Any]) -> None:
        if push[0] == b"outcome":
            entry = self._tickets.pop(push[1], None)
            if entry is None:
                return
            if entry.timer is not None:
                entry.timer.cancel()
            self._give(entry, push[2])

    def _late(self, ticket: int) -> None:
        entry = self._tickets[ticket]
        if not entry.future.done():
            entry.future.set_exception(DeadlineError(f"{self._endpoint.address}: no outcome in {entry.wait:g} s"))
        self._cancel(ticket)

    def _cancel(self, ticket: int) -> None:
        """Leave the queue; a lease that was on its way already is handed on when it arrives."""
        entry = self._tickets.get(ticket)
        if entry is not None and entry.timer is not None:
            entry.timer.cancel()
        if self.closed is None and entry is not None:
            future: Future[Reply] = self.loop.create_future()
            # An outcome that was faster comes before this answer.
            future.add_done_callback(lambda _: self._tickets.pop(ticket, None))
            self.send(pack((b"CACHE.CANCEL", b"%d" % ticket)), future)

    def _look(self) -> None:
        """Give the connection up if what was sent a whole time-out ago still stands open."""
        if self.closed is not None:
            return
        marks = self._marks
        if len(marks) == _LOOKS and marks[0] > self._answered:
            self.lose(DeadlineError(f"{self._endpoint.address}: no answer in {self._endpoint.timeout:g} s"))
            return
        marks.append(self._answered + len(self._open))
        self._clock = None
        if self._open:
            self._clock = self.loop.call_later(self._endpoint.timeout / _LOOKS, self._look)
        else:
            marks.clear()

    def lose(self, error: Exception) -> None:
        """Give the connection up, while what was granted on it goes on: that is renewed over the next one."""
        if self.closed is None:
            self.give_up(error)
            self._leases.renew_now()

    def give_up(self, error: Exception) -> None:
        """Close the connection; every call that stands open fails with `error`."""
        if self.closed is not None:
            return
        super().give_up(error)
        if self._clock is not None:
            self._clock.cancel()
        if self._guard is not None:
            # It awaits nothing, so one step is all of it.
            with contextlib.suppress(StopIteration):
                self._guard.aclose().send(None)
        waiting = list(self._tickets.values())
        self._tickets.clear()
        for entry in waiting:
            self._fail(entry, error, was_sent=True)

    def _fail(self, entry: Future[Reply] | PendingRequest | _Fetch, error: Exception, *, was_sent: bool) -> None:
        if isinstance(entry, PendingRequest):
            future = entry.future
            if entry.timer is not None:
                entry.timer.cancel()
            if entry.keys or entry.tags:
                self._endpoint.undelivered(entry.keys, entry.tags, sent=was_sent)
        else:
            future = entry[0] if isinstance(entry, tuple) else entry
        if not future.done():
            future.set_exception(fresh(error if was_sent else NotSentError(str(error))))
            future.exception()  # seen: nobody may be there to do so

    def send_all(self, commands: Sequence[Words], keys: tuple[bytes, ...] = ()) -> list[Future[Reply]]:
        """Have several commands sent; `keys` are what they change together. Returns what gives their replies."""
        futures = [self.loop.create_future() for _ in commands]
        for words, future in zip(commands, futures, strict=True):
            self.send(pack(words), PendingRequest(future, self._endpoint.timeout, None, keys) if keys else future)
        return futures

    async def _run(self, commands: list[Words]) -> list[Reply]:
        return [reply for part in batches(commands) for reply in await self.ask_all(part)]

    async def replay_pending(self) -> None:
        """Send the pending invalidations; only after they are acknowledged may anything be read."""
        snapshot = self._endpoint.to_replay(self.generation)
        replies = await self._run(snapshot.commands())
        if instead := snapshot.deletions(replies):
            replies = await self._run(instead)
        self._endpoint.replayed(snapshot, replies)
        self.synced_serial = snapshot.serial
