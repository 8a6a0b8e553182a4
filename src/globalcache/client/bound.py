"""A load as it is at the moment of a call, for a refresh that runs after it.

    for sku in skus:
        cache.get_or_load(f"stock:{sku}", lambda: query(sku), refresh_after="1m")

When the refresh of the first key runs, `sku` may be the last one, and its row would be stored under the first key. So
the refresh runs a copy of the function whose variables are those of the call. Nothing is copied that the function
assigns itself (nonlocal; of globals all or none), that an object holds, or that a function reads which it calls: behind
a wrapper, as of a decorator, or in a helper, variables are those of the moment when the refresh runs.
"""

from __future__ import annotations

import dis
import functools
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from globalcache.client.guard import Guard
    from globalcache.policy import Policy


def to_run_later(load: Any, guard: Guard, policy: Policy) -> Any:
    """Return a load as it may run after its call; None if it may not, since nobody has said so by `refresh_after`."""
    if not guard.is_direct:
        return load
    return None if policy.refresh_after is None else bound(load)


def bound(load: Any) -> Any:
    """Return a copy of a function with the variables of its module and of the functions around it as they are now."""
    if isinstance(load, functools.partial):
        return functools.partial(bound(load.func), *load.args, **load.keywords)
    if not isinstance(load, types.FunctionType):
        return load
    assigned = _assigned(load.__code__)
    cells = [
        cell if name in assigned else _copied(cell)
        for name, cell in zip(load.__code__.co_freevars, load.__closure__ or (), strict=True)
    ]
    names = load.__globals__ if assigned.intersection(load.__globals__) else dict(load.__globals__)
    copy = types.FunctionType(load.__code__, names, load.__name__, load.__defaults__, tuple(cells))
    copy.__kwdefaults__ = load.__kwdefaults__
    copy.__dict__.update(load.__dict__)
    return copy


def _copied(cell: types.CellType) -> types.CellType:
    try:
        return types.CellType(cell.cell_contents)
    except ValueError:  # it has no value yet
        return cell


def _assigned(code: types.CodeType) -> set[str]:
    """Return the variables around a function that it assigns, or a function within it."""
    own = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in {"STORE_DEREF", "DELETE_DEREF", "STORE_GLOBAL", "DELETE_GLOBAL"}
    }
    inner = [_assigned(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return own.union(*inner)
