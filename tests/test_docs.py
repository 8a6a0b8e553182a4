"""What the pages of docs/ show is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

import globalcache
from globalcache import Cache
from tests.conftest import GLOBALCACHE

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parent.parent / "docs"
PYTHON = re.compile(r"```python\n(.*?)```\n(?:\n```\n(.*?)```)?", re.DOTALL)


def run(arguments: list[str], folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"GLOBALCACHE_URL": url}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("page", ["look-aside", "typed-values", "tags", "after-commit", "observing", "moving"])
def test_a_page_is_one_program(server: globalcache.Server, tmp_path: Path, page: str) -> None:
    if page == "after-commit":
        pytest.importorskip("django")
    blocks = PYTHON.findall((DOCS / f"{page}.md").read_text())
    assert blocks
    done = run(["-c", "\n".join(code for code, _ in blocks)], tmp_path, server.url)
    assert (done.stdout, done.stderr) == ("".join(output for _, output in blocks), "")


def test_the_tests_that_the_page_on_testing_shows_pass(server: globalcache.Server, tmp_path: Path) -> None:
    ((code, _),) = PYTHON.findall((DOCS / "testing.md").read_text())
    (tmp_path / "test_shop.py").write_text(code)
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"], tmp_path, server.url)
    assert done.returncode == 0, done.stdout
    assert f"{code.count('def test_')} passed" in done.stdout


SHOP = """
from globalcache import Cache
cache = Cache()

@cache.loader("shop:{id:int}", ttl="1m")
def load(id: int) -> dict[str, int]:
    return {"id": id}
"""


@pytest.fixture
def users(tmp_path: Path) -> Iterator[globalcache.Server]:
    """Run a server with the users of docs/security.md as they are written."""
    (lines,) = re.findall(r"```\n(user .*?)```", (DOCS / "security.md").read_text(), re.DOTALL)
    (tmp_path / "users.acl").write_text(lines)
    with globalcache.Server(memory="16MiB", users_file=tmp_path / "users.acl") as server:
        yield server


def url(server: globalcache.Server, user: str) -> str:
    return server.url.replace("://", f"://{user}:{user}-password@")


def test_the_users_of_the_page_on_security_read_and_write(users: globalcache.Server) -> None:
    with Cache(url(users, "app"), on_error="raise") as cache, Cache(url(users, "reports"), on_error="raise") as reports:
        cache.set("shop:100", "v", tags=["t"])
        assert reports.get("shop:100") == "v"
        assert cache.get_or_load("shop:101", lambda: 1) == 1
        cache.invalidate(tags="t")
        assert cache.get("shop:100") is None
        assert cache.delete("shop:101")
        with pytest.raises(globalcache.AuthError):
            reports.set("shop:100", "w")
    done = subprocess.run(
        [GLOBALCACHE, "get", "-u", url(users, "app"), "shop:102"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_the_worker_of_the_page_on_security_loads(users: globalcache.Server, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    env = os.environ | {
        "GLOBALCACHE_URL": url(users, "worker"),
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    }
    client = redis.Redis.from_url(users.redis_url, username="app", password="app-password")
    with subprocess.Popen([GLOBALCACHE, "worker", "shop:cache"], cwd=tmp_path, env=env) as worker:
        try:
            deadline = time.monotonic() + 20
            while client.get("shop:1") is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert client.get("shop:2") == b'{"id":2}'
        finally:
            worker.terminate()


def test_pages_name_files_that_are_there() -> None:
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (DOCS / name).exists(), f"{page.name}: {name}"
