"""Invalidation after the commit of a session: savepoints, failing and lost commits, outer transactions, tasks."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, create_engine, event, exc, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from globalcache import AsyncCache, Cache
from globalcache.contrib.sqlalchemy import invalidate_after_commit
from globalcache.errors import UnavailableError
from tests.conftest import transport
from tests.postgres import cluster

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


def test_a_commit_also_ends_open_savepoints(session: Session, cache: Cache) -> None:
    write(session)
    session.begin_nested()
    invalidate_after_commit(session, "a", cache=cache)
    session.commit()  # of all
    assert left(cache) == "bc"


def test_several_caches_and_all_that_they_want_is_one_call_each(session: Session, cache: Cache) -> None:
    other = Cache("memory://")
    other.set("x", 1)
    calls: list[bytes] = []
    run = transport(cache).call

    def counted(*words: Any, **names: Any) -> Any:
        calls.append(words[0])
        return run(*words, **names)

    transport(cache).call = counted
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


def lose_replies(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every commit succeed and its reply be lost, until the patches are undone."""
    commit, dialect = engine.dialect.do_commit, engine.dialect

    def lost(connection: Any) -> None:
        commit(connection)
        raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", lost)


def bound(session: Session) -> Engine:
    found = session.get_bind()
    assert isinstance(found, Engine)
    return found


