"""Invalidation that waits for the commit of a SQLAlchemy session.

    with Session(engine) as session, session.begin():
        session.execute(update(Product).where(Product.id == 1).values(price=5))
        invalidate_after_commit(session, "product:1", tags=["prices"], cache=cache)

Invalidated before the commit, the old row would be read by somebody and stored again at once; without a commit there is
nothing to invalidate. Works with Session, scoped_session and AsyncSession, which awaits it within its commit.

What a savepoint's body asks for is the savepoint's: released, it goes to the transaction around it; rolled back, it is
dropped. Only when the outermost transaction is committed is the cache told, once for each cache:

    transaction            product:1
      savepoint            product:2     rolled back: dropped
      savepoint            product:3     released: goes to the transaction
    commit                 invalidate(product:1, product:3)

An invalidation too many costs a load, one too few leaves an old value. So a commit that was begun counts as one even if
it raises: of two databases the first may have committed, or the reply was lost. A session of AUTOCOMMIT connections has
committed however it ends. A session on a connection whose transaction was begun outside tells the cache at its own
commit, and again at that one's, before which a reader may have stored the old row.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from globalcache.errors import written

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import SessionTransaction, scoped_session

    from globalcache import AsyncCache, Cache

_HERE = "globalcache.contrib.sqlalchemy"
_log = logging.getLogger("globalcache")


def invalidate_after_commit(
    session: Session | scoped_session[Any] | AsyncSession | async_scoped_session[Any],
    *keys: str,
    tags: str | Iterable[str] = (),
    cache: Cache | AsyncCache,
) -> None:
    """Invalidate keys, and all that has one of these tags, once the transaction of `session` is committed.

    Returns at once. Before the first statement of a session it counts for the transaction that begins next. Raises
    TypeError for what is no session, and for keys and tags that are no texts. A cache with on_error="raise" may have
    the commit raise UnavailableError when it has happened already; the other caches are told all the same. The session
    has to be ended: by commit, rollback or close.
    """
    marks = (tags,) if isinstance(tags, str) else tuple(tags)
    _check_names(keys, marks)
    # Scoped sessions give the session of this thread or task when they are called.
    given: Any = session
    if hasattr(given, "registry"):
        given = given()
    plain: Session = getattr(given, "sync_session", given)
    if not isinstance(plain, Session):
        raise TypeError(f"invalidate_after_commit: the first argument is a session, not a {type(session).__name__}")
    _Pending.of(plain).add(plain, cache, keys, marks, awaits=plain is not given)


def _check_names(keys: Iterable[str], tags: Iterable[str]) -> None:
    """Raise TypeError now: within the commit it would look as if the commit had failed."""
    for what, names in (("keys", keys), ("tags", tags)):
        for name in names:
            if not isinstance(name, str) or not name:
                raise TypeError(f"invalidate_after_commit: {what} are texts, one by one, not {written(name)}")


class _Wanted:
    """What is to be invalidated, by cache; the dicts are ordered sets."""

    def __init__(self) -> None:
        self.by_cache: dict[tuple[int, bool], tuple[Any, dict[str, None], dict[str, None]]] = {}

    def add(self, cache: Any, keys: Iterable[str], tags: Iterable[str], *, awaits: bool) -> None:
        _, known_keys, known_tags = self.by_cache.setdefault((id(cache), awaits), (cache, {}, {}))
        known_keys.update(dict.fromkeys(keys))
        known_tags.update(dict.fromkeys(tags))

    def join(self, other: _Wanted) -> None:
        for (_, awaits), (cache, keys, tags) in other.by_cache.items():
            self.add(cache, keys, tags, awaits=awaits)

    def run(self) -> BaseException | None:
        """Invalidate in all caches, and forget what was wanted; returns what the first one raised."""
        told, self.by_cache = self.by_cache, {}
        first: BaseException | None = None
        for (_, awaits), (cache, keys, tags) in told.items():
            try:
                if awaits:
                    # AsyncSession runs this in a greenlet, from which its loop can be awaited.
                    await_only(_finish(cache.aio.invalidate(*keys, tags=tags)))
                else:
                    cache.sync.invalidate(*keys, tags=tags)
            except BaseException as error:  # noqa: BLE001 - returned
                first = first or error
        return first


async def _finish(invalidation: Coroutine[Any, Any, Any]) -> None:
    """Await it to its end, and only then let a cancellation through: the database has committed."""
    task = asyncio.ensure_future(invalidation)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        task.result()
        return
    if not task.cancelled():
        task.exception()  # else the loop logs that nobody looked at it
    raise cancelled


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


class _Pending:
    """What one session has pending, by transaction; None is the transaction that is still to begin."""

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._wanted: dict[SessionTransaction | None, _Wanted] = {}
        self._begun: set[SessionTransaction] = set()
        self._committed: SessionTransaction | None = None
        self._error: BaseException | None = None
        event.listen(session, "before_commit", self.begins)
        event.listen(session, "after_commit", self.committed)
        event.listen(session, "after_transaction_end", self.ended)

    @classmethod
    def of(cls, session: Session) -> _Pending:
        """Return that of a session, listening to it from now on."""
        found: _Pending | None = session.info.get(_HERE)
        # Session(info=other.info) copies what is pending for the other one.
        if found is None or not found.is_of(session):
            found = session.info[_HERE] = cls(session)
        return found

    def is_of(self, session: Session) -> bool:
        return self._session() is session

    def add(self, session: Session, cache: Any, keys: Iterable[str], tags: Iterable[str], *, awaits: bool) -> None:
        wanted = _Wanted()
        wanted.add(cache, keys, tags, awaits=awaits)
        self._wanted.setdefault(_innermost(session), _Wanted()).join(wanted)
        # Whoever began a transaction outside may commit it while the session is open, which hears nothing of that.
        for connection in _still_open(_joined(session)):
            _wait_for(connection, wanted)

    def begins(self, session: Session) -> None:
        """Note that a commit was begun: from now on the database may have committed, whatever is raised.

        SQLAlchemy tells of savepoints by the same event, and not which transaction it is. One that has open savepoints
        tells first and then releases them, so the second time for a savepoint the first was for what is around it.
        """
        inner = _running(session)
        self._begun.add(_root(inner) if inner in self._begun else inner)

    def committed(self, session: Session) -> None:
        """Invalidate at the commit of the outermost transaction, before a listener to its end can raise."""
        self._committed = transaction = _running(session)
        if transaction.parent is None:
            self._error = self._settle(session, transaction, is_committed=True)

    def ended(self, session: Session, transaction: SessionTransaction) -> None:
        """Pass what the transaction wanted on to the one around it, or to the cache; rolled back, it is dropped."""
        if not transaction.nested and transaction.parent is not None:
            return  # a flush within a transaction
        is_committed, is_begun = self._committed is transaction, transaction in self._begun
        self._committed = None if is_committed else self._committed
        self._begun.discard(transaction)
        if transaction.parent is not None:
            wanted = self._wanted.pop(transaction, None)
            if wanted is not None and (is_committed or any(map(_is_autocommit, _connections(transaction)))):
                self._wanted.setdefault(_around(transaction), _Wanted()).join(wanted)
            return
        error = self._settle(session, transaction, is_committed=is_committed or is_begun)
        error, self._error = self._error or error, None
        _raise(error, unless=is_begun and not is_committed)

    def _settle(self, session: Session, root: SessionTransaction, *, is_committed: bool) -> BaseException | None:
        """Invalidate what the transaction wanted where it is committed, and leave the rest to its connections."""
        wanted = self._wanted.pop(root, _Wanted())
        wanted.join(self._wanted.pop(None, _Wanted()))
        connections = _connections(root) | _joined(session)
        for connection in _still_open(connections):
            _wait_for(connection, wanted)
        # Also where the outer transaction is still open: its own session reads what it wrote, as tests do that roll
        # everything back.
        return wanted.run() if is_committed or any(map(_is_autocommit, connections)) else None


def _running(session: Session) -> SessionTransaction:
    transaction = _innermost(session)
    assert transaction is not None, "a commit has a transaction"
    return transaction


def _root(transaction: SessionTransaction) -> SessionTransaction:
    while transaction.parent is not None:
        transaction = transaction.parent
    return transaction


def _around(savepoint: SessionTransaction) -> SessionTransaction | None:
    """Return the transaction or savepoint in which a savepoint began."""
    parent = savepoint.parent
    while parent is not None and not parent.nested and parent.parent is not None:
        parent = parent.parent
    return parent


def _connections(transaction: SessionTransaction) -> set[Connection]:
    # Its property `connections` came with SQLAlchemy 2.1.7.
    return {entry[0] for entry in transaction._connections.values()}  # noqa: SLF001


def _joined(session: Session) -> set[Connection]:
    """Return the connections of a session whose transactions were begun outside, and are ended there."""
    root = session.get_transaction()
    entries = set(root._connections.values()) if root is not None else set()  # noqa: SLF001
    joined = {at for at, transaction, commits, _ in entries if not commits or transaction is not at.get_transaction()}
    bind = session.bind
    if isinstance(bind, Connection) and bind not in {entry[0] for entry in entries}:
        joined.add(bind)  # on which statements may have run without the session
    return joined


def _still_open(connections: set[Connection]) -> set[Connection]:
    return {connection for connection in connections if connection.in_transaction() and not _is_autocommit(connection)}


def _is_autocommit(connection: Connection) -> bool:
    """Return whether every statement of a connection is committed by itself. Asks nothing of the database."""
    level = connection.get_execution_options().get("isolation_level")
    return (level or getattr(connection.dialect, "_on_connect_isolation_level", None)) == "AUTOCOMMIT"


def _wait_for(connection: Connection, wanted: _Wanted) -> None:
    """Invalidate when the transaction is committed that was begun on the connection itself; rolled back, drop it."""
    waiting: _Wanted | None = connection.__dict__.get(_HERE)
    if waiting is None:
        waiting = connection.__dict__[_HERE] = _Wanted()
        for name in ("rollback", "rollback_twophase"):
            event.listen(connection, name, lambda *_: waiting.by_cache.clear())
        # Connections have an event before a commit, and none after it.
        for name in ("_commit_impl", "_commit_twophase_impl"):
            setattr(connection, name, _followed(getattr(connection, name), waiting))
    waiting.join(wanted)


def _followed(commit: Callable[..., None], waiting: _Wanted) -> Callable[..., None]:
    """Return the commit of a connection followed by the invalidation, also where the commit raises."""

    def run(*args: Any) -> None:
        try:
            commit(*args)
        except BaseException:
            _raise(waiting.run(), unless=True)
            raise
        _raise(waiting.run(), unless=False)

    return run


def _raise(error: BaseException | None, *, unless: bool) -> None:
    """Raise what a cache raised; log it where that would stand in place of the database's own error."""
    if error is None:
        return
    if unless and isinstance(error, Exception):
        _log.warning("globalcache: not invalidated after a commit that raised: %s: %s", type(error).__name__, error)
        return
    raise error
