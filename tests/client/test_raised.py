"""Exceptions that several callers are given, one after another."""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from globalcache import AsyncCache, Cache, DeadlineError, UnavailableError
from globalcache.client.raised import Handled, Raised, fresh
from globalcache.contrib.testing import CacheForTests
from tests.client.loads import (
    Sick,
    failing,
    processes,
    raised,
    readers,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Frozen(Exception):  # noqa: N818 - it is one in this test alone
    """It refuses attributes, as a frozen dataclass does."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError(name)


def caught(call: Callable[[], object]) -> BaseException:
    """Return what a call raises, while its caller handles something of its own."""
    try:
        int("x")
    except ValueError:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - that is asked for
            return error
    raise AssertionError


@pytest.mark.parametrize("kind", [LookupError, Frozen, BaseException])
def test_what_a_caller_adds_is_taken_off_before_the_next(kind: type[BaseException]) -> None:
    error = kind("sick")
    vars(error)["__notes__"] = ["of the load"]
    kept = Raised(error)
    for _ in range(3):
        got = caught(kept.again)
        assert got is error
        assert (got.__notes__, got.__cause__, got.__context__) == (["of the load"], None, None)
        assert [frame.name for frame in traceback.extract_tb(got.__traceback__)] == ["caught", "again"]
        got.__notes__.append("of a caller")
        BaseException.__setattr__(got, "__cause__", KeyError("of a caller"))


def test_notes_of_one_caller_are_not_those_of_the_next() -> None:
    with Cache("memory://") as cache:

        def load() -> Any:
            raise LookupError("sick")

        for _ in range(3):
            with pytest.raises(LookupError) as seen:
                cache.get_or_load("k", load)
            assert not hasattr(seen.value, "__notes__")
            seen.value.add_note("of a caller")


def test_an_error_of_a_connection_is_copied_with_its_cause() -> None:
    cause = OSError(5, "x")
    for error in (UnavailableError("gone"), DeadlineError("late")):
        error.__cause__ = cause
        again = fresh(error)
        assert again is not error
        assert (type(again), again.args, again.__cause__) == (type(error), error.args, cause)


def chain_of(error: BaseException | None) -> list[str]:
    """Return all exceptions and functions that a log of this exception would show."""
    shown: list[str] = []
    while error is not None:
        shown.append(repr(error))
        shown += [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        error = error.__cause__ or error.__context__
    return shown


def broken() -> Any:
    try:
        failing(KeyError("row"))()
    except KeyError:
        raise Sick from None


def request_of_ann(call: Callable[[], Any]) -> BaseException:
    try:
        failing(PermissionError("ann"))()
    except PermissionError:
        error = raised(call)
    return error


def request_of_bob(call: Callable[[], Any]) -> BaseException:
    try:
        failing(PermissionError("bob"))()
    except PermissionError:
        error = raised(call)
    return error


def test_a_shared_exception_has_nothing_of_its_callers() -> None:
    """Ann's load fails while she handles another exception, and so does Bob, who gets the same object."""
    _, (cache,) = processes(1)
    first = request_of_ann(lambda: cache.get_or_load("k", broken))
    shown = [chain_of(first)]
    for _ in range(3):
        assert request_of_bob(lambda: cache.get_or_load("k", broken)) is first
        shown.append(chain_of(first))
        assert isinstance(first.__context__, KeyError)
        assert first.__context__.__context__ is None
        assert first.__suppress_context__
        assert first.__cause__ is None
    assert not [text for text in shown[0] if "of_bob" in text or "PermissionError" in text]
    assert not [text for later in shown[1:] for text in later if "of_ann" in text or "PermissionError" in text]
    assert len(shown[1]) == len(shown[3])


def test_a_shared_exception_of_a_batch_keeps_no_caller() -> None:
    _, (cache,) = processes(1)
    calls = [lambda: cache.get_or_load_many(["a", "b"], lambda _: broken()) for _ in range(2)]
    first = request_of_ann(calls[0])
    assert request_of_bob(calls[1]) is first
    assert not [text for text in chain_of(first) if "of_ann" in text or "PermissionError" in text]


def test_what_cannot_be_stored_has_nothing_of_its_callers() -> None:
    _, (cache,) = processes(1)
    first = request_of_ann(lambda: cache.get_or_load("k", object))
    assert isinstance(first, TypeError)
    assert request_of_bob(lambda: cache.get_or_load("k", object)) is first
    assert not [text for text in chain_of(first) if "of_ann" in text or "PermissionError" in text]


def test_a_cause_that_callers_add_is_not_shared() -> None:
    """`raise error from other` in one caller changes the object that the next one gets, unless that is undone."""
    _, (cache,) = processes(1)
    first = raised(lambda: cache.get_or_load("k", broken))
    with pytest.raises(Sick):
        raise first from PermissionError("ann")
    assert raised(lambda: cache.get_or_load("k", broken)).__cause__ is None


def test_an_exception_keeps_what_its_caller_handles() -> None:
    """What passes through is nobody else's, so it is as it would be without a cache."""
    _, (cache,) = processes(1)
    error = request_of_ann(lambda: readers(cache)("guest", lambda: None))
    assert isinstance(error.__context__, PermissionError)


def test_a_flight_without_a_server_shares_nothing_of_its_callers() -> None:
    """Tasks that join one load, each of which handles an exception of its own."""
    world = CacheForTests()

    def deny(user: str) -> None:
        raise PermissionError(user)

    async def run() -> None:
        cache = AsyncCache("memory://", namespace="test")
        world.stand_in_for(cache)
        shown: list[list[str]] = []

        async def load() -> Any:
            await asyncio.sleep(0)
            return broken()

        async def call(user: str) -> None:
            try:
                deny(user)
            except PermissionError:
                with pytest.raises(Sick) as caught:
                    await cache.get_or_load("k", load)
                shown.append(chain_of(caught.value))

        await asyncio.gather(*map(call, ["ann", "bob", "eve"]))
        assert len(shown) == 3
        assert not [text for one in shown for text in one if "PermissionError" in text]
        assert len({len(one) for one in shown}) == 1

    with world.faults.dead():
        asyncio.run(run())


def handled_by_caller(error: PermissionError) -> tuple[BaseException, Handled]:
    """Return what a caller that handles `error` hands to its load."""
    try:
        failing(error)()
    except PermissionError:
        handled = Handled()
    return error, handled


def test_what_a_caller_handles_is_cut_out_of_groups() -> None:
    ann, handled = handled_by_caller(PermissionError("ann"))
    inner, cause = Sick("inner"), Sick("cause")
    group = ExceptionGroup("both", [inner, Sick("other")])
    group.__context__ = inner.__context__ = cause.__context__ = ann
    inner.__cause__ = cause
    handled.cut_from(group)
    assert [error.__context__ for error in (group, inner, cause)] == [None] * 3


def test_a_load_that_raises_what_its_caller_handles() -> None:
    """It is the outcome then, with its own chain."""
    ann, handled = handled_by_caller(PermissionError("ann"))
    ann.__context__ = Sick("before")
    handled.cut_from(ann)
    assert isinstance(ann.__context__, Sick)


def frames(error: BaseException) -> int:
    count, trace = 0, error.__traceback__
    while trace is not None:
        count, trace = count + 1, trace.tb_next
    return count


def test_tracebacks_do_not_grow() -> None:
    _, (cache,) = processes(1)
    error = Sick()
    lengths = []
    for _ in range(10):
        raised(lambda: cache.get_or_load("k", failing(error)))
        lengths.append(frames(error))
    assert max(lengths) == lengths[-1] == lengths[1]
    assert error.__context__ is None


def test_without_a_server_an_exception_has_no_other_context() -> None:
    """That the server is away is no cause of what a function raises."""
    world, (cache,) = processes(1)
    with world.faults.dead():
        assert raised(lambda: cache.get_or_load("k", failing(Sick()))).__context__ is None
