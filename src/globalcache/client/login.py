"""The password of the command line and of workers, kept out of URLs and so out of the list of processes.

$GLOBALCACHE_PASSWORD is the password, $GLOBALCACHE_PASSWORD_FILE a file that has it on its first line. One in a URL
stands over both.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from msgspec.structs import replace

from globalcache.client.address import DEFAULT_URL, Address


def client_password() -> str | None:
    """Return the password in the environment; None if there is none. Raises OSError if its file cannot be read."""
    path = os.environ.get("GLOBALCACHE_PASSWORD_FILE")
    lines = Path(path).read_text(encoding="utf-8").splitlines() if path else []
    return os.environ.get("GLOBALCACHE_PASSWORD") or next(iter(lines), "") or None


def with_password(address: Address) -> Address:
    """Return an address with the password of the environment, unless its URL has one."""
    if address.password is not None or address.kind not in {"tcp", "unix"}:
        return address
    return replace(address, password=client_password())


def url_with_password(url: str | None) -> str:
    """Return a URL, $GLOBALCACHE_URL or the default, with the password of the environment unless it has one."""
    text = url or os.environ.get("GLOBALCACHE_URL") or DEFAULT_URL
    password = client_password()
    scheme, _, rest = text.partition("://") if "://" in text else ("globalcache", "", text)
    end = min((rest.find(sign) for sign in "/?#" if sign in rest), default=len(rest))
    user, _, host = rest[:end].rpartition("@")
    if password is None or ":" in user or scheme in {"memory", "null"}:
        return text
    return f"{scheme}://{user}:{quote(password, safe='')}@{host}{rest[end:]}"
