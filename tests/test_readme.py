"""What the README shows is what happens."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import GLOBALCACHE

if TYPE_CHECKING:
    from collections.abc import Callable

    import globalcache
    from tests.conftest import Process

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that has `examples` with a shop of its own, and be in it."""
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples/shop.py", tmp_path / "examples")
    subprocess.run([sys.executable, "examples/shop.py", "create"], cwd=tmp_path, check=True, timeout=60)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_its_python(server: globalcache.Server, number: int) -> None:
    code, output = BLOCKS[number]
    code = code.replace("7411", server.address.split(":")[1])
    env = os.environ | {"GLOBALCACHE_URL": server.url}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == (output, "")


def test_its_commands(shop: Path, serve: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BLOCKS) == 5
    monkeypatch.chdir(shop / "examples")
    server = serve("shop:cache")
    blocks = re.findall(r"```\n(\$ .*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for shown in blocks:
        commands = re.findall(r"^\$ (.*)$", shown, re.MULTILINE)
        script = "\n".join(commands).replace(".venv/bin/globalcache", GLOBALCACHE)
        env = {"GLOBALCACHE_URL": server.address, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, timeout=60, check=False)
        assert done.stdout == re.sub(r"^\$ .*\n", "", shown, flags=re.MULTILINE)
