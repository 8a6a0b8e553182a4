"""Exceptions from outside, at every step at which one can come: none may leave anything taken for ever.

A signal handler that raises, a green thread's time-out or a thread's asynchronous exception ends code where the
interpreter looks for it: when a function begins, after a call, and at the end of a loop's turn. Each test ends the same
code at the first such step, at the second and so on until it gets to its end. The exceptions are kept with their
tracebacks, as a log keeps them.
"""

from __future__ import annotations

import _thread
import itertools
import opcode
import socket
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from globalcache.client import failures, leases, lookup
from globalcache.client import work as working
from globalcache.client.failures import Failures
from globalcache.client.guard import Guard
from globalcache.client.holder import Holder
from globalcache.client.leases import RENEW_EVERY, NoLease, ThreadLeases
from globalcache.client.raised import Handled
from globalcache.client.work import Refresher, Work
from globalcache.errors import DeadlineError
from tests.client.test_loading import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

# After these the interpreter looks for signals.
_LOOKS = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}
# Steps of code that is traced: beyond them it would never end.
_MOST = 1000


class Outside(BaseException):
    """What comes from outside."""


class Steps:
    """Raises Outside at one step of the modules that are named."""

    def __init__(self, step: int, names: tuple[str, ...]) -> None:
        self.left = step
        self.names = names

    def __call__(self, frame: FrameType, _: str, __: Any) -> Any:
        """Trace a function that begins."""
        if not frame.f_code.co_filename.endswith(self.names):
            return None
        frame.f_trace_opcodes = True
        # Its first step is no event of its own.
        before = "RESUME"

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            if event == "opcode":
                if before in _LOOKS:
                    self.left -= 1
                    if self.left == 0:
                        raise Outside
                before = _name(frame.f_code, frame.f_lasti)
            return trace

        return trace


def _name(code: CodeType, place: int) -> str:
    return opcode.opname[code.co_code[place]]


def interrupted(step: int, *names: str, call: Callable[[], Any]) -> Outside | None:
    """Call something, and end it at that step of the modules; None if it has fewer."""
    tracing = sys.gettrace()
    sys.settrace(Steps(step, names))
    try:
        call()
    except Outside as error:
        return error
    finally:
        sys.settrace(tracing)
    return None


def at_every_step(*names: str, call: Callable[[], Any], check: Callable[[], None], times: int = 1) -> int:
    """End a call at each step in turn, so many times, and check after each; returns the number of steps."""
    kept: list[Outside] = []
    for step in range(1, _MOST):
        for _ in range(times):
            error = interrupted(step, *names, call=call)
            if error is None:
                return step - 1
            kept.append(error)
        check()
    raise AssertionError(f"more than {_MOST} steps")


def test_a_leader_that_is_interrupted_blocks_nobody() -> None:
    """A thread registers a load, and is interrupted before it begins to lead, while it loads, or as it ends.

    The next one finds neither a load that it would wait for nor the only room taken: it has no time to wait.
    """
    work = Work(1)

    def check() -> None:
        assert work.alone(b"k", lambda: 7, 0, joins=True) == 7

    assert at_every_step("work.py", call=lambda: work.alone(b"k", lambda: 1, 10, joins=True), check=check) > 10


