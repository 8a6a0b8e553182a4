"""URLs of servers."""

from __future__ import annotations

import pytest

import globalcache
from globalcache import ConfigError
from globalcache.client.address import Address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("globalcache://h:1/2", Address("tcp", "h", 1, db=2)),
        ("redis://h", Address("tcp", "h", 7411)),
        ("h:1", Address("tcp", "h", 1)),
        ("rediss://u:p%40@h:1", Address("tcp", "h", 1, tls=True, user="u", password="p@")),
        ("globalcaches://:p@[::1]:1", Address("tcp", "::1", 1, tls=True, password="p")),
        ("globalcache+unix:///a/b%20c?db=3", Address("unix", path="/a/b c", db=3)),
        ("memory://", Address("memory")),
        ("memory://name", Address("memory", path="name")),
        ("null://", Address("null")),
        ("redis://h:1?timeout=500ms&namespace=shop", Address("tcp", "h", 1, timeout=0.5, namespace="shop")),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    "url",
    ["http://h", "redis://h:x", "redis://h/x", "unix://", "redis://h?color=1", "redis://u@h", "redis://h?timeout=x"],
)
def test_what_is_no_url_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="allowed are"):
        Address.parse(url)
    with pytest.raises(ConfigError) as told:
        Address.parse("http://user:secret@h")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        # What stands in a password cuts the URL elsewhere than was meant: at #, ?, /, @, : or [.
        "redis://:hunter2#1@cache.example:6379/0",
        "redis://app:hunter2#1@cache.example:6379/0",
        "redis://app:hun?ter2@cache.example:6379/0",
        "redis://app:hun/ter2@cache.example:6379/0",
        "redis://app:[hunter2@cache.example:6379/0",
        "redis://app:hunter2@cache.example?db=hunter2",
        "redis://hunter2@cache.example",
        "redis://app:hunter2@a..b",
        "redis://:hunter2",
        "redis://cache.example:6379/0?password=hunter2",
        "redis://cache.example?namespace=a&timeout=hunter2",
        "unix://:hunter2/run/cache.sock",
        "unix://:pa/hunter2@/run/cache.sock",
        "http://app:hunter2@cache.example",
        "app:hunter2@cache.example:port",
    ],
)
def test_no_part_of_a_password_is_shown(url: str) -> None:
    """These are refused, and the error names no part of what may be a password, nor do its causes."""
    with pytest.raises(ConfigError) as told:
        Address.parse(url)
    assert not any(part in str(told.value) for part in ("hunter2", "ter2", "hun"))
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__


@pytest.mark.parametrize("url", ["redis://:1234#x@cache.example:6379/0", "unix://:pa/ss@/run/cache.sock"])
def test_a_url_that_would_reach_another_server_is_refused(url: str) -> None:
    """Cut at the wrong place it names this machine, or another path."""
    with pytest.raises(ConfigError, match=r"write %23|a path begins with /"):
        Address.parse(url)


def test_the_environment_names_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOBALCACHE_URL", "redis://elsewhere:5")
    assert repr(globalcache.Cache()) == "Cache(elsewhere:5)"
    monkeypatch.delenv("GLOBALCACHE_URL")
    assert repr(globalcache.Cache()) == "Cache(127.0.0.1:7411)"


def test_nothing_shown_has_a_secret() -> None:
    cache = globalcache.Cache("redis://me:secret@h:1?namespace=shop")
    assert repr(cache) == "Cache(h:1, namespace='shop')"
    assert "secret" not in repr(cache._state.servers.addresses) + repr(cache._state.servers.endpoints)  # noqa: SLF001


def test_options_are_checked_when_a_cache_is_made() -> None:
    for options in ({"on_error": "ignore"}, {"codec": "yaml"}, {"timeout": "soon"}, {"wait": -1}):
        with pytest.raises(ConfigError):
            globalcache.Cache(**options)
    for urls in ([], ["redis://a", "redis://a"], ["redis://a", "memory://"]):
        with pytest.raises(ConfigError):
            globalcache.Cache(urls)
