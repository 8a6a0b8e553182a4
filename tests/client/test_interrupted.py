"""Exceptions from outside, at every step at which one can come: none may leave anything taken for ever.

A signal handler that raises, a green thread's time-out or a thread's asynchronous exception ends code where the
interpreter looks for it: when a function begins, after a call, and at the end of a loop's turn. Each test ends the same
code at the first such step, at the second and so on until it gets to its end. The exceptions are kept with their
tracebacks, as a log keeps them.
"""

from __future__ import annotations

import _thread
import asyncio
import functools
import itertools
import opcode
import socket
import sys
import threading
import time
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from globalcache.client import failures, leases, lookup
from globalcache.client import refresher as refreshing
from globalcache.client.claims import Claim, Claims
from globalcache.client.failures import Failures
from globalcache.client.flights import Flight, Flights, is_in_load
from globalcache.client.guard import Guard
from globalcache.client.holder import Holder
from globalcache.client.leases import RENEW_EVERY, NoLease, ThreadLeases
from globalcache.client.raised import Handled
from globalcache.client.refresher import Refresher
from globalcache.client.single_flight import SingleFlight
from globalcache.errors import DeadlineError
from globalcache.keys import KeyTemplate
from tests.client.faces import Face
from tests.client.loads import GUARD, load_once
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import CodeType, FrameType

    from globalcache import AsyncCache, Cache

# After these the interpreter looks for signals.
_LOOKS = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}
# Steps of code that is traced: beyond them it would never end.
_MOST = 2000


class Outside(BaseException):
    """What comes from outside."""


class Steps:
    """Raises Outside at one step of the modules that are named."""

    def __init__(self, step: int, names: tuple[str, ...]) -> None:
        self.left = step
        self.names = names

    def __call__(self, frame: FrameType, _: str, __: Any) -> Any:
        """Trace a function that begins."""
        if self.left == 0 or not any(name in frame.f_code.co_filename for name in self.names):
            return None
        frame.f_trace_opcodes = True
        # Its first step is no event of its own.
        before = "RESUME"

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            if event == "opcode":
                if before in _LOOKS and self.left:
                    self.left -= 1
                    if self.left == 0:
                        raise Outside
                before = _name(frame.f_code, frame.f_lasti)
            elif event == "exception":
                # After a call that raises it does not look.
                before = ""
            return trace

        return trace


def _name(code: CodeType, place: int) -> str:
    return opcode.opname[code.co_code[place]]


def interrupted(step: int, *names: str, call: Callable[[], Any]) -> BaseException | None:
    """Call something, and end it at that step of the modules; None if it has fewer."""
    tracing = sys.gettrace()
    steps = Steps(step, names)
    sys.settrace(steps)
    try:
        call()
    except BaseException as error:
        # A loop logs what a callback raises, and who waits for that gets a time-out.
        if steps.left == 0:
            return error
        raise
    finally:
        sys.settrace(tracing)
    return None if steps.left else Outside()


def at_every_step(*names: str, call: Callable[[], Any], check: Callable[[], None], times: int = 1) -> int:
    """End a call at each step in turn, so many times, and check after each; returns the number of steps."""
    kept: list[BaseException] = []
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
    single_flight = SingleFlight(Flights(1))

    def check() -> None:
        assert load_once(single_flight, b"k", lambda: 7, 0) == 7
        assert len(single_flight._flights) == 0  # noqa: SLF001

    assert (
        at_every_step(
            "single_flight.py", "flights.py", call=lambda: load_once(single_flight, b"k", lambda: 1), check=check
        )
        > 20
    )


