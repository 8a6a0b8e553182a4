"""INFO, CONFIG and MEMORY tell what is true: every number is seen to move with what it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

import globalcache
from tests.wire.redis_wire import Raw

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def client() -> Iterator[Any]:
    """Give a client of a server of its own, whose counts nobody else moves."""
    with (
        globalcache.Server(memory="4MiB", max_value="64KiB", threads=1) as server,
        redis.Redis.from_url(server.redis_url, decode_responses=True) as client,
    ):
        yield client


def moved(client: Any, before: dict[str, Any]) -> dict[str, Any]:
    """Tell which facts are others than before, and by how much if they are numbers."""
    after = client.info()
    numbers = (int, float)
    return {
        name: value - before[name] if isinstance(value, numbers) and name in before else value
        for name, value in after.items()
        if before.get(name) != value
    }


def test_reads_and_writes_are_counted(client: Any) -> None:
    client.set("k", "v", ex=100)
    before = client.info()
    client.get("k")
    client.get("none")
    with pytest.raises(redis.ResponseError):
        client.execute_command("NOSUCH")
    change = moved(client, before)
    assert change["keyspace_hits"] == 1
    assert change["keyspace_misses"] == 1
    assert change["total_error_replies"] == 1
    # The three, and the INFO before.
    assert change["total_commands_processed"] == 4
    assert change["total_net_input_bytes"] > 0
    assert change["total_net_output_bytes"] > 0


def test_keys_and_those_that_expire_are_counted_in_each_database(client: Any) -> None:
    client.set("a", 1)
    client.set("b", 1, ex=100)
    assert client.info("keyspace") == {"db0": {"keys": 2, "expires": 1, "avg_ttl": 0}}
    client.persist("b")
    client.expire("a", 100)
    client.expire("b", 100)
    assert client.info("keyspace")["db0"]["expires"] == 2
    client.move("a", 3)
    assert client.info("keyspace")["db3"] == {"keys": 1, "expires": 1, "avg_ttl": 0}
    client.delete("b")
    assert "db0" not in client.info("keyspace")
    client.flushall()
    assert client.info("keyspace") == {}


def test_memory_and_eviction_move(client: Any) -> None:
    before = client.info()
    for number in range(8_000):
        client.set(f"key:{number}", "x" * 900)
    change = moved(client, before)
    assert change["used_memory"] > 1_000_000
    assert change["used_memory_dataset"] > 1_000_000
    assert change["evicted_keys"] > 0
    stats = client.memory_stats()
    assert stats["keys.count"] > 1_000
    assert 900 < stats["keys.bytes-per-key"] < 4_000
    assert client.memory_usage("key:7999") > 900
    assert client.info("memory")["maxmemory"] == 4 << 20 == int(client.config_get("maxmemory")["maxmemory"])


def test_what_expired_is_counted(client: Any) -> None:
    client.set("k", "v", pxat=1)
    before = client.info()
    assert client.get("k") is None
    assert moved(client, before)["expired_keys"] == 1


def test_connections_listeners_and_copies_are_counted(client: Any) -> None:
    client.ping()
    port = int(client.info("server")["tcp_port"])
    before = client.info()
    with Raw(port, 3) as other:
        other.ask(b"SUBSCRIBE", b"a", b"b")
        other.reply()
        other.ask(b"PSUBSCRIBE", b"c*")
        other.ask(b"CLIENT", b"TRACKING", b"ON")
        other.ask(b"GET", b"k")
        change = moved(client, before)
    assert change["connected_clients"] == 1
    assert change["total_connections_received"] == 1
    assert change["pubsub_channels"] == 2
    assert change["pubsub_patterns"] == 1
    assert change["tracking_clients"] == 1
    assert change["tracking_total_keys"] == 1


def test_counts_begin_again_and_facts_stay(client: Any) -> None:
    client.get("none")
    facts = client.info("server")
    assert client.config_resetstat()
    stats = client.info("stats")
    assert stats["keyspace_misses"] == 0
    assert stats["total_commands_processed"] <= 1
    assert client.info("server")["run_id"] == facts["run_id"]
    assert client.lastsave().timestamp() == pytest.approx(client.time()[0], abs=60)


def test_settings_are_told_and_not_changed(client: Any) -> None:
    assert client.config_get("max*") == {
        "maxclients": str(client.info("clients")["maxclients"]),
        "maxmemory": str(4 << 20),
        "maxmemory-policy": client.info("memory")["maxmemory_policy"],
    }
    assert client.config_set("save", "")
    with pytest.raises(redis.ResponseError, match="can't set immutable config"):
        client.config_set("maxmemory", "1mb")
    with pytest.raises(redis.ResponseError, match="Unknown option"):
        client.config_set("nosuch", "1")


def test_the_table_describes_itself(client: Any) -> None:
    rows = client.command()
    assert client.command_count() == len(rows)
    assert rows["get"]["arity"] == 2
    assert rows["get"]["first_key_pos"] == 1
    assert client.command_getkeys("MSET", "a", "1", "b", "2") == ["a", "b"]
    assert client.command_getkeys("OBJECT", "ENCODING", "k") == ["k"]


def test_the_longest_turn_is_told_and_forgotten(client: Any) -> None:
    """A transaction of thousands of requests is one turn; CONFIG RESETSTAT forgets it."""
    with client.pipeline(transaction=True) as transaction:
        for _ in range(20_000):
            transaction.append("k", "")
        transaction.execute()
    # What a turn took is known when it has ended, so to the next request.
    long = client.info("stats")["longest_turn_usec"]
    assert long > 1000
    client.config_resetstat()
    assert client.info("stats")["longest_turn_usec"] < long
