"""Values as bytes and flags, and back.

JSON text has the flags 0, so any other client can read and write it. All else is marked in the item's flags, whose
upper half is ours ("gc"), so that flags of memcached clients are not taken for it. What another client wrote (flags
0, no JSON) is a str if it is UTF-8, else bytes; `type=bytes` gives the stored bytes of anything.

A hit equals a miss: what would not come back the same is a TypeError when it is stored. Decoding is lenient: a value
that does not fit its type any more is `UNREADABLE`, which counts as a miss. Knows nothing of keys or servers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Final

import msgspec

from globalcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

_OURS: Final = 0x6763_0000
_RAW, _MSGPACK, _PICKLE = 1, 2, 3
_ZSTD = 0x10
_DIGEST = 32
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
# A reader never unpacks more than the server stores at most in one value, and some.
_LONGEST = 256 << 20

UNREADABLE: Final = object()

_json_encode = msgspec.json.Encoder(enc_hook=lambda value: _enc_hook(value)).encode  # noqa: PLW0108 - defined below
_json_decode = msgspec.json.Decoder().decode
_UNREADABLE_ERRORS = (msgspec.MsgspecError, UnicodeError, ValueError, TypeError, KeyError, AttributeError)


class Values:
    """How one cache writes values: codec ("json", "msgpack" or "pickle") and the size from which zstd is tried."""

    def __init__(
        self, codec: str = "json", *, compress_over: int | None = None, secret: bytes | str | None = None
    ) -> None:
        if codec not in {"json", "msgpack", "pickle"}:
            raise ConfigError("codec: should be json, msgpack or pickle")
        if codec == "pickle" and not secret:
            raise ConfigError("codec: pickle runs what it reads, so it needs secret=, by which values are signed")
        self._codec = codec
        self._secret = secret.encode() if isinstance(secret, str) else secret
        self._compress_over = compress_over
        self._zstd: Any = None if compress_over is None else _zstd()
        self._decoders: dict[Any, Callable[[bytes], Any]] = {}

    def encode(self, value: Any, type: Any = None, *, by_class: bool = False) -> tuple[bytes, int]:
        """Return bytes and flags.

        Without a type only values that JSON brings back unchanged are taken; `by_class` also takes dataclasses,
        Structs and pydantic models, which a reader gets back by naming their class. Raises TypeError.
        """
        data, flags = self._encode(value, type, by_class=by_class)
        if self._compress_over is not None and len(data) >= self._compress_over:
            packed = self._zstd.ZstdCompressor().compress(data)
            if len(packed) < len(data):
                return packed, (flags or _OURS) | _ZSTD
        return data, flags

    def _encode(self, value: Any, kind: Any, *, by_class: bool) -> tuple[bytes, int]:
        if type(value) is bytes and kind in {None, bytes}:
            return value, _OURS | _RAW
        if self._codec == "pickle":
            if type(value) is int and _LEAST <= value <= _MOST:
                # As the server counts, so that incr goes on from what was set.
                return b"%d" % value, 0
            import hmac  # noqa: PLC0415 - only where it was asked for
            import pickle  # noqa: PLC0415

            data = pickle.dumps(value)
            return hmac.digest(self._secret or b"", data, "sha256") + data, _OURS | _PICKLE
        if kind is None and not (by_class and _is_record(value)):
            _check_plain(value, "value")
        elif kind is not None:
            _check_fits(value, kind)
        try:
            if self._codec == "msgpack":
                return msgspec.msgpack.encode(value, enc_hook=_enc_hook), _OURS | _MSGPACK
            return _json_encode(value), 0
        except (OverflowError, UnicodeError, TypeError, NotImplementedError) as error:
            raise TypeError(f"cannot be stored: {error}") from None

    def decode(self, data: bytes, flags: int = 0, type: Any = None) -> Any:
        """Return the value, or UNREADABLE if it is none of this type."""
        if flags == 0 and type is None:
            try:
                return _json_decode(data)
            except (msgspec.DecodeError, UnicodeError):
                return _text_or_bytes(data)
        try:
            if flags == 0 and (decode := self._decoders.get(type)) is not None:
                return decode(data)
        except _UNREADABLE_ERRORS:
            pass  # or text that another client wrote
        try:
            return self._decode(data, flags, type)
        except _UNREADABLE_ERRORS:
            return UNREADABLE

    def decode_many(self, texts: list[bytes], type: Any = None) -> list[Any] | None:
        """Return what these are, all with the flags 0; None if that has to be found out for each alone."""
        if type is bytes:
            return texts
        try:
            if type is None:
                return [_json_decode(text) for text in texts]
            return [self._from_json(text, type) for text in texts]
        except _UNREADABLE_ERRORS:
            return None

    def _decode(self, data: bytes, flags: int, kind: Any) -> Any:
        form = 0
        if flags & 0xFFFF_0000 == _OURS:
            form = flags & 0xF
            if flags & _ZSTD:
                data = _zstd().ZstdDecompressor().decompress(data, max_output_size=_LONGEST)
        elif flags:
            # Marked by a memcached client in its own way.
            return data if kind is bytes else UNREADABLE
        if kind is bytes or (form == _RAW and kind is None):
            return data
        if form == 0:
            return self._from_json(data, kind)
        if form == _MSGPACK:
            return self._restore(msgspec.msgpack.decode(data), kind)
        return self._unpickle(data) if form == _PICKLE else UNREADABLE

    def _from_json(self, data: bytes, kind: Any) -> Any:
        if kind is None:
            return self.decode(data)
        decode = self._decoders.get(kind)
        if decode is None:
            decode = self._decoders[kind] = _decoder(kind)
        try:
            return decode(data)
        except msgspec.DecodeError:
            # What another client wrote as bare text.
            if kind is str:
                return data.decode()
            raise

    @staticmethod
    def _restore(value: Any, kind: Any) -> Any:
        return value if kind is None else msgspec.convert(value, kind, dec_hook=_dec_hook)

    def _unpickle(self, data: bytes) -> Any:
        import hmac  # noqa: PLC0415

        if self._secret is None or not hmac.compare_digest(
            data[:_DIGEST], hmac.digest(self._secret, data[_DIGEST:], "sha256")
        ):
            return UNREADABLE
        import pickle  # noqa: PLC0415

        return pickle.loads(data[_DIGEST:])  # noqa: S301 - signed by whoever knows the secret

    def fill_form(self, value: Any, type: Any) -> tuple[bytes, int, Any]:
        """Return bytes, flags and the value as a hit will give it. Raises TypeError for what does not come back."""
        data, flags = self.encode(value, type)
        if type is None or type is bytes:
            return data, flags, value
        again = self.decode(data, flags, type)
        if again is UNREADABLE:
            raise TypeError(f"{value.__class__.__name__} does not come back as {type!r}")
        return data, flags, again


def _zstd() -> Any:
    try:
        import zstandard  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError("compress_over: needs zstandard; install the extra zstd") from None
    return zstandard


def _is_pydantic(value: Any) -> bool:
    return hasattr(value, "model_dump") and hasattr(value, "model_validate")


def _is_record(value: Any) -> bool:
    return isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(value) or _is_pydantic(value)


def _enc_hook(value: Any) -> Any:
    if _is_pydantic(value):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not known to JSON; give type=")


def _dec_hook(kind: Any, value: Any) -> Any:
    if _is_pydantic(kind):
        return kind.model_validate(value)
    raise TypeError(f"{kind!r} cannot be read")


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    if _is_pydantic(kind):
        validate: Callable[[bytes], Any] = kind.model_validate_json
        return validate
    return msgspec.json.Decoder(kind, dec_hook=_dec_hook).decode


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _check_fits(value: Any, kind: Any) -> None:
    if kind is bytes and type(value) is not bytes:
        raise TypeError(f"value is {type(value).__name__}, not bytes")


def _check_plain(value: Any, where: str) -> None:
    """Raise TypeError, naming the place, for what JSON does not bring back unchanged."""
    kind = type(value)
    if kind in {str, int, bool} or value is None:
        return
    if kind is float:
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value!r}, which JSON does not have")
    elif kind is list:
        for index, item in enumerate(value):
            if type(item) is not str:
                _check_plain(item, f"{where}[{index}]")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r}, which would come back as text; give type=")
            _check_plain(item, f"{where}[{key!r}]")
    else:
        raise TypeError(f"{where} is of type {kind.__name__}, which would not come back the same; give type=")
