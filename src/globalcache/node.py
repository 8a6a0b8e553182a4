"""The Maelstrom node: messages on stdin, answers on stdout, one JSON object a line.

The node called `cache`, or else the first of `node_ids`, is the cache. Any other node forwards what clients ask to it
by the same protocol and relays the answer. One thread waits for input and for deadlines, so nothing is locked.

A forwarded request is sent once and never again: a second copy of a write could land after a later write. When no
answer comes in time the outcome is unknown (error 0), and an answer that comes later is dropped. Error 11 is given
only for what was never sent. Nothing but messages goes to stdout.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from globalcache._core import LocalServer

if TYPE_CHECKING:
    from collections.abc import Callable

# A client of Maelstrom gives up after 5 s, and what a node waits for must end before that.
FORWARD_TIMEOUT = 1.0
# Requests on their way to the cache: far more than a test has, and a bound when the cache is away.
MAX_PENDING = 10_000
_CHUNK = 1 << 16
# Bytes that the cache holds before it evicts, and of its longest value.
_MEMORY, _LONGEST_VALUE = 256 << 20, 16 << 20

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """Write a message on a line, without blanks."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


@dataclass
class Pending:
    """A request that was forwarded: whom to answer, and until when the cache may take."""

    client: str
    body: Message
    deadline: float


class Forwarder:
    """A node that is not the cache. Time is an argument; messages come and go as lines."""

    def __init__(self, node_id: str, cache: str, *, timeout: float = FORWARD_TIMEOUT) -> None:
        self.node_id = node_id
        self.cache = cache
        self.timeout = timeout
        self._next_id = 0
        # In the order of their deadlines, since all wait equally long.
        self._pending: OrderedDict[int, Pending] = OrderedDict()

    def feed(self, message: Message, now: float) -> bytes:
        """Take a message and return the lines to send."""
        body = message["body"]
        if body.get("type") == "init":
            return self._answer(message["src"], body, {"type": "init_ok"})
        if message["src"] == self.cache and "in_reply_to" in body:
            return self._relay(body)
        if len(self._pending) >= MAX_PENDING:
            return self._error(message["src"], body, 11, "too many requests are waiting for the cache")
        number = self._number()
        self._pending[number] = Pending(message["src"], body, now + self.timeout)
        return encode({"src": self.node_id, "dest": self.cache, "body": {**body, "msg_id": number}})

    def expire(self, now: float) -> bytes:
        """Return the answers to all whose time has passed."""
        lines = b""
        while self._pending and next(iter(self._pending.values())).deadline <= now:
            _, pending = self._pending.popitem(last=False)
            lines += self._error(pending.client, pending.body, 0, f"no answer from {self.cache} in time")
        return lines

    def deadline(self) -> float | None:
        """Return when `expire` is to be called."""
        return next(iter(self._pending.values())).deadline if self._pending else None

    def _relay(self, reply: Message) -> bytes:
        pending = self._pending.pop(reply["in_reply_to"], None)
        if pending is None:
            return b""
        return self._answer(pending.client, pending.body, reply)

    def _error(self, dest: str, request: Message, code: int, text: str) -> bytes:
        return self._answer(dest, request, {"type": "error", "code": code, "text": text})

    def _answer(self, dest: str, request: Message, reply: Message) -> bytes:
        body: Message = {"type": reply["type"]}
        if "msg_id" in request:
            body["in_reply_to"] = request["msg_id"]
        body["msg_id"] = self._number()
        body.update((name, value) for name, value in reply.items() if name not in {"type", "in_reply_to", "msg_id"})
        return encode({"src": self.node_id, "dest": dest, "body": body})

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id - 1


class Node:
    """A node of whatever role: until `init` says otherwise it is the cache."""

    def __init__(self) -> None:
        self._cache = LocalServer(memory=_MEMORY, max_value=_LONGEST_VALUE, now=int(time.monotonic() * 1000))
        self._connection = self._cache.connect(json=True)
        self._forwarder: Forwarder | None = None

    def feed(self, line: bytes, now: float) -> bytes:
        """Take a line and return the lines to send. Raises ValueError for what is no message."""
        message = json.loads(line)
        if not isinstance(message, dict) or not isinstance(message.get("body"), dict):
            raise ValueError("not a message")  # noqa: TRY004 - one error for all that is no message
        if message["body"].get("type") == "init":
            self._init(message["body"])
        if self._forwarder is None:
            # One line, whatever blanks its sender put into it.
            return self._ask(line.replace(b"\n", b" ").strip() + b"\n", now)
        return self._forwarder.feed(message, now)

    def _ask(self, line: bytes, now: float) -> bytes:
        try:
            return self._cache.ask(self._connection, line, int(now * 1000))[0]
        except ConnectionResetError:
            self._connection = self._cache.connect(json=True)
            raise ValueError("the message is too long") from None

    def _init(self, body: Message) -> None:
        node_id, node_ids = body.get("node_id"), body.get("node_ids")
        if not isinstance(node_id, str) or not isinstance(node_ids, list) or not node_ids:
            return  # the session answers what is wrong with it
        cache = "cache" if "cache" in node_ids else node_ids[0]
        self._forwarder = None if node_id == cache else Forwarder(node_id, cache)

    def expire(self, now: float) -> bytes:
        """Return what is to be said to those whose time has passed."""
        return self._forwarder.expire(now) if self._forwarder else b""

    def deadline(self) -> float | None:
        """Return when `expire` is to be called."""
        return self._forwarder.deadline() if self._forwarder else None


def run(stdin: int = 0, write: Callable[[bytes], object] | None = None) -> None:
    """Run a node on file descriptor `stdin` until it ends."""
    node, rest = Node(), b""
    send = write or _write_all
    while True:
        deadline = node.deadline()
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([stdin], [], [], wait)
        chunk = os.read(stdin, _CHUNK) if ready else None
        *lines, rest = (rest + (chunk or b"")).split(b"\n")
        if chunk == b"" and rest:
            lines, rest = [*lines, rest], b""
        for line in lines:
            if line.strip():
                send(_feed(node, line))
        send(node.expire(time.monotonic()))
        if chunk == b"":
            return


def _feed(node: Node, line: bytes) -> bytes:
    try:
        return node.feed(line, time.monotonic())
    except (ValueError, KeyError, RecursionError) as error:
        print(f"globalcache node: skipped a line: {error}: {line[:200]!r}", file=sys.stderr, flush=True)
        return b""


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
