"""What a frame or a thread holds while something is its own: the lead of a load, a room, the place of a thread.

Registries refer to it weakly, so nothing stays taken when an exception from outside (a signal handler that raises, a
green thread's time-out) ends the code that has it, at whichever step.
"""

from __future__ import annotations


class Holder:
    """Held by exactly one frame or thread, and never passed on: a traceback would keep it alive."""

    __slots__ = ("__weakref__",)


def nobody() -> None:
    """Return what a weak reference to a lost Holder returns."""
