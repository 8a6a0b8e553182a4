"""Everything that globalcache raises.

CacheError                    whatever goes wrong with the cache; catch this to go on without it
├── ConfigError (ValueError)  an option, address or URL is not what it may be: mend it
├── KeyFormatError (ValueError)
│                             a key template does not fit its function, or a key its template: mend it
├── ValueTooLargeError (ValueError)
│                             a value is longer than the server takes (--max-value): nothing was sent
├── LoadError                 a value could not be loaded, and none may stand in: it has the key and the cause
├── UnavailableError (ConnectionError)
│                             no server answers there: retry later, or go on without the cache
├── DeadlineError (TimeoutError)
│                             no answer in time; a write may or may not have happened
└── ReplyError                the server refused: its text says why; retrying will not help
    └── AuthError             the server knows neither user nor password, or does not allow this
"""

# Characters of a value that a message shows.
_LONGEST_TEXT = 300


class CacheError(Exception):
    """Whatever goes wrong with the cache."""


class ConfigError(CacheError, ValueError):
    """An option, address or URL is not what it may be."""


class KeyFormatError(CacheError, ValueError):
    """A key template does not fit its function, or a key its template."""


class ValueTooLargeError(CacheError, ValueError):
    """A value is longer than the server takes; nothing was sent."""


class LoadError(CacheError):
    """A value could not be loaded, and none may stand in for it.

    `key` is the key as the cache that raises this was asked for it; `cause_class` is the qualified name of the
    exception that ended the load, as `shop.errors.NoDatabase` or `OSError`. Each is None where it is not known.
    """

    def __init__(self, text: str = "", *, key: str | None = None, cause_class: str | None = None) -> None:
        super().__init__(text)
        self.key = key
        self.cause_class = cause_class


class UnavailableError(CacheError, ConnectionError):
    """No server answers at the address."""


class DeadlineError(CacheError, TimeoutError):
    """No answer came in time; whether a write happened is not known."""


# What calls raise that go on without the cache: the server is away, or does not answer in time.
AWAY = (UnavailableError, DeadlineError)


class ReplyError(CacheError):
    """The server answered with an error."""


class AuthError(ReplyError):
    """The server knows neither user nor password, or does not allow this."""


def written(value: object) -> str:
    """Return a value as a message shows it: in a few hundred characters, and even if its own __repr__ raises.

    What is no Exception passes, as everywhere: a time-out of gevent or a signal may end any code at any moment.
    """
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - code of the application
        return f"<{type(value).__qualname__}, which has no text>"
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
