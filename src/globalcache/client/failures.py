"""What a process remembers of loads that failed: whose exception a caller gets, and how often a function is tried.

In the process that ran the function, every caller that waited for that load gets its own exception object, and so do
those that come while the server holds the key off. A process that did not run it runs it once before it believes the
failure of another one:

    A: lease of K, its function raises NoDatabase     -> own(K); FAIL K "shop.NoDatabase"; held off for 100 ms
    A: another call of K, answered LOADFAILED         -> the same NoDatabase object
    B: a call of K, answered LOADFAILED               -> runs its own function, at most once in 100 ms; not stored
    B: more calls of K within these 100 ms            -> what that try raised, or LoadError if it gave a value

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
from typing import TYPE_CHECKING, Any, NoReturn

from globalcache.client.breaker import Breaker
from globalcache.client.guard import Guard, cause_of, qualified, text_of
from globalcache.client.holder import Holder, nobody
from globalcache.client.home import when_forked
from globalcache.client.raised import Handled, Raised
from globalcache.errors import LoadError, ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType

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
        self.breaker = Breaker()
        self.tries: deque[float] = deque(maxlen=_MOST_TRIES)


class Failures:
    """The failed loads of one cache in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, tell_text: bool = False) -> None:
        self._clock = clock
        self._tell_text = tell_text
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._tried: OrderedDict[bytes, float] = OrderedDict()
        self._functions: weakref.WeakKeyDictionary[Guard, _Function] = weakref.WeakKeyDictionary()
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
                guard = self._guards[place] = Guard(f"{getattr(inner, '__module__', '?')}.{name}", (), pass_through)
                if len(self._guards) > _MOST_FUNCTIONS:
                    self._guards.popitem(last=False)
            return guard

    def _of(self, guard: Guard) -> _Function:
        found = self._functions.get(guard)
        if found is None:
            found = self._functions[guard] = _Function()
        return found

    # Before a load

    def check(self, key: str, guard: Guard) -> None:
        """Raise SkippedError if the function fails for one key after another and was tried within a second."""
        if not self._functions:
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

    def try_alone(self, name: bytes, key: str, guard: Guard, other: LoadError | None) -> None:
        """Return if the function may run without a lease; raise what its caller gets if it may not.

        `other` is the failure of another process, None without a server: then what failed here is tried again after
        100 ms, and what succeeds may run at any time.
        """
        with self._lock:
            now = self._clock()
            kept = self._kept.get(name)
            if other is None:
                allowed = kept is None or now - kept.at >= BETWEEN_TRIES
            else:
                allowed = self._may_try(name, guard, now)
            del kept
        if not allowed:
            self._raise_kept(name, other)
        self.check(key, guard)

    def _may_try(self, name: bytes, guard: Guard, now: float) -> bool:
        tries = self._of(guard).tries
        is_full = len(tries) == _MOST_TRIES and now - tries[0] < 1
        if is_full or now - self._tried.get(name, -BETWEEN_TRIES) < BETWEEN_TRIES:
            return False
        tries.append(now)
        self._tried[name] = now
        self._tried.move_to_end(name)
        if len(self._tried) > MOST_KEPT:
            self._tried.popitem(last=False)
        return True

    # After a load

    def succeeded(self, guard: Guard) -> None:
        """Note that the function has returned."""
        if self._functions:
            with self._lock:
                self._of(guard).breaker.succeeded()

    def failed(
        self, names: Sequence[bytes], error: Exception, guard: Guard, handled: Handled, *, ran: bool
    ) -> tuple[Any, ...]:
        """Keep an exception for the callers of this process; returns the words of CACHE.FAIL after its token.

        `names` are the keys of the load, which is one failure however many they are; `handled` is what its caller
        handled when it began. `ran`: the function has returned, and its value cannot be stored, which is no failure of
        its database.
        """
        if isinstance(error, SkippedError):
            return error.cause_class or "", b"RETRY", error.retry_ms
        if isinstance(error, guard.pass_through):
            # Its text is nobody else's business, whatever the cache was told of texts.
            return qualified(type(error)) + _PRIVATE, b"RETRY", 0
        handled.cut_from(error)
        self._keep(names, error)
        if ran:
            self.succeeded(guard)
        else:
            self._count(names[0], error, guard)
        return (self.message(error),)

    def message(self, error: BaseException) -> str:
        """Return what is sent to the server: the qualified name of the class, and the text only with tell_text=True."""
        name = qualified(type(error))
        # One line, as a reply is.
        return " ".join(f"{name}: {text_of(error)}".split())[:_LONGEST_TEXT] if self._tell_text else name

    def _keep(self, names: Sequence[bytes], error: Exception) -> None:
        me = Holder()
        try:
            with self._lock:
                now = self._clock()
                kept = _Kept(error, now)
                for name in names:
                    self._kept[name] = kept
                    self._kept.move_to_end(name)
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
            if len(self._kept) <= MOST_KEPT and now - self._kept[oldest].at < LONGEST_KEPT:
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
            kept = self._kept.get(name)
            own = kept is not None and kept.name == error.cause_class and now - kept.at < LONGEST_KEPT
            del kept
        if own:
            self._raise_kept(name, error)
        return error

    def _raise_kept(self, name: bytes, other: LoadError | None) -> NoReturn:
        kept = self._kept.get(name)
        now = self._clock()
        try:
            if kept is not None and now - kept.at < LONGEST_KEPT:
                kept.raised.again()
            if other is not None:
                # A new one each time: `other` lives in frames that its traceback would hold.
                raise LoadError(str(other), key=other.key, cause_class=other.cause_class)
            raise LoadError(f"{name.decode(errors='replace')}: its load failed a moment ago")
        finally:
            # The traceback holds this frame, which must not hold the exception.
            del kept, other


def is_lost(error: LoadError) -> bool:
    """Return whether nobody knows why the load failed, so that running it may kill this process as well."""
    return str(error).endswith(_LOST)


def is_private(reply: Any) -> bool:
    """Return whether a reply says that a load failed with what concerns its caller alone, so that others may load."""
    return isinstance(reply, ReplyError) and str(reply).endswith(_PRIVATE)
