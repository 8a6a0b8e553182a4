"""Servers and workers as processes: herds, and workers that stop, die, cannot be imported or lose their server."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from globalcache import Cache
from globalcache import Server as LocalServer
from globalcache.errors import CacheError
from globalcache.loaders.supervisor import Supervisor
from tests.conftest import GLOBALCACHE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPLICATION = """
import os, time
from globalcache import Cache
cache = Cache()

@cache.loader("pid:{id:int}", ttl="5m")
def pid(id: int) -> int:
    return os.getpid()

@cache.loader("slow:{id:int}", ttl="5m")
def slow(id: int) -> list[int]:
    with open("queries", "a") as queries:
        print(os.getpid(), file=queries, flush=True)
    time.sleep(1)
    return [id, os.getpid()]
"""

NAMESPACES = """
@cache.namespace("v2").loader("user:{id:int}", ttl="5m")
def user(id: int) -> str:
    return f"v2 {id}"

@cache.namespace("v2").namespace("eu").loader("user:{id:int}", ttl="5m")
def european(id: int) -> str:
    return f"eu {id}"
"""

STUCK = """
import asyncio, multiprocessing, os, time

@cache.loader("thread:{id:int}", timeout="200ms")
async def thread(id: int) -> int:
    await asyncio.to_thread(time.sleep, 3600)

@cache.loader("cleanup:{id:int}", timeout="200ms")
async def cleanup(id: int) -> int:
    while True:
        try:
            await asyncio.sleep(3600)
        except BaseException:
            pass

@cache.loader("blocked:{id:int}")
async def blocked(id: int) -> int:
    open("begun", "w").close()
    while True:
        time.sleep(3600)

@cache.loader("child:{id:int}")
def child(id: int) -> list[int]:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
    process.start()
    process.terminate()
    process.join(5)
    status = process.exitcode
    process.kill()
    return [status or 0, os.getpid()]
"""

SHARED = """
from globalcache import Cache
cache = Cache()

@cache.loader("v2:user:{id}", ttl="5m")
def first(id: str) -> str:
    return id

@cache.namespace("v2").loader("user:{id}", ttl="5m")
def second(id: str) -> str:
    return id
"""


class Served:
    """`globalcache serve app:cache` in a folder; `errors` is what it and its workers said."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"globalcache://127.0.0.1:{free.getsockname()[1]}"
        self.folder = folder
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [GLOBALCACHE, "serve", "app:cache", "--listen", self.url.split("//")[1], *options],
                cwd=folder,
                stderr=log,
                env={k: v for k, v in os.environ.items() if not k.startswith("GLOBALCACHE_")},
            )
        self.until(lambda: "Ctrl-C stops it" in self.errors)

    @property
    def errors(self) -> str:
        return self.log.read_text()

    @property
    def queries(self) -> list[int]:
        """The processes that ran the slow loader, in their order."""
        path = self.folder / "queries"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def until(self, holds: Callable[[], Any]) -> None:
        until(holds, lambda: self.errors)

    def get(self, key: str, timeout: float = 30) -> Any:
        with Cache(self.url, timeout=timeout) as client:
            return client.command("GET", key)

    def pid(self, number: int) -> int:
        return int(self.get(f"pid:{number}"))

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*options: str, application: str = APPLICATION) -> Served:
        (tmp_path / "app.py").write_text(application)
        started.append(Served(tmp_path, *options))
        return started[-1]

    yield start
    for one in started:
        one.end()


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_dies_is_started_again(served: Callable[..., Served]) -> None:
    server = served()
    first = server.pid(1)
    os.kill(first, signal.SIGKILL)
    # The read waits for the next worker: never a wrong nil.
    second = server.pid(2)
    assert first != second
    assert "worker was ended by signal 9; started again in 0.25 s" in server.errors
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert not is_alive(second)


def test_workers_know_the_password_of_their_server(served: Callable[..., Served]) -> None:
    server = served("--password", "sesame @/:?")
    with Cache(server.url.replace("://", "://:sesame%20%40%2F%3A%3F@"), on_error="raise") as cache:
        assert cache.get("pid:1") != server.process.pid
    assert "sesame" not in server.errors


