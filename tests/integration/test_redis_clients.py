"""Real Redis clients: redis-py in both protocols, and redis-cli."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    import globalcache


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest, server: globalcache.Server) -> Iterator[Any]:
    with redis.Redis.from_url(server.redis_url, protocol=request.param) as client:
        yield client


def test_values_and_their_conditions(client: Any) -> None:
    assert client.set("k", b"\x00\xff") is True
    assert client.get("k") == b"\x00\xff"
    assert client.set("k", "new", nx=True) is None
    assert client.set("k", "new", xx=True, get=True) == b"\x00\xff"
    assert client.set("other", 1, get=True) is None
    assert client.mget("k", "none", "other") == [b"new", None, b"1"]
    assert client.mset({"a": 1, "b": 2}) is True
    assert client.exists("a", "b", "a", "none") == 3
    assert client.delete("a", "a", "none") == 1
    assert client.unlink("b") == 1
    assert client.dbsize() == 2


def test_times_to_live(client: Any) -> None:
    client.set("k", 1, ex=100)
    assert 99 <= client.ttl("k") <= 100
    assert client.set("k", 2, keepttl=True)
    assert 99_000 <= client.pttl("k") <= 100_000
    assert client.expire("k", 50, gt=True) is False
    assert client.expire("k", 50, lt=True) is True
    assert client.expire("k", 200, nx=True) is False
    assert client.persist("k") is True
    assert client.ttl("k") == -1
    assert client.expire("k", 10, xx=True) is False
    assert client.expire("k", 10, gt=True) is False
    assert client.pexpire("k", 10_000, nx=True) is True
    assert client.expire("k", -1) is True
    assert client.ttl("k") == -2
    assert client.expire("k", 10) is False


def test_numbers(client: Any) -> None:
    assert [client.incr("n"), client.incrby("n", 41), client.decr("n"), client.decrby("n", 40)] == [1, 42, 41, 1]
    client.set("s", "x")
    with pytest.raises(redis.ResponseError, match="value is not an integer or out of range"):
        client.incr("s")
    client.set("n", 2**63 - 1)
    with pytest.raises(redis.ResponseError, match="increment or decrement would overflow"):
        client.incr("n")
    client.set("n", 5, ex=100)
    client.incr("n")
    assert client.ttl("n") > 0


def test_databases_are_apart(server: globalcache.Server, client: Any) -> None:
    client.set("k", 0)
    with redis.Redis.from_url(server.redis_url + "/7") as other:
        assert other.get("k") is None
        other.set("k", 7)
        assert client.get("k") == b"0"
        other.flushdb()
        assert (client.dbsize(), other.dbsize()) == (1, 0)
        other.set("k", 7)
        client.flushall()
        assert (client.dbsize(), other.dbsize()) == (0, 0)


def test_the_server_says_who_it_is(server: globalcache.Server, client: Any) -> None:
    client.set("k", 1)
    client.get("k")
    client.get("none")
    info = client.info()
    assert info["globalcache_version"]
    assert tuple(map(int, info["redis_version"].split("."))) >= (7, 4)
    assert info["tcp_port"] == int(server.address.split(":")[1])
    assert info["keyspace_hits"] >= 1
    assert info["keyspace_misses"] >= 1
    assert info["db0"]["keys"] == 1
    assert set(client.info("memory")) >= {"used_memory", "maxmemory"}
    assert "redis_version" not in client.info("memory")
    assert client.client_setname("me")
    assert client.client_getname() in ("me", b"me")
    assert client.client_id() > 0
    names = [name for name in client.command_list() if "|" not in str(name)]  # subcommands are listed, too
    assert client.command_count() == len(names) == len(client.command())
    assert client.ping() is True
    assert client.echo("x") == b"x"


def test_a_password_that_is_not_needed_is_treated_as_in_redis(
    server: globalcache.Server,
) -> None:
    with redis.Redis.from_url(server.redis_url, password="x", protocol=3) as client:
        assert client.ping()
    with (
        redis.Redis.from_url(server.redis_url, password="x", protocol=2) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_redis_cli(server: globalcache.Server, redis_cli: str) -> None:
    port = server.address.split(":")[1]

    def cli(*words: str) -> str:
        done = subprocess.run([redis_cli, "-p", port, *words], capture_output=True, text=True, check=True, timeout=30)
        return done.stdout

    assert cli("set", "k", "hello", "EX", "100") == "OK\n"
    assert cli("get", "k") == "hello\n"
    assert cli("-3", "hello", "3").startswith("server redis\n")
    assert cli("mget", "k", "none") == "hello\n\n"
    assert "globalcache_version" in cli("info", "server")
