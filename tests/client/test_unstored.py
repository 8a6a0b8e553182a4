"""Values that are longer than the server takes: what their callers get, and those who wait for them."""

from __future__ import annotations

import functools
import logging
import random
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from globalcache import Cache
from globalcache.client.unstored import Unstored
from globalcache.errors import ValueTooLargeError
from tests.client.conftest import LONGEST
from tests.conftest import in_turns

if TYPE_CHECKING:
    from tests.client.faces import Face


def test_a_value_too_long_is_refused_before_it_is_sent(small: Face, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else who uses the connection is harmed; of several values the others are stored."""
    connects = small.cache.stats()["connects"]
    for call in ("set", "add"):
        with pytest.raises(ValueTooLargeError, match="max-value") as told:
            small(call, "x", "x" * LONGEST)
        assert isinstance(told.value, ValueError)
    with caplog.at_level(logging.WARNING, "globalcache"):
        assert small("set_many", {"a": 1, "long": "x" * LONGEST, "b": 2}) == 2
    assert small("get_many", ["a", "long", "b"]) == {"a": 1, "b": 2}
    assert "the value of long" in caplog.text
    assert small.cache.stats()["connects"] == connects


def test_a_loaded_value_too_long_is_given_to_all_who_wait(small: Face, caplog: pytest.LogCaptureFixture) -> None:
    """The caller and the waiters of its process get the value of one load; the lease ends; one warning an hour."""
    value, loads, begun = "x" * LONGEST, [], threading.Event()
    waiting = threading.Barrier(4)
    other = small.cache if small.runner is None else small.cache.sync

    def load() -> str:
        loads.append(1)
        begun.set()
        with Cache(small.cache._state.servers.addresses[0].name) as below:  # noqa: SLF001
            while below.inspect("x")["waiters"] < 3:
                pass
        return value

    got: list[Any] = []
    sent = small.note_calls()

    def ask() -> None:
        waiting.wait(10)
        got.append(other.get_or_load("x", load))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    with caplog.at_level(logging.WARNING, "globalcache"):

        def load_first() -> str:
            waiting.wait(10)
            return load()

        assert small("get_or_load", "x", load_first) == value
        for thread in threads:
            thread.join(10)
        assert got == [value] * 3
        assert len(loads) == 1
        assert other.inspect("x")["lease"] == "none"
        assert [words[0] for words in sent if words[0] in {b"CACHE.FILL", b"CACHE.FAIL"}] == [b"CACHE.FAIL"]
        assert any(words[-1].startswith(b"too large (load ") for words in sent)
        other.invalidate("x")
        assert small("get_or_load_many", ["x", "y"], lambda _: {"x": value, "y": 1}) == {"x": value, "y": 1}
    assert small("get", "y") == 1
    warned = [record.message for record in caplog.records]
    assert len([text for text in warned if "load.<locals>.load" in text or "load_first" in text]) == 1
    assert all(value not in text for text in warned)
    if other is not small.cache:
        other.close()


def test_an_older_value_does_not_stand_in_for_a_later_failure(small: Face) -> None:
    """A loads a value that is too long, B invalidates it and fails to load: A hears of that failure and loads anew."""
    assert small("get_or_load", "x", lambda: "x" * LONGEST) == "x" * LONGEST
    with Cache(small.cache._state.servers.addresses[0].name) as other:  # noqa: SLF001

        def fail() -> NoReturn:
            raise LookupError("x")

        other.invalidate("x")
        with pytest.raises(LookupError):
            other.get_or_load("x", fail)
    assert small("get_or_load", "x", lambda: "new") == "new"


def test_a_long_value_with_tags_is_loaded_by_each_who_asks(small: Face) -> None:
    """A loads it, B invalidates its tag, of which the server knows nothing: A may not return what it had."""
    with Cache(small.cache._state.servers.addresses[0].name) as other:  # noqa: SLF001
        for _ in range(3):
            for letter in "ab":
                load = functools.partial(str, letter * LONGEST)
                assert small("get_or_load", "x", load, tags=["t"]) == letter * LONGEST
                assert other.get_or_load("x", load, tags=["t"]) == letter * LONGEST
                other.invalidate(tags=["t"])


def test_threads_keep_find_and_forget_at_the_same_time() -> None:
    unstored, draw = Unstored(), random.Random(1)

    def step() -> None:
        key = b"%d" % draw.randrange(40)
        if draw.random() < 0.5:
            unstored.keep(key, key, 0, "cause", 1.0)
            assert unstored.find(key, "cause", 1.0) in {None, (key, 0)}
        else:
            unstored.forget([key])
            unstored.keep(b"old", key, 0, "cause", -9.0)

    in_turns(step, 0.5)
