"""Client and server of this version and of the one before, in all pairs: `make versions`.

Where two clients share a server, they are of both versions, in either order.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Wire, until
from tests.faults.proxy import Proxy
from tests.maelstrom import EXPECTED, INPUT
from tests.versions.peer import SAMPLES
from tests.versions.programs import HOME_BEFORE, LIMIT, ROOT, Peer, TheServer, ToldError, environment, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not HOME_BEFORE.exists(), reason="the version before is not there; in a shallow clone: git fetch --unshallow"
)
VERSIONS = ("before", "now")
FACES = ("threads", "tasks")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, TheServer]]:
    """Return a server of each version."""
    found = {version: TheServer(version) for version in VERSIONS}
    yield found
    for server in found.values():
        server.end()


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, servers: dict[str, TheServer]) -> Iterator[TheServer]:
    """Return a server of either version, which is empty; fails if it answers with more errors than the test meant."""
    chosen = servers[request.param]
    with Wire(chosen.address) as wire:
        wire.ask(b"FLUSHALL\r\n", b"+OK\r\n")
    before, chosen.meant = chosen.errors(), 0
    yield chosen
    assert chosen.errors() - before == chosen.meant


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    """Return either face of the clients."""
    return str(request.param)


@pytest.fixture
def peer(face: str) -> Iterator[Callable[..., Peer]]:
    """Return a function that starts a client of a version."""
    peers: list[Peer] = []

    def start(version: str, url: str) -> Peer:
        peers.append(Peer(version, url, face))
        return peers[-1]

    yield start
    for one in peers:
        one.end()


@pytest.fixture(params=VERSIONS)
def client(request: pytest.FixtureRequest, server: TheServer, peer: Callable[..., Peer]) -> Peer:
    """Return a client of either version."""
    return peer(request.param, server.url)


@pytest.fixture
def other(client: Peer, server: TheServer, peer: Callable[..., Peer]) -> Peer:
    """Return a client of the other version."""
    return peer(VERSIONS[client.version == "before"], server.url)


def test_the_versions_are_two(servers: dict[str, TheServer]) -> None:
    for version, server in servers.items():
        with Wire(server.address) as wire:
            wire.send(b"HELLO 3\r\nCACHE.SESSION me 1 TICKETS\r\nQUIT\r\n")
            assert (b"max_value" in wire.rest()) == (version == "now")


def test_other_protocols_are_the_same(server: TheServer, client: Peer) -> None:
    client("cache.set", "k", {"a": 1}, ttl="5m")
    with Wire(server.address) as wire:
        wire.ask(b"get k\r\n", b'VALUE k 0 7\r\n{"a":1}\r\nEND\r\n')
        wire.ask(b"set n 0 60 2\r\n41\r\n", b"STORED\r\n")
        wire.ask(b"incr n 1\r\n", b"42\r\n")
        wire.ask(b"mg n t v\r\n", b"VA 2 t60\r\n42\r\n")
    assert client("cache.get", "n") == 42
    with Wire(server.address) as wire:
        wire.ask(INPUT, EXPECTED)


def test_values_and_numbers(client: Peer) -> None:
    assert client("cache.set", "k", {"a": 1}, ttl="5m", tags=["t"]) is not None
    assert client("cache.get", "k") == {"a": 1}
    assert client("cache.get", "absent", "default") == "default"
    client("cache.set_many", {"m:1": 1, "m:2": "two"}, ttl="5m")
    assert client("cache.get_many", ["m:1", "m:2", "m:3"]) == {"m:1": 1, "m:2": "two"}
    assert client("cache.delete", "k") in (True, 1)
    assert client("cache.delete_many", ["m:1", "m:2", "m:3"]) == 2


def test_conditions_and_what_is_told(client: Peer) -> None:
    client("cache.set", "k", {"a": 1}, ttl="5m", tags=["t"])
    assert [client("cache.incr", "n", 5, ttl="1m"), client("cache.incr", "n", -2)] == [5, 3]
    assert client("cache.add", "n", 1) is False
    assert client("cache.add", "new", 1, ttl="1m") is True
    assert [client("cache.has", "new"), client("cache.has", "no")] == [True, False]
    assert client("cache.touch", "new", "1h") is True
    entry = client("cache.get_entry", "k")
    assert (entry["value"], entry["stale"]) == ({"a": 1}, False)
    assert not client("cache.set", "k", 2, if_version=entry["version"] - 1)
    assert client("cache.set", "k", 2, if_version=entry["version"])
    assert client("cache.inspect", "new")["state"] == "hit"
    assert client("cache.ping") is True
    (told,) = client("cache.server_info")
    assert told["globalcache_version"]
    assert client("cache.command", "PING") == "UE9ORw=="


def test_each_reads_what_the_other_wrote(client: Peer, other: Peer) -> None:
    for name in SAMPLES:
        client("write_sample", name)
        assert (name, client("read_sample", name), other("read_sample", name)) == (name, "same", "same")


def test_values_end_at_their_times(server: TheServer, client: Peer, other: Peer) -> None:
    client("cache.set_many", {"k": 1, "touched": 2}, ttl="1m")
    row = client("load_one", "l", ttl="1m")
    assert 0 < other("cache.get_entry", "k")["ttl"] <= 60
    assert other("cache.touch", "touched", "5m") is True
    assert other("load_one", "l", ttl="1m") == row
    server.pass_time(70)
    assert client("cache.get_many", ["k", "touched", "l"]) == {"touched": 2}
    assert other("load_one", "l", ttl="1m") != row
    server.pass_time(300)
    assert other("cache.get", "touched") is None
    assert (client.count("l"), other.count("l")) == (1, 1)


def test_functions_share_their_values(server: TheServer, client: Peer, other: Peer) -> None:
    row = client("row", 1)
    assert row["key"] == "row:1"
    assert other("row", 1) == row
    client("row.invalidate", 1)
    assert other("row", 1) != row
    assert other("row.refresh", 1) == client("row", 1)
    client("row.set", {"by": "hand"}, 2)
    assert other("row", 2) == {"by": "hand"}
    assert (client.count("row:1"), other.count("row:1"), other.count("row:2")) == (1, 2, 0)
    assert [client.refused(), other.refused()] == [0, 0]
    assert client("cache.stats")["hits"] > 0
    fresh = client("fresh", 1)
    server.pass_time(70)
    assert other("fresh", 1) == fresh  # while it is loaded anew
    until(lambda: other.count("fresh:1"))
    until(lambda: client("fresh", 1) != fresh)
    assert client.count("fresh:1") == 1


def test_one_loads_and_the_other_waits(client: Peer, other: Peer) -> None:
    client("database.hold", "row:1")
    first = client.begin("row", 1)
    until(lambda: client.count("row:1"))
    waiting = [other.begin("row", 1) for _ in range(3)] + [client.begin("row", 1)]
    until(lambda: int(other("cache.inspect", "row:1")["waiters"]) >= 1)
    client("database.let_go", "row:1")
    row = first.result(LIMIT)
    assert [waiter.result(LIMIT) for waiter in waiting] == [row] * 4
    assert (client.count("row:1"), other.count("row:1")) == (1, 0)


def test_many_calls_share_one_load(client: Peer, other: Peer) -> None:
    calls = [one.begin("load_one", "k", ttl="10m") for _ in range(8) for one in (client, other)]
    rows = [call.result(LIMIT) for call in calls]
    assert rows == rows[:1] * 16
    assert client.count("k") + other.count("k") == 1


def test_a_load_before_an_invalidation_is_not_stored(client: Peer, other: Peer) -> None:
    client("database.hold", "row:1")
    first = client.begin("row", 1)
    until(lambda: client.count("row:1"))
    other("cache.invalidate", tags=["rows"])
    client("database.let_go", "row:1")
    assert other("row", 1) != first.result(LIMIT)
    assert other.count("row:1") == 1


def test_a_lease_passes_on_when_its_holder_ends(client: Peer, other: Peer) -> None:
    client("database.hold", "row:1")
    client.begin("row", 1)
    until(lambda: client.count("row:1"))
    waiting = other.begin("row", 1)
    until(lambda: int(other("cache.inspect", "row:1")["waiters"]))
    client.process.kill()
    assert waiting.result(LIMIT)["process"] == other("pid")


def test_a_long_load_keeps_its_lease(client: Peer, other: Peer) -> None:
    client("database.hold", "row:1")
    first = client.begin("row", 1)
    until(lambda: client.count("row:1"))
    held = int(other("cache.inspect", "row:1")["held_ms"])
    # Longer than a lease, which the holder renews meanwhile.
    until(lambda: int(other("cache.inspect", "row:1")["held_ms"]) > held + 4000)
    waiting = other.begin("row", 1)
    client("database.let_go", "row:1")
    assert waiting.result(LIMIT) == first.result(LIMIT)
    assert (client.count("row:1"), other.count("row:1")) == (1, 0)


def test_tags_and_namespaces_reach_what_both_wrote(client: Peer, other: Peer) -> None:
    for one in (client, other):
        one("cache.set", f"t:{one.version}", 1, tags=["t"])
        one("shop.set", f"s:{one.version}", 1, tags=["t"])
        one("shelf.set", f"s:{one.version}", 1)
        one("scoped", 5)
    names = [f"s:{version}" for version in VERSIONS]
    client("cache.invalidate", tags=["t"])
    assert client("cache.get_many", ["t:before", "t:now"]) == {}
    assert other("shop.get_many", names) == dict.fromkeys(names, 1)
    client("shelf.clear")
    assert other("shelf.get_many", names) == {}
    assert other("shop.get_many", names) == dict.fromkeys(names, 1)
    other("shelf.set", "again", 1)
    client("shelf.set", "and again", 1)
    other("shop.clear")
    assert client("shop.get_many", names) == {}
    assert client("shelf.get_many", ["again", "and again"]) == {}
    before = client.count("scoped:5") + other.count("scoped:5")
    other("scoped", 5)
    assert client.count("scoped:5") + other.count("scoped:5") == before + 1


def test_rows_that_do_not_exist(server: TheServer, client: Peer, other: Peer) -> None:
    client("database.lose", "lost:1")
    for one in (client, other, client):
        with pytest.raises(ToldError) as caught:
            one("lost", 1)
        assert caught.value.kind == "NoRow"
    assert (client.count("lost:1"), other.count("lost:1")) == (1, 0)
    client("database.heal", "lost:1")
    server.pass_time(70)
    assert other("lost", 1)["key"] == "lost:1"
    assert client.refused() + other.refused() == 0


def test_an_absence_that_is_not_kept_ends_the_wait(client: Peer, other: Peer) -> None:
    client("database.lose", "never:1")
    client("database.hold", "never:1")
    first = client.begin("never", 1)
    until(lambda: client.count("never:1"))
    second = other.begin("never", 1)
    until(lambda: int(other("cache.inspect", "never:1")["waiters"]))
    client("database.let_go", "never:1")
    for call in (first, second):
        with pytest.raises(ToldError) as caught:
            call.result(LIMIT)
        assert caught.value.kind == "NoRow"
    client("database.heal", "never:1")
    until(lambda: value_of(client, "never", 1))
    assert client("never", 1)["key"] == "never:1"
    assert (other.count("never:1"), client.refused(), other.refused()) == (0, 0, 0)


def digest(password: str) -> str:
    """Return a password as files of users have it."""
    return hashlib.sha256(password.encode()).hexdigest()


def value_of(peer: Peer, *call: Any) -> Any:
    """Return what a call gives; None if it raises."""
    with contextlib.suppress(ToldError):
        return peer(*call)
    return None


def test_batches(client: Peer, other: Peer) -> None:
    client("database.lose", "b:3")
    found = client("load_many", ["b:1", "b:2", "b:3"], ttl="10m", negative_ttl="1m", tags=["b"])
    assert found["b:3"] is None
    assert other("load_many", ["b:3", "b:2", "b:1"], ttl="10m", negative_ttl=0) == found
    other("database.lose", "b:5")
    more = other("load_many", ["b:1", "b:4", "b:5"], ttl="10m", negative_ttl=0)
    assert (more["b:1"], more["b:5"]) == (found["b:1"], None)
    assert client("load_one", "b:4", ttl="10m") == more["b:4"]
    assert client("cache.invalidate", tags=["b"]) is not None
    assert other("load_many", ["b:1"], ttl="10m") != {"b:1": found["b:1"]}
    assert client.refused() + other.refused() == 0


def test_a_failure_is_remembered_and_forgotten(server: TheServer, client: Peer, other: Peer) -> None:
    client("database.fail", "row:1")
    with pytest.raises(ToldError) as caught:
        client("row", 1)
    assert caught.value.kind == "Broken"
    assert "Broken" in client("cache.inspect", "row:1")["failure"]
    # It raises LoadError, or loads itself where the 100 ms are over in which nobody may or it is this version.
    errors = server.errors()
    found = value_of(other, "row", 1)
    assert found is None or found["process"] == other("pid")
    server.meant = server.errors() - errors
    assert server.meant <= 1  # LOADFAILED
    client("database.heal", "row:1")
    server.pass_time(2)
    until(lambda: value_of(client, "row", 1))
    row = client("row", 1)
    until(lambda: value_of(other, "row", 1) == row)
    assert client.refused() + other.refused() == 0


def test_a_stale_value_stands_in_for_a_failure(server: TheServer, client: Peer, other: Peer) -> None:
    row = client("grace", 1)
    other("database.fail", "grace:1")
    server.pass_time(70)
    assert other("grace", 1) == row
    assert other.count("grace:1") == 1
    assert client.refused() + other.refused() == 0


def test_a_value_that_is_too_long(server: TheServer, client: Peer) -> None:
    # A limit that is learned by the greeting is kept before anything is sent, so the connection stays.
    assert client("cache.ping")
    if client.version == "now":
        with pytest.raises(ToldError) as caught:
            client("write_long", 17 << 20)
        assert caught.value.kind == "ValueTooLargeError"
        assert len(client("load_long", 17 << 20)) == 17 << 20
        assert client("cache.stats")["connects"] == 1
    else:
        with contextlib.suppress(ToldError):
            client("write_long", 17 << 20)
        server.meant = 1
    until(lambda: client("cache.set", "k", 1) and client("cache.get", "k") == 1)
    assert client("cache.get", "long") is None


@pytest.fixture
def workers(server: TheServer, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Return a function that starts a worker of a version and returns when it serves.

    Fails if a worker logs that an answer was refused.
    """
    started: list[subprocess.Popen[str]] = []

    def start(version: str) -> subprocess.Popen[str]:
        env = environment(version, GLOBALCACHE_URL=server.url)
        with (tmp_path / f"worker-{len(started)}.log").open("w") as log:
            process = subprocess.Popen(
                [*program(version, "globalcache"), "worker", "tests.versions.shop:cache"],
                stderr=log,
                text=True,
                cwd=ROOT,
                env=env | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))},
            )
        started.append(process)
        until(lambda: serves(server, process))
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait(LIMIT)
    assert not [path for path in tmp_path.glob("*.log") if "refused" in path.read_text()]


