"""Real memcached clients, unchanged, and the suites that others test memcached with."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.memcached_wire import ports, started

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["common", "own"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with started() as server:
        common, own = ports(server)
        yield common if request.param == "common" else own


def test_pymemcache(port: int) -> None:
    base = pytest.importorskip("pymemcache.client.base")
    client = base.Client(("127.0.0.1", port), default_noreply=False)
    assert client.set("k", b"v", expire=100, flags=9)
    _value, version = client.gets("k")
    assert client.cas("k", b"w", version) is True
    assert client.cas("k", b"z", version) is False
    assert client.get_many(["k", "none"]) == {"k": b"w"}
    assert client.add("k", b"x") is False
    assert client.append("k", b"!")
    assert client.get("k") == b"w!"
    client.set("n", b"1")
    assert (client.incr("n", 5), client.decr("n", 10)) == (6, 0)
    assert client.delete("k")
    assert client.get("k") is None
    client.close()


def test_pylibmc(port: int) -> None:
    pylibmc: Any = pytest.importorskip("pylibmc")
    client = pylibmc.Client([f"127.0.0.1:{port}"], behaviors={"cas": True, "tcp_nodelay": True})
    assert client.set_multi({f"m{number}": {"n": number} for number in range(50)}, time=100) == []
    assert client.get_multi([f"m{number}" for number in range(50)])["m49"] == {"n": 49}
    value, version = client.gets("m1")
    assert value == {"n": 1}
    assert client.cas("m1", "other", version)
    assert client.set("number", 41)
    assert client.incr("number") == 42
    assert client.touch("m2", 50)
    assert client.delete("m2")
    assert client.get("m2") is None
    assert next(iter(client.get_stats()))[1]["version"]
    client.disconnect_all()


def test_aiomcache(port: int) -> None:
    aiomcache = pytest.importorskip("aiomcache")

    async def use() -> None:
        client = aiomcache.Client("127.0.0.1", port)
        assert await client.set(b"k", b"v", exptime=100)
        assert await client.multi_get(b"k", b"none") == (b"v", None)
        _value, version = await client.gets(b"k")
        assert await client.cas(b"k", b"w", version)
        assert await client.get(b"k") == b"w"
        assert await client.touch(b"k", 50)
        assert (await client.version()).startswith(b"1.6")
        await client.close()

    asyncio.run(use())


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # its pool leaves sockets to the collector
def test_meta_memcache(port: int) -> None:
    meta = pytest.importorskip("meta_memcache")
    pools = pytest.importorskip("meta_memcache.configuration")
    address = meta.ServerAddress("127.0.0.1", port)
    pool = meta.CacheClient.cache_client_from_servers(
        servers=[address], connection_pool_factory_fn=pools.connection_pool_factory_builder()
    )
    assert pool.set(key="k", value={"a": 1}, ttl=100)
    assert pool.get(key="k") == {"a": 1}
    assert pool.multi_get(keys=["k", "none"]) == {meta.Key("k"): {"a": 1}, meta.Key("none"): None}
    # Its parser keeps cas numbers of 32 bits and drops longer ones, which versions here always are.
    assert pool.get_cas(key="k") == ({"a": 1}, None)
    assert pool.touch(key="k", ttl=50)
    assert pool.delta_initialize(key="n", delta=5, initial_value=1, initial_ttl=100)
    assert pool.delete(key="k")
    assert pool.get(key="k") is None


def test_memccapable(port: int) -> None:
    """Libmemcached's own test of servers: all of its text tests."""
    binary = shutil.which("memccapable")
    if binary is None:
        pytest.skip("memccapable (libmemcached-tools) is not installed")
    done = subprocess.run(
        [binary, "-h", "127.0.0.1", "-p", str(port), "-a"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "All tests passed" in done.stdout + done.stderr


def test_the_integration_tests_of_pymemcache(port: int, tmp_path: Path) -> None:
    found = importlib.util.find_spec("pymemcache")
    if found is None or found.origin is None:
        pytest.skip("pymemcache is not installed")
    suite = Path(found.origin).parent / "test" / "test_integration.py"
    # test_misc sets the memory limit of the server, which no client may do here.
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    unit\n    integration\n    benchmark\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(tmp_path / "pytest.ini"),
        "-q",
        "-m",
        "integration",
        "-p",
        "no:cacheprovider",
        "--rootdir",
    ]
    command += [str(tmp_path), "--server", "127.0.0.1", "--port", str(port)]
    command += ["-k", "not test_misc", str(suite)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
