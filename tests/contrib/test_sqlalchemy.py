"""Invalidation after the commit of a session: savepoints, rollbacks, threads' sessions and tasks'."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from globalcache import AsyncCache, Cache
from globalcache.contrib.sqlalchemy import invalidate_after_commit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any


@pytest.fixture
def cache() -> Cache:
    """Return a cache with a, b and c; c has the tag t."""
    cache = Cache("memory://")
    cache.set_many({"a": 1, "b": 2})
    cache.set("c", 3, tags=["t"])
    return cache


@pytest.fixture
def session() -> Iterator[Session]:
    engine = create_engine("sqlite://", poolclass=StaticPool)

    # Of itself the driver begins no transaction before a savepoint.
    @event.listens_for(engine, "connect")
    def by_hand(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    with Session(engine) as session:
        session.execute(text("create table row (n integer)"))
        session.commit()
        yield session
    engine.dispose()


def left(cache: Cache) -> str:
    return "".join(cache.get_many("abc"))


def write(session: Session) -> None:
    session.execute(text("insert into row values (1)"))


def test_it_happens_with_the_commit_and_only_once(session: Session, cache: Cache) -> None:
    write(session)
    invalidate_after_commit(session, "a", tags="t", cache=cache)
    assert left(cache) == "abc"
    session.commit()
    assert left(cache) == "b"
    cache.set("a", 1)
    write(session)
    session.commit()
    assert left(cache) == "ab"


def test_what_was_asked_for_before_the_first_statement_counts(session: Session, cache: Cache) -> None:
    invalidate_after_commit(session, "a", cache=cache)
    write(session)
    session.commit()
    assert left(cache) == "bc"
    invalidate_after_commit(session, "b", cache=cache)
    write(session)
    session.rollback()
    session.commit()
    assert left(cache) == "bc"


def test_a_rollback_or_close_drops_it(session: Session, cache: Cache) -> None:
    for end in (session.rollback, session.close):
        write(session)
        invalidate_after_commit(session, "a", "b", "c", cache=cache)
        end()
        write(session)
        session.commit()
        assert left(cache) == "abc"


def test_a_failing_body_drops_it(session: Session, cache: Cache) -> None:
    def body() -> None:
        with session.begin():
            invalidate_after_commit(session, "a", cache=cache)
            write(session)
            raise LookupError

    with pytest.raises(LookupError):
        body()
    assert left(cache) == "abc"


def test_a_savepoint_keeps_its_own(session: Session, cache: Cache) -> None:
    with session.begin():
        with session.begin_nested():
            with session.begin_nested():
                invalidate_after_commit(session, "a", cache=cache)
                write(session)
            write(session)
        assert left(cache) == "abc"
        gone = session.begin_nested()
        with session.begin_nested():
            invalidate_after_commit(session, "b", cache=cache)
            write(session)
        gone.rollback()
        assert left(cache) == "abc"
    assert left(cache) == "bc"


def test_the_commit_of_a_transaction_takes_open_savepoints_with_it(session: Session, cache: Cache) -> None:
    write(session)
    session.begin_nested()
    invalidate_after_commit(session, "a", cache=cache)
    session.commit()  # of all
    assert left(cache) == "bc"


def test_several_caches_and_all_that_they_want_is_one_call_each(session: Session, cache: Cache) -> None:
    other = Cache("memory://")
    other.set("x", 1)
    calls: list[bytes] = []
    run = cache._servers[0].call  # noqa: SLF001

    def counted(*words: Any, **names: Any) -> Any:
        calls.append(words[0])
        return run(*words, **names)

    cache._servers[0].call = counted  # noqa: SLF001
    write(session)
    invalidate_after_commit(session, "a", cache=cache)
    invalidate_after_commit(session, "b", "a", cache=cache)
    invalidate_after_commit(session, "x", cache=other)
    session.commit()
    assert calls == [b"CACHE.INVALIDATE"]
    assert (left(cache), other.get("x")) == ("c", None)


def test_scoped_sessions(session: Session, cache: Cache) -> None:
    scoped = scoped_session(sessionmaker(session.get_bind()))
    scoped.execute(text("insert into row values (1)"))
    invalidate_after_commit(scoped, "a", cache=cache)
    assert left(cache) == "abc"
    scoped.commit()
    assert left(cache) == "bc"
    scoped.remove()


async def test_sessions_of_tasks_await_it_within_their_commit(tmp_path: Path) -> None:
    pytest.importorskip("aiosqlite")
    cache = AsyncCache("memory://")
    await cache.set_many({"a": 1, "b": 2})
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'db'}")
    async with AsyncSession(engine) as session:
        await session.execute(text("create table row (n integer)"))
        invalidate_after_commit(session, "a", cache=cache)
        assert await cache.has("a")
        await session.commit()
        assert not await cache.has("a")
        await session.execute(text("insert into row values (1)"))
        invalidate_after_commit(session, "b", cache=cache)
        await session.rollback()
        await session.commit()
        assert await cache.has("b")
    scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    invalidate_after_commit(scoped, "b", cache=cache)
    await scoped.execute(text("insert into row values (1)"))
    await scoped.commit()
    assert not await cache.has("b")
    await scoped.remove()
    await engine.dispose()


def test_a_mistake_is_named_before_the_commit(session: Session, cache: Cache) -> None:
    """Within the commit it would look as if the commit had failed."""
    mistakes: list[tuple[Any, tuple[Any, ...], Any, str]] = [
        (session.connection(), ("a",), (), "the first argument is a session, not a Connection"),
        (session, (["a", "b"],), (), r"keys are texts, one by one, not \['a', 'b'\]"),
        (session, ("",), (), "keys are texts, one by one, not ''"),
        (session, (), [1], "tags are texts, one by one, not 1"),
    ]
    for first, keys, tags, line in mistakes:
        with pytest.raises(TypeError, match=f"invalidate_after_commit: {line}"):
            invalidate_after_commit(first, *keys, tags=tags, cache=cache)
    write(session)
    session.commit()
    assert left(cache) == "abc"
