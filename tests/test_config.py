"""The options of the server: where they come from, and which stands over which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from globalcache.config import load_settings, own_url, unknown_variables
from globalcache.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_flag_stands_over_a_variable_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "cache.toml"
    file.write_text("memory = '1g'\nthreads = 3\nidle_timeout = '5m'\nlisten = ['127.0.0.1:1']\n")
    monkeypatch.setenv("GLOBALCACHE_CONFIG", str(file))
    monkeypatch.setenv("GLOBALCACHE_THREADS", "4")
    monkeypatch.setenv("GLOBALCACHE_MEMORY", "2g")
    settings = load_settings(memory="64MiB", threads=None)
    assert (settings.memory, settings.threads, settings.idle_timeout) == (64 << 20, 4, 300.0)
    assert settings.listen == ["127.0.0.1:1"]


def test_several_addresses_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOBALCACHE_LISTEN", "127.0.0.1:1, unix:///x")
    assert load_settings().listen == ["127.0.0.1:1", "unix:///x"]


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.listen, settings.memory, settings.max_value) == (["127.0.0.1:7411"], 256 << 20, 16 << 20)


def test_the_longest_value_follows_a_small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(memory="8MiB").max_value == 2 << 20
    assert load_settings(memory="8MiB", max_value="4MiB").max_value == 4 << 20
    monkeypatch.setenv("GLOBALCACHE_MAX_VALUE", "3MiB")
    assert load_settings(memory="8MiB").max_value == 3 << 20


def test_what_a_container_platform_sets_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        "GLOBALCACHE_PORT",
        "GLOBALCACHE_SERVICE_HOST",
        "GLOBALCACHE_SERVICE_PORT_CACHE",
        "GLOBALCACHE_PORT_7411_TCP_ADDR",
        "GLOBALCACHE_MEMCACHED_PORT",
        "GLOBALCACHE_URL",
    ]:
        monkeypatch.setenv(name, "tcp://10.0.0.1:7411")
    monkeypatch.setenv("GLOBALCACHE_MEMROY", "1g")
    assert load_settings().listen == ["127.0.0.1:7411"]
    assert unknown_variables() == ["GLOBALCACHE_MEMROY"]


def test_a_wrong_option_is_named_with_its_value() -> None:
    with pytest.raises(ConfigError, match="no such option; there are listen"):
        load_settings(nosuch=1)
    with pytest.raises(ConfigError, match="idle-timeout: -1: should not be negative"):
        load_settings(idle_timeout=-1)


def test_workers_beside_a_server_reach_it_by_the_plainest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_url(["tls://h:1", "memcached://h:2", "unix:///run/x", "h:3"], []) == "globalcache://h:3"
    assert own_url(["memcached://h:2", "tls://h:1", "unix:///run/x"], ["a b@"]) == "globalcache+unix://:a%20b%40@/run/x"
    assert own_url(["tls://h:1"], []) == "globalcaches://h:1"
    monkeypatch.setenv("GLOBALCACHE_URL", "globalcache://app:secret@elsewhere:7")
    assert own_url(["h:3"], []) == "globalcache://app:secret@h:3"
    assert own_url(["h:3"], ["own"]) == "globalcache://:own@h:3"
