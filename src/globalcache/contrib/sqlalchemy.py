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
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import SessionTransaction, scoped_session

    from globalcache import AsyncCache, Cache

_HERE = "globalcache.contrib.sqlalchemy"


def invalidate_after_commit(
    session: Session | scoped_session[Any] | AsyncSession | async_scoped_session[Any],
    *keys: str,
    tags: str | Iterable[str] = (),
    cache: Cache | AsyncCache,
) -> None:
    """Invalidate keys, and all that has one of these tags, once the transaction of `session` is committed.

    Returns at once. Before the first statement of a session it counts for the transaction that begins next. Raises
    TypeError for what is no session, and for keys and tags that are no texts. A cache with on_error="raise" may have
    the commit raise UnavailableError when it has happened already.
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
    pending = plain.info.get(_HERE)
    if pending is None:
        pending = plain.info[_HERE] = _Pending()
        event.listen(plain, "after_commit", pending.committed)
        event.listen(plain, "after_transaction_end", pending.ended)
    pending.add(plain, cache, keys, marks, awaits=plain is not given)


def _check_names(keys: Iterable[str], tags: Iterable[str]) -> None:
    """Raise TypeError now: within the commit it would look as if the commit had failed."""
    for what, names in (("keys", keys), ("tags", tags)):
        for name in names:
            if not isinstance(name, str) or not name:
                raise TypeError(f"invalidate_after_commit: {what} are texts, one by one, not {name!r}")


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

    def run(self) -> None:
        for (_, awaits), (cache, keys, tags) in self.by_cache.items():
            if awaits:
                # AsyncSession runs this in a greenlet, from which its loop can be awaited.
                await_only(cache.async_door.invalidate(*keys, tags=tags))
            else:
                cache.sync_door.invalidate(*keys, tags=tags)


class _Pending:
    """What one session has pending, by transaction; None is the transaction that is still to begin."""

    def __init__(self) -> None:
        self._wanted: dict[SessionTransaction | None, _Wanted] = {}
        self._committed: SessionTransaction | None = None

    def add(self, session: Session, cache: Any, keys: Iterable[str], tags: Iterable[str], *, awaits: bool) -> None:
        of = session.get_nested_transaction() or session.get_transaction()
        self._wanted.setdefault(of, _Wanted()).add(cache, keys, tags, awaits=awaits)

    def committed(self, session: Session) -> None:
        """Note which transaction that was; SQLAlchemy tells of savepoints by the same event."""
        self._committed = session.get_nested_transaction() or session.get_transaction()

    def ended(self, _: Session, transaction: SessionTransaction) -> None:
        """Pass what the transaction wanted on to the one around it, or to the cache; not committed, it is dropped."""
        if not transaction.nested and transaction.parent is not None:
            return  # a flush within a transaction
        good = self._committed is transaction
        self._committed = None if good else self._committed
        wanted = self._wanted.pop(transaction, None) or _Wanted()
        if transaction.parent is not None:
            if good:
                self._wanted.setdefault(_around(transaction), _Wanted()).join(wanted)
            return
        wanted.join(self._wanted.pop(None, _Wanted()))
        if good:
            wanted.run()


def _around(savepoint: SessionTransaction) -> SessionTransaction | None:
    """Return the transaction or savepoint in which a savepoint began."""
    parent = savepoint.parent
    while parent is not None and not parent.nested and parent.parent is not None:
        parent = parent.parent
    return parent
