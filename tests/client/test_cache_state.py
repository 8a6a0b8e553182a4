"""The options of a cache: what is refused when it is made."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import hypothesis
import pytest

import globalcache
from globalcache import Cache
from globalcache.errors import ConfigError, DeadlineError
from globalcache.units import parse_duration
from tests.client.faces import Face

# Durations of every size and form.
SIZES = [
    0,
    -1,
    1e-9,
    5e-4,
    0.001,
    "1ms",
    "60d",
    86_400,
    86_401,
    1e10,
    1e300,
    math.inf,
    -math.inf,
    math.nan,
    2**63,
    10**400,
]
SIZES += ["1" * 400 + "d", timedelta.max, timedelta.min, True, "x", "", b"1"]


@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize("option", ["timeout", "wait", "default_ttl"])
@hypothesis.given(hypothesis.strategies.sampled_from(SIZES) | hypothesis.strategies.floats())
@hypothesis.settings(max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_a_duration_is_refused_at_once_or_used(server: globalcache.Server, option: str, kind: str, size: Any) -> None:
    """None may be found out to be too long by a socket. A value is sent that does not fit into one."""
    options: Any = {"on_error": "raise", option: size}
    try:
        face = Face(kind, server.url, **options)
    except ConfigError as error:
        assert str(error).startswith(f"{option}: ")  # noqa: PT017 - others are none
        return
    with face:
        value = "x" * (6 << 20)
        try:
            assert face("set", "duration", value)
            assert face("get_or_load", "duration", lambda: value) == value
            assert face("get_or_load_many", ["duration"], lambda keys: dict.fromkeys(keys, value)) == {
                "duration": value
            }
        except DeadlineError:
            assert parse_duration(size) < 1


def test_the_longest_timeout_is_told() -> None:
    for url, options in (("memory://", {"timeout": "60d"}), ("globalcache://127.0.0.1:1?timeout=60d", {})):
        with pytest.raises(ConfigError, match=r"timeout: .*: should be at most 86400 s"):
            Cache(url, **options)  # type: ignore[arg-type]
