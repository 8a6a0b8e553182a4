"""Which function has which keys.

Keys belong to the function that was decorated first, in all caches of the process that use the same store: the same
server by its name and database, or the same memory://NAME. Another function whose keys look the same is refused unless
they are shared, because each would return what the other stored. The same function, decorated again, takes the place of
the former one when it is called. Caches that are gone claim nothing.

Functions are compared when they are decorated, and once more when they are called first, for what a function uses may
be set in between. Then only those count that were called: a script that serves itself as a module, as
uvicorn.run("main:app") does, has two of each function and calls one.

    main.py as __main__     decorates row, with an engine of its own      nobody calls it
    main.py as main         decorates row, with another engine            may be the same: it is accepted
                            row(1): no other function was called          the keys are its own
    __main__.row(1)         the function of main was called               refused: who knows what the engines read
"""

from __future__ import annotations

import gc
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import msgspec

from globalcache.client.fork import ProcessLock
from globalcache.client.same import Comparison
from globalcache.errors import KeyFormatError
from globalcache.keys import KeyTemplate, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable


class Claim(msgspec.Struct, eq=False):
    """The keys of a function: those of a template behind the names of a namespace."""

    prefix: str
    keys: KeyTemplate
    function: Any  # or, of an SQL loader, its name and all that makes the result
    raised: tuple[Any, ...] = ()  # what it says about its exceptions
    is_shared: bool = False
    is_used: bool = False  # it was called
    is_settled: bool = False  # it was compared at its first call

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

    def is_same(self, other: Claim, comparison: Comparison) -> bool:
        """Tell whether equal keys stand for equal results."""
        mine, its = (self.function, self.raised), (other.function, other.raised)
        return self.template == other.template and comparison.holds(mine, its)

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

    def has_store_of(self, other: Claims) -> bool:
        """Tell whether the values of two caches are in the same place."""
        return self is other or (bool(self._stores) and sorted(self._stores) == sorted(other._stores))

    def add(self, claim: Claim) -> None:
        """Give keys to a function. Raises KeyFormatError if another one has some of them and they are not shared."""
        self._check(claim, is_final=False)
        with _lock.own:
            # In this order: whoever finds a head looks for its claims, and an exception from outside may end this here.
            known = self._by_head.setdefault(claim.head, {})
            at = bisect_left(self._heads, claim.head)
            if self._heads[at : at + 1] != [claim.head]:
                self._heads.insert(at, claim.head)
            known.setdefault(claim.template, claim)

    def use(self, claim: Claim) -> None:
        """Note that a function is called first. Raises KeyFormatError if another one that was called has its keys."""
        if claim.is_settled:
            return
        known = self._by_head[claim.head]
        with _lock.own:
            former, was_used = known[claim.template], claim.is_used
            is_first = former is claim or not (former.is_used or claim.is_shared)
            if is_first:  # before it is compared: of two that are called first at once, one finds the other
                known[claim.template], claim.is_used = claim, True
        try:
            self._check(claim, is_final=True)
        except BaseException:
            if is_first:
                known[claim.template], claim.is_used = former, was_used
            raise
        if not is_first and claim.is_same(former, Comparison(is_final=True)):
            claim.is_used = True
            known[claim.template] = claim
        claim.is_settled = True

    def _check(self, claim: Claim, *, is_final: bool) -> None:
        def others() -> list[Claim]:
            met = [known for known in self._met(claim) if known is not claim]
            return [known for known in met if known.is_used and not known.is_shared] if is_final else met

        met = [] if claim.is_shared else others()
        if not met or any(claim.is_same(known, Comparison(is_final=is_final)) for known in met):
            return
        met.clear()  # they refer to their functions, and those to their caches
        gc.collect()  # a cache that nobody uses any more may not be deleted yet
        refusals = [claim.refusal(known) for known in others()]  # no claim is kept by the exception
        if refusals:
            raise KeyFormatError(refusals[0])

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
            near = [known for each in (self, *others.values()) for known in each.near(claim.head)]
        return [known for known in near if claim.meets(known)]


_lock = ProcessLock()
_caches: dict[str, weakref.WeakSet[Claims]] = {}
