"""Which function has which keys.

Keys belong to the function that was decorated first, in all caches of the process that use the same store: the same
server by its name and database, or the same memory://NAME. Another function whose keys look the same is refused unless
they are shared, because each would return what the other stored. The same function, decorated again, takes the place of
the former one. Caches that are gone claim nothing.
"""

from __future__ import annotations

import gc
import types
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import msgspec

from globalcache.client.fork import ProcessLock
from globalcache.client.same import is_same
from globalcache.errors import KeyFormatError
from globalcache.keys import KeyTemplate, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable


class Claim(msgspec.Struct, frozen=True, eq=False):
    """The keys of a function: those of a template behind the names of a namespace."""

    prefix: str
    keys: KeyTemplate
    function: Any  # or, of an SQL loader, its name and all that makes the result

    @property
    def name(self) -> str:
        """Module and qualified name of the function."""
        return str(self.function[0]) if isinstance(self.function, tuple) else name_of(self.function)

    @property
    def head(self) -> str:
        """What all keys begin with."""
        return self.prefix + self.keys.prefix

    @property
    def template(self) -> str:
        """The template with the names of the namespace."""
        return self.prefix + self.keys.template

    def meets(self, other: Claim) -> bool:
        """Tell whether the functions have a key in common."""
        return self.keys.meets(self.prefix, other.keys, other.prefix)

    def is_same(self, other: Claim) -> bool:
        """Tell whether equal keys stand for equal results."""
        return self.template == other.template and is_same(self.function, other.function)

    def refusal(self, other: Claim) -> str:
        """Say whose keys these are already, and what to do."""
        owner = "other code of that name or the same with other variables" if other.name == self.name else other.name
        return (
            f"{self.name}: keys of {self.keys.template!r} can be those of {owner}, {other.keys.template!r}, and each "
            "would return what the other stored: take another template, or shared=True if both return the same"
        )


class Claims:
    """The claims of one cache with its namespaces. `stores` names where its values are; none: nowhere else.

    They are found by the text that their keys begin with, so that decorating a function costs the same however many
    there are. Templates with one beginning are compared one by one.
    """

    def __init__(self, stores: Iterable[str] = ()) -> None:
        self._heads: list[str] = []  # sorted
        self._by_head: dict[str, dict[str, Claim]] = {}  # and by template
        self._stores = tuple(stores)
        with _lock.own:
            for store in self._stores:
                _caches.setdefault(store, weakref.WeakSet()).add(self)

    def __len__(self) -> int:
        return sum(map(len, list(self._by_head.values())))

    def add(self, claim: Claim, *, shared: bool) -> None:
        """Give keys to a function. Raises KeyFormatError if another one has some of them and they are not shared."""
        met = self._met(claim)
        if met and not shared and not any(map(claim.is_same, met)):
            gc.collect()  # a cache that nobody uses any more may not be deleted yet
            met = self._met(claim)
            if met:
                raise KeyFormatError(claim.refusal(met[0]))
        self._keep(claim)

    def _keep(self, claim: Claim) -> None:
        """Keep the claim of the first function for a template, however often that is decorated: the last one."""
        with _lock.own:
            # In this order: whoever finds a head looks for its claims, and an exception from outside may end this here.
            known = self._by_head.setdefault(claim.head, {})
            at = bisect_left(self._heads, claim.head)
            if self._heads[at : at + 1] != [claim.head]:
                self._heads.insert(at, claim.head)
            former = known.setdefault(claim.template, claim)
        if former is not claim and claim.is_same(former):
            known[claim.template] = claim

    def near(self, head: str) -> list[Claim]:
        """Return the claims whose keys begin as `head` does, as far as both go."""
        heads = [head[:end] for end in range(len(head)) if head[:end] in self._by_head]
        at = bisect_left(self._heads, head)
        while at < len(self._heads) and self._heads[at].startswith(head):
            heads.append(self._heads[at])
            at += 1
        return [claim for each in heads for claim in self._by_head[each].values()]

    def _met(self, claim: Claim) -> list[Claim]:
        """Return the claims on keys of this one, those of this cache first."""
        with _lock.own:
            others = {id(each): each for store in self._stores for each in _caches.get(store, ()) if each is not self}
            near = self.near(claim.head)
            near_others = [known for each in others.values() for known in each.near(claim.head)]
        # A factory of applications, or a file that is a script and a module, decorates one function for several caches.
        return [known for known in near if claim.meets(known)] + [
            known
            for known in near_others
            if claim.meets(known) and not _is_written_once(claim.function, known.function)
        ]


def _is_written_once(one: Any, other: Any) -> bool:
    """Tell whether two functions come from one place of one file."""
    if not isinstance(one, types.FunctionType) or not isinstance(other, types.FunctionType):
        return False
    first, second = (
        (code.co_filename, code.co_firstlineno, code.co_qualname) for code in (one.__code__, other.__code__)
    )
    return first == second


_lock = ProcessLock()
_caches: dict[str, weakref.WeakSet[Claims]] = {}
