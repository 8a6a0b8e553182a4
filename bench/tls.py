"""Measure what TLS costs beside redis-server: processor time of the server for each request, medians of many rounds.

The generator is redis-benchmark, which speaks TLS; it has processor 1, each server with one thread processor 0. Both
servers show the same certificate, made for the purpose (P-256). Writes docs/benchmarks/tls.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peers import ROOT, free_port, versions

if TYPE_CHECKING:
    from collections.abc import Iterator

LOADS = {"GET, one at a time": ("get", 1), "SET, one at a time": ("set", 1), "GET, 16 at a time": ("get", 16)}
TICK = os.sysconf("SC_CLK_TCK")


def spent(pid: int) -> float:
    """Return the seconds of processor time that a process has taken."""
    return sum(int(part) for part in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]) / TICK


@contextmanager
def serving(words: list[str], port: int) -> Iterator[int]:
    """Run a server on processor 0 and give its process id."""
    process = subprocess.Popen(["taskset", "-c", "0", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise RuntimeError(f"{words[0]} does not listen")
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def measure(port: int, pid: int, kind: str, pipeline: int, *tls: str) -> float:
    """Put a load on a server; return its microseconds of processor time for each request."""
    requests = 50_000 if pipeline == 1 else 400_000
    words = ["redis-benchmark", "-p", str(port), "-c", "50", "-n", str(requests), "-P", str(pipeline)]
    before = spent(pid)
    command = ["taskset", "-c", "1", *words, "-d", "100", "-r", "100000", "-t", kind, *tls]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return (spent(pid) - before) / requests * 1e6


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for program in ("openssl", "redis-server", "redis-benchmark"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed; `make deps` installs redis-server and redis-tools")
    took: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        key, cert = f"{folder}/key.pem", f"{folder}/cert.pem"
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        make += ["-keyout", key, "-out", cert, "-days", "1", "-subj", "/CN=localhost"]
        subprocess.run(make, check=True, capture_output=True)
        ports = {(name, door): free_port() for name in ("globalcache", "redis") for door in ("plain", "TLS")}
        plain, secure = ports["globalcache", "plain"], ports["globalcache", "TLS"]
        ours = [str(Path(sys.executable).with_name("globalcache")), "serve", "--threads", "1", "--memory", "256MiB"]
        ours += ["--listen", f"127.0.0.1:{plain}", "--listen", f"tls://127.0.0.1:{secure}"]
        theirs = ["redis-server", "--port", str(ports["redis", "plain"]), "--tls-port", str(ports["redis", "TLS"])]
        theirs += ["--save", "", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no"]
        pids = {
            "globalcache": stack.enter_context(serving([*ours, "--tls-cert", cert, "--tls-key", key], plain)),
            "redis": stack.enter_context(serving(theirs, ports["redis", "plain"])),
        }
        for name, pid in pids.items():
            measure(ports[name, "plain"], pid, "set", 16)
        for _ in range(rounds):
            for load, (kind, pipeline) in LOADS.items():
                for (name, door), port in ports.items():
                    tls = ["--tls", "--insecure"] if door == "TLS" else []
                    figure = measure(port, pids[name], kind, pipeline, *tls)
                    took.setdefault((load, name, door), []).append(figure)
    medians = {place: statistics.median(figures) for place, figures in took.items()}
    rows = []
    for load in LOADS:
        ours_plain, ours_tls = medians[load, "globalcache", "plain"], medians[load, "globalcache", "TLS"]
        other_plain, other_tls = medians[load, "redis", "plain"], medians[load, "redis", "TLS"]
        figures = f"{ours_plain:.2f} | {ours_tls:.2f} | {other_plain:.2f} | {other_tls:.2f}"
        rows.append(f"| {load} | {figures} | {ours_tls / other_tls:.2f} |")
    said = versions(["globalcache", "redis"])
    how = (
        f"{dt.datetime.now(dt.UTC).date()}; {', '.join(said.values())}; one thread each, 50 connections, values of 100 "
        f"bytes, 100,000 keys; medians of {rounds} rounds. `bench/tls.py` measures it anew."
    )
    head = "| load | globalcache | globalcache, TLS | redis | redis, TLS | ratio with TLS |\n|---|--:|--:|--:|--:|--:|"
    what = "Processor time of the server for each request, microseconds, the handshakes of the connections included:"
    text = "\n\n".join(["# What TLS costs, beside redis-server", how, what, "\n".join([head, *rows])]) + "\n"
    print(text)
    (ROOT / "docs/benchmarks/tls.md").write_text(text)


if __name__ == "__main__":
    main()
