"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import GLOBALCACHE

if TYPE_CHECKING:
    import globalcache

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_its_python(server: globalcache.Server, number: int) -> None:
    code, output = BLOCKS[number]
    code = code.replace("7411", server.address.split(":")[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (output, "")


def test_its_commands(server: globalcache.Server) -> None:
    assert len(BLOCKS) == 4
    (shown,) = re.findall(r"```\n(\$ .*?)```", README, re.DOTALL)
    commands = re.findall(r"^\$ (.*)$", shown, re.MULTILINE)
    script = "\n".join(commands).replace(".venv/bin/globalcache", GLOBALCACHE)
    env = {"GLOBALCACHE_URL": server.url, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.stdout == re.sub(r"^\$ .*\n", "", shown, flags=re.MULTILINE)
