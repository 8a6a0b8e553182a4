"""Make the modules for threads from those for tasks: `python scripts/unasync.py`, or `--check` to see whether it is.

Words are exchanged and `async` and `await` left out; the formatter puts the lines right.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parent.parent / "src/globalcache/client"
# The first form that fits a place is taken, so what contains another stands before it.
EXCHANGED = {
    "AsyncCache": "Cache",
    "Cache": "AsyncCache",
    "_async": "_sync",
    "_sync": "_async",
    "AsyncCachedFunction": "CachedFunction",
    "AsyncFunctionLoad": "FunctionLoad",
    "AsyncBatchLoader": "BatchLoader",
    "AsyncWriter": "Writer",
    "AsyncLoading": "Loading",
    "AsyncLocalLoading": "LocalLoading",
    "AsyncBatchLoading": "BatchLoading",
    "AsyncLeaseAnswers": "LeaseAnswers",
    "An async function": "A function",
    "Coroutine[Any, Any, R]": "R",
    "Coroutine[Any, Any, Mapping[K, V]]": "Mapping[K, V]",
    "Callable, Coroutine": "Callable",
    "_cache.aio": "_cache.sync",
    "def aio": "def sync",
    "async functions": "plain functions",
    "plain functions": "async functions",
    "async_transports": "transports",
    "AsyncTransport": "Transport",
    "AsyncNullTransport": "NullTransport",
    "Awaitable[Any]": "Any",
    "Awaitable[list[Any]]": "list[Any]",
    "async_runner": "runner",
    "async_single_flight": "single_flight",
    "async_refresher": "refresher",
    "aclose": "close",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "one task of": "one thread of",
    "async def": "def",
    "def sync": "def aio",
    "Awaitable, Callable": "Callable",
    "CacheOptions, LoadManyOptions, LoadOptions": "CacheOptions",
    "OneLoad": "Callable[[], T]",
    "Loaded": "T",
    "ManyLoad": "Callable[[list[str]], Mapping[str, T]]",
    "ManyLoaded": "dict[str, T | None]",
}
# What stands between these two lines is left out.
ALONE = re.compile(r" *# For tasks alone\.\n.*?# For both\.\n", re.DOTALL)
WORDS = re.compile("|".join(rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z_])" for word in EXCHANGED))


def unused(sources: list[str]) -> set[str]:
    """Return the words of EXCHANGED that stand in none of the sources."""
    return EXCHANGED.keys() - {word for source in sources for word in WORDS.findall(ALONE.sub("", source))}


def made(source: str) -> str:
    """Return the text for threads."""
    text = WORDS.sub(lambda match: EXCHANGED[match[0]], ALONE.sub("", source)).replace("await ", "")
    for command in (["check", "--quiet", "--select", "I,F401", "--fix"], ["format"]):
        words = [str(Path(sys.executable).with_name("ruff")), *command, "--stdin-filename", "module.py", "-"]
        text = subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> int:
    """Write or check; returns the exit status."""
    different = 0
    sources = sorted((CLIENT / "_async").glob("*.py"))
    if rules := unused([source.read_text() for source in sources]):
        print(f"scripts/unasync.py exchanges what no file has: {', '.join(sorted(rules))}")
        different = 1
    for source in sources:
        target, text = CLIENT / "_sync" / source.name, made(source.read_text())
        if "--check" not in sys.argv:
            target.write_text(text)
        elif not target.exists() or target.read_text() != text:
            print(f"_sync/{source.name} is not what scripts/unasync.py makes of _async/{source.name}")
            different = 1
    return different


if __name__ == "__main__":
    sys.exit(main())
