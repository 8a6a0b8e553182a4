"""Libraries that sit on Redis clients, unchanged, against the server: a row of docs/compatibility.md each."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from redis.cache import CacheConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    import globalcache


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest, server: globalcache.Server) -> Iterator[Any]:
    with redis.Redis.from_url(server.redis_url, protocol=request.param, decode_responses=True) as client:
        yield client


def test_redis_py_pipelines_and_transactions(client: Any) -> None:
    with client.pipeline() as pipe:
        assert pipe.set("a", 1).incr("a").get("a").execute() == [True, 2, "2"]
    with client.pipeline() as pipe:
        pipe.watch("a")
        client.set("a", 5)
        pipe.multi()
        pipe.incr("a")
        with pytest.raises(redis.WatchError):
            pipe.execute()

    def add(pipe: Any) -> None:
        pipe.multi()
        pipe.incr("a")

    assert client.transaction(add, "a") == [6]
    assert sorted(client.scan_iter("a*")) == ["a"]
    assert client.object("encoding", "a") == "int"
    assert client.memory_usage("a") > 0


def test_redis_py_lock(client: Any) -> None:
    lock = client.lock("lock", timeout=10, blocking=False)
    assert lock.acquire()
    assert not client.lock("lock", timeout=10, blocking=False).acquire()
    assert lock.extend(10)
    assert 10_000 < client.pttl("lock") <= 20_000
    assert lock.reacquire()
    assert client.pttl("lock") <= 10_000
    lock.release()
    assert client.get("lock") is None
    with pytest.raises(redis.exceptions.LockError):
        lock.release()


def test_redis_py_client_side_cache(server: globalcache.Server) -> None:
    with (
        redis.Redis.from_url(server.redis_url, protocol=3, cache_config=CacheConfig()) as near,
        redis.Redis.from_url(server.redis_url) as other,
    ):
        other.set("k", "1")
        assert near.get("k") == b"1"
        before = other.info("stats")["keyspace_hits"]
        assert near.get("k") == b"1"
        assert other.info("stats")["keyspace_hits"] == before, "it was answered from the copy"
        other.set("k", "2")
        assert near.get("k") == b"2"


def test_redis_py_pubsub(client: Any) -> None:
    with client.pubsub() as listener:
        listener.subscribe("news")
        listener.get_message(timeout=5)
        assert client.publish("news", "hello") == 1
        assert listener.get_message(timeout=5)["data"] == "hello"


@pytest.mark.parametrize("resp", [2, 3])
def test_hiredis_parses_all_replies(server: globalcache.Server, resp: int) -> None:
    hiredis = pytest.importorskip("hiredis")
    import socket  # noqa: PLC0415

    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        reader = hiredis.Reader()

        def ask(*words: str) -> Any:
            connection.sendall(hiredis.pack_command(words))
            while (reply := reader.gets()) is False:
                reader.feed(connection.recv(1 << 16))
            return reply

        ask("HELLO", str(resp))
        assert ask("SET", "k", "v") == b"OK"
        assert ask("MGET", "k", "none") == [b"v", None]
        settings = ask("CONFIG", "GET", "save")
        assert settings == ({b"save": b""} if resp == 3 else [b"save", b""])
        assert isinstance(ask("GET"), hiredis.ReplyError)


def test_valkey_glide(server: globalcache.Server) -> None:
    glide = pytest.importorskip("glide")
    host, port = server.address.rsplit(":", 1)

    async def run() -> None:
        configuration = glide.GlideClientConfiguration([glide.NodeAddress(host, int(port))])
        client = await glide.GlideClient.create(configuration)
        try:
            assert await client.set("k", "v") == "OK"
            assert await client.get("k") == b"v"
            assert await client.incr("n") == 1
            assert await client.mget(["k", "none"]) == [b"v", None]
            assert (await client.info()).startswith(b"# Server")
        finally:
            await client.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def django() -> Any:
    django = pytest.importorskip("django")
    from django.conf import settings  # noqa: PLC0415

    if not settings.configured:
        settings.configure(SECRET_KEY="-", USE_TZ=True)
        django.setup()
    return django


@pytest.mark.usefixtures("django")
def test_django_redis_cache_and_sessions(server: globalcache.Server) -> None:
    from django.core.cache.backends.redis import RedisCache  # noqa: PLC0415

    cache = RedisCache(server.redis_url + "/1", {})
    sessions = RedisCache(server.redis_url + "/2", {})
    assert cache.add("a", {"x": [1]})
    assert not cache.add("a", 2)
    assert cache.get("a") == {"x": [1]}
    cache.set_many({"b": 1, "c": 2}, timeout=60)
    assert cache.get_many(["b", "c", "d"]) == {"b": 1, "c": 2}
    assert cache.incr("b", 5) == 6
    with pytest.raises(ValueError, match="not found"):
        cache.incr("none")
    assert cache.touch("b", 100)
    assert cache.get_or_set("e", lambda: 7) == 7
    assert cache.has_key("e")
    cache.delete_many(["b", "c"])
    sessions.set("session", "s")
    cache.clear()
    assert cache.get("a") is None
    assert sessions.get("session") == "s", "another database stays as it is"


@pytest.mark.usefixtures("django")
def test_django_sessions(server: globalcache.Server) -> None:
    from django.contrib.sessions.backends.cache import SessionStore  # noqa: PLC0415
    from django.core.cache import caches  # noqa: PLC0415
    from django.test import override_settings  # noqa: PLC0415

    backend = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": server.redis_url}}
    with override_settings(CACHES=backend):
        store = SessionStore()
        store["user"] = 42
        store.save()
        assert SessionStore(store.session_key)["user"] == 42
        store.flush()
        assert "user" not in SessionStore(store.session_key)
        caches["default"].close()


@pytest.mark.usefixtures("django")
def test_django_redis(server: globalcache.Server) -> None:
    pytest.importorskip("django_redis")
    from django.core.cache import caches  # noqa: PLC0415
    from django.test import override_settings  # noqa: PLC0415

    backend = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": server.redis_url + "/1"}}
    with override_settings(CACHES=backend):
        cache: Any = caches["default"]
        cache.set("n", 1, timeout=60)
        assert cache.incr("n") == 2
        assert cache.decr("n") == 1
        with pytest.raises(ValueError, match="not found"):
            cache.incr("none")
        assert cache.ttl("n") > 0
        assert list(cache.iter_keys("n*")) == ["n"]
        with cache.lock("lock", timeout=5):
            assert not cache.lock("lock", timeout=5).acquire(blocking=False)
        assert cache.delete_pattern("n*") == 1
        cache.clear()
        cache.close()


def test_dogpile(server: globalcache.Server) -> None:
    dogpile = pytest.importorskip("dogpile.cache")
    arguments = {"url": server.redis_url, "distributed_lock": True, "lock_timeout": 10, "thread_local_lock": False}
    region = dogpile.make_region().configure("dogpile.cache.redis", expiration_time=60, arguments=arguments)
    calls = []

    @region.cache_on_arguments()  # type: ignore[untyped-decorator, unused-ignore]
    def load(number: int) -> int:
        calls.append(number)
        return number * 2

    threads = [threading.Thread(target=load, args=(21,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load(21) == 42
    assert calls == [21], "its lock lets one caller load"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_cashews(server: globalcache.Server) -> None:
    cashews = pytest.importorskip("cashews")

    async def run() -> None:
        cache = cashews.Cache()
        cache.setup(server.redis_url, client_side=False)
        try:
            await cache.set("k", {"a": 1}, expire="1m")
            assert await cache.get("k") == {"a": 1}
            assert await cache.incr("n", expire=60) == 1
            assert await cache.incr("n") == 2
            assert await cache.get_expire("n") > 0
            async with cache.lock("lock", expire="10s"):
                assert await cache.is_locked("lock")
            assert not await cache.is_locked("lock")
            calls = []

            @cache.early(ttl="1m", early_ttl="30s")  # type: ignore[untyped-decorator, unused-ignore]
            async def load(number: int) -> int:
                calls.append(number)
                return number

            assert [await load(1), await load(1)] == [1, 1]
            assert calls == [1]
            await cache.delete_match("n*")
            assert await cache.get("n") is None
        finally:
            await cache.close()

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_aiocache(server: globalcache.Server) -> None:
    aiocache = pytest.importorskip("aiocache")
    from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock  # noqa: PLC0415

    async def run() -> None:
        client = redis.asyncio.Redis.from_url(server.redis_url)
        host, port = server.address.rsplit(":", 1)
        cache = aiocache.RedisCache(endpoint=host, port=int(port))
        try:
            await cache.set("k", "v", ttl=60)
            assert await cache.get("k") == "v"
            assert await cache.increment("n", 3) == 3
            async with RedLock(cache, "lock", lease=5):
                assert await client.exists("lock-lock")
            assert not await client.exists("lock-lock")
            async with OptimisticLock(cache, "k") as lock:
                await lock.cas("w")
            assert await cache.get("k") == "w"
            lock = OptimisticLock(cache, "k")
            async with lock:
                await cache.set("k", "x")
                with pytest.raises(OptimisticLockError):
                    await lock.cas("y")
        finally:
            await cache.close()
            await client.aclose()

    asyncio.run(run())


def test_fastapi_cache(server: globalcache.Server) -> None:
    pytest.importorskip("fastapi_cache")
    from fastapi_cache.backends.redis import RedisBackend  # noqa: PLC0415

    async def run() -> None:
        client = redis.asyncio.Redis.from_url(server.redis_url)
        backend = RedisBackend(client)
        try:
            await backend.set("ns:k", b"v", expire=60)
            assert list(await backend.get_with_ttl("ns:k")) == [60, b"v"]
            await backend.set("other:k", b"v")
            await backend.clear(namespace="ns")
            assert await backend.get("ns:k") is None
            assert await backend.get("other:k") == b"v"
        finally:
            await client.aclose()

    asyncio.run(run())


def test_flask_caching(server: globalcache.Server) -> None:
    flask = pytest.importorskip("flask")
    flask_caching = pytest.importorskip("flask_caching")
    app = flask.Flask("shop")
    cache = flask_caching.Cache(app, config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": server.redis_url + "/3"})
    calls = []
    with app.app_context():

        @cache.memoize(60)  # type: ignore[untyped-decorator, unused-ignore]
        def load(number: int) -> int:
            calls.append(number)
            return number

        assert [load(1), load(1)] == [1, 1]
        assert calls == [1]
        cache.delete_memoized(load)
        assert load(1) == 1
        assert calls == [1, 1]
        cache.set_many({"a": 1, "b": 2})
        assert cache.get_many("a", "b") == [1, 2]
        assert cache.clear()
        assert cache.get("a") is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_celery_results(server: globalcache.Server) -> None:
    celery = pytest.importorskip("celery")
    app = celery.Celery("shop", broker="memory://", backend=server.redis_url + "/4")
    app.backend.store_result("task-1", {"answer": 42}, "SUCCESS")
    assert app.AsyncResult("task-1").get(timeout=5) == {"answer": 42}
    waiting = app.AsyncResult("task-2")
    timer = threading.Timer(0.05, app.backend.store_result, ("task-2", 7, "SUCCESS"))
    timer.start()
    assert waiting.get(timeout=5) == 7, "the result is published to who waits"
    timer.join()
    app.AsyncResult("task-1").forget()
    assert app.AsyncResult("task-1").state == "PENDING"
    app.close()


def test_limits_fixed_window(server: globalcache.Server) -> None:
    limits = pytest.importorskip("limits")
    storage = limits.storage.storage_from_string(server.redis_url)
    window = limits.strategies.FixedWindowRateLimiter(storage)
    item = limits.RateLimitItemPerMinute(2)
    assert [window.hit(item, "me") for _ in range(3)] == [True, True, False]
    assert window.get_window_stats(item, "me").remaining == 0
    storage.reset()
    assert window.hit(item, "me")


def test_other_scripts_are_refused_with_a_word_on_what_to_use(client: Any) -> None:
    with pytest.raises(redis.ResponseError, match="runs no Lua"):
        client.eval("return 1", 0)
    assert client.script_exists("0" * 40) == [False]
    assert client.script_flush() is True


@pytest.mark.parametrize("name", ["LPUSH", "SADD", "ZADD", "XADD", "HSET"])
def test_other_types_are_refused_with_a_word_on_what_to_use(client: Any, name: str) -> None:
    with pytest.raises(redis.ResponseError, match="strings"):
        client.execute_command(name, "k", "1", "1")