def test_workers_end_with_a_server_that_was_killed(served: Callable[..., Served]) -> None:
    server = served("--workers", "2")
    pids = {server.pid(number) for number in range(10)}
    assert len(pids) == 2
    server.process.kill()
    server.until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.parametrize(
    ("target", "application", "line"),
    [
        ("app:cache", "import nosuchmodule\n", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("app:cache", "def broken(:\n", "SyntaxError: "),
        ("app:cache", "import sys; sys.exit(0)\n", ""),
        ("app:nothing", APPLICATION, "app:nothing: there is no cache of this name in app"),
        (":cache", APPLICATION, ":cache: should look like shop:cache"),
        ("app:cache", "from globalcache import Cache\ncache = Cache()\n", "app:cache: the cache has no loaders"),
        ("app:cache", SHARED, "keys of 'user:{id}' can be those of app.first, 'v2:user:{id}'"),
    ],
)
def test_a_server_needs_its_loaders(tmp_path: Path, target: str, application: str, line: str) -> None:
    """A server that does not know the patterns of its loaders would say of every row that it does not exist."""
    (tmp_path / "app.py").write_text(application)
    done = subprocess.run(
        [GLOBALCACHE, "serve", target, "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "ready on" not in done.stderr
    assert line in done.stderr
    assert done.stderr.endswith(
        f"globalcache: {target}: its worker did not start, so neither does the server; see above\n"
    )


def test_loaders_of_namespaces_are_run_too(served: Callable[..., Served]) -> None:
    server = served(application=APPLICATION + NAMESPACES)
    assert server.get("v2:user:7") == b'"v2 7"'
    assert server.get("v2:eu:user:7") == b'"eu 7"'
    assert server.get("pid:1") is not None


def herd(server: Served, key: str, during: Callable[[], None]) -> set[bytes]:
    """Let 100 clients read a cold key while something happens; returns the answers."""
    with ThreadPoolExecutor(100) as pool:
        answers = [pool.submit(server.get, key) for _ in range(100)]
        server.until(lambda: server.queries)
        during()
        return {answer.result(60) for answer in answers}


def test_a_herd_is_one_query(served: Callable[..., Served]) -> None:
    server = served("--workers", "2")
    found = herd(server, "slow:1", lambda: None)
    assert (len(found), len(server.queries)) == (1, 1)


def test_a_holder_that_is_killed_is_replaced(served: Callable[..., Served]) -> None:
    server = served("--workers", "2")
    found = herd(server, "slow:1", lambda: os.kill(server.queries[0], signal.SIGKILL))
    assert (len(found), len(server.queries)) == (1, 2)


def test_a_holder_that_is_stopped_costs_one_more_query(served: Callable[..., Served]) -> None:
    server = served("--workers", "2")
    found = herd(server, "slow:1", lambda: os.kill(server.queries[0], signal.SIGSTOP))
    assert (len(found), len(server.queries)) == (1, 2)
    os.kill(server.queries[0], signal.SIGCONT)


def test_a_worker_elsewhere(served: Callable[..., Served]) -> None:
    server = served("--load-timeout", "1s")
    (server.folder / "other.py").write_text(APPLICATION.replace("pid:", "other:").replace("slow:", "idle:"))
    command = [GLOBALCACHE, "worker", "other:cache", "--url", server.url]
    with subprocess.Popen(command, cwd=server.folder, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        assert worker.stderr.readline() == "worker: other:cache  other:{id:int}  idle:{id:int}  ready\n"
        assert server.get("other:1") == str(worker.pid).encode()
        worker.terminate()
        assert worker.wait(20) == 0
    with pytest.raises(CacheError, match="NOLOADER other:2"):
        server.get("other:2")


@contextlib.contextmanager
def worker_of(folder: Path, url: str, application: str, *options: str, **popen: Any) -> Iterator[subprocess.Popen[str]]:
    """`globalcache worker other:cache` in a folder."""
    (folder / "other.py").write_text(application)
    command = [GLOBALCACHE, "worker", "other:cache", *options] + ([] if options else ["--url", url])
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, **popen) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def test_a_worker_ends_beside_calls_that_do_not(tmp_path: Path) -> None:
    """A thread of the loop and a task that survives its cancellation: closing the loop would wait for both."""
    with LocalServer(memory="64MiB") as server, worker_of(tmp_path, server.url, APPLICATION + STUCK) as worker:
        assert worker.stderr is not None
        worker.stderr.readline()
        with Cache(server.url, timeout=30) as client:
            for key in ("thread:1", "cleanup:1"):
                with pytest.raises(CacheError, match=r"no answer within 0\.2 s"):
                    client.command("GET", key)
        worker.terminate()
        assert worker.wait(20) == 0


def test_a_worker_whose_loop_is_blocked_is_ended(tmp_path: Path) -> None:
    """An async loader that never gives the event loop back: no handler of the loop runs."""
    with LocalServer(memory="64MiB") as server, worker_of(tmp_path, server.url, APPLICATION + STUCK) as worker:
        assert worker.stderr is not None
        worker.stderr.readline()
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET blocked:1\r\n")
            until((tmp_path / "begun").exists)
        worker.terminate()
        assert worker.wait(20) == 1
        assert "ended by force" in worker.stderr.read()


def test_signals_of_a_forked_child_are_its_own(served: Callable[..., Served]) -> None:
    """A child begins with the handlers of its parent: it would live on, and its parent would end."""
    server = served(application=APPLICATION + STUCK)
    status, pid = json.loads(server.get("child:1"))
    assert status == -signal.SIGTERM
    assert server.pid(1) == pid


def test_a_worker_says_once_that_it_is_ready(tmp_path: Path) -> None:
    """Nobody reads what it would say at each new connection: the pipe would fill, and the worker block."""
    orders, tell = os.pipe()
    heard, facts = os.pipe()
    pipes = worker_of(tmp_path, "", APPLICATION, "--pipes", f"{orders},{facts}", pass_fds=(orders, facts))
    with pipes, os.fdopen(heard, "rb", buffering=0) as said, os.fdopen(tell, "wb", buffering=0) as url:
        assert b"patterns" in said.readline()
        with LocalServer(memory="64MiB") as first:
            url.write(first.url.encode() + b"\n")
            assert b"ready" in said.readline()
            first.stop()
            with LocalServer(memory="64MiB", listen=[first.address], loader=["pid:*"]) as second:
                with Cache(second.url, timeout=30) as client:
                    assert client.command("GET", "pid:1")
                os.set_blocking(heard, False)
                assert said.read(1) is None
    os.close(orders)
    os.close(facts)


def test_a_supervisor_with_many_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """select() knows no descriptors from 1,024 on."""
    (tmp_path / "app.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(2048, hard)), hard))
    many: list[int] = []
    supervisor = Supervisor("app:cache", 1)
    try:
        while not many or many[-1] < 1100:
            many.append(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3))
        assert supervisor.start({}) == ["pid:*", "slow:*"]
    finally:
        supervisor.stop()
        for number in many:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("x y:cache", "x y:cache: should look like shop:cache"),
        ("json:nothing", "json:nothing: there is no cache of this name in json"),
    ],
)
def test_a_worker_without_a_cache(target: str, line: str) -> None:
    done = subprocess.run([GLOBALCACHE, "worker", target], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"globalcache: {line}")