def serves(server: TheServer, process: subprocess.Popen[str]) -> bool:
    """Tell whether both patterns of the worker are known to the server."""
    assert process.poll() is None
    with Wire(server.address) as wire:
        wire.send(b"CACHE.INSPECT served:1\r\nCACHE.INSPECT shop:batch:1\r\nQUIT\r\n")
        told = wire.rest()
    return b"served:*" in told and b"shop:batch:*" in told


@pytest.mark.parametrize("version", VERSIONS)
def test_workers_load_what_clients_miss(
    server: TheServer, workers: Callable[[str], subprocess.Popen[str]], version: str, client: Peer
) -> None:
    worker = workers(version)
    assert client("cache.get", "served:1")["process"] == worker.pid
    assert client("served", 2)["process"] == worker.pid
    found = client("shop.get_many", ["batch:1", "batch:2", "batch:-1"])
    assert {key: row["batch"] for key, row in found.items()} == {"batch:1": 1, "batch:2": 2}
    assert client("cache.get", "served:-1") is None
    with pytest.raises(ToldError) as caught:
        client("served", -1)
    assert caught.value.kind == "NoRow"
    assert len(client("cache.get", "served:14")["text"]) == 100_000
    client("cache.invalidate", tags=["served"])
    client("shop.invalidate", tags=["batches"])
    client("shop.clear")
    assert [client("cache.get", "served:1")["served"], client("shop.get", "batch:1")["batch"]] == [1, 1]
    assert client.refused() == 0
    with pytest.raises(ToldError) as caught:
        client("cache.get", "served:13")
    assert caught.value.kind == "LoadError"
    server.meant = 1


