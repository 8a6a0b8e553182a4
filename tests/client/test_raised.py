"""Exceptions that several callers are given, one after another."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pytest

from globalcache import Cache, DeadlineError, UnavailableError
from globalcache.client.raised import Raised, fresh

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
