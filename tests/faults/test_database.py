"""A real database that crashes under readers and comes back: PostgreSQL, behind a proxy that counts."""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from globalcache import Cache, LoadError
from tests.faults.proxy import Proxy
from tests.faults.test_server import report
from tests.integration.test_workers import Served
from tests.postgres import cluster

if TYPE_CHECKING:
    from pathlib import Path

psycopg = pytest.importorskip("psycopg")

KEYS = 200
# A minute in `make faults`.
DOWN = 60.0 if int(os.environ.get("FAULTS_ROUNDS", "1")) > 1 else 3.0

APPLICATION = """
from globalcache import Cache

cache = Cache()
cache.sql_loader(
    "row:{{id:int}}",
    url="postgresql+{driver}://postgres@{address}/postgres",
    query="select id, number from rows where id in :ids",
    ttl="1s",
    stale_if_error="1h",
)
"""


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async"])
def test_readers_are_served_while_the_database_is_down(tmp_path: Path, driver: str) -> None:
    with cluster() as database, Proxy(f"127.0.0.1:{database.port}") as proxy:
        with psycopg.connect(database.url) as connection:
            connection.execute("create table rows as select id, 1 as number from generate_series(0, 999) as id")
        (tmp_path / "app.py").write_text(APPLICATION.format(driver=driver, address=proxy.address))
        server = Served(tmp_path)
        try:
            with Cache(server.url, timeout=20) as cache:
                _outage(cache, database, proxy)
        finally:
            server.end()
            # What a server that is killed leaves open would keep the proxy from its end.
            proxy.cut()


def _outage(cache: Cache, database: Any, proxy: Proxy) -> None:
    keys = [f"row:{number}" for number in range(KEYS)]

    def read() -> list[bytes]:
        return [value for value in cache.command("MGET", *keys) if isinstance(value, bytes)]

    assert len(read()) == KEYS
    database.stop()
    tried, asked, served, end = [proxy.accepted], 0, 0, time.monotonic() + DOWN
    while time.monotonic() < end:
        second = time.monotonic() + 1
        while time.monotonic() < second:
            served += len(read())
            asked += KEYS
            time.sleep(0.02)
        tried.append(proxy.accepted)
    # What nobody has loaded before fails, and says why; it is no "there is none".
    with pytest.raises(LoadError, match=r"row:999: .*OperationalError"):
        cache.command("GET", "row:999")
    most = max(after - before for before, after in itertools.pairwise(tried))
    database.start()
    back = time.monotonic()
    with psycopg.connect(database.url) as connection:
        connection.execute("update rows set number = 2")
    while not all(b'"number":2' in value for value in read()):
        assert time.monotonic() < back + 20
        time.sleep(0.01)
    late = time.monotonic() - back
    report(f"PostgreSQL down for {DOWN:.0f} s: reads within stale_if_error served", f"{served:,} of {asked:,}", "all")
    report("connections to it tried in the worst second", f"{most} (and {tried[-1] - tried[0]} in all)", "at most 10")
    report("all keys fresh after it is back", f"{late:.2f} s", "at most 2 s")
    assert served == asked
    assert most <= 10
    assert late <= (2 if DOWN > 10 else 60)
