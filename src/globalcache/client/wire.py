"""The words of RESP3 as hiredis reads and writes them: requests, replies, errors, tickets. No I/O."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import hiredis
import msgspec

from globalcache.errors import AuthError, CacheError, LoadError, ReplyError, ValueTooLargeError, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from globalcache.client.leases import Lease

T = TypeVar("T")
Reply: TypeAlias = Any
# A command, packed. Bytes alone: see `pack`.
Words: TypeAlias = tuple[bytes, ...]

# What the reader gives when it needs more bytes; False would be a reply.
MORE: Final = object()
Push: Final = hiredis.PushNotification
# The only place where hiredis packs. It would take numbers as well, but a signal handler that raises while it turns one
# into text crashes the process. So nothing but bytes is given to it, which run no code of Python.
pack: Final[Callable[[Words], bytes]] = hiredis.pack_command  # type: ignore[assignment]  # of any length

# CACHE.FETCH of a key with its length and `wait_words`, asking for a lease of the server's default.
FETCH: Final = b"*4\r\n$11\r\nCACHE.FETCH\r\n$%d\r\n%b\r\n%b"
# What parts words on a line, or is a quote there; and the longest line, of 64 KiB that the server reads.
_NO_WORDS = b" \t\n\v\f\r\"'"
_LONGEST_LINE = 60_000
# Keys and bytes of one batch: the replies to a batch are read before the next one is sent.
MOST_KEYS, MOST_BYTES = 1000, 256 << 10
_AUTH = ("NOAUTH", "WRONGPASS", "NOPERM")
_LOAD = ("LOADFAILED", "NOLOADER")
# What our clients and workers send with CACHE.FAIL: the qualified name of a class, and its text with tell_text=True.
_PART = r"(?:[^\W\d]\w*|<locals>)"
_CAUSE = re.compile(rf"({_PART}(?:\.{_PART})*)(?:: .*)?", re.DOTALL)


class Waiting(Exception):  # noqa: N818 - no error: an answer that follows
    """The command waits; its answer comes under this ticket."""

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket


class Fetched(msgspec.Struct):
    """The reply to a FETCH.

    `state` is hit, stale, absent, miss, waiting or timeout; `ttl` is in milliseconds, -1 for what never expires.
    Whoever is granted a lease is to load, whatever the state.
    """

    state: bytes
    value: bytes | None
    version: int
    ttl: int
    flags: int
    lease: Lease | None = None


def fetched(reply: Reply) -> Reply:
    """Return the reply to a FETCH as Fetched, without its token: see `Leases.own`. What is no such list stays."""
    if reply.__class__ is list:
        state, value, _, version, ttl, flags = reply
        return Fetched(state, value, version, ttl, flags)
    return reply


def reply_error(text: str) -> Exception:
    """Return what stands for an error reply."""
    if text.startswith("WAITING "):
        return Waiting(int(text[8:]))
    return ReplyError(text)


def reader(error: Callable[[str], Exception] = reply_error) -> hiredis.Reader:
    """Return a parser of replies; errors come as ReplyError or Waiting, unraised."""
    return hiredis.Reader(replyError=error, notEnoughData=MORE)


def translate(error: Exception, name: bytes = b"", prefix: str = "") -> CacheError:
    """Return an error reply as what a caller is to see.

    `name` is the key that was asked for, if it is known, and `prefix` what the namespace puts before it.
    """
    if not isinstance(error, ReplyError):
        return error if isinstance(error, CacheError) else ReplyError(str(error))
    text = str(error)
    code, _, rest = text.partition(" ")
    if code in _AUTH:
        return AuthError(text)
    if code in _LOAD:
        return _load_error(rest if code == "LOADFAILED" else text, name.decode(errors="replace"), prefix)
    if rest.startswith("value of ") and "max-value" in rest:
        return ValueTooLargeError(rest)
    return error


def _load_error(text: str, name: str, prefix: str) -> LoadError:
    """Read `KEY: module.Class` or `KEY: module.Class: text`. Other clients may have sent any text."""
    if name and text.startswith(f"{name}: "):
        key, cause = name, text[len(name) + 2 :]
    else:
        key, _, cause = text.partition(": ")
    found = _CAUSE.fullmatch(cause)
    return LoadError(text, key=(name or key).removeprefix(prefix), cause_class=found[1] if found else None)


def tag_name(text: str) -> bytes:
    """Return a tag of a user as it is sent.

    Tags of namespaces begin with `ns:`. One of a user that does so too begins with a byte that no text has.
    """
    name = text.encode()
    return b"\xff" + name if name.startswith(b"ns:") else name


def ticket_of(reply: Reply) -> int:
    """Return the ticket that stands for the outcome of a command, or 0."""
    if type(reply) is list:
        # Of several values the first may be this word, but none is a number.
        is_ticket = len(reply) >= 3 and reply[0] == b"waiting" and type(reply[2]) is int
        return reply[2] if is_ticket else 0
    return reply.ticket if type(reply) is Waiting else 0


def is_fatal(reply: Reply) -> bool:
    """Tell whether it is an error after which the server closes the connection."""
    return type(reply) is ReplyError and str(reply).startswith("ERR Protocol error")


def is_denied(reply: Reply) -> bool:
    """Tell whether a reply says that the user may not do that."""
    return type(reply) is ReplyError and str(reply).startswith("NOPERM")


def batches(commands: Sequence[Words]) -> Iterator[Sequence[Words]]:
    """Give commands in their order, as many at a time as may be sent before replies are read."""
    return _split(commands, lambda words: sum(map(len, words)))


def key_batches(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Give keys in their order, as many at a time as one request may have."""
    return _split(keys, len)


