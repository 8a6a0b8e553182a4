"""How loads and calls of several parts are run, for threads; runner_tasks.py has it for tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Failed:
    """What stands among results for an error."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class Runner:
    """Runs loads, by way of the hook `around_load` if there is one."""

    def __init__(self, around_load: Callable[[Callable[[], Any]], Any] | None = None) -> None:
        self._around = around_load

    def call(self, load: Callable[[], Any]) -> Any:
        """Run a load."""
        return load() if self._around is None else self._around(load)

    @staticmethod
    def is_own(error: BaseException) -> bool:
        """Return whether a load raised this by itself, rather than that its caller was interrupted."""
        return isinstance(error, SystemExit)

    def result_of(self, value: Any) -> Any:
        """Return what a load gave."""
        return value

    def each(self, work: Callable[[str], Any], keys: Iterable[str]) -> list[Any]:
        """Return what came of each key, or Failed. In turn: what others load goes on while one of it is waited for."""
        results: list[Any] = []
        for key in keys:
            try:
                results.append(work(key))
            except Exception as error:  # noqa: BLE001 - kept until all are done
                results.append(Failed(error))
        return results

    def deliver(self, send: Callable[[Any], Any], parts: Sequence[Any], missed: Callable[[Any], object]) -> list[Any]:
        """Return what `send` gave for each part. If the caller is interrupted, `missed` is called with the others."""
        results: list[Any] = []
        try:
            for part in parts:
                results.append(send(part))  # noqa: PERF401 - what was sent has to be known after an exception
        except BaseException:
            for part in parts[len(results) :]:
                missed(part)
            raise
        return results