def test_workers_of_both_versions_take_turns(workers: Callable[[str], subprocess.Popen[str]], client: Peer) -> None:
    first, second = workers("before"), workers("now")
    rows = {client("cache.get", f"served:{100 + number}")["process"] for number in range(40)}
    assert rows <= {first.pid, second.pid}
    first.terminate()
    first.wait(LIMIT)
    assert client("cache.get", "served:200")["process"] == second.pid
    workers("before")
    second.terminate()
    second.wait(LIMIT)
    assert client("cache.get", "served:201")["served"] == 201


USERS = f"""user default off
user app on #{digest("secret")} ~* &* +@all
user shop on #{digest("shop")} ~row:* ~k +@read +@write +cache.session
user reports on #{digest("read")} %R~row:* %R~k +@read +cache.session
"""


@pytest.mark.parametrize(("version", "of"), list(itertools.product(VERSIONS, VERSIONS)))
def test_passwords_and_users(tmp_path: Path, version: str, of: str, peer: Callable[..., Peer]) -> None:
    (tmp_path / "users.acl").write_text(USERS)
    server = TheServer(version, "--users-file", str(tmp_path / "users.acl"))
    try:
        everybody, shop, reports, wrong = (
            peer(of, f"globalcache://{login}@{server.address}?timeout=5s")
            for login in ("app:secret", "shop:shop", "reports:read", "app:wrong")
        )
        everybody("cache.set", "k", 1)
        row = shop("row", 1)
        assert (shop("cache.get", "k"), reports("cache.get", "k")) == (1, 1)
        assert everybody("row", 1) == row
        for one, call in ((reports, "cache.set"), (wrong, "cache.set"), (shop, "cache.set")):
            with pytest.raises(ToldError) as caught:
                one(call, "other", 1)
            assert caught.value.kind == "AuthError"
    finally:
        server.end()


