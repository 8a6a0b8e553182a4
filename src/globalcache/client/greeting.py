"""What a connection sends first, of a client or a worker, and what it learns from the answers."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from globalcache.client.address import Address
    from globalcache.client.wire import Words

# The longest value of a server that does not say another one.
_LONGEST_VALUE = 16 << 20
# What a server is asked that did not tell its longest value in the greeting, as those of the version before.
ASK_LONGEST = (b"CONFIG", b"GET", b"proto-max-bulk-len")
# What this library is called in CLIENT LIST.
LIB_NAME: Words = (b"CLIENT", b"SETINFO", b"LIB-NAME", b"globalcache")


def hello(address: Address, name: bytes) -> Words:
    """Return the command that logs in, asks for RESP3 and gives the connection a name."""
    words: Words = (b"HELLO", b"3")
    if address.password is not None:
        words += (b"AUTH", (address.user or "default").encode(), address.password.encode())
    return (*words, b"SETNAME", name)


def select(address: Address) -> list[Words]:
    """Return the command that chooses the database, unless it is the first one."""
    return [(b"SELECT", b"%d" % address.db)] if address.db else []


def least_absence(facts: dict[Any, Any]) -> int:
    """Return for how many milliseconds an absence has to be kept at least, from what CACHE.SESSION answered."""
    return 0 if b"version" in facts else 1


def longest_value(config: Any) -> int:
    """Return how many bytes a value may have, from the reply to ASK_LONGEST; an error if the user may not ask."""
    return int(config[ASK_LONGEST[2]]) if isinstance(config, dict) else _LONGEST_VALUE


def client_name() -> bytes:
    """Return what CLIENT LIST shows of this process: its program and number, without what a name may not have."""
    program = os.path.basename(sys.argv[0] if sys.argv else "") or "python"  # noqa: PTH119 - it may be no path
    printable = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in program[:40])
    return f"{printable}:{os.getpid()}".encode()
