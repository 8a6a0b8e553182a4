"""What `deploy/` says to systemd and to container engines is what the command line takes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import GLOBALCACHE

DEPLOY = Path(__file__).parent.parent / "deploy"
INSTALLED = "/opt/globalcache/.venv/bin/globalcache"


def started(words: list[str], env: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """Start a server in an empty place; return it and its first line."""
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True, cwd="/")
    assert process.stderr is not None
    return process, process.stderr.readline()


def ended(process: subprocess.Popen[str]) -> int:
    process.terminate()
    process.communicate(timeout=10)
    return process.returncode


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GLOBALCACHE_")}


def test_the_unit_of_systemd_starts_a_server(tmp_path: Path) -> None:
    lines = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "globalcache.service").read_text(), re.MULTILINE))
    command = lines["ExecStart"]
    assert command.startswith(INSTALLED)
    password, config = tmp_path / "password", tmp_path / "config.toml"
    password.write_text("sesame\n")
    config.write_text('listen = "127.0.0.1:0"\nmemory = "16MiB"\n')
    words = shlex.split(command.replace(INSTALLED, GLOBALCACHE).replace("%d", str(tmp_path)))
    words[words.index("--config") + 1] = str(config)
    process, line = started(words, plain_environment())
    assert "ready on" in line
    # It reads its files again, and ends in time, as the unit has it.
    assert lines["ExecReload"].split()[1] == "-HUP"
    assert ended(process) == 0


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "globalcache.service"
    unit.write_text((DEPLOY / "globalcache.service").read_text().replace(INSTALLED, "/bin/true"))
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_the_container_is_healthy_as_its_file_says(tmp_path: Path) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    settings = dict(re.findall(r"(GLOBALCACHE_\w+)=(\S+)", text))
    password = tmp_path / "password"
    password.write_text("sesame\n")
    assert settings == {
        "GLOBALCACHE_LISTEN": "0.0.0.0:7411",
        "GLOBALCACHE_PASSWORD_FILE": "/run/secrets/globalcache_password",
    }
    env = plain_environment() | {"GLOBALCACHE_LISTEN": "0.0.0.0:0", "GLOBALCACHE_PASSWORD_FILE": str(password)}
    assert re.findall(r"(?:^ENTRYPOINT|CMD) (\[.*\])$", text, re.MULTILINE) == [
        '["globalcache", "ping"]',
        '["globalcache"]',
        '["serve"]',
    ]
    process, line = started([GLOBALCACHE, "serve"], env)
    assert "ready on" in line
    port = line.split("ready on ")[1].split()[0].rstrip(",").rsplit(":", 1)[1]
    # Within the container it is the port that clients take unless told otherwise.
    ping = [GLOBALCACHE, "ping", "--url", f"globalcache://127.0.0.1:{port}"]
    assert subprocess.run(ping, env=plain_environment(), capture_output=True, check=False).returncode == 0
    assert ended(process) == 0
    assert subprocess.run(ping, env=plain_environment(), capture_output=True, check=False).returncode != 0
