"""What a child that was forked has of its parent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_does_not_wait_for_locks_of_its_parent() -> None:
    """Another thread of the parent holds every lock while it forks, and there is no server."""
    code = """
import os, sys, threading, warnings
from globalcache import Cache
cache = Cache("globalcache://127.0.0.1:1")
state, server = cache._state, cache._servers[0]
held = [state.flights._lock, state.flights.slots._lock, state.refresher._lock, state.unstored._lock,
        state.servers.endpoints[0].pending._lock, server.leases.lock, server.leases._tending]
ready, ending = threading.Event(), threading.Event()
def hold():
    for lock in held:
        lock.acquire()
    ready.set()
    ending.wait()
    for lock in held:
        lock.release()
thread = threading.Thread(target=hold)
thread.start()
ready.wait()
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    cache.set("x", 1)
    cache.invalidate("x")
    state.unstored.keep(b"x", b"1", 0, "too large", 0.0)
    server.leases.tend()
    os._exit(0 if cache.get_or_load("x", lambda: 3) == 3 else 1)
status = os.waitpid(child, 0)[1]
ending.set()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
