"""One server as a process sees it: what all its connections to that server share.

Its address, how to greet it, invalidations that it has not acknowledged, and whether it is away. Knows no sockets.
"""

from __future__ import annotations

import logging
import os
import random
import time
import weakref
from typing import TYPE_CHECKING, Any

import hiredis

from globalcache.client.backoff import Backoff
from globalcache.client.greeting import LIB_NAME, client_name, hello, least_absence, longest_value, select
from globalcache.client.pending_invalidations import PendingInvalidations
from globalcache.client.tls import tls_context
from globalcache.client.wire import translate
from globalcache.errors import AuthError, CacheError, ConfigError, DeadlineError, ReplyError, UnavailableError

if TYPE_CHECKING:
    import ssl

    from globalcache.client.address import Address
    from globalcache.client.local import LocalServer
    from globalcache.client.pending_invalidations import Snapshot
    from globalcache.client.stats import Events, Stats

_log = logging.getLogger("globalcache")
# Errors by which a server says that it cannot serve anybody now.
_NOT_NOW = ("LOADING", "BUSY", "ERR max number of clients")
# The first byte of a TLS record with an alert, which a TLS port answers plain text with.
_TLS_ALERT = r"\x15"


class NotSentError(UnavailableError):
    """No byte of the request left this process, so that it may be sent again."""


class OutdatedError(UnavailableError):
    """The connection was begun before a write was lost; a new one may be used."""


