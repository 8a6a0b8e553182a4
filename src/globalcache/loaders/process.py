"""A worker as a process: by itself, or beside a server that started it and tells it where it is."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

from globalcache.client.login import url_with_password
from globalcache.errors import ConfigError
from globalcache.loaders.app import find, patterns, templates, work
from globalcache.loaders.worker import LONGEST_END

if TYPE_CHECKING:
    from collections.abc import Coroutine

# Seconds after which a worker that should have ended is ended by force; less than what a supervisor waits.
_MARGIN = 0.5
_ENDING = {signal.SIGTERM, signal.SIGINT}


def run(target: str, url: str | None, pipes: str | None) -> int:
    """Work until SIGTERM or SIGINT; returns the exit status. `pipes` are the numbers of two files: orders, facts."""
    # A server that started this one has them blocked.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
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
    # The parent reads it once: said at each new connection it would fill the pipe in the end, and block the worker.
    ready = functools.cache(partial(_tell, facts, ready=True)) if pipes else partial(_say_ready, target, cache)
    status = _work(work(cache, url and url_with_password(url), ready))
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread or task of a loader that hangs would hold this process for ever.
    os._exit(status)


def _say_ready(target: str, cache: Any) -> None:
    print(f"worker: {target}  {'  '.join(templates(cache))}  ready", file=sys.stderr, flush=True)


def _work(main: Coroutine[Any, Any, None]) -> int:
    """Run until done; returns the exit status."""
    _end_in_time()
    try:
        _run_on(main)
    except ConfigError:
        raise
    except BaseException:  # noqa: BLE001 - shown as Python shows it
        traceback.print_exc()
        return 1
    return 0


def _run_on(main: Coroutine[Any, Any, None]) -> None:
    """Run until done. SystemExit in a task that a loader started reaches the loader, and would end the loop as well.

    The loop is not closed: that waits for all tasks and threads of the application, without a limit.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    task = loop.create_task(main)
    while not task.done():
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            logging.getLogger("globalcache.worker").error("a loader's task raised %s", type(error).__name__)  # noqa: TRY400


def _end_in_time() -> None:
    """End this process some seconds after SIGTERM or SIGINT, even if a loader never gives the event loop back.

    Python's own handlers run in the main thread, which such a loader holds; the descriptor is written to at once.
    """
    signals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    mask = threading.local()
    os.register_at_fork(
        before=partial(_hold_signals, mask),
        after_in_parent=partial(_release_signals, mask),
        after_in_child=partial(_forget_signals, mask),
    )
    threading.Thread(target=_end_late, args=(signals,), daemon=True).start()


def _hold_signals(mask: threading.local) -> None:
    """Keep a signal that a child gets at once until it has handlers of its own."""
    mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def _release_signals(mask: threading.local) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask.before)


def _forget_signals(mask: threading.local) -> None:
    """Let a child that the application forks end by its own signals, and tell the parent nothing of them."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _release_signals(mask)


def _end_late(signals: int) -> None:
    while os.read(signals, 1)[0] not in _ENDING:
        pass
    time.sleep(LONGEST_END + _MARGIN)
    os.write(sys.stderr.fileno(), b"globalcache.worker: ended by force: a loader does not give the event loop back\n")
    os._exit(1)


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
