"""What a client learns from the greeting of a server, of this version and of the one before, and goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import globalcache
from globalcache.client.endpoint import Endpoint
from globalcache.errors import AuthError, ReplyError, UnavailableError, ValueTooLargeError
from tests.client.faces import Face
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


LONGEST = 1 << 16
# What CACHE.SESSION answered in the version before.
BEFORE = {b"run_id": b"0" * 40, b"tickets": 1}
NOW = BEFORE | {b"max_value": LONGEST, b"max_request": 1 << 26, b"version": b"0.1.0"}


@pytest.fixture
def server() -> Iterator[globalcache.Server]:
    with globalcache.Server(memory="64MiB", threads=1, max_value=LONGEST) as server:
        yield server


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers greet as the version before does."""
    check = Endpoint.check_greeting

    def check_less(endpoint: Endpoint, replies: list[Any]) -> bool:
        facts = {name: replies[1][name] for name in BEFORE}
        return check(endpoint, [replies[0], facts, *replies[2:]])

    monkeypatch.setattr(Endpoint, "check_greeting", check_less)


def test_a_greeting_tells_what_need_not_be_asked(server: globalcache.Server) -> None:
    with Face("threads", server.url, timeout=5) as face:
        endpoint: Endpoint = face.endpoint
        for facts, told, least in ((NOW, True, 0), (BEFORE, False, 1), (NOW, True, 0)):
            assert endpoint.check_greeting([{}, facts, b"OK"]) is told
            # What is not told is asked; until the answer other connections go by what was known.
            assert (endpoint.max_value, endpoint.least_absence) == (LONGEST, least)
        # A user who may not ask meets the limit of servers that were told none.
        endpoint.check_longest(ReplyError("NOPERM this user may not run config|get"))
        assert endpoint.max_value == 16 << 20
        with pytest.raises(UnavailableError):
            endpoint.check_longest(UnavailableError("lost meanwhile"))


@pytest.mark.usefixtures("as_before")
def test_a_limit_that_is_not_told_is_asked(server: globalcache.Server, kind: str) -> None:
    with Face(kind, server.url, timeout=5) as face:
        assert face("ping")
        with pytest.raises(ValueTooLargeError):
            face("set", "k", "x" * LONGEST)
        assert face.endpoint.max_value == LONGEST


@pytest.mark.parametrize(("is_before", "ttl"), [(True, b"1"), (False, b"0")])
def test_an_absence_is_kept_as_the_server_can(
    server: globalcache.Server, kind: str, request: pytest.FixtureRequest, *, is_before: bool, ttl: bytes
) -> None:
    if is_before:
        request.getfixturevalue("as_before")
    with Face(kind, server.url, timeout=5) as face:
        sent = face.note_calls()
        assert face("get_or_load", "k", lambda: None, negative_ttl=0) is None
    ((name, _, _, value, *words),) = [words for words in sent if words[0] == b"CACHE.FILL"]
    assert (name, value, words[:3]) == (b"CACHE.FILL", b"", [b"ABSENT", b"TTL", ttl])


def test_no_tag_of_a_user_is_that_of_a_namespace(server: globalcache.Server, kind: str) -> None:
    # The version before calls the namespace's tag the same, so that clients of both clear what both have written.
    with Face(kind, server.url, timeout=5) as face:
        face("set", "mine", 1, tags=["ns:shop:"])
        shop = face.cache.namespace("shop")
        face.run(lambda: shop.set("k", 2))
        face("command", "CACHE.INVALIDATE", "TAGS", 1, "ns:shop:")
        assert (face("get", "mine"), face("get", "shop:k")) == (1, None)
        face("invalidate", tags=["ns:shop:"])
        assert face("get", "mine") is None


def test_a_refused_login_pauses_attempts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attempts there is a pause as in an outage, however often the cache is asked."""
    with globalcache.Server(memory="16MiB", threads=1, password="sesame") as server, Proxy(server.address) as proxy:
        monkeypatch.setattr("globalcache.client.endpoint.time.monotonic", lambda: 100.0)
        with Face(kind, f"globalcache://:wrong@{proxy.address}") as face:
            for _ in range(20):
                with pytest.raises(AuthError):
                    face("get", "x")
        assert proxy.accepted == 1