def test_waiters_that_are_interrupted_block_nobody() -> None:
    """One thread loads; others come to wait for it and are interrupted at every step. The last one gets the value."""
    single_flight, begun, go = SingleFlight(Flights(1)), threading.Event(), threading.Event()
    got: list[int] = []

    def load() -> int:
        begun.set()
        assert go.wait(20)
        return 7

    def wait() -> None:
        with pytest.raises(DeadlineError):
            load_once(single_flight, b"k", load, 0)

    threads = [threading.Thread(target=lambda: got.append(load_once(single_flight, b"k", load))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(10)
    assert at_every_step("single_flight.py", "flights.py", "load_slots.py", call=wait, check=lambda: None) > 5
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(20)
    assert got == [7, 7]


def test_a_load_whose_leader_is_lost_is_led_by_a_waiter() -> None:
    """The leader ends without a word while another thread waits for its load: that one loads for itself."""
    single_flight = SingleFlight(Flights(2))
    leader = Holder()
    flight = Flight([b"k"], GUARD, leader, weakref.ref(leader))
    assert single_flight._flights.claim(flight) == {}  # noqa: SLF001
    flight.wait(time.monotonic())
    assert not flight.is_over
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.append(load_once(single_flight, b"k", lambda: 7)))
    waiter.start()
    del leader
    waiter.join(10)
    assert got == [7]


def test_refreshes_find_a_thread_after_interruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a thread for refreshes is interrupted at the same step as often as there may be threads.

    A thread that was counted and never started would be one less for ever, and with the last the refreshes would stop.
    """
    monkeypatch.setattr(refreshing, "_IDLE", 0.01)
    made = [Refresher()]
    lease: Any = NoLease(None, b"k")

    def check() -> None:
        ran = threading.Event()
        assert made[-1].refresh([lease], lambda _: ran.set())
        assert ran.wait(10)
        made.append(Refresher())

    steps = at_every_step(
        "refresher.py",
        call=lambda: made[-1].refresh([lease], lambda _: None),
        check=check,
        times=refreshing._REFRESHERS,  # noqa: SLF001
    )
    assert steps > 5


def test_claims_can_be_looked_at_after_interruptions() -> None:
    """Whoever decorates a function is interrupted while its keys are noted: the next decoration finds them or not."""
    made = [Claims()]

    def add() -> None:
        made[-1].add(Claim("", KeyTemplate("a:{number}", value_of), value_of, is_shared=True))

    def check() -> None:
        made[-1].near("")
        add()
        assert [claim.template for claim in made[-1].near("")] == ["a:{number}"]
        made.append(Claims())

    assert at_every_step("client/claims.py", call=add, check=check) > 5


def value_of(number: int) -> int:
    return number


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


def _plain(cache: Cache) -> tuple[Any, Any]:
    @cache.cached("inner:{number}", ttl=60)
    def inner(number: int) -> int:
        return number

    @cache.cached("outer:{number}", ttl=60, tags="t:{number}")
    def outer(number: int) -> int:
        return inner(number) + 1

    @cache.batch_loader("batch:{number}", ttl=60)
    def batch(numbers: list[int]) -> dict[int, int]:
        return {number: inner(number) for number in numbers}

    return outer, batch


def _async(cache: AsyncCache) -> tuple[Any, Any]:
    @cache.cached("inner:{number}", ttl=60)
    async def inner(number: int) -> int:
        return number

    @cache.cached("outer:{number}", ttl=60, tags="t:{number}")
    async def outer(number: int) -> int:
        return await inner(number) + 1

    @cache.batch_loader("batch:{number}", ttl=60)
    async def batch(numbers: list[int]) -> dict[int, int]:
        return {number: await inner(number) for number in numbers}

    return outer, batch


async def _room() -> str:
    return "room"


class Service:
    """Functions of a service and their cache, which has room for one load at a time without a server."""

    def __init__(self, kind: str, url: str) -> None:
        self.now = 1000.0
        clock: dict[str, Any] = {"clock": lambda: self.now} if url == "memory://" else {}
        self.face = Face(kind, url, timeout=0.3, wait=2, local_loads=1, **clock)
        self.fails = False
        self.outer, self.batch = _plain(self.face.cache) if kind == "threads" else _async(self.face.cache)
        self.room: Any = _room if kind == "tasks" else lambda: "room"

    def read(self) -> int:
        if self.fails:
            raise OSError
        return 7

    def nested(self, number: int) -> None:
        """Call a function whose load calls another one."""
        assert self.face.run(lambda: self.outer(number)) == number + 1

    def many(self, number: int) -> None:
        """Load a batch whose load calls a function."""
        assert self.face.run(lambda: self.batch([number])) == {number: number}

    def stale(self, number: int) -> None:
        """Fail a load for which a value stands in."""
        options = {"ttl": 60, "stale_if_error": 1000}
        assert self.face("get_or_load", f"stale:{number}", self.read, **options) == 7

    def written(self, number: int) -> None:
        """Write, forget and count."""
        self.face("set", f"written:{number}", number, ttl=60)
        self.face("invalidate", f"other:{number}", tags="t")
        assert self.face("get", f"written:{number}", default=number) == number

    def prepare(self, name: str, number: int) -> None:
        """Have a value that is out of date."""
        if name == "stale":
            self.fails = False
            self.stale(number)
            self.fails, self.now = True, self.now + 61

    def pass_on(self) -> None:
        """Let as much time pass as a process has to renew what a lost connection held; a lease lasts longer."""
        if self.face.runner is None:
            self.face.server.leases.tend()
        self.now += 1

    def check(self) -> None:
        """Nothing runs, is waited for, or has the one room there is."""
        single_flight = self.face.cache._state.single_flight  # noqa: SLF001
        assert not self.face.run(is_in_load)
        assert self.face.run(lambda: single_flight.limited(self.room, 0)) == "room"


# All of the client; of tasks their own code, for a loop does not outlive what ends its callbacks or itself.
_INTERRUPTED = {
    "threads": ("globalcache/client/",),
    "tasks": tuple(
        f"client/{name}"
        for name in (
            "_async/",
            "single_flight",
            "refresher",
            "runner",
            "flights",
            "load_slots",
        )
    ),
}
SCENARIOS = [(name, url) for name in ("nested", "many", "written") for url in ("memory://", "")] + [
    ("stale", "memory://")
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize(("name", "url"), SCENARIOS, ids=lambda text: text or "without a server")
def test_a_call_that_is_interrupted_can_be_made_again(kind: str, name: str, url: str, tmp_path: Path) -> None:
    """A call ends at every step in turn: within its load, before it, or when the load has ended and is not noted yet.

    The same call, made again by the same thread, gives what it always gives. A load that still counted as running would
    be refused, as one that asks for itself, and a load within it would need no room.
    """
    service = Service(kind, url or f"unix://{tmp_path}/none")
    call, kept = getattr(service, name), []
    for number in range(1, _MOST):
        service.prepare(name, number)
        error = interrupted(number, *_INTERRUPTED[kind], call=functools.partial(call, number))
        if error is None:
            break
        kept.append(error)
        service.pass_on()
        call(number)
        service.check()
    assert 20 < number < _MOST - 1
    service.face.close()


@pytest.mark.parametrize("name", ["nested", "many", "written"])
@pytest.mark.parametrize("url", ["memory://", ""], ids=["memory", "without a server"])
def test_a_call_that_is_cancelled_can_be_made_again(name: str, url: str, tmp_path: Path) -> None:
    """A task is cancelled after each number of turns of its loop: while it connects, waits or loads, or at its end."""
    service = Service("tasks", url or f"unix://{tmp_path}/none")
    calls: dict[str, Callable[[int], Any]] = {
        "nested": service.outer,
        "many": lambda number: service.batch([number]),
        "written": lambda number: service.face.cache.set(f"written:{number}", number),
    }

    async def cancel(number: int) -> Any:
        task = asyncio.ensure_future(calls[name](number))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    number = 1
    while service.face.run(functools.partial(cancel, number)):
        service.pass_on()
        getattr(service, name)(number)
        service.check()
        number += 1
    assert number > 1
    service.face.close()
