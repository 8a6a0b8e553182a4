"""Exceptions for several callers: what a copy has, what callers write to it, and what cannot be copied."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import traceback
from typing import Any

import pydantic
import pytest

from globalcache import Cache
from globalcache.client.raised import Raised, copy_of, is_one


class Coded(Exception):  # noqa: N818 - as applications name it
    """An exception whose constructor takes other arguments than it keeps, and must not run once more."""

    made = 0

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code
        Coded.made += 1


class SlottedError(ValueError):
    """An exception with slots, one of which is never set."""

    __slots__ = ("one", "other")

    def __init__(self, one: int) -> None:
        super().__init__()
        self.one = one


class OfFileError(OSError):
    """An exception whose constructor sets the fields of its base."""

    def __init__(self, path: str) -> None:
        super().__init__(2, "no such file", path)
        self.path = path


class Number(pydantic.BaseModel):
    """A model that a text is no value of."""

    number: int


def invalid() -> Exception:
    with pytest.raises(pydantic.ValidationError) as caught:
        Number.model_validate({"number": "x"})
    return caught.value


def raised(call: Any) -> Any:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the test looks at it
        call()
    return caught.value


def thrown(error: BaseException) -> BaseException:
    """Return it as it is when it was raised."""

    def throw() -> None:
        raise error

    found: BaseException = raised(throw)
    return found


@pytest.mark.parametrize(
    "error",
    [
        OSError("no database"),
        OSError(2, "no", "file"),
        OfFileError("/f"),
        Coded("a", code=7),
        SlottedError(3),
        KeyError(1),
        StopIteration(3),
        SystemExit(3),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SyntaxError("bad", ("file", 1, 2, "text")),
        ImportError("no", name="n", path="p"),
        AttributeError("no", name="n", obj=3),
        subprocess.CalledProcessError(3, "ls"),
        sqlite3.OperationalError("locked"),
        ExceptionGroup("two", [KeyError(1), SlottedError(2)]),
    ],
)
def test_a_copy_is_what_the_load_would_raise_again(error: BaseException) -> None:
    made = Coded.made
    copy = copy_of(error)
    assert copy is not error
    assert type(copy) is type(error)
    assert (str(copy), repr(copy), vars(copy)) == (str(error), repr(error), vars(error))
    for name in ("errno", "filename", "one", "value", "code", "object", "lineno", "name", "obj"):
        assert getattr(copy, name, None) == getattr(error, name, None)
    assert not hasattr(copy, "other")
    assert Coded.made == made


def test_a_copy_has_copies_of_its_chain() -> None:
    """What one caller writes to the cause would be read by another one; a wrapper names its cause twice."""
    cause, context = KeyError("row"), KeyError("before")
    error: Any = ExceptionGroup("all", [Coded("part", code=1)])
    error.orig = error.__cause__ = cause
    cause.__context__ = context
    context.__context__ = error  # a cycle
    copy: Any = copy_of(error)
    assert copy.orig is copy.__cause__
    assert copy.__cause__.args == cause.args
    assert copy.__cause__.__context__.__context__ is copy
    assert copy.__suppress_context__
    chain = {id(each) for each in (error, cause, context, *error.exceptions)}
    assert not chain & {id(each) for each in (copy, copy.orig, copy.orig.__context__, *copy.exceptions)}


def deep() -> BaseException:
    error = BaseException()
    for _ in range(5000):
        outer = BaseException()
        outer.__context__ = error
        error = outer
    return error


@pytest.mark.parametrize("make", [invalid, deep])
def test_what_cannot_be_copied_is_shared_without_its_callers(make: Any) -> None:
    """Its class is written in another language and hides what it holds, or its chain is endless."""
    error = thrown(make())
    error.add_note("of the load")
    before = (error.__notes__[:], error.__cause__, error.__context__, len(traceback.extract_tb(error.__traceback__)))
    kept = Raised(error)
    for _ in range(3):
        got = raised(kept.again)
        assert got is error
        frames = [frame.name for frame in traceback.extract_tb(got.__traceback__)]
        assert (got.__notes__, got.__cause__, got.__context__) == before[:3]
        assert len(frames) <= before[3] + 4
        got.add_note("of a caller")
        got.__cause__ = KeyError("of a caller")


def test_notes_and_attributes_of_one_caller_are_its_own() -> None:
    """Both are given the exception of one load; the first one writes to it before and after the second one gets it."""
    with Cache("memory://") as cache:

        def load() -> Any:
            error = Coded("sick", code=7)
            error.add_note("of the load")
            raise error

        first: Any = raised(lambda: cache.get_or_load("k", load))
        first.add_note("of the first")
        first.__cause__, first.code = KeyError(), 8
        second: Any = raised(lambda: cache.get_or_load("k", load))
        third: Any = raised(lambda: cache.get_or_load("k", load))
        second.add_note("of the second")
        first.__traceback__ = None
        for later, notes in ((second, ["of the load", "of the second"]), (third, ["of the load"])):
            assert (later.__notes__, later.code, later.__cause__) == (notes, 7, None)
            assert "load" in [frame.name for frame in traceback.extract_tb(later.__traceback__)]


def test_tracebacks_of_callers_at_one_time_do_not_meet() -> None:
    """Two threads are given one failure; each raises it on through frames of its own."""
    kept = Raised(thrown(Coded("sick", code=1)))
    both = threading.Barrier(2)
    got: list[list[str]] = []

    def ann() -> None:
        both.wait(10)
        kept.again()

    def bob() -> None:
        both.wait(10)
        kept.again()

    def run(call: Any) -> None:
        error = raised(call)
        both.wait(10)
        got.append([frame.name for frame in traceback.extract_tb(error.__traceback__)])

    threads = [threading.Thread(target=run, args=(call,)) for call in (ann, bob)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(("ann" in names, "bob" in names) for names in got) == [(False, True), (True, False)]


def test_copies_of_one_raise_are_known_as_one() -> None:
    """A batch whose keys failed together raises that exception, and not a LoadError that lists them."""
    kept, other = Raised(thrown(KeyError(1))), Raised(thrown(KeyError(1)))
    one, same = raised(kept.again), raised(kept.again)
    assert is_one(one, same)
    assert not is_one(one, raised(other.again))
    assert not is_one(KeyError(1), KeyError(1))
