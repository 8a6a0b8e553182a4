"""What may know what: the crates, the core's modules, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
CRATES = ROOT / "crates"


def ours(crate: str) -> set[str]:
    manifest = tomllib.loads((CRATES / crate / "Cargo.toml").read_text())
    return {name.removeprefix("globalcache-") for name in manifest["dependencies"] if name.startswith("globalcache-")}


def test_crates_depend_one_way() -> None:
    assert {crate.name: ours(crate.name) for crate in CRATES.iterdir()} == {
        "core": set(),
        "loadgen": set(),
        "server": {"core"},
        "python": {"core", "loadgen", "server"},
    }


def test_only_one_crate_knows_python() -> None:
    for file in CRATES.glob("*/src/**/*.rs"):
        if file.parent.parent.name != "python":
            assert "pyo3" not in file.read_text(), file


def test_the_core_has_no_sockets_threads_or_clocks() -> None:
    for file in (CRATES / "core/src").glob("**/*.rs"):
        for word in ("std::net", "std::thread", "std::time", "SystemTime", "Instant::now", "getrandom", "println!"):
            assert word not in file.read_text(), f"{file} names {word}"


def test_protocols_and_store_never_name_each_other() -> None:
    for file in (CRATES / "core/src/protocol").glob("**/*.rs"):
        assert "crate::store" not in file.read_text(), file
    for file in (CRATES / "core/src/store").glob("**/*.rs"):
        for word in ("crate::protocol", "crate::session", "crate::command"):
            assert word not in file.read_text(), f"{file} names {word}"


def test_the_client_loads_neither_pydantic_nor_sqlalchemy_nor_the_native_module() -> None:
    code = "import sys, globalcache; globalcache.Cache(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "globalcache.client.blocking" in loaded
    assert not {"globalcache._core", "pydantic", "sqlalchemy", "typer", "rich", "zstandard", "asyncio", "ssl"} & set(
        loaded
    )