@pytest.mark.parametrize(("version", "then"), list(itertools.product(VERSIONS, VERSIONS)))
def test_the_server_is_replaced_while_clients_run(version: str, then: str, peer: Callable[..., Peer]) -> None:
    with contextlib.ExitStack() as stack:
        first = TheServer(version)
        stack.callback(first.end)
        peers = [peer(version, f"{first.url}?timeout=5s") for version in VERSIONS]
        assert peers[0]("row", 1) == peers[1]("row", 1)
        held = begin_loads(peers)
        first.end()
        for each in peers:
            # It is away: nothing is found, and loads run.
            assert each("cache.get", "old:now") is None
            each("cache.invalidate", tags=["t"])
            assert each("row", 9)["process"] == each("pid")
        second = TheServer(then, listen=first.address)
        stack.callback(second.end)
        check_new_server(peers)
        for each in peers:
            each("database.let_go", f"held:{each.version}")
        assert [call.result(LIMIT)["key"] for call in held] == ["held:before", "held:now"]
        assert second.errors() == 0


def test_invalidations_of_an_outage_are_made_good(server: TheServer, client: Peer, peer: Callable[..., Peer]) -> None:
    with Proxy(server.address) as proxy:
        away = peer(VERSIONS[client.version == "before"], f"globalcache://{proxy.address}?timeout=500ms")
        client("cache.set", "k", 1, tags=["t"])
        row = client("row", 1)
        assert (away("cache.get", "k"), away("row", 1)) == (1, row)
        # What is sent from here on is lost.
        proxy.hold()
        away("cache.invalidate", tags=["t"])
        away("row.invalidate", 1)
        assert away("row", 1)["process"] == away("pid")
        assert (client("cache.get", "k"), client("row", 1)) == (1, row)
        proxy.cut()
        proxy.release()
        until(functools.partial(is_served, away))
        assert client("cache.get", "k") is None
        assert client("row", 1) == away("row", 1) != row


