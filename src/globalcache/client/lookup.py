"""Host names: what a name stands for, within a deadline. The system's own look-up has none."""

from __future__ import annotations

import _thread
import socket
import time
from typing import Any

from globalcache.errors import DeadlineError

# How often whoever waits looks whether a look-up has ended. An exception from outside could leave an event locked.
_LOOK_AGAIN = 0.005


class _Lookup:
    """One look-up, shared by all who ask for the same name until it ends."""

    def __init__(self, host: str, port: int) -> None:
        self.place = host, port
        self.found: list[Any] = []
        self.error: BaseException | None = None
        self.is_over = False

    def run(self) -> None:
        """Ask the system, for as long as that takes."""
        try:
            self.found = _found(*self.place)
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            self.error = error
        finally:
            self.is_over = True
            if _running.get(self.place) is self:
                _running.pop(self.place, None)


# A name server that does not answer costs one thread for each name, however many ask.
_running: dict[tuple[str, int], _Lookup] = {}


def _found(host: str, port: int, flags: int = 0) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)


def addresses(host: str, port: int, deadline: float) -> list[Any]:
    """Return what getaddrinfo() returns. Raises what it raises, or DeadlineError when `deadline` has passed."""
    try:
        # Of a number there is nothing to look up, for which a thread would be started.
        return _found(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        lookup = _running.get((host, port)) or _begun(host, port)
    pause = 0.0002
    while not lookup.is_over:
        if time.monotonic() > deadline:
            raise DeadlineError(f"{host}: the name was not looked up in time")
        time.sleep(pause)
        pause = min(2 * pause, _LOOK_AGAIN)
    if lookup.error is not None:
        raise lookup.error
    return lookup.found


def _begun(host: str, port: int) -> _Lookup:
    lookup = _Lookup(host, port)
    try:
        _running[lookup.place] = lookup
        _thread.start_new_thread(lookup.run, ())
    except RuntimeError:
        # At the end of the interpreter no thread can be started.
        lookup.run()
    except BaseException:
        # An exception from outside, perhaps before there was a thread: nobody else may wait for this one.
        if _running.get(lookup.place) is lookup:
            _running.pop(lookup.place, None)
        raise
    return lookup


def after_fork() -> None:
    """Forget what threads of the parent were looking up."""
    _running.clear()
