"""What the pages of docs/ show is what happens."""

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


def test_pages_name_files_that_are_there() -> None:
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (DOCS / name).exists(), f"{page.name}: {name}"
