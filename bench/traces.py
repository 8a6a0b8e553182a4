"""Access traces: read from a folder where there is one, generated where there is none; each an array of key numbers."""

from __future__ import annotations

import gzip
import lzma
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Keys: TypeAlias = NDArray[np.uint64]

# What an OLTP line begins with: the first of so many keys in a row.
_ENDINGS = (".trace.xz", ".trace.gz", ".lis.zst")


def read(path: Path) -> Keys:
    """Read a trace: big-endian 32-bit numbers (.trace.xz), a number a line (.trace.gz), or ranges (.lis.zst)."""
    if path.name.endswith(".trace.xz"):
        found = np.frombuffer(lzma.decompress(path.read_bytes()), ">i4").astype(np.int64)
    elif path.name.endswith(".trace.gz"):
        lines = gzip.decompress(path.read_bytes()).split()
        found = np.array([int(line) for line in lines if line.isdigit()], np.int64)
    else:
        text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
        parts = [line.split()[:2] for line in text.splitlines() if line.strip()]
        found = np.concatenate([np.arange(int(first), int(first) + int(count)) for first, count in parts])
    return np.unique(found, return_inverse=True)[1].astype(np.uint64)


def generated(seed: int = 1) -> Iterator[tuple[str, Keys]]:
    """Make traces of the kinds that caches meet: popular keys, shifting ones, scans through them, and a loop."""
    random = np.random.default_rng(seed)
    for theta in (0.7, 0.99):
        yield f"zipf-{theta:g}", _zipf(random, 100_000, theta, 1_000_000)
    popular = _zipf(random, 50_000, 0.9, 1_000_000)
    yield "shifting", popular + np.repeat(np.arange(10, dtype=np.uint64) * 5_000, 100_000)
    scans = popular.copy()
    for start in range(50_000, 1_000_000, 100_000):
        scans[start : start + 30_000] = 1_000_000 + start + np.arange(30_000)
    yield "scans", scans
    yield "loop-12000", np.tile(np.arange(12_000, dtype=np.uint64), 50)


def _zipf(random: np.random.Generator, keys: int, theta: float, count: int) -> Keys:
    weights = np.arange(1, keys + 1, dtype=float) ** -theta
    return np.searchsorted(np.cumsum(weights) / weights.sum(), random.random(count)).astype(np.uint64)


def traces(folder: Path | None) -> Iterator[tuple[str, Keys]]:
    """Return every trace of a folder, smallest file first, or generated ones if there is no folder."""
    if folder is None:
        yield from generated()
        return
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_size):
        if path.name.endswith(_ENDINGS):
            yield path.name.split(".")[0], read(path)
