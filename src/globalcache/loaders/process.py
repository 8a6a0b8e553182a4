"""A worker as a process: by itself, or beside a server that started it and tells it where it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from globalcache.client.login import url_with_password
from globalcache.errors import ConfigError
from globalcache.loaders.app import find, patterns, templates, work

if TYPE_CHECKING:
    from collections.abc import Coroutine


def run(target: str, url: str | None, pipes: str | None) -> int:
    """Work until SIGTERM or SIGINT; returns the exit status. `pipes` are the numbers of two files: orders, facts."""
    # A server that started this one has them blocked.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    orders, facts = (int(number) for number in pipes.split(",")) if pipes else (-1, -1)
    if not url and not pipes:
        # The cache of the application, made without a URL, reaches the server as the worker does.
        os.environ["GLOBALCACHE_URL"] = url_with_password(None)
    try:
        cache = find(target)
    except ConfigError:
        raise
    except Exception:  # noqa: BLE001 - what the application raises is shown as Python shows it
        traceback.print_exc()
        return 1
    if pipes:
        _tell(facts, patterns=patterns(cache), templates=templates(cache))
        url = _read_line(orders)
        if not url:
            return 0
        threading.Thread(target=_end_with_parent, args=(orders,), daemon=True).start()

    def ready() -> None:
        if pipes:
            _tell(facts, ready=True)
        else:
            print(f"worker: {target}  {'  '.join(templates(cache))}  ready", file=sys.stderr, flush=True)

    _run_on(work(cache, url and url_with_password(url), ready))
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread of a loader that hangs would hold this process for ever.
    os._exit(0)


def _run_on(main: Coroutine[Any, Any, None]) -> None:
    """Run until done. SystemExit in a task that a loader started reaches the loader, and would end the loop as well."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(main)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done():
                    raise
                logging.getLogger("globalcache.worker").error("a loader's task raised %s", type(error).__name__)  # noqa: TRY400


def _tell(facts: int, **said: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone, which the other pipe tells
        os.write(facts, json.dumps(said).encode() + b"\n")


def _read_line(orders: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(orders, 1)
        if not chunk:
            return ""
        line += chunk
    return line.decode().strip()


def _end_with_parent(orders: int) -> None:
    """Wait for the other end of the pipe to close."""
    while os.read(orders, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