def begin_loads(peers: list[Peer]) -> list[Future[Any]]:
    """Write a value of each, and have each begin a load."""
    held = []
    for each in peers:
        each("cache.set", f"old:{each.version}", 1, tags=["t"])
        key = f"held:{each.version}"
        each("database.hold", key)
        held.append(each.begin("load_one", key, ttl="10m"))
        until(functools.partial(each.count, key))
    return held


def is_served(peer: Peer) -> bool:
    """Tell whether a client reaches its server."""
    return value_of(peer, "cache.has", "none") is False


def check_new_server(peers: list[Peer]) -> None:
    """Show that each works with the new server and with what the other has done there."""
    for each in peers:
        until(functools.partial(is_served, each))
    for each in peers:
        each("cache.set", f"new:{each.version}", {"by": each.version}, ttl="10m", tags=["t"])
    news = [f"new:{version}" for version in VERSIONS]
    for each in peers:
        assert each("cache.get_many", news) == {f"new:{version}": {"by": version} for version in VERSIONS}
        assert each("cache.get", "old:now") is None
    assert peers[0]("row", 4) == peers[1]("row", 4)
    peers[0]("cache.invalidate", tags=["t"])
    assert peers[1]("cache.get_many", news) == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_command_lines_see_what_the_other_does(server: TheServer, version: str) -> None:
    def run(version: str, *words: str) -> str:
        command = [*program(version, "globalcache"), *words, "--url", server.url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(version))
        return done.stdout.strip()

    other = VERSIONS[version == "before"]
    run(version, "ping")
    run(version, "set", "k", "1", "--ttl", "5m")
    assert run(other, "incr", "k", "2") == "3"
    assert run(version, "get", "k") == "3"
    assert "hit" in run(version, "inspect", "k")
    assert "hits" in run(version, "stats")
    run(version, "delete", "k")
    assert "hit" not in run(other, "inspect", "k")
    with Wire(server.address) as wire:
        wire.send(b"CACHE.SET tagged 1 TAGS 1 t\r\nQUIT\r\n")
        wire.rest()
    run(version, "invalidate", "--tag", "t")
    assert "hit" not in run(other, "inspect", "tagged")
