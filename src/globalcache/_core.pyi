"""The native module: the server, its engine without sockets, the store alone. Nothing here is public."""

from collections.abc import Sequence
from typing import final

__all__ = ["LocalServer", "Server", "Store", "__version__", "exit_on_panic", "run_bench"]

__version__: str

@final
class Server:
    """Native threads that serve a cache; stopped when it is dropped.

    If one of them panics, listeners and connections are closed, the cause goes to the log, and every later call raises
    RuntimeError.
    """

    def __new__(
        cls,
        *,
        listen: Sequence[str],
        threads: int,
        memory: int,
        evict: bool,
        max_value: int,
        max_clients: int,
        client_memory: int,
        idle_timeout_ms: int,
        insecure: bool,
        passwords: Sequence[str] = ...,
        users: str = ...,
        tls: tuple[str, str, str | None] | None = ...,
        loaders: Sequence[str] = ...,
        load_limit_ms: int = ...,
        shutdown: bool = ...,
        debug_time: bool = ...,
    ) -> Server:
        """Bind and start; sizes in bytes. Raises ValueError for a wrong option, OSError for a refused address."""
    @property
    def addresses(self) -> list[str]:
        """Every address, with the port that was taken."""
    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
    def stats(self) -> dict[str, int]:
        """Return counts since the start and what is held now."""
    def reload(self, passwords: Sequence[str], users: str) -> None:
        """Read the files of TLS again. Raises ValueError for a wrong one, and then all is as it was."""
    def stop(self) -> None:
        """Stop within five seconds."""

@final
class LocalServer:
    """The engine of a server without sockets: connections are numbers, `now` is a monotonic time in milliseconds."""

    def __new__(cls, *, memory: int, max_value: int, now: int) -> LocalServer:
        """Make an empty one; sizes in bytes. Raises ValueError if there is too little memory."""
    def connect(self, *, json: bool = ...) -> int:
        """Open a connection, which speaks JSON or what its first byte says; return its number."""
    def ask(self, place: int, data: bytes, now: int) -> tuple[bytes, list[int], bool]:
        """Run requests of a connection, and end waits and leases whose time is over.

        Returns what has arrived for it, the connections for which something has, and whether more is to follow for this
        one. Raises ConnectionResetError if the engine has closed it.
        """
    def fresh(self, key: bytes, now: int) -> tuple[bytes, int, int, int] | None:
        """Return a value that is fresh and need not be loaded early, its version, TTL in ms (-1: no end) and flags."""
    def close(self, place: int, now: int) -> list[int]:
        """Close a connection; return those for which something has arrived."""
    def after_fork(self, now: int) -> None:
        """Close all connections in a child process, so that their leases pass on; what is stored stays."""

@final
class Store:
    """The store of a server, without one. Keys are str or bytes of 1 to 65,535 bytes, else TypeError or ValueError."""

    def __new__(cls, *, memory: int, evict: bool, max_value: int) -> Store:
        """Make an empty one; sizes in bytes. Raises ValueError for a `max_value` over half of the memory."""
    def get(self, name: str | bytes, /) -> bytes | None:
        """Return the value, None if there is none."""
    def set(self, name: str | bytes, value: bytes, ttl_ms: int | None, /) -> None:
        """Write a value. Raises ValueError if it is too long, MemoryError if there is no room for it."""
    def delete(self, name: str | bytes, /) -> bool:
        """Remove a value; whether there was one."""
    def clear(self) -> None:
        """Remove everything."""
    def __contains__(self, name: str | bytes, /) -> bool: ...
    def __len__(self) -> int: ...
    def stats(self) -> dict[str, int]:
        """Return counts since the start and what is held now."""

def run_bench(options: str, /) -> str:
    """Run the load generator; options and report are JSON. Raises ValueError for wrong options, OSError otherwise."""

def exit_on_panic() -> None:
    """End the process with status 70 when a native thread panics, after its message on stderr."""
