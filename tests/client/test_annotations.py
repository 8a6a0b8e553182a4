"""The types that values are read as."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.client.dict_cache import Cache


def test_an_annotation_is_resolved_by_the_first_call() -> None:
    cache = Cache()

    @cache.cached("defined:{id}")
    def defined(id: int) -> Later:
        return Later(id)

    @cache.cached("nowhere:{id}")
    def nowhere(id: int) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        return id

    unresolved: Any = nowhere

    @cache.batch_loader("many:{id:int}")
    def many(ids: list[int]) -> dict[int, Later]:
        return {each: Later(each) for each in ids}

    assert defined(1) == Later(1)
    assert defined._type is Later  # noqa: SLF001
    assert many.loader.type is Later
    assert many([1]) == {1: Later(1)}
    with pytest.raises(TypeError, match=r"nowhere: the return annotation 'Nowhere' cannot be resolved: import.*type="):
        unresolved(1)


def test_a_class_of_the_function_around_is_resolved() -> None:
    @dataclasses.dataclass
    class Local:
        id: int

    @Cache().cached("local:{id}")
    def local(id: int) -> Local:
        return Local(id)

    assert local._type is Local  # noqa: SLF001
    assert local(1) == Local(1)


@dataclasses.dataclass
class Later:
    """Defined after the functions that return it."""

    id: int


def test_whole_numbers_are_results_where_float_is_annotated() -> None:
    """As type checkers take them; within containers too."""
    cases: list[tuple[Any, Any]] = [
        (float, int | float),
        (list[float], list[int | float]),
        (dict[str, list[float]], dict[str, list[int | float]]),
        (tuple[float, ...], tuple[int | float, ...]),
        (dict[float, str], dict[float, str]),
        (str, str),
    ]
    for annotation, kind in cases:

        def f() -> None: ...

        f.__annotations__ = {"return": annotation}
        assert Cache().cached("f")(f)._type == kind  # noqa: SLF001