def test_waiters_that_are_interrupted_block_nobody() -> None:
    """One thread loads; others come to wait for it and are interrupted at every step. The last one gets the value."""
    work, begun, go = Work(1), threading.Event(), threading.Event()
    got: list[int] = []

    def load() -> int:
        begun.set()
        assert go.wait(20)
        return 7

    def wait() -> None:
        with pytest.raises(DeadlineError):
            work.alone(b"k", load, 0, joins=True)

    threads = [threading.Thread(target=lambda: got.append(work.alone(b"k", load, 20, joins=True))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(10)
    assert at_every_step("work.py", call=wait, check=lambda: None) > 5
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(20)
    assert got == [7, 7]


def test_a_load_whose_leader_is_lost_is_led_by_a_waiter() -> None:
    """The leader ends without a word while another thread waits for its load: that one loads for itself."""
    work = Work(2)
    leader = Holder()
    flight = work._flights[b"k"] = working._Flight(leader)  # noqa: SLF001
    assert not flight.wait(time.monotonic())
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.append(work.alone(b"k", lambda: 7, 20, joins=True)))
    waiter.start()
    del leader
    waiter.join(10)
    assert got == [7]


def test_refreshes_find_a_thread_after_interruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a thread for refreshes is interrupted at the same step as often as there may be threads.

    A thread that was counted and never started would be one less for ever, and with the last the refreshes would stop.
    """
    monkeypatch.setattr(working, "_IDLE", 0.01)
    made = [Refresher()]
    lease: Any = NoLease(None, b"k")

    def check() -> None:
        ran = threading.Event()
        assert made[-1].put([lease], lambda _: ran.set())
        assert ran.wait(10)
        made.append(Refresher())

    steps = at_every_step(
        "work.py",
        call=lambda: made[-1].put([lease], lambda _: None),
        check=check,
        times=working._REFRESHERS,  # noqa: SLF001
    )
    assert steps > 5


class Recording:
    """A server that notes what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def call_many(self, commands: list[Any]) -> list[int]:
        self.sent += commands
        return [1] * len(commands)


# One within a finalizer is printed, and goes on to nobody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_leases_find_a_thread_after_interruptions() -> None:
    """A thread takes a lease and is interrupted at every step: the next lease is renewed by a thread all the same."""
    made = [ThreadLeases(Recording())]

    def check() -> None:
        lease = made[-1].grant(b"k", 7)
        assert made[-1]._thread() is not None  # noqa: SLF001
        lease.release()
        made.append(ThreadLeases(Recording()))

    assert at_every_step("leases.py", call=lambda: made[-1].grant(b"x", 1).close(), check=check) > 5


class Bell:
    """Notes how long a thread sleeps, and lets it sleep no longer than a moment."""

    def __init__(self, most: int) -> None:
        self.slept: list[float] = []
        self.is_over = threading.Event()
        self._most = most

    def acquire(self, timeout: float) -> bool:
        self.slept.append(timeout)
        if len(self.slept) == self._most:
            self.is_over.set()
        return False

    def release(self) -> None:
        pass


def test_a_thread_without_leases_sees_the_next_one_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All leases are answered, and the thread sleeps for a while before it ends; nobody wakes it for the next lease.

    That is to be renewed after a second, and lapses after three, so the thread must not sleep for longer.
    """
    monkeypatch.setattr(leases, "_IDLE", 0.01)
    table = ThreadLeases(Recording())
    bell = Bell(3)
    table._bell = bell  # type: ignore[assignment]  # noqa: SLF001
    table.grant(b"x", 1).close()
    assert bell.is_over.wait(10)
    assert max(bell.slept) <= RENEW_EVERY


def test_kept_exceptions_are_dropped_after_interruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps the first exception is interrupted before its thread starts that drops exceptions.

    The next failure starts one, and in the end none is kept.
    """
    monkeypatch.setattr(failures, "LONGEST_KEPT", 0.01)
    monkeypatch.setattr(failures, "LONGEST_HOLD_OFF", 0.01)
    made = [Failures()]
    guard = Guard("load")

    def fail() -> None:
        made[-1].failed([b"k"], ValueError(), guard, Handled(), ran=False)

    def check() -> None:
        fail()
        until(lambda: not made[-1]._kept)  # noqa: SLF001
        made.append(Failures())

    assert at_every_step("failures.py", call=fail, check=check) > 5


def test_a_name_is_looked_up_after_interruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up is registered and its caller interrupted before its thread starts: nobody waits for that one.

    Threads of gevent are started by Python code, so an exception can come there as well.
    """
    hosts = (f"host{number}" for number in itertools.count())
    host = [next(hosts)]

    def start_slowly(run: Callable[[], None], args: tuple[()]) -> int:
        return _thread.start_new_thread(run, args)

    def found(*_: Any, flags: int = 0, **__: Any) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror
        return ["place"]

    monkeypatch.setattr(socket, "getaddrinfo", found)

    def ask() -> list[Any]:
        return lookup.addresses(host[0], 1, time.monotonic() + 5)

    def check() -> None:
        assert ask() == ["place"]
        host[0] = next(hosts)

    monkeypatch.setattr(lookup, "_thread", SimpleNamespace(start_new_thread=start_slowly))
    assert at_every_step("lookup.py", "test_interrupted.py", call=ask, check=check) > 5
