"""Client and server of this version and of the one before, in all pairs: `make versions`.

Clients and servers are processes of either version. Where two clients share a server, both versions are the first and the
second of them. $VERSION_BEFORE is the folder of programs of an environment that has the version before.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Wire
from tests.versions.peer import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
VERSIONS = ("before", "now")
FACES = ("threads", "tasks")
# Seconds until a call that should have ended counts as one that does not.
LIMIT = 30


def program(version: str, name: str) -> list[str]:
    """Return the path of a program of a version."""
    folder = os.environ["VERSION_BEFORE"] if version == "before" else Path(sys.executable).parent
    return [str(Path(folder) / name)]


def environment(version: str, **more: str) -> dict[str, str]:
    """Return the environment of a process, in which only this version is found."""
    hidden = {"PYTHONPATH"} if version == "before" else set()
    return {name: value for name, value in os.environ.items() if name not in hidden} | more


def until(holds: Callable[[], Any]) -> Any:
    """Wait for something; returns it."""
    end = time.monotonic() + LIMIT
    while not (value := holds()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


class TheServer:
    """A server of a version, in a process of its own."""

    def __init__(self, version: str, *options: str, listen: str = "127.0.0.1:0") -> None:
        words = [*program(version, "globalcache"), "serve", "--listen", listen, "--memory", "64MiB", "--debug-time"]
        self.process = subprocess.Popen([*words, *options], stderr=subprocess.PIPE, text=True, env=environment(version))
        assert self.process.stderr is not None
        ready = self.process.stderr.readline()
        if "ready on" not in ready:
            self.end()
            pytest.fail(f"the server did not start: {ready}")
        self.address = ready.split("ready on ")[1].split()[0].rstrip(",")
        self.url = f"globalcache://{self.address}"

    def pass_time(self, seconds: int) -> None:
        with Wire(self.address) as wire:
            wire.ask(b"debugtime %d\r\n" % seconds, b"OK\r\n")

    def errors(self) -> int:
        """Return how many commands were answered with an error."""
        with Wire(self.address) as wire:
            wire.send(b"INFO stats\r\nQUIT\r\n")
            told = wire.rest().decode()
        return int(told.split("total_error_replies:")[1].split()[0])

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(LIMIT)
        assert self.process.stderr is not None
        self.process.stderr.close()


class ToldError(Exception):
    """What a call at a peer raised."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Peer:
    """A client of a version, in a process of its own; see peer.py."""

    def __init__(self, version: str, url: str, face: str) -> None:
        self.version = version
        self.process = subprocess.Popen(
            [*program(version, "python"), str(HERE / "peer.py"), url, face],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(version),
        )
        self._numbers = itertools.count()
        self._answers: dict[int, Future[Any]] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def begin(self, call: str, *args: Any, **options: Any) -> Future[Any]:
        """Begin a call; returns its outcome."""
        number = next(self._numbers)
        answer = self._answers[number] = Future()
        assert self.process.stdin is not None
        line = {"id": number, "call": call, "args": args, "options": options}
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return answer

    def __call__(self, call: str, *args: Any, **options: Any) -> Any:
        """Do a call and return its value; raises ToldError."""
        return self.begin(call, *args, **options).result(LIMIT)

    def count(self, key: str) -> int:
        """Return how often a row was selected in this process."""
        return int(self("database.count", key))

    def refused(self) -> int:
        """Return what the client counts of what it was refused."""
        stats = self("cache.stats")
        return int(stats["errors"] + stats["refused_fills"])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            future = self._answers.pop(answer["id"])
            if "error" in answer:
                future.set_exception(ToldError(answer["error"], answer["text"]))
            else:
                future.set_result(answer["value"])
        for future in self._answers.values():
            future.set_exception(ToldError("EOFError", "the process ended"))

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self._reader.join(LIMIT)
        self.process.kill()
        self.process.wait(LIMIT)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def started() -> Iterator[contextlib.ExitStack]:
    """End what was started for several tests."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def servers(started: contextlib.ExitStack) -> dict[str, TheServer]:
    """Return a server of each version."""
    found = {version: TheServer(version) for version in VERSIONS}
    for server in found.values():
        started.callback(server.end)
    return found


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, servers: dict[str, TheServer]) -> TheServer:
    """Return a server of either version, which is empty."""
    chosen = servers[request.param]
    with Wire(chosen.address) as wire:
        wire.ask(b"FLUSHALL\r\n", b"+OK\r\n")
    return chosen


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    """Return either face of the clients."""
    return str(request.param)


@pytest.fixture
def peer(server: TheServer, face: str) -> Iterator[Callable[..., Peer]]:
    """Return a function that starts a client of a version."""
    peers: list[Peer] = []

    def start(version: str, url: str = "", its_face: str = face) -> Peer:
        peers.append(Peer(version, url or server.url, its_face))
        return peers[-1]

    yield start
    for one in peers:
        one.end()


@pytest.fixture(params=VERSIONS)
def client(request: pytest.FixtureRequest, peer: Callable[..., Peer]) -> Peer:
    """Return a client of either version."""
    return peer(request.param)


@pytest.fixture
def other(client: Peer, peer: Callable[..., Peer]) -> Peer:
    """Return a client of the other version."""
    return peer(VERSIONS[client.version == "before"])


@pytest.fixture
def no_errors(server: TheServer) -> Iterator[None]:
    """Fail if the server answers any command of the test with an error."""
    before = server.errors()
    yield
    assert server.errors() == before


@pytest.mark.usefixtures("no_errors")
def test_values_and_numbers(client: Peer) -> None:
    assert client("cache.set", "k", {"a": 1}, ttl="5m", tags=["t"]) is not None
    assert client("cache.get", "k") == {"a": 1}
    assert client("cache.get", "absent", "default") == "default"
    client("cache.set_many", {"m:1": 1, "m:2": "two"}, ttl="5m")
    assert client("cache.get_many", ["m:1", "m:2", "m:3"]) == {"m:1": 1, "m:2": "two"}
    assert [client("cache.incr", "n", 5, ttl="1m"), client("cache.incr", "n", -2)] == [5, 3]
    assert client("cache.add", "n", 1) is False
    assert client("cache.add", "new", 1, ttl="1m") is True
    assert [client("cache.has", "new"), client("cache.has", "no")] == [True, False]
    assert client("cache.touch", "new", "1h") is True
    entry = client("cache.get_entry", "k")
    assert entry["value"] == {"a": 1}
    assert client("cache.set", "k", 2, if_version=entry["version"] - 1) in (None, 0, False)
    assert client("cache.set", "k", 2, if_version=entry["version"])
    assert client("cache.delete", "k") in (True, 1)
    assert client("cache.delete_many", ["m:1", "m:2", "m:3"]) == 2
    assert client("cache.inspect", "new")["state"] == "hit"
    assert client("cache.ping") is True
    (told,) = client("cache.server_info")
    assert told["globalcache_version"]
    assert client("cache.command", "PING") == "UE9ORw=="


@pytest.mark.usefixtures("no_errors")
@pytest.mark.parametrize("name", SAMPLES)
def test_each_reads_what_the_other_wrote(client: Peer, other: Peer, name: str) -> None:
    client("write_sample", name)
    assert (client("read_sample", name), other("read_sample", name)) == ("same", "same")


@pytest.mark.usefixtures("no_errors")
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


@pytest.mark.usefixtures("no_errors")
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


@pytest.mark.usefixtures("no_errors")
def test_a_load_before_an_invalidation_is_not_stored(client: Peer, other: Peer) -> None:
    client("database.hold", "row:1")
    first = client.begin("row", 1)
    until(lambda: client.count("row:1"))
    other("cache.invalidate", tags=["rows"])
    client("database.let_go", "row:1")
    assert other("row", 1) != first.result(LIMIT)
    assert other.count("row:1") == 1


@pytest.mark.usefixtures("no_errors")
def test_a_lease_passes_on_when_its_holder_ends(client: Peer, other: Peer) -> None:
    client("database.hold", "row:1")
    client.begin("row", 1)
    until(lambda: client.count("row:1"))
    waiting = other.begin("row", 1)
    until(lambda: int(other("cache.inspect", "row:1")["waiters"]))
    client.process.kill()
    assert waiting.result(LIMIT)["process"] == other("pid")


@pytest.mark.usefixtures("no_errors")
def test_a_long_load_keeps_its_lease(server: TheServer, client: Peer, other: Peer) -> None:
    client("database.hold", "row:1")
    first = client.begin("row", 1)
    until(lambda: client.count("row:1"))
    held = int(other("cache.inspect", "row:1")["held_ms"])
    # Each step is shorter than a lease, and the holder renews it in between.
    until(lambda: int(other("cache.inspect", "row:1")["held_ms"]) > held + 4000)
    waiting = other.begin("row", 1)
    client("database.let_go", "row:1")
    assert waiting.result(LIMIT) == first.result(LIMIT)
    assert (client.count("row:1"), other.count("row:1")) == (1, 0)


@pytest.mark.usefixtures("no_errors")
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


@pytest.mark.usefixtures("no_errors")
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


@pytest.mark.usefixtures("no_errors")
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
    assert until(lambda: value_of(client, "never", 1))["key"] == "never:1"
    assert (other.count("never:1"), client.refused(), other.refused()) == (0, 0, 0)


def value_of(peer: Peer, *call: Any) -> Any:
    """Return what a call gives; None if it raises."""
    with contextlib.suppress(ToldError):
        return peer(*call)
    return None


@pytest.mark.usefixtures("no_errors")
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
    found = value_of(other, "row", 1)  # it may try itself, which is not stored, or raise LoadError
    assert found is None or found["process"] == other("pid")
    client("database.heal", "row:1")
    server.pass_time(2)
    row = until(lambda: value_of(client, "row", 1))
    assert until(lambda: value_of(other, "row", 1)) == row
    assert client.refused() + other.refused() == 0


def test_a_stale_value_stands_in_for_a_failure(server: TheServer, client: Peer, other: Peer) -> None:
    row = client("grace", 1)
    other("database.fail", "grace:1")
    server.pass_time(70)
    assert other("grace", 1) == row
    assert other.count("grace:1") == 1
    assert client.refused() + other.refused() == 0


def test_a_value_that_is_too_long(peer: Callable[..., Peer], server: TheServer, client: Peer) -> None:
    # The server refuses it, and the connection goes on or is replaced; the next call works.
    for long in ("x" * (17 << 20),):
        with pytest.raises(ToldError):
            client("cache.set", "long", long)
    client("cache.set", "k", 1)
    assert client("cache.get", "k") == 1
    assert client("cache.get", "long") is None
