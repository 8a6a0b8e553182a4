"""Values as bytes and flags, and back.

JSON text has the flags 0, so any other client can read and write it. All else is marked in the item's flags, whose
upper half is ours ("gc"), so that flags of memcached clients are not taken for it. What another client wrote (flags
0, no JSON) is a str if it is UTF-8, else bytes; `type=bytes` gives the stored bytes of anything.

A hit equals a miss: what would not come back the same (see faithful.py) is a TypeError when it is stored. A value that
consists of what JSON has, as its type says, is only walked through; any other is read back and compared. Pickled values
are not read back: they come back as their classes say. Decoding is lenient: a value that does not fit its type any more
is `UNREADABLE`, which counts as a miss. Knows nothing of keys or servers.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
import types
import typing
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union

import msgspec

from globalcache.client.checks import check_type
from globalcache.client.faithful import difference, is_pydantic, is_record, place_of, shown
from globalcache.client.guard import text_of
from globalcache.errors import ConfigError, written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
_OURS: Final = 0x6763_0000
_RAW, _MSGPACK, _PICKLE = 1, 2, 3
_ZSTD = 0x10
_DIGEST = 32
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
# A reader never unpacks more than the server stores at most in one value, and some.
_LONGEST = 256 << 20

# Types of which one cache keeps how they are read and written.
_MOST_TYPES = 1000

UNREADABLE: Final = object()

_json_encode = msgspec.json.Encoder(enc_hook=lambda value: _enc_hook(value)).encode  # noqa: PLW0108 - defined below
_json_decode = msgspec.json.Decoder().decode
# A negative number of 4300 digits is longer than a reader takes, with its sign.
_LONG_NUMBER = re.compile(rb"-[0-9]{4300}")
_LONG_TEXT = 4300
# Types that JSON has, of which every value comes back as it is; floats do if they are finite.
_PLAIN = frozenset({str, int, bool, type(None)})
_SCALAR = _PLAIN | {float}
_BUILT_IN = _SCALAR | {list, dict}
_ONLY_TEXT = frozenset({str})
_ANYTHING = (None, Any, object)
_FITTING = "return what the annotation says, or annotate what is returned, or give type="
_TAG = "make them msgspec.Structs with tag=True, by which they are told apart"
_IMPORT = "import what the annotation names at run time"
_AS_KEY = "JSON has texts and numbers as keys: make it a text, or a list of pairs"
_AS_VALUE = "make a dataclass or a pydantic model of it"


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
        self._walks: dict[Any, Callable[[Any], bool]] = {}

    def encode(self, value: Any, type: Any = None, *, by_class: bool = False) -> tuple[bytes, int]:
        """Return bytes and flags.

        Without a type only values that JSON brings back unchanged are taken; `by_class` also takes dataclasses,
        Structs and pydantic models, which a reader gets back by naming their class. Raises TypeError, which names the
        place within the value, for what would not come back the same.
        """
        try:
            try:
                data, flags = self._encode(value, type, by_class=by_class)
            except TypeError:
                if not _has_mended_flags():
                    raise
                data, flags = self._encode(value, type, by_class=by_class)
        except RecursionError:
            raise TypeError("value contains itself, or is nested too deep") from None
        if self._compress_over is not None and len(data) >= self._compress_over:
            packed = self._zstd.ZstdCompressor().compress(data)
            if len(packed) < len(data):
                return packed, (flags or _OURS) | _ZSTD
        return data, flags

    def _encode(self, value: Any, kind: Any, *, by_class: bool) -> tuple[bytes, int]:
        if type(value) is bytes and kind in {None, bytes, Any, object}:
            return value, _OURS | _RAW
        if self._codec == "pickle":
            return self._pickle(value, kind)
        if kind in _ANYTHING:
            kind = type(value) if by_class and type(value) not in _BUILT_IN and is_record(value) else None
        if kind is bytes:
            raise TypeError(f"value is {shown(value)}, not bytes")
        data, flags = self._written(value)
        is_told = not (len(data) > _LONG_TEXT and flags == 0 and _LONG_NUMBER.search(data))
        if kind is None and flags == 0:
            if not _is_plain(value):
                _refuse_plain(value, "value")
            elif not is_told:
                self._check_comes_back(value, kind, data, flags)
        elif not (is_told and self._walk(kind)(value)):
            self._check_comes_back(value, kind, data, flags)
        return data, flags

    def _pickle(self, value: Any, kind: Any) -> tuple[bytes, int]:
        if type(value) is int and kind in (*_ANYTHING, int) and _LEAST <= value <= _MOST:
            # As the server counts, so that incr goes on from what was set.
            return b"%d" % value, 0
        import hmac  # noqa: PLC0415 - only where it was asked for
        import pickle  # noqa: PLC0415

        data = pickle.dumps(value)
        return hmac.digest(self._secret or b"", data, "sha256") + data, _OURS | _PICKLE

    def _written(self, value: Any) -> tuple[bytes, int]:
        try:
            if self._codec == "msgpack":
                return msgspec.msgpack.encode(value, enc_hook=_enc_hook), _OURS | _MSGPACK
            return _json_encode(value), 0
        except _UnknownTypeError as error:
            what, place = type(error.value).__qualname__, place_of(value, error.value) or "value"
            advice = _AS_KEY if place.startswith("the key") else _AS_VALUE
            raise TypeError(f"{place} is of type {what}, which cannot be stored: {advice}") from None
        except UnicodeEncodeError as error:
            place = place_of(value, error.object) or "value"
            raise TypeError(f"{place} cannot be stored: it is no valid text: {error.reason}") from None
        except RecursionError:
            raise
        except Exception as error:  # whatever a serializer of the user raises
            raise TypeError(f"value cannot be stored: {_first_line(error)}") from error

    def _walk(self, kind: Any) -> Callable[[Any], bool]:
        """Return a function that tells, without reading back, that a value of this type comes back the same."""
        walk = self._walks.get(kind)
        if walk is None:
            walk = _walk_of(kind) if kind is None or self._can_read(kind) else None
            walk = _kept(self._walks, kind, walk or _never)
        return walk

    def _can_read(self, kind: Any) -> bool:
        """Tell whether values of a type can be read at all; if not, reading back says why."""
        try:
            self._reader(kind)
        except Exception:  # noqa: BLE001 - whatever a class of the user raises
            return False
        return True

    def _check_comes_back(self, value: Any, kind: Any, data: bytes, flags: int) -> None:
        """Read a value back and compare; raises TypeError that names the place and what to write."""
        try:
            again = self._decode(data, flags, kind)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a class of the user raises
            reason = _first_line(error).replace("`$", "`value")
            if isinstance(error, ConfigError):
                raise TypeError(str(error)) from None
            advice = _IMPORT if isinstance(error, NameError) else _TAG if "Type unions" in reason else _FITTING
            raise TypeError(f"value does not come back as {_name(kind)}: {reason}; {advice}") from None
        found = difference(value, again)
        if found is not None:
            raise TypeError(found)

    def decode(self, data: bytes, flags: int = 0, type: Any = None) -> Any:
        """Return the value, or UNREADABLE if it is none of this type.

        That is also what it is when the class of the value raises: reading must not fail for what old code wrote.
        Raises ConfigError if the extra that is needed to read it is not installed.
        """
        if flags == 0 and type is None:
            try:
                return _json_decode(data)
            except (msgspec.DecodeError, UnicodeError):
                return _text_or_bytes(data)
            except RecursionError:
                return UNREADABLE
        try:
            if flags == 0 and (decode := self._decoders.get(type)) is not None:
                return decode(data)
        except Exception:  # noqa: BLE001, S110 - or text that another client wrote
            pass
        try:
            return self._decode(data, flags, type)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            can_read = isinstance(error, TypeError) and _has_mended_flags()
        return self.decode(data, flags, type) if can_read else UNREADABLE

    def decode_many(self, texts: list[bytes], type: Any = None) -> list[Any] | None:
        """Return what these are, all with the flags 0; None if that has to be found out for each alone."""
        if type is bytes:
            return texts
        try:
            if type is None:
                return [_json_decode(text) for text in texts]
            return [self._from_json(text, type) for text in texts]
        except Exception:  # noqa: BLE001 - as above
            return None

    def _decode(self, data: bytes, flags: int, kind: Any) -> Any:
        kind = None if kind in _ANYTHING else kind
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
            return self._restore(data, kind)
        return self._unpickle(data) if form == _PICKLE else UNREADABLE

    def _from_json(self, data: bytes, kind: Any) -> Any:
        if kind is None:
            return self.decode(data)
        decode = self._reader(kind)
        try:
            return decode(data)
        except msgspec.DecodeError:
            # What another client wrote as bare text.
            if kind is str:
                return data.decode()
            raise

    def _reader(self, kind: Any) -> Callable[[bytes], Any]:
        """Return how JSON is read as a type. Raises what building it raises: TypeError, NameError, ConfigError."""
        # Unions are equal in any order of their members, but those that are tried one by one are read in their order.
        name = _members(kind) or kind
        decode = self._decoders.get(name)
        if decode is None:
            decode = _kept(self._decoders, name, _decoder(kind))
        return decode

    @staticmethod
    def _restore(data: bytes, kind: Any) -> Any:
        value = msgspec.msgpack.decode(data)
        if kind is None:
            return value
        members = _members(kind)
        if members is None:
            return msgspec.convert(value, kind, dec_hook=_dec_hook)
        readers = [functools.partial(msgspec.convert, value, member, dec_hook=_dec_hook) for member in members]
        return _read_as_one(readers, data, functools.partial(msgspec.msgpack.encode, enc_hook=_enc_hook))

    def _unpickle(self, data: bytes) -> Any:
        import hmac  # noqa: PLC0415

        if self._secret is None or not hmac.compare_digest(
            data[:_DIGEST], hmac.digest(self._secret, data[_DIGEST:], "sha256")
        ):
            return UNREADABLE
        import pickle  # noqa: PLC0415

        return pickle.loads(data[_DIGEST:])  # noqa: S301 - signed by whoever knows the secret


def _kept(by_type: dict[Any, T], kind: Any, made: T) -> T:
    """Keep what was made for a type, for so many types: a function that makes a class at each call has no end of them.

    All are dropped together, so that a hit has nothing to note.
    """
    if len(by_type) >= _MOST_TYPES:
        by_type.clear()
    by_type[kind] = made
    return made


class _UnknownTypeError(TypeError):
    """An object that no codec knows."""

    def __init__(self, value: Any) -> None:
        super().__init__(f"{type(value).__name__} is not known")
        self.value = value


def _has_mended_flags() -> bool:
    """Have flags that were made of False and True be those of 0 and 1; tells whether there were any.

    To Python they are equal, but Flag(False) writes false, and makes its class one that msgspec does not read.
    """
    has_mended, left = False, enum.Flag.__subclasses__()
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        by_value: dict[Any, Any] = kind._value2member_map_
        for value in [value for value in list(by_value) if type(value) is bool]:
            member = by_value.pop(value)
            member._value_ = int(value)
            by_value[int(value)] = member
            has_mended = True
    return has_mended


def _zstd() -> Any:
    try:
        import zstandard  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError("compress_over: needs zstandard; install the extra zstd") from None
    return zstandard


# Models are written by the names of their fields and without what they compute. Since pydantic 2.11 they can be read so
# whatever their aliases are; before that they are written by alias.
def _dump(value: Any) -> Any:
    return value.model_dump(mode="json", round_trip=True, by_alias=not _reads_by_name(), warnings=False)


@functools.cache
def _reads_by_name() -> bool:
    import pydantic  # noqa: PLC0415 - somebody has a model of it

    major, minor, *_ = pydantic.VERSION.split(".")
    return (int(major), int(minor)) >= (2, 11)


def _both_names() -> dict[str, bool]:
    return {"by_alias": True, "by_name": True} if _reads_by_name() else {}


def _enc_hook(value: Any) -> Any:
    if is_pydantic(value) and not isinstance(value, type):
        return _dump(value)
    raise _UnknownTypeError(value)


def _dec_hook(kind: Any, value: Any) -> Any:
    if kind is object:
        return value
    if not is_pydantic(kind):
        raise TypeError(f"{kind!r} cannot be read")
    try:
        return kind.model_validate(value, **_both_names())
    except ValueError:  # a strict model takes a date for a date, and text for one in JSON only
        return kind.model_validate_json(_json_encode(value), **_both_names())


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    if is_pydantic(kind):
        return functools.partial(kind.model_validate_json, **_both_names())
    members = _members(kind)
    if members is None:
        return msgspec.json.Decoder(kind, dec_hook=_dec_hook).decode
    decoders = [_decoder(member) for member in members]
    return lambda data: _read_as_one([functools.partial(decode, data) for decode in decoders], data, _json_encode)


def _members(kind: Any) -> tuple[Any, ...] | None:
    """Return the members of a union that has to be tried one by one: msgspec tells two classes apart by tags only."""
    return typing.get_args(kind) if _has_to_be_tried(kind) else None


@functools.lru_cache(maxsize=1000)
def _has_to_be_tried(kind: Any) -> bool:
    """Tell whether msgspec knows the members of a union, but not the union. Raises ConfigError as check_type does."""
    check_type(kind)
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return False
    try:
        msgspec.json.Decoder(kind, dec_hook=_dec_hook)
    except TypeError:
        return True
    return False


def _read_as_one(readers: Sequence[Callable[[], Any]], data: bytes, write: Callable[[Any], bytes]) -> Any:
    """Return what the member of a union reads that would write the same again, else what the first one reads."""
    first: Any = UNREADABLE
    failed: Exception = TypeError("no member of the union reads it")
    for read in readers:
        try:
            value = read()
        except Exception as error:  # noqa: BLE001 - as above
            failed = error
            continue
        if write(value) == data:
            return value
        first = value if first is UNREADABLE else first
    if first is UNREADABLE:
        raise failed
    return first


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _name(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def _first_line(error: BaseException) -> str:
    """Return what is wrong, in one line; pydantic would write one for each field, and the values."""
    if type(error).__module__.startswith("pydantic") and hasattr(error, "errors"):
        first = error.errors(include_url=False, include_input=False)[0]
        return ".".join(["value", *map(str, first["loc"])]) + f": {first['msg']}"
    return (text_of(error).splitlines() or [type(error).__name__])[0]


def _never(_: Any) -> bool:
    return False


def _is_plain(value: Any) -> bool:
    """Tell whether JSON brings a value back as it is. The value was written before, so it does not contain itself."""
    left = [value]
    for item in left:
        kind = type(item)
        if kind in _PLAIN:
            continue
        if kind is list:
            left += item
        elif kind is dict:
            if not _ONLY_TEXT.issuperset(map(type, item)):
                return False
            left += item.values()
        elif kind is not float or not math.isfinite(item):
            return False
    return True


def _without_notes(kind: Any) -> Any:
    """Return the type that is annotated with what msgspec does not look at; others are read back."""
    if typing.get_origin(kind) is not typing.Annotated:
        return kind
    inner, *notes = typing.get_args(kind)
    return kind if any(isinstance(note, msgspec.Meta) for note in notes) else inner


def _walk_of(kind: Any, *, in_record: bool = False) -> Callable[[Any], bool] | None:
    """Return a function that walks through values of a type; None if they have to be read back.

    `in_record`: records are read back.
    """
    kind = _without_notes(kind)
    if kind in _ANYTHING:
        return _is_plain
    if kind in {list, dict, float, *_PLAIN}:
        return lambda value: type(value) is kind and _is_plain(value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return None if in_record else _walk_of_record(kind)
    inner = typing.get_args(kind)
    if typing.get_origin(kind) in (Union, types.UnionType):
        # What one member writes another one may read: a record comes back as a dict, or a dict as a record.
        in_record = in_record or sum(member not in _SCALAR for member in inner) > 1
    walks = [_walk_of(argument, in_record=in_record) for argument in inner]
    if not walks or None in walks:
        return None
    return _walk_of_generic(typing.get_origin(kind), typing.cast("list[Callable[[Any], bool]]", walks), inner)


def _walk_of_record(kind: type) -> Callable[[Any], bool] | None:
    """Return the same for a dataclass whose fields are plain, none a record itself, and that has no code of its own."""
    fields = dataclasses.fields(kind)
    if any(map(kind.__dict__.get, ("__post_init__", "__slots__", "__getattribute__"))) or kind.__bases__ != (object,):
        return None
    try:
        types_of = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - a name that is not there; reading back says which
        return None
    walks = {field.name: _walk_of(types_of[field.name], in_record=True) for field in fields if field.init}
    if None in walks.values() or len(walks) < len(fields):
        return None
    steps = typing.cast("list[tuple[str, Callable[[Any], bool]]]", list(walks.items()))

    def walk(value: Any) -> bool:
        if type(value) is not kind or len(held := value.__dict__) != len(steps):
            return False
        return all(name in held and each(held[name]) for name, each in steps)

    return walk


def _walk_of_generic(
    origin: Any, walks: list[Callable[[Any], bool]], inner: tuple[Any, ...]
) -> Callable[[Any], bool] | None:
    if origin in (Union, types.UnionType):
        return lambda value: any(walk(value) for walk in walks)
    if origin is dict and inner[0] is str:
        each = _walk_each(walks[1], inner[1])
        return lambda value: (
            type(value) is dict and _ONLY_TEXT.issuperset(map(type, value)) and each(list(value.values()))
        )
    each = _walk_each(walks[0], inner[0])
    return (lambda value: type(value) is list and each(value)) if origin is list else None


def _walk_each(walk: Callable[[Any], bool], kind: Any) -> Callable[[list[Any]], bool]:
    """Return a function that walks through all items of a list; those of one plain type are only counted by type."""
    if kind in _ANYTHING:
        return _is_plain
    if kind in _PLAIN:
        only = frozenset({kind})
        return lambda items: only.issuperset(map(type, items))
    if kind in (dict, list):
        only = frozenset({kind})
        return lambda items: only.issuperset(map(type, items)) and _is_plain(items)
    return lambda items: all(map(walk, items))


def _refuse_plain(value: Any, where: str) -> None:
    """Raise TypeError, naming the place, for what JSON does not bring back unchanged."""
    kind = type(value)
    if kind is float and not math.isfinite(value):
        raise TypeError(f"{where} is {value!r}, which JSON does not have")
    if kind is list:
        for index, item in enumerate(value):
            _refuse_plain(item, f"{where}[{index}]")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {written(key)}, which would come back as text; give type=")
            _refuse_plain(item, f"{where}[{written(key)}]")
    elif kind not in _PLAIN and kind is not float:
        raise TypeError(f"{where} is of type {kind.__name__}, which would not come back the same; give type=")
