"""What the examples promise: the tour of the first five minutes."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import globalcache

ROOT = Path(__file__).parent.parent


def test_the_first_five_minutes() -> None:
    done = subprocess.run(
        [sys.executable, "examples/tour.py"], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("All of it is so.\n")


@pytest.fixture
def fastapi_app(tmp_path: Path, server: globalcache.Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module of the example, with a shop and a cache of its own."""
    pytest.importorskip("fastapi")
    for name in ("shop.py", "fastapi_app.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    subprocess.run([sys.executable, "shop.py", "create"], cwd=tmp_path, check=True, timeout=60)
    monkeypatch.setenv("GLOBALCACHE_URL", server.url)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fastapi_app", raising=False)
    return importlib.import_module("fastapi_app")


def test_fastapi_asks_the_database_once(fastapi_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    httpx = pytest.importorskip("httpx")
    queries: list[int] = []
    query = fastapi_app.query

    def counted(id: int) -> Any:
        queries.append(id)
        return query(id)

    monkeypatch.setattr(fastapi_app, "query", counted)

    async def visit() -> None:
        app = fastapi_app.app
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as web:
            seen = await asyncio.gather(*(web.get("/products/1") for _ in range(20)))
            assert [answer.json() for answer in seen] == [{"id": 1, "name": "Tea", "price": 4.5}] * 20
            assert queries == [1]
            assert (await web.put("/products/1?price=5")).json()["price"] == 5
            assert (await web.get("/products/1")).json()["price"] == 5
            assert [(await web.get("/products/0")).status_code for _ in range(2)] == [404, 404]
            assert (await web.put("/products/0?price=5")).status_code == 404
            assert queries == [1, 1, 0]
            assert (await web.get("/health")).json()["loads"] == 3

    asyncio.run(visit())
