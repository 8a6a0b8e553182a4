"""Connections of the mixed load, of each protocol, without an oracle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import hiredis

from globalcache.client.wire import pack, word_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.load_run import Run

Word = bytes | str | int
# A reply that takes longer has stopped: the machine may be busy, but not for this long.
REPLY_LIMIT = 20.0


class Stopped(Exception):  # noqa: N818 - an end, not an error
    """The server closed the connection or did not answer in time."""


class Resp:
    """A RESP3 connection: requests go out together, replies come in order, pushes go to `pushed`."""

    def __init__(self, run: Run, pushed: Callable[[list[Any]], None] | None = None) -> None:
        self.run = run
        self.pushed = pushed
        self._reader = hiredis.Reader(notEnoughData=...)

    async def open(self) -> Resp:
        """Connect; raises Stopped."""
        self.input, self.output = await self.run.connect()
        await self.ask("HELLO", 3)
        return self

    def send(self, *requests: Sequence[Word]) -> None:
        for request in requests:
            self.output.write(packed(*request))

    async def reply(self, limit: float | None = REPLY_LIMIT) -> Any:
        while True:
            found = self._reader.gets()
            if isinstance(found, hiredis.PushNotification):
                if self.pushed is not None:
                    self.pushed(list(found))
            elif found is not ...:
                return found
            else:
                self._reader.feed(await self.run.read(self.input, limit))

    async def many(self, *requests: Sequence[Word]) -> list[Any]:
        self.send(*requests)
        return [await self.reply() for _ in requests]

    async def ask(self, *words: Word) -> Any:
        return (await self.many(words))[0]

    def close(self) -> None:
        self.output.transport.abort()


class Memcached:
    """The text commands of memcached."""

    async def open(self, run: Run) -> Memcached:
        self.run = run
        self.input, self.output = await run.connect()
        self.buffer = b""
        return self

    async def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self.buffer += await self.run.read(self.input)
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    async def set(self, key: str, value: bytes, ttl: int) -> bool | str:
        self.output.write(b"set %b 0 %d %d\r\n%b\r\n" % (key.encode(), ttl, len(value), value))
        line = await self._line()
        return line == b"STORED" or line.decode()

    async def get(self, key: str) -> bytes | None:
        self.output.write(b"get %b\r\n" % key.encode())
        line = await self._line()
        if line == b"END":
            return None
        if not line.startswith(b"VALUE"):
            raise ValueError(line)
        length = int(line.split()[-1])
        while len(self.buffer) < length + 7:
            self.buffer += await self.run.read(self.input)
        value, self.buffer = self.buffer[:length], self.buffer[length + 7 :]
        return value

    async def delete(self, key: str) -> None:
        self.output.write(b"delete %b\r\n" % key.encode())
        await self._line()

    def close(self) -> None:
        self.output.transport.abort()


class Json:
    """JSON bodies over TCP, one message a line."""

    async def open(self, run: Run) -> Json:
        self.run = run
        self.number = 0
        self.buffer = b""
        self.input, self.output = await run.connect()
        return self

    async def _ask(self, **body: Any) -> dict[str, Any]:
        self.number += 1
        message = {"src": "c1", "dest": "cache", "body": {**body, "msg_id": self.number}}
        self.output.write(json.dumps(message).encode() + b"\n")
        while b"\n" not in self.buffer:
            self.buffer += await self.run.read(self.input)
        line, self.buffer = self.buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)["body"]
        self.run.findings.check(answer.get("in_reply_to") == self.number, "replies out of order", str(answer)[:200])
        return answer

    async def set(self, key: str, value: bytes, ttl: int) -> bool | str:
        answer = await self._ask(type="set", key=key, value=value.decode(), **({"ttl_ms": ttl * 1000} if ttl else {}))
        return bool(answer["type"] == "set_ok") or str(answer.get("text", answer))

    async def get(self, key: str) -> bytes | None:
        answer = await self._ask(type="get", key=key)
        if answer["type"] != "get_ok":
            raise ValueError(answer)
        value = answer.get("value")
        return None if value is None else str(value).encode()

    async def delete(self, key: str) -> None:
        await self._ask(type="delete", key=key)

    def close(self) -> None:
        self.output.transport.abort()


def packed(*words: Word) -> bytes:
    """Return a command as it is sent."""
    return pack(tuple(map(word_of, words)))


def body(key: str, version: int, length: int) -> bytes:
    """A value that tells whose it is; shorter ones tell less."""
    head = f"{key}|{version}|".encode()
    return (head + b"x" * (length - len(head)))[:length] if length > len(head) else head[:length]
