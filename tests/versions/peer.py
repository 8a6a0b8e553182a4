"""A client of whichever version runs it: it does what lines of JSON on stdin say, and answers each by a line.

    python -m tests.versions.peer URL threads|tasks

    {"id": 1, "call": "cache.get", "args": ["k"], "options": {}}  ->  {"id": 1, "value": 5}
                                                    or  {"id": 1, "error": "LoadError", "text": "..."}

Calls run side by side, in threads or in tasks as the second argument says. Loads are under the control of the test: it
may hold them back, let them fail, and take their rows away. Only what both versions have is used, and nothing of this
repository besides: the version before runs this file too.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import dataclasses
import datetime as dt
import decimal
import functools
import inspect
import json
import logging
import math
import os
import sys
import threading
import uuid
from typing import Any

import msgspec

import globalcache
from tests.versions.rows import Broken, Gone, NoRow


@dataclasses.dataclass
class Record:
    """A value with a type."""

    number: int
    name: str
    at: dt.datetime
    price: decimal.Decimal


class Point(msgspec.Struct):
    """Another one."""

    x: float
    tags: list[str]


_AT = dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
# The codec of each value, the type that it is written and read as, and itself.
SAMPLES: dict[str, tuple[str, Any, Any]] = {
    "number": ("json", None, -(2**60)),
    "fraction": ("json", None, 0.1),
    "text": ("json", None, "gr\u00fc\u00dfe"),
    "nothing": ("json", None, None),
    "nested": ("json", None, {"a": [1, 2.5, {"b": None}], "c": True}),
    "bytes": ("json", None, bytes(range(256))),
    "record": ("json", Record, Record(1, "one", _AT, decimal.Decimal("1.50"))),
    "records": ("json", list[Record], [Record(1, "one", _AT, decimal.Decimal("1.50"))] * 2),
    "struct": ("json", Point, Point(math.pi, ["a"])),
    "time": ("json", dt.datetime, _AT),
    "union": ("json", Point | None, Point(0.0, [])),
    "identifier": ("json", uuid.UUID, uuid.UUID(int=7)),
    "long": ("compressed", None, "x" * 100_000),
    "long record": ("compressed", list[Point], [Point(1.0, ["abc"])] * 1000),
    "packed": ("msgpack", None, {"a": [1, 2.5, "b"]}),
    "packed record": ("msgpack", Record, Record(2, "two", _AT, decimal.Decimal(3))),
    "pickled": ("pickle", None, {(1, 2): {3}, "d": _AT}),
    "pickled number": ("pickle", None, 41),
}


class Database:
    """What loads ask, and how often they did."""

    def __init__(self) -> None:
        self.asked: collections.Counter[str] = collections.Counter()
        self.serial = 0
        self._held: dict[str, threading.Event] = {}
        self._broken: set[str] = set()
        self._missing: dict[str, type[NoRow]] = {}

    def hold(self, key: str) -> None:
        self._held[key] = threading.Event()

    def let_go(self, key: str) -> None:
        self._held.pop(key).set()

    def fail(self, key: str) -> None:
        self._broken.add(key)

    def heal(self, key: str) -> None:
        self._broken.discard(key)
        self._missing.pop(key, None)

    def lose(self, key: str, kind: str = "NoRow") -> None:
        self._missing[key] = {"NoRow": NoRow, "Gone": Gone}[kind]

    def count(self, key: str) -> int:
        return self.asked[key]

    def select(self, key: str) -> dict[str, Any]:
        self.asked[key] += 1
        self.serial += 1
        serial = self.serial
        if (held := self._held.get(key)) is not None:
            held.wait(60)
        if key in self._broken:
            raise Broken(key)
        if key in self._missing:
            raise self._missing[key](key)
        return {"key": key, "serial": serial, "process": os.getpid()}

    def select_or_none(self, key: str) -> dict[str, Any] | None:
        try:
            return self.select(key)
        except NoRow:
            return None


DATABASE = Database()
_select = DATABASE.select


def _functions(cache: Any, *, in_tasks: bool) -> dict[str, Any]:
    """Declare the same cached functions in both faces, with the same keys."""

    def declared(decorator: Any, name: str) -> Any:
        if in_tasks:

            async def load(number: int) -> dict:  # type: ignore[type-arg]  # what people write
                return await asyncio.to_thread(_select, f"{name}:{number}")
        else:

            def load(number: int) -> dict:  # type: ignore[type-arg,misc]
                return _select(f"{name}:{number}")

        return decorator(load)

    return {
        "row": declared(cache.cached("row:{number}", ttl="10m", tags=["rows", "row:{number}"]), "row"),
        "fresh": declared(cache.cached("fresh:{number}", ttl="10m", refresh_after="1m"), "fresh"),
        "grace": declared(cache.cached("grace:{number}", ttl="1m", stale_if_error="10m", negative_ttl="1s"), "grace"),
        "lost": declared(cache.cached("lost:{number}", ttl="10m", absent=[NoRow, Gone], negative_ttl="1m"), "lost"),
        "never": declared(cache.cached("never:{number}", ttl="10m", absent=[NoRow], negative_ttl=0), "never"),
        "served": declared(cache.loader("served:{number}", ttl="10m", absent=[NoRow], negative_ttl=0), "served"),
        "scoped": declared(cache.namespace("shop").cached("scoped:{number}", ttl="10m"), "scoped"),
    }


class Peer:
    """The roots of what may be called, and the calls that run."""

    def __init__(self, url: str, *, in_tasks: bool) -> None:
        make: Any = globalcache.AsyncCache if in_tasks else globalcache.Cache
        self.in_tasks = in_tasks
        self.cache = make(url)
        self.codecs = {
            "json": self.cache,
            "compressed": make(url, compress_over=1000),
            "msgpack": make(url, codec="msgpack"),
            "pickle": make(url, codec="pickle", secret="of both"),
        }
        self.roots: dict[str, Any] = {
            "cache": self.cache,
            "shop": self.cache.namespace("shop"),
            "shelf": self.cache.namespace("shop").namespace("shelf"),
            "database": DATABASE,
            "load_one": self.load_one,
            "load_many": self.load_many,
            "write_long": self.write_long,
            "load_long": self.load_long,
            "write_sample": self.write_sample,
            "read_sample": self.read_sample,
            "pid": os.getpid,
            **_functions(self.cache, in_tasks=in_tasks),
        }

    def load_one(self, key: str, **options: Any) -> Any:
        if not self.in_tasks:
            return self.cache.get_or_load(key, lambda: DATABASE.select_or_none(key), **options)

        async def load() -> Any:
            return await asyncio.to_thread(DATABASE.select_or_none, key)

        return self.cache.get_or_load(key, load, **options)

    def load_many(self, keys: list[str], **options: Any) -> Any:
        def rows(wanted: list[str]) -> dict[str, Any]:
            found = {key: DATABASE.select_or_none(key) for key in wanted}
            return {key: row for key, row in found.items() if row is not None}

        if not self.in_tasks:
            return self.cache.get_or_load_many(keys, rows, **options)

        async def load(wanted: list[str]) -> Any:
            return await asyncio.to_thread(rows, wanted)

        return self.cache.get_or_load_many(keys, load, **options)

    def write_long(self, size: int) -> Any:
        return self.cache.set("long", "x" * size)

    def load_long(self, size: int) -> Any:
        if not self.in_tasks:
            return self.cache.get_or_load("loaded", lambda: "x" * size, ttl="10m")

        async def load() -> str:
            return "x" * size

        return self.cache.get_or_load("loaded", load, ttl="10m")

    def write_sample(self, name: str) -> Any:
        codec, kind, value = SAMPLES[name]
        return self.codecs[codec].set(f"sample:{name}", value, ttl="10m", type=kind)

    def read_sample(self, name: str) -> Any:
        codec, kind, _ = SAMPLES[name]
        return self.codecs[codec].get(f"sample:{name}", "missing", type=kind)

    async def call(self, request: dict[str, Any]) -> None:
        """Do what a line says, and answer it."""
        answer: dict[str, Any] = {"id": request["id"]}
        root, *path = request["call"].split(".")
        try:
            function = functools.reduce(getattr, path, self.roots[root])
            call = functools.partial(function, *request["args"], **request["options"])
            if self.in_tasks:
                value = call()
                value = await value if inspect.isawaitable(value) else value
            else:
                value = await asyncio.to_thread(call)
            if root == "read_sample":
                value = "same" if value == SAMPLES[request["args"][0]][2] else repr(value)
            answer["value"] = _plain(value)
        except Exception as error:  # noqa: BLE001 - what a call raises is the answer
            answer |= {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(answer), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


async def run(url: str, face: str) -> None:
    """Answer lines until there are no more."""
    peer = Peer(url, in_tasks=face == "tasks")
    running = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = asyncio.create_task(peer.call(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(run(sys.argv[1], sys.argv[2]))
    os._exit(0)  # calls that are held back would be waited for
