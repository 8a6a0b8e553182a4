"""Django's own tests of its Redis cache backend, unchanged, against the server. `make test` fetches them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import globalcache

SDISTS = Path(sys.executable).parent.parent / "sdists"

SETTINGS = """
SECRET_KEY = "-"
USE_TZ = False
DATABASES = {name: {"ENGINE": "django.db.backends.sqlite3"} for name in ("default", "other")}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "%s"}}
"""


def test_djangos_own_tests_of_its_redis_cache_pass(server: globalcache.Server, tmp_path: Path) -> None:
    django = pytest.importorskip("django")
    tests = SDISTS / f"django-{django.__version__}" / "tests"
    if not tests.is_dir():
        pytest.skip("Django's tests are not there; `make test` fetches them where there is a network")
    (tmp_path / "globalcache_settings.py").write_text(SETTINGS % server.redis_url)
    command = [sys.executable, "runtests.py", "cache.tests.RedisCacheTests", "--settings=globalcache_settings"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(
        [*command, "--parallel=1"],
        cwd=tests,
        env=environment,
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    ran = re.search(r"Ran (\d+) tests", run.stderr)
    assert ran, run.stderr
    assert int(ran[1]) > 50