@pytest.mark.parametrize("end", ["rollback", "close"])
def test_a_commit_whose_reply_is_lost_counts(
    session: Session, cache: Cache, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The database commits and the driver raises: the old value must not stay."""
    write(session)
    invalidate_after_commit(session, "a", cache=cache)
    lose_replies(bound(session), monkeypatch)
    with pytest.raises(exc.OperationalError):
        session.commit()
    getattr(session, end)()
    assert left(cache) == "bc"
    monkeypatch.undo()
    write(session)
    invalidate_after_commit(session, "b", cache=cache)
    session.rollback()
    assert left(cache) == "bc"


def test_a_lost_reply_with_open_savepoints_counts(
    session: Session, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outer transaction is committed by itself: its savepoints tell of a commit first, and it does not again."""
    outer = session.begin()
    invalidate_after_commit(session, "a", cache=cache)
    session.begin_nested()
    session.begin_nested()
    write(session)
    lose_replies(bound(session), monkeypatch)
    with pytest.raises(exc.OperationalError):
        outer.commit()
    session.close()
    assert left(cache) == "bc"


def test_one_of_two_databases_fails_to_commit(tmp_path: Path, cache: Cache) -> None:
    """The first of two has committed when the second raises."""
    first, second = (create_engine(f"sqlite:///{tmp_path / name}") for name in "ab")
    committed: list[Any] = []

    def fail_second(connection: Any) -> None:
        committed.append(connection.engine)
        if len(committed) == 2:
            raise OSError("the second one is away")

    for engine in (first, second):
        with engine.begin() as connection:
            connection.exec_driver_sql("create table row (n integer)")
        event.listen(engine, "commit", fail_second)
    with Session() as session:
        for engine in (first, second):
            session.execute(text("insert into row values (1)"), bind_arguments={"bind": engine})
        invalidate_after_commit(session, "a", cache=cache)
        with pytest.raises(OSError, match="second one"):
            session.commit()
    assert left(cache) == "bc"
    with Session(committed[0]) as session:
        assert session.execute(text("select count(*) from row")).scalar_one() == 1


class _Away:
    """A cache that cannot be reached and raises."""

    @property
    def sync(self) -> _Away:
        return self

    def invalidate(self, *_: str, tags: Any) -> None:
        raise UnavailableError("away")


def test_all_caches_are_told_before_one_raises(session: Session, cache: Cache) -> None:
    away: Any = _Away()
    write(session)
    invalidate_after_commit(session, "x", cache=away)
    invalidate_after_commit(session, "a", cache=cache)
    with pytest.raises(UnavailableError, match="away"):
        session.commit()
    assert left(cache) == "bc"
    write(session)
    session.commit()  # the session is as after any commit


def test_a_cache_that_raises_does_not_part_two_commits(tmp_path: Path, session: Session) -> None:
    """A session has a connection that it was made with and one of an engine; what a cache raises comes after both."""
    away: Any = _Away()
    engine = create_engine(f"sqlite:///{tmp_path / 'db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("create table row (n integer)")
    with bound(session).connect() as connection, Session(connection) as both:
        write(both)
        both.execute(text("insert into row values (1)"), bind_arguments={"bind": engine})
        invalidate_after_commit(both, "x", cache=away)
        with pytest.raises(UnavailableError):
            both.commit()
        for place in (connection, engine):
            count = both.execute(text("select count(*) from row"), bind_arguments={"bind": place}).scalar_one()
            assert count == 1
    engine.dispose()


def test_the_error_of_the_database_is_not_hidden(
    session: Session, cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away: Any = _Away()

    def change() -> None:
        with session.begin():
            write(session)
            invalidate_after_commit(session, "x", cache=away)
            invalidate_after_commit(session, "a", cache=cache)

    lose_replies(bound(session), monkeypatch)
    with caplog.at_level(logging.WARNING, "globalcache"), pytest.raises(exc.OperationalError):
        change()
    assert left(cache) == "bc"
    assert "not invalidated after a commit that raised: UnavailableError: away" in caplog.text


@pytest.mark.parametrize("name", ["after_commit", "after_transaction_end"])
def test_another_listener_raises_first(session: Session, cache: Cache, name: str) -> None:
    """What the application does after a commit fails before it is our turn; the database has committed."""
    made = sessionmaker(bound(session))

    @event.listens_for(made, name)
    def other(*_: Any) -> None:
        raise OSError("no mail server")

    def commit() -> None:
        with made() as one:
            write(one)
            invalidate_after_commit(one, "a", cache=cache)
            one.commit()

    with pytest.raises(OSError, match="no mail server"):
        commit()
    assert left(cache) == "bc"


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "create_savepoint"])
@pytest.mark.parametrize("last", ["commit", "close"])
def test_an_outer_transaction_is_waited_for(session: Session, cache: Cache, mode: Any, last: str) -> None:
    """The session's commit leaves the transaction of its connection open: a reader may store the old row again.

    So it is invalidated at both, for whoever reads within the outer transaction (as a test does that rolls it back) is
    not to have the row from before the session's commit.
    A session that is closed leaves its changes to that transaction as well, unless they are in a savepoint of its own.
    """
    with bound(session).connect() as connection:
        for end, after in (("rollback", "abc"), ("commit", "bc")):
            outer = connection.begin()
            one = Session(connection, join_transaction_mode=mode)
            write(one)
            invalidate_after_commit(one, "a", cache=cache)
            getattr(one, last)()
            assert left(cache) == ("bc" if last == "commit" else "abc")
            cache.set("a", 1)
            getattr(outer, end)()
            assert left(cache) == after
            one.close()
        cache.set("a", 1)
        with connection.begin():
            connection.execute(text("select 1"))
        assert left(cache) == "abc"


def test_an_outer_transaction_of_the_connection_itself(session: Session, cache: Cache) -> None:
    """Statements ran on the connection, and none in the session, whose commit comes first."""
    with bound(session).connect() as connection:
        connection.execute(text("insert into row values (1)"))
        with Session(connection) as one:
            invalidate_after_commit(one, "a", cache=cache)
            one.commit()
        cache.set("a", 1)
        connection.commit()
        assert left(cache) == "bc"


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("bind", ["one", "binds"])
def test_the_outer_transaction_ends_before_the_session(session: Session, cache: Cache, end: str, bind: str) -> None:
    """What the session has flushed is committed by the connection, and the session itself never commits."""

    class Row(DeclarativeBase):
        pass

    with bound(session).connect() as connection:
        outer = connection.begin()
        one = Session(connection) if bind == "one" else Session(binds={Row: connection})
        one.execute(text("insert into row values (1)"), bind_arguments={"bind": connection})
        invalidate_after_commit(one, "a", cache=cache)
        assert left(cache) == "abc"
        getattr(outer, end)()
        assert left(cache) == ("bc" if end == "commit" else "abc")
        one.close()
        assert left(cache) == ("bc" if end == "commit" else "abc")


def test_a_session_that_ends_the_outer_transaction(session: Session, cache: Cache) -> None:
    with bound(session).connect() as connection:
        connection.begin()
        with Session(connection, join_transaction_mode="control_fully") as one:
            write(one)
            invalidate_after_commit(one, "a", cache=cache)
            one.commit()
        assert left(cache) == "bc"


def test_an_outer_commit_whose_reply_is_lost(session: Session, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    with bound(session).connect() as connection:
        outer = connection.begin()
        with Session(connection) as one:
            write(one)
            invalidate_after_commit(one, "a", cache=cache)
            one.commit()
        lose_replies(bound(session), monkeypatch)
        with pytest.raises(exc.OperationalError):
            outer.commit()
    assert left(cache) == "bc"


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
@pytest.mark.parametrize("given", ["create_engine", "execution_options", "connection"])
def test_autocommit_has_committed_however_it_ends(tmp_path: Path, cache: Cache, given: str, end: str) -> None:
    options: Any = {"isolation_level": "AUTOCOMMIT"}
    engine = create_engine(f"sqlite:///{tmp_path / 'db'}", **(options if given == "create_engine" else {}))
    if given == "execution_options":
        engine = engine.execution_options(**options)
    with Session(engine) as session:
        if given == "connection":
            session.connection(execution_options=options)
        session.execute(text("create table row (n integer)"))
        write(session)
        invalidate_after_commit(session, "a", cache=cache)
        getattr(session, end)()
    assert left(cache) == "bc"
    with Session(engine) as session:
        assert session.execute(text("select count(*) from row")).scalar_one() == 1
    engine.dispose()


def test_a_session_with_the_info_of_another(session: Session, cache: Cache) -> None:
    """The info is copied, and what is listened to is the other session."""
    invalidate_after_commit(session, "b", cache=cache)
    with Session(bound(session), info=session.info) as one:
        write(one)
        invalidate_after_commit(one, "a", cache=cache)
        one.commit()
        assert left(cache) == "bc"
    session.commit()
    assert left(cache) == "c"


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with cluster() as made:
        yield made.url.replace("postgresql:", "postgresql+psycopg:")


def test_two_phases(postgres: str, cache: Cache) -> None:
    """What is prepared is not committed; and the second of two databases may fail when the first has committed."""
    first, second = create_engine(postgres), create_engine(postgres)
    with first.begin() as connection:
        connection.exec_driver_sql("create table row (n integer)")

    def prepare(session: Session, key: str) -> None:
        for engine in (first, second):
            session.execute(text("insert into row values (1)"), bind_arguments={"bind": engine})
        invalidate_after_commit(session, key, cache=cache)
        session.prepare()
        assert cache.has(key)

    with Session(twophase=True) as session:
        prepare(session, "a")
        session.commit()
        assert left(cache) == "bc"
        with pytest.raises(OSError, match="away"):
            commit_one_of_two(session, prepare, first, second)
        session.close()
        assert left(cache) == "c"
    for engine in (first, second):
        engine.dispose()


def commit_one_of_two(session: Session, prepare: Any, *engines: Engine) -> None:
    seen: list[Any] = []

    def fail_second(*event_of: Any) -> None:
        seen.append(event_of)
        if len(seen) == 2:
            raise OSError("away")

    for engine in engines:
        event.listen(engine, "commit_twophase", fail_second)
    prepare(session, "b")
    session.commit()


def test_an_outer_transaction_of_two_phases(postgres: str, cache: Cache) -> None:
    engine = create_engine(postgres)
    with engine.connect() as connection:
        outer = connection.begin_twophase()
        with Session(connection) as one:
            one.execute(text("select 1"))
            invalidate_after_commit(one, "a", cache=cache)
            one.commit()
        cache.set("a", 1)
        outer.prepare()
        assert left(cache) == "abc"
        outer.commit()
        assert left(cache) == "bc"
    engine.dispose()


async def test_an_outer_transaction_of_a_task(tmp_path: Path) -> None:
    pytest.importorskip("aiosqlite")
    cache = AsyncCache("memory://")
    await cache.set_many({"a": 1, "b": 2})
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'db'}")
    async with engine.connect() as connection:
        for end, after in (("rollback", {"a": 1, "b": 2}), ("commit", {"b": 2})):
            outer = await connection.begin()
            async with AsyncSession(connection) as session:
                await session.execute(text("select 1"))
                invalidate_after_commit(session, "a", cache=cache)
                await session.commit()
            assert not await cache.has("a")
            await cache.set("a", 1)
            await getattr(outer, end)()
            assert await cache.get_many(["a", "b"]) == after
    await engine.dispose()


class _Slow:
    """A cache whose invalidation goes on when `go` is set."""

    def __init__(self) -> None:
        self.begun, self.go, self.done = asyncio.Event(), asyncio.Event(), False

    @property
    def aio(self) -> _Slow:
        return self

    async def invalidate(self, *_: str, tags: Any) -> None:
        self.begun.set()
        await self.go.wait()
        self.done = True


async def test_a_cancelled_commit_invalidates_all_the_same(tmp_path: Path) -> None:
    """The task is cancelled between the commit of the database and the answer of the cache, and once more."""
    pytest.importorskip("aiosqlite")
    slow: Any = _Slow()
    cache = AsyncCache("memory://")
    await cache.set("a", 1)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'db'}")
    async with AsyncSession(engine) as session:
        await session.execute(text("select 1"))
        invalidate_after_commit(session, "x", cache=slow)
        invalidate_after_commit(session, "a", cache=cache)
        task = asyncio.create_task(session.commit())
        await slow.begun.wait()
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
        slow.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert slow.done
    assert not await cache.has("a")
    await engine.dispose()