class Endpoint:
    """One server as this process sees it, for all threads and loops."""

    def __init__(  # noqa: PLR0913 - an option each
        self,
        address: Address,
        *,
        timeout: float,
        stats: Stats,
        events: Events,
        tls: ssl.SSLContext | str | None = None,
        local: LocalServer | None = None,
        list_hash: bytes | None = None,
    ) -> None:
        self.address = address
        # The engine behind memory://.
        self.local = local
        self.timeout = timeout
        self.stats = stats
        self.pending = PendingInvalidations()
        self.backoff = Backoff()
        self.session = os.urandom(8).hex().encode()
        # Bytes of the longest value that the server takes; None while that is not known.
        self.max_value: int | None = None
        # Milliseconds for which an absence is kept at least: a server that does not tell its version refuses 0.
        self.least_absence = 0
        self._last_error: CacheError = UnavailableError("away")
        self._events = events
        # Made now: a file that does not fit is a mistake to be shown, not an outage to go on in.
        self.tls = tls_context(address, tls)
        weakref.finalize(self, _warn_of, self.pending, str(address))
        self._list_hash = list_hash

    def greeting(self, generation: int) -> list[tuple[bytes, ...]]:
        """Return the commands that open a connection."""
        session: tuple[bytes, ...] = (b"CACHE.SESSION", self.session, b"%d" % generation, b"TICKETS")
        if self._list_hash is not None:
            session += (b"SERVERS", self._list_hash)
        return [hello(self.address, client_name()), session, *select(self.address), LIB_NAME]

    def check_greeting(self, replies: list[Any]) -> bool:
        """Note what a server answered to a greeting; raises what it refused.

        False if it did not tell its longest value: `check_longest` gets the reply to ASK_LONGEST then.
        """
        # The last one says what this client is, which a user need not be allowed to do.
        for reply in replies[:-1]:
            if isinstance(reply, ReplyError):
                raise self._refusal(str(reply), reply)
            if isinstance(reply, Exception):
                raise reply
        facts = replies[1] if isinstance(replies[1], dict) else {}
        self.least_absence = least_absence(facts)
        # Unless told, it stays as it was until the answer: other connections go by it.
        self.max_value = facts.get(b"max_value", self.max_value)
        return b"max_value" in facts

    def check_longest(self, reply: Any) -> None:
        """Note the reply to ASK_LONGEST."""
        if isinstance(reply, Exception) and not isinstance(reply, ReplyError):
            raise reply
        self.max_value = longest_value(reply)

    def _refusal(self, text: str, reply: ReplyError) -> CacheError:
        if text.startswith("FENCED"):
            # Another thread came back first, while this connection was on its way: the next one is as new.
            return OutdatedError(f"{self.address}: {text}")
        if "unknown command" in text.lower():
            return ConfigError(f"{self.address}: no globalcache server: {text}")
        if text.startswith("SERVERS"):
            return ConfigError(f"{self.address}: {text}")
        if text.startswith(_NOT_NOW):
            return UnavailableError(f"{self.address}: {text}")
        return translate(reply)

    def to_replay(self, generation: int) -> Snapshot:
        """Return what a connection of a generation has to send before anything is read over it.

        Raises OutdatedError if a write was lost since the connection was begun: it fences nobody, so what was lost may
        still arrive after it.
        """
        snapshot = self.pending.snapshot()
        if snapshot.generation != generation:
            raise OutdatedError(f"{self.address}: a write was lost since this connection was begun")
        return snapshot

    def replayed(self, snapshot: Snapshot, replies: list[Any]) -> None:
        """Forget what the server has acknowledged; raises if it has not.

        A user who may not invalidate leaves it unknown what the server still has: its values are misses until he may.
        """
        for reply in replies:
            if isinstance(reply, Exception):
                error = translate(reply)
                if isinstance(error, AuthError):
                    raise UnavailableError(
                        f"{self.address}: {error}; lost writes cannot be made good, so nothing is read there"
                    )
                raise error
        self.pending.acknowledge(snapshot)

    def may_connect(self) -> None:
        """Raise what the last attempt failed by while it is too soon to try again."""
        if not self.backoff.may_try(time.monotonic()):
            raise type(self._last_error)(str(self._last_error))

    def connected(self) -> None:
        """Note a connection that works."""
        self.stats.connects += 1
        away = self.backoff.succeeded(time.monotonic())
        if away is not None:
            self.stats.away_seconds += away
            _log.warning("globalcache: %s is back after %.1f s", self.address, away)
            self._events("back", server=str(self.address), away_seconds=away)

    def failed(self, error: BaseException) -> None:
        """Note an attempt to connect that failed, a refused login among them; the first one is logged.

        Raises what the error is called here. Returns if it is none of a connection, and notes nothing then.
        """
        known = broken(self, error)
        if known is None:
            return
        # Another one of its class, and text for the log: a traceback holds the frames of the caller.
        text = str(known)
        self._last_error = type(known)(text)
        slow = isinstance(known, DeadlineError)
        if self.backoff.failed(time.monotonic(), random.random(), slow=slow):  # noqa: S311 - spreads attempts
            _log.warning("globalcache: going on without the cache: %s", text)
            self._events("away", server=str(self.address), error=text)
        raise known from error

    def undelivered(self, keys: tuple[bytes, ...], tags: tuple[bytes, ...], *, sent: bool) -> None:
        """Remember a write that the server may not have seen."""
        self.stats.undelivered += 1
        self.pending.add(keys, tags, sent=sent)

    def after_fork(self) -> None:
        """Be another client than the parent is; pending invalidations stay pending in both."""
        self.session = os.urandom(8).hex().encode()
        self.pending.after_fork()
        if self.local is not None:
            # Before its connections are closed one by one: those that wait would take the leases of the others.
            self.local.after_fork()

    def __repr__(self) -> str:
        return f"Endpoint({self.address}, {'away' if self.backoff.failures else 'up'}, {self.pending!r})"


def broken(endpoint: Endpoint, error: BaseException) -> CacheError | None:
    """Return what an error of a connection is called here; None for what is none, such as a signal handler's own."""
    if isinstance(error, CacheError):
        # Callers know the errors of globalcache.errors alone.
        return UnavailableError(str(error)) if isinstance(error, NotSentError | OutdatedError) else error
    if isinstance(error, hiredis.HiredisError):
        hint = "; it answered with TLS: write globalcaches://" if _TLS_ALERT in str(error) else ""
        return UnavailableError(f"{endpoint.address}: what answers is no cache server{hint}: {error}")
    # A class of its own is nothing that a socket raises.
    if type(error).__module__ not in {"builtins", "socket", "_socket", "ssl", "_ssl"}:
        return None
    if isinstance(error, TimeoutError | BlockingIOError):
        return DeadlineError(f"{endpoint.address}: no answer in {endpoint.timeout:g} s")
    if isinstance(error, OSError | UnicodeError):
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return UnavailableError(f"{endpoint.address}: {text}")
    return None


def _warn_of(pending: PendingInvalidations, address: str) -> None:
    """Say what no other process knows of, when this one exits or its last cache of a server is collected."""
    if pending:
        _log.warning(
            "globalcache: %s not delivered to %s, which may return old values until they expire", pending.text, address
        )
