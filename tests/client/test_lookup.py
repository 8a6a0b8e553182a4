"""Host names, and name servers that do not answer."""

from __future__ import annotations

import math
import socket
import threading
from typing import Any

import pytest

from globalcache import Cache
from globalcache.client import lookup
from globalcache.errors import DeadlineError


def test_a_name_server_that_is_silent_costs_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking a name up takes as long as the system likes. Nobody waits longer than the time-out; one thread looks."""
    asked, answering = [], threading.Event()

    def look(host: str, _: int, **options: int) -> list[Any]:
        if options["flags"]:
            raise socket.gaierror
        asked.append(host)
        answering.wait(30)
        return [host]

    monkeypatch.setattr(socket, "getaddrinfo", look)
    with Cache("globalcache://cache.example", timeout=0.05) as cache:
        assert cache.get("x") is None
        for _ in range(2):
            with pytest.raises(DeadlineError):
                lookup.addresses("cache.example", 7411, 0.0)
        answering.set()
        assert lookup.addresses("cache.example", 7411, math.inf) == ["cache.example"]
        assert asked == ["cache.example"]