def _split(items: Sequence[T], size_of: Callable[[T], int]) -> Iterator[Sequence[T]]:
    start = size = 0
    for index, item in enumerate(items):
        length = size_of(item)
        if index > start and (index - start >= MOST_KEYS or size + length > MOST_BYTES):
            yield items[start:index]
            start, size = index, 0
        size += length
    if start < len(items):
        yield items[start:]


def many_request(name: bytes, words: Sequence[bytes]) -> bytes:
    """Return a request of many words on one line if it may stand there, which is made in a third of the time."""
    text = b" ".join(words)
    if (
        len(text) < _LONGEST_LINE
        and len(text.translate(None, _NO_WORDS)) == len(text) - len(words) + 1
        # On a line these would be taken for a browser's.
        and b"HTTP/" not in text
    ):
        return b"%b %b\r\n" % (name, text)
    return pack((name, *words))


def fetch_request(key: bytes, wait_ms: int, lease_ms: int | None) -> bytes:
    """Return CACHE.FETCH; `lease_ms` None is the server's default, 0 asks for none."""
    if lease_ms is None:
        # By hand, for it is asked at every get_or_load.
        return FETCH % (len(key), key, wait_words(wait_ms))
    return pack((b"CACHE.FETCH", key, b"WAIT", b"%d" % wait_ms, b"LEASE", b"%d" % lease_ms))


def word_of(value: str | bytes | float) -> bytes:
    """Return what a user gives as a word of a command as it is sent. Raises TypeError for what is none."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str | int | float):
        return str(value).encode()
    raise TypeError(f"a word of a command is text, bytes or a number, not {written(value)}")


@functools.lru_cache(64)
def wait_words(wait_ms: int) -> bytes:
    """Return the end of a CACHE.FETCH: how long it may wait."""
    text = b"%d" % wait_ms
    return b"$4\r\nWAIT\r\n$%d\r\n%b\r\n" % (len(text), text)


def as_text(value: Any) -> Any:
    """Return a reply with text in place of bytes, also within lists."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple | set):
        return [as_text(item) for item in value]
    return value
