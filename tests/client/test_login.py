"""The password of the environment: where it goes into a URL, and when it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from globalcache.client.address import Address
from globalcache.client.login import url_with_password, with_password

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a/b@c:d?e#f%"  # noqa: S105


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("host", None),
        ("host:7412", None),
        ("globalcache://host/3?timeout=5s", None),
        ("redis://app@host/3", "app"),
        ("globalcaches://app@[::1]:7412/?ca=a@b.pem", "app"),
        ("globalcache+unix:///run/cache.sock?db=1", None),
    ],
)
def test_it_goes_before_the_host(monkeypatch: pytest.MonkeyPatch, url: str, user: str | None) -> None:
    monkeypatch.setenv("GLOBALCACHE_PASSWORD", SECRET)
    found = Address.parse(url_with_password(url))
    assert (found.user, found.password) == (user, SECRET)
    assert str(found) == str(Address.parse(url.replace("app@", "")))


@pytest.mark.parametrize("url", ["globalcache://:own@host", "globalcache://app:own@host", "memory://", "null://"])
def test_a_url_with_one_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("GLOBALCACHE_PASSWORD", SECRET)
    assert url_with_password(url) == url
    address = Address.parse(url)
    assert with_password(address) == address


def test_a_file_has_it_on_its_first_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n\n")
    monkeypatch.setenv("GLOBALCACHE_PASSWORD_FILE", str(tmp_path / "secret"))
    assert with_password(Address.parse("host")).password == SECRET
    monkeypatch.setenv("GLOBALCACHE_URL", "globalcache://from-environment")
    found = Address.parse(url_with_password(None))
    assert (found.host, found.password) == ("from-environment", SECRET)
    (tmp_path / "secret").write_text("")
    assert url_with_password("host") == "host"
