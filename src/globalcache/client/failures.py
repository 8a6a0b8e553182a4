"""What a process remembers of loads that failed: whose exception a caller gets, and how often a function is tried.

In the process that ran the function, every caller that waited for that load gets its own exception object, and so do
those that come while the server holds the key off. A process that did not run it runs it once before it believes the
failure of another one:

    A: lease of K, its function raises NoDatabase     -> own(K); FAIL K "shop.NoDatabase"; held off for 100 ms
    A: another call of K, answered LOADFAILED         -> the same NoDatabase object
    B: a call of K, answered LOADFAILED               -> runs its own function, at most once in 100 ms; not stored
    B: more calls of K within these 100 ms            -> what that try raised, or LoadError if it gave a value

Without a server nothing holds a key off but the function that failed: another one that has the key runs.

The server gets the qualified name of the class; the text of an exception may hold what clients must not see, and
stays in the log here. For all threads and loops of the process; time comes from `clock`.

An exception of `pass_through` is given to nobody but the caller whose load raised it. The server is told that the load
failed in a way that is private to its caller and holds nobody off; all who wait, in any process, then run their own
function at once, so that nobody waits for more than one such failure:

    A: lease of K, its function raises Forbidden      -> A raises it; FAIL K "shop.Forbidden: ..." RETRY 0
    B: waits for K, answered LOADFAILED K, private    -> asks again, is granted the lease and runs its own function
    C: as B, but B has the lease                      -> runs its own function without one, within `local_loads`
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import threading
import time
import weakref
from collections import OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING, Any

from globalcache.client.circuit_breaker import CircuitBreaker
from globalcache.client.fork import when_forked
from globalcache.client.guard import Guard, cause_of, qualified, text_of
from globalcache.client.holder import Holder, nobody
from globalcache.client.raised import Handled, Raised
from globalcache.errors import LoadError, ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import CodeType

    from globalcache.client.wire import Words

_log = logging.getLogger("globalcache")

# Exceptions that are kept, and functions without a decorator whose failures are counted.
MOST_KEPT = 1_000
_MOST_FUNCTIONS = 1_000
# Seconds: between two tries of a key that another process failed to load, and the longest hold-off of a server.
BETWEEN_TRIES, LONGEST_HOLD_OFF = 0.1, 1.0
# Seconds for which exceptions are kept. A server holds a key off from the moment when it hears of the failure, which is
# later than here, on a busy machine much later.
LONGEST_KEPT = 2 * LONGEST_HOLD_OFF
# Tries a second of one function for keys that other processes failed to load.
_MOST_TRIES = 20
# Characters of an exception's text that other processes may read.
_LONGEST_TEXT = 300
# What servers themselves say of a load that has no outcome. Its holder may have died of it, so it is not tried again.
_LOST = (
    "no one who loaded it answered in time",
    "the worker that loaded it ended, twice",
    "the client that loaded it ended, twice",
    "it was not loaded in time",
    "the value could not be kept",
)
# What ends the cause of a failure that is private to the caller whose load it was.
_PRIVATE = ": raised for its caller alone"


class SkippedError(LoadError):
    """The load did not run, because its function fails for one key after another."""

    retry_ms = 0


class _Kept:
    """An exception of this process, as it was when the load failed."""

    __slots__ = ("at", "name", "raised")

    def __init__(self, error: Exception, at: float) -> None:
        self.raised = Raised(error)
        self.name = qualified(type(error))
        self.at = at


class _Function:
    """How one function has fared in this process."""

    __slots__ = ("breaker", "tries")

    def __init__(self) -> None:
        self.breaker = CircuitBreaker()
        self.tries: deque[float] = deque(maxlen=_MOST_TRIES)


class Failures:
    """The failed loads of one cache in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, tell_text: bool = False) -> None:
        self._clock = clock
        self.tell_text = tell_text
        self._lock = threading.Lock()
        # By key, then by function, the latest last.
        self._kept: OrderedDict[bytes, dict[Guard, _Kept]] = OrderedDict()
        self._tried: OrderedDict[bytes, float] = OrderedDict()
        self._functions: weakref.WeakKeyDictionary[Guard, _Function] = weakref.WeakKeyDictionary()
        # Whether any function ever failed: most never do, and each load asks.
        self.has_any = False
        self._guards: OrderedDict[tuple[CodeType | type, tuple[type[BaseException], ...]], Guard] = OrderedDict()
        # A weak reference to an argument of the thread that will drop what is too old.
        self._sweeper: Callable[[], Holder | None] = nobody
        when_forked(self)

    def after_fork(self) -> None:
        """Have a lock of one's own, since another thread of the parent may have held it, and no thread yet."""
        self._lock = threading.Lock()
        self._sweeper = nobody

    def guard_of(self, load: Callable[[], Any], pass_through: tuple[type[BaseException], ...] = ()) -> Guard:
        """Return the guard of a load that has no decorator: one for all calls from the same place in the code.

        `pass_through` is the same for all of these calls; `(Exception,)` gives each caller what its own load raises.
        """
        inner: Any = load
        while isinstance(inner, partial):
            inner = inner.func
        code = getattr(inner, "__code__", None) or getattr(getattr(inner, "__func__", None), "__code__", None)
        place = code or type(inner), pass_through
        with self._lock:
            guard = self._guards.get(place)
            if guard is None:
                name = getattr(inner, "__qualname__", type(inner).__qualname__)
                name = f"{getattr(inner, '__module__', '?')}.{name}"
                guard = self._guards[place] = Guard(name, (), pass_through, is_direct=True)
                if len(self._guards) > _MOST_FUNCTIONS:
                    self._guards.popitem(last=False)
            return guard

    def _of(self, guard: Guard) -> _Function:
        found = self._functions.get(guard)
        if found is None:
            found = self._functions[guard] = _Function()
            self.has_any = True
        return found

    # Before a load

    def check(self, key: str, guard: Guard) -> None:
        """Raise SkippedError if the function fails for one key after another and was tried within a second."""
        if not self.has_any:
            return
        with self._lock:
            breaker, now = self._of(guard).breaker, self._clock()
            if breaker.allows(now):
                return
            cause, pause = breaker.cause, breaker.next_try_in(now)
        error = SkippedError(f"{key}: {cause}: {guard.name} is tried once a second", key=key, cause_class=cause)
        error.retry_ms = max(1, round(pause * 1000))
        try:
            raise error
        finally:
            del error

    def refused(self, names: Iterable[bytes], guard: Guard, others: Mapping[bytes, LoadError]) -> dict[bytes, Raised]:
        """Return the keys for which the function may not run without a lease now, with what their callers get.

        `others` has failures of other processes: the function may run for all of these keys together, which is one try
        of it. A key that is not there has no server: then what failed here is tried again after 100 ms, and what
        succeeds may run at any time. Each key stands alone.
        """
        if not self._kept and not others:
            return {}
        with self._lock:
            now = self._clock()
            tried = self._tried_of([name for name in names if name in others], guard, now)
            return {
                name: self._refusal(name, guard, others.get(name), now)
                for name in names
                if name not in tried and (name in others or self._failed_just_now(name, guard, now))
            }

    def _failed_just_now(self, name: bytes, guard: Guard, now: float) -> bool:
        kept = self._kept.get(name, {}).get(guard)
        return kept is not None and now - kept.at < BETWEEN_TRIES

    def _tried_of(self, names: Sequence[bytes], guard: Guard, now: float) -> set[bytes]:
        """Return those keys whose failure elsewhere lets the function run, and note that it does."""
        tried = {name for name in names if now - self._tried.get(name, -BETWEEN_TRIES) >= BETWEEN_TRIES}
        if not tried:
            return tried
        tries = self._of(guard).tries
        if len(tries) == _MOST_TRIES and now - tries[0] < 1:
            return set()
        tries.append(now)
        for name in tried:
            self._tried[name] = now
            self._tried.move_to_end(name)
        while len(self._tried) > MOST_KEPT:
            self._tried.popitem(last=False)
        return tried

    def _refusal(self, name: bytes, guard: Guard, other: LoadError | None, now: float) -> Raised:
        kept = self._kept.get(name, {}).get(guard)
        if kept is not None and now - kept.at < LONGEST_KEPT:
            return kept.raised
        if other is not None:
            # A new one each time: `other` lives in frames that its traceback would hold.
            return Raised(LoadError(str(other), key=other.key, cause_class=other.cause_class))
        return Raised(LoadError(f"{name.decode(errors='replace')}: its load failed a moment ago"))

    # After a load

    def succeeded(self, guard: Guard) -> None:
        """Note that the function has returned."""
        if self.has_any:
            with self._lock:
                self._of(guard).breaker.succeeded()

    def failed(self, names: Sequence[bytes], error: Exception, guard: Guard, handled: Handled, *, ran: bool) -> Words:
        """Keep an exception for the callers of this process; returns the words of CACHE.FAIL after its token.

        `names` are the keys of the load, which is one failure however many they are; `handled` is what its caller
        handled when it began. `ran`: the function has returned, and its value cannot be stored, which is no failure of
        its database.
        """
        if isinstance(error, SkippedError):
            return (error.cause_class or "").encode(), b"RETRY", b"%d" % error.retry_ms
        if isinstance(error, guard.pass_through):
            # Its text is nobody else's business, whatever the cache was told of texts.
            return (qualified(type(error)) + _PRIVATE).encode(), b"RETRY", b"0"
        handled.cut_from(error)
        self._keep(names, error, guard)
        if ran:
            self.succeeded(guard)
        else:
            self._count(names[0], error, guard)
        return (self.message(error).encode(),)

    def message(self, error: BaseException) -> str:
        """Return what is sent to the server: the qualified name of the class, and the text only with tell_text=True."""
        name = qualified(type(error))
        # One line, as a reply is.
        return " ".join(f"{name}: {text_of(error)}".split())[:_LONGEST_TEXT] if self.tell_text else name

    def _keep(self, names: Sequence[bytes], error: Exception, guard: Guard) -> None:
        me = Holder()
        try:
            with self._lock:
                now = self._clock()
                kept = _Kept(error, now)
                for name in names:
                    others = self._kept.pop(name, {}).items()
                    recent = {of: one for of, one in others if of is not guard and now - one.at < LONGEST_KEPT}
                    self._kept[name] = {**recent, guard: kept}
                self._drop_old(now)
                if self._clock is not time.monotonic or self._sweeper() is not None:
                    return
                self._sweeper = weakref.ref(me)
            # Not by Thread.start, whose caller would wait for ever if a signal handler raised in it. If no thread can
            # be started now, the next failure tries again, and meanwhile few are kept.
            with contextlib.suppress(RuntimeError):
                _thread.start_new_thread(self._sweep, (me,))
        finally:
            del me

    def _drop_old(self, now: float) -> None:
        while self._kept:
            oldest = next(iter(self._kept))
            if len(self._kept) <= MOST_KEPT and now - _latest(self._kept[oldest]).at < LONGEST_KEPT:
                return
            del self._kept[oldest]

    def _sweep(self, _me: Holder) -> None:
        """Let go of exceptions that no caller may get any more: their tracebacks keep the frames of callers alive."""
        time.sleep(LONGEST_KEPT)
        while True:
            with self._lock:
                self._drop_old(self._clock())
                if not self._kept:
                    self._sweeper = nobody
                    return
            time.sleep(LONGEST_HOLD_OFF / 4)

    def _count(self, name: bytes, error: Exception, guard: Guard) -> None:
        with self._lock:
            breaker = self._of(guard).breaker
            is_first = not breaker.is_failing
            opened = breaker.failed(name, qualified(type(error)), self._clock())
        key = name.decode(errors="replace")
        level = logging.WARNING if is_first else logging.DEBUG
        _log.log(level, "globalcache: %s failed to load %s: %s", guard.name, key, cause_of(error))
        if opened:
            _log.warning("globalcache: %s fails for one key after another: it is tried once a second", guard.name)

    # For those who waited

    def elsewhere(self, name: bytes, error: LoadError) -> LoadError:
        """Return the failure that a server answered; raise this process's own exception if that was the cause."""
        with self._lock:
            now = self._clock()
            by_function = self._kept.get(name)
            kept = _latest(by_function) if by_function else None
            own = kept is not None and kept.name == error.cause_class and now - kept.at < LONGEST_KEPT
        try:
            if kept is not None and own:
                kept.raised.again()
        finally:
            # The traceback holds this frame, which must not hold the exception.
            del kept, by_function
        return error


def _latest(by_function: dict[Guard, _Kept]) -> _Kept:
    return next(reversed(by_function.values()))


def is_lost(error: LoadError) -> bool:
    """Return whether nobody knows why the load failed, so that running it may kill this process as well."""
    return str(error).endswith(_LOST)


def is_private(reply: Any) -> bool:
    """Return whether a reply says that a load failed with what concerns its caller alone, so that others may load."""
    return isinstance(reply, ReplyError) and str(reply).endswith(_PRIVATE)
