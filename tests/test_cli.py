"""The command line, run as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

import globalcache
from globalcache.client.wire import MORE, Push, reader
from tests.conftest import GLOBALCACHE, Wire

if TYPE_CHECKING:
    from pathlib import Path


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GLOBALCACHE_")} | variables
    return subprocess.run([GLOBALCACHE, *words], capture_output=True, text=True, env=env, timeout=60, check=False)


def test_get_set_and_delete(server: globalcache.Server) -> None:
    url = {"GLOBALCACHE_URL": server.url}
    assert run("set", "k", "a value", "--ttl", "5m", **url).returncode == 0
    assert run("get", "k", **url).stdout == "a value\n"
    assert run("get", "k", "--url", server.url + "/3", **url).returncode == 1
    assert run("delete", "k", "none", **url).returncode == 0
    missing = run("get", "k", **url)
    assert (missing.returncode, missing.stdout, missing.stderr) == (1, "", "")
    assert run("delete", "k", **url).returncode == 1


def fail_loads(worker: Wire) -> None:
    """Be a worker whose database is down, until the server ends."""
    worker.send(b"HELLO 3\r\nCACHE.LOADER row:*\r\n")
    replies = reader()
    while data := worker.socket.recv(1 << 16):
        replies.feed(data)
        while (reply := replies.gets()) is not MORE:
            if type(reply) is Push and reply[0] == b"load":
                for key, token in reply[1:]:
                    worker.send(b"CACHE.FAIL %s %d down\r\n" % (key, token))


def test_get_marks_what_is_stale() -> None:
    with (
        globalcache.Server(debug_time=True, loader=["row:*"], threads=1) as server,
        Wire(server.address) as worker,
        Wire(server.address) as time,
        globalcache.Cache(server.url) as cache,
    ):
        worker.socket.settimeout(None)
        thread = threading.Thread(target=fail_loads, args=(worker,))
        thread.start()
        cache.set("row:1", "old", ttl=60, refresh_after=10, stale_if_error="1h")
        for passed, marked in ((0, ""), (20, "(stale)\n"), (50, "(stale, database down)\n")):
            time.ask(b"debugtime %d\r\n" % passed, b"OK\r\n")
            shown = run("get", "row:1", GLOBALCACHE_URL=server.url)
            assert (shown.stdout, shown.stderr, shown.returncode) == ('"old"\n', marked, 0)
        server.stop()
        thread.join(10)


def test_counters_invalidation_and_what_is_known(server: globalcache.Server) -> None:
    url = {"GLOBALCACHE_URL": server.url}
    assert [run("incr", "n", **url).stdout, run("incr", "n", "5", **url).stdout] == ["1\n", "6\n"]
    with globalcache.Cache(server.url) as cache:
        cache.set("tagged", 1, tags=["t"])
    known = json.loads(run("inspect", "n", "--json", **url).stdout)
    assert (known["state"], known["size"], known["lease"]) == ("hit", 1, "none")
    assert "state          hit" in run("inspect", "n", **url).stdout
    assert run("invalidate", "n", "--tag", "t", **url).stdout == "2\n"
    assert [run("get", key, **url).returncode for key in ("n", "tagged")] == [1, 1]
    assert run("invalidate", **url).returncode == 2
    assert int(json.loads(run("stats", "--json", **url).stdout)["keyspace_misses"]) > 0
    assert "hits" in run("stats", **url).stdout


def test_ping_tells_by_its_status_whether_a_server_answers(server: globalcache.Server) -> None:
    assert run("ping", "-u", server.url).stdout == "PONG\n"
    assert run("ping", "--wait", "10s", "-u", server.redis_url).returncode == 0
    nobody = run("ping", "--wait", "100ms", "-u", "127.0.0.1:1")
    assert (nobody.returncode, nobody.stderr) == (3, "globalcache: 127.0.0.1:1: Connection refused\n")


def test_the_status_tells_what_went_wrong(server: globalcache.Server) -> None:
    """Scripts tell a key that is not there from a server that is not there, and from a load that failed."""
    url = {"GLOBALCACHE_URL": server.url}
    assert [run("get", "none", **url).returncode, run("get", **url).returncode] == [1, 2]
    for words in (["get", "k"], ["set", "k", "v"], ["delete", "k"], ["incr", "k"], ["stats"], ["invalidate", "k"]):
        nobody = run(*words, "-u", "127.0.0.1:1")
        assert (nobody.returncode, nobody.stderr) == (3, "globalcache: 127.0.0.1:1: Connection refused\n")
    with globalcache.Server(loader=["row:*"], threads=1) as other, Wire(other.address) as worker:
        worker.socket.settimeout(None)
        thread = threading.Thread(target=fail_loads, args=(worker,))
        thread.start()
        failed = run("get", "row:1", "-u", other.url)
        assert (failed.returncode, failed.stderr) == (4, "globalcache: row:1: down\n")
        other.stop()
        thread.join(10)


def test_the_password_comes_from_the_environment(tmp_path: Path) -> None:
    """In a URL it would stand in the list of processes."""
    (tmp_path / "password").write_text("s/e@c:r?t#\n")
    given = {"GLOBALCACHE_PASSWORD": "s/e@c:r?t#"}, {"GLOBALCACHE_PASSWORD_FILE": str(tmp_path / "password")}
    with globalcache.Server(password="s/e@c:r?t#", threads=1) as server:
        for variables in given:
            for url in (server.address, f"globalcache://{server.address}", f"redis://{server.address}/1?timeout=5s"):
                assert run("set", "k", "v", "-u", url, **variables).returncode == 0
                assert run("get", "k", GLOBALCACHE_URL=url, **variables).stdout == "v\n"
        wrong = run("get", "k", "-u", f"globalcache://:other@{server.address}", **given[0])
        assert wrong.returncode == 1
        assert "s/e@c" not in wrong.stderr
        assert run("get", "k", "-u", server.address).returncode == 1


def test_bench_measures_a_server_and_checks_its_answers(server: globalcache.Server) -> None:
    load = [
        "bench",
        "-u",
        server.url,
        "--seconds",
        "0.2",
        "--keys",
        "1000",
        "--connections",
        "5",
        "--pid",
        str(os.getpid()),
    ]
    report = json.loads(run(*load, "--json", "--reads", "0.5", "--pipeline", "4", "--ttl", "1h").stdout)
    assert report["requests"] > 0
    assert (report["misses"], report["errors"]) == (0, 0)
    assert 0 < report["p50"] <= report["p99"] <= report["max"]
    assert report["server_cpu_ns"] > 0
    assert "requests/s" in run(*load, "--multi", "10", "--rate", "1000").stdout
    for connections in ("5", "50"):
        herd = run(*load[:3], "--waiters", "50", "--connections", connections, "--requests", "200", "--json")
        report = json.loads(herd.stdout)
        assert report["requests"] == 200
        assert 0 < report["p50"] <= report["max"] < 5_000_000
    assert run("bench", "-u", server.url, "--waiters", "50", "--connections", "7").returncode == 2
    assert run("bench", "-u", server.url, "--value-size", "1").returncode == 2
    assert run("bench", "-u", "127.0.0.1:1").returncode == 3


def test_version() -> None:
    assert run("version").stdout == run("--version").stdout
    assert run("version").stdout.startswith("globalcache 0.")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["serve", "--threads", "0"], "threads: '0': input should be greater than or equal to 1"),
        (["serve", "--memory", "12xb"], "memory: '12xb': should look like 256MiB, 64kb or 1g"),
        (["serve", "--idle-timeout", "soon"], "idle-timeout: 'soon': should look like 30s, 500ms, 5m, 1h or 1d"),
        (["serve", "--eviction", "lru"], "eviction: 'lru': input should be 's3fifo', 'none' or 'noeviction'"),
        (
            ["serve", "--listen", "nowhere"],
            "listen: nowhere: allowed are HOST:PORT, tls://HOST:PORT, unix:///path and memcached://HOST:PORT",
        ),
        (["serve", "--nosuch"], "No such option: --nosuch"),
        (["nosuch"], "No such command 'nosuch'"),
        (["set", "k"], "Missing argument 'value'"),
        (["set", "k", "v", "--ttl", "x"], "ttl: 'x': should look like 30s, 500ms, 5m, 1h or 1d"),
        (["get", "k", "-u", "ftp://x"], "ftp://x: no such kind of URL; allowed are globalcache://HOST:PORT/DB, "),
        (["get", "k", "-u", "redis://x:y"], "redis://...: a port is a number from 1 to 65535; write %3A, "),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(words: list[str], line: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"globalcache: {line}")
    assert done.stderr.count("\n") == 1


def test_others_may_connect_only_when_that_is_asked_for() -> None:
    refused = run("serve", "--listen", "0.0.0.0:0")
    assert refused.returncode == 2
    assert "--insecure allows it" in refused.stderr


def test_what_the_system_refuses_is_one_line_and_status_1(server: globalcache.Server, tmp_path: Path) -> None:
    for words, text in [
        (["serve", "--listen", server.address], f"{server.address}: Address already in use"),
        (["serve", "--listen", f"unix://{tmp_path}/none/x.sock"], "No such file or directory"),
        (["serve", "--config", str(tmp_path / "none.toml")], f"{tmp_path}/none.toml: No such file or directory"),
    ]:
        done = run(*words)
        assert done.returncode == 1
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr


def test_a_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cache.toml"
    file.write_text("memroy = '1g'\n")
    done = run("serve", "--config", str(file))
    assert done.returncode == 2
    assert "memroy: no such option; there are listen, threads" in done.stderr
    file.write_text("memory = \n")
    done = run("serve", "--config", str(file))
    assert done.returncode == 2
    assert done.stderr.startswith(f"globalcache: {file}: ")
