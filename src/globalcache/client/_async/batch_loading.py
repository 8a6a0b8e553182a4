"""The loading protocol of many keys: one fetch, one load of all that is this caller's, and then others' loads.

One of the two files of this name is made from the other by scripts/unasync.py; change the one with `await`.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from globalcache.client._async.lease_answers import TOO_LARGE, encode_cause
from globalcache.client._async.loading import DeferredLoad, LoadSpec
from globalcache.client._async.local_loading import LocalLoad
from globalcache.client._async.transport import NO_SERVER, read_again
from globalcache.client.batches import rows_of
from globalcache.client.bound import to_run_later
from globalcache.client.flights import loading
from globalcache.client.guard import Absent, Guard, text_of
from globalcache.client.leases import lease_of
from globalcache.client.raised import Handled, Raised
from globalcache.client.runner import Failed
from globalcache.client.values import UNREADABLE
from globalcache.client.wire import Fetched
from globalcache.errors import AWAY, CacheError, LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from globalcache.client._async.loading import AsyncLoading
    from globalcache.client._async.transport import AsyncTransport
    from globalcache.client.cache_state import CacheState
    from globalcache.client.keyspace import Keyspace
    from globalcache.client.leases import Lease
    from globalcache.client.wire import Words
    from globalcache.policy import Policy

# Keys that one error names.
_NAMED = 10


class BatchFetch:
    """What a batch of fetches gave: values, leases for loads and refreshes, keys to wait for, keys without a server.

    `unleased` are those that nobody loads and for which there was no lease.
    """

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.failed: dict[str, Raised] = {}
        self.mine: list[Lease] = []
        self.stale: list[Lease] = []
        self.unleased: list[str] = []
        self.later: list[str] = []
        self.away: list[str] = []
        # All replies of one round, whose leases are this caller's.
        self.replies: list[Any] = []

    def add(self, came: Mapping[str, Any]) -> None:
        """Note what came of keys: values, None for what has no row, and Raised."""
        for key, value in came.items():
            if value.__class__ is Raised:
                self.failed[key] = value
            else:
                self.found[key] = None if value.__class__ is Absent else value

    def raise_failures(self) -> None:
        """Raise an error that is that of all keys as it is; different ones as one that names them."""
        failed, self.failed = self.failed, {}
        if not failed:
            return
        first = next(iter(failed.values()))
        try:
            if all(one.error is first.error for one in failed.values()):
                first.again()
            named = "; ".join(f"{key}: {text_of(one.error)}" for key, one in list(failed.items())[:_NAMED])
            raise LoadError(f"{len(failed)} keys could not be loaded: {named}", key=next(iter(failed))) from first.error
        finally:
            # A traceback holds this frame, which must not hold the exceptions.
            del failed, first

    def release(self) -> None:
        """Release what was neither answered nor left to a refresh."""
        for lease in filter(None, map(lease_of, self.replies)):
            if not lease.is_handed_over:
                lease.release()


class AsyncBatchLoading:
    """Loads keys of a namespace together."""

    def __init__(self, state: CacheState, keyspace: Keyspace[AsyncTransport], loading: AsyncLoading) -> None:
        self._state = state
        self._keyspace = keyspace
        self._loading = loading
        self._local = loading.local
        self._answers = loading.answers
        self._decode = state.values.decode
        self._stats = state.stats
        self._failures = state.failures
        self._runner = state.async_runner
        self._refresher = state.async_refresher

    async def load(  # noqa: PLR0913, PLR0917 - what get_or_load_many was given
        self,
        keys: list[str],
        load_many: Callable[[list[str]], Any],
        policy: Policy,
        type: Any,
        limit: float,
        guard: Guard,
    ) -> dict[str, Any]:
        """Return values by key, None for rows that do not exist; see get_or_load_many."""
        batch, left = BatchFetch(), keys
        while left:
            # A server grants so many leases at a time. The rest is asked for again when these are answered.
            batch.replies, batch.mine, batch.stale, batch.unleased = [], [], [], []
            try:
                for server, part, names in self._keyspace.by_server(left):
                    await self._fetch(server, part, names, type, batch)
                await self._load_or_refresh(batch, load_many, policy, type, guard)
            finally:
                batch.release()
            left = batch.unleased if batch.mine else []
        end = time.monotonic() + limit
        load = LocalLoad(load_many, functools.partial(rows_of, guard.name), type, guard)
        if batch.away or batch.unleased:
            self._keyspace.tag_names(policy.tags)  # what is wrong with them is told now as well
        if batch.away:
            batch.add(await self._local.load_keys(batch.away, load, limit, joins=True))
        if batch.unleased:
            self._stats.misses += len(batch.unleased)
            batch.add(await self._local.load_keys(batch.unleased, load, limit, joins=False))
        if batch.later:
            batch.add(await self._wait_for_others(batch.later, load, policy, end))
        batch.raise_failures()
        return {key: batch.found[key] for key in keys}

    async def _fetch(
        self, server: AsyncTransport, part: list[str], names: list[bytes], type: Any, batch: BatchFetch
    ) -> None:
        if loading.get():
            self._loading.check_recursion(names)
        try:
            replies = await server.fetch_many(names, 0)
        except AWAY as error:
            replies = await read_again(self._state, error, server.fetch_many, names, 0)
            if replies is NO_SERVER:
                batch.away.extend(part)
                return
        # No call comes between, which could be interrupted: from here on the batch answers for the leases.
        batch.replies += replies
        self._sort(part, replies, type, batch)

    def _sort(self, part: list[str], replies: list[Any], type: Any, batch: BatchFetch) -> None:
        """Note what each key has come to."""
        for key, reply in zip(part, replies, strict=True):
            if reply.__class__ is list:
                (state, data, _, _, _, flags), lease = reply, None
            elif reply.__class__ is Fetched:
                state, data, flags, lease = reply.state, reply.value, reply.flags, reply.lease
            else:
                batch.later.append(key)
                continue
            value = UNREADABLE if data is None else self._decode(data, flags, type)
            if state == b"absent" or value is not UNREADABLE:
                batch.found[key] = None if state == b"absent" else value
                self._stats.hits += 1
                if lease:
                    batch.stale.append(lease)
            elif lease:
                self._stats.misses += 1
                batch.mine.append(lease)
            elif state == b"miss":
                batch.unleased.append(key)
            else:
                batch.later.append(key)

    async def _load_or_refresh(
        self, batch: BatchFetch, load_many: Callable[[list[str]], Any], policy: Policy, type: Any, guard: Guard
    ) -> None:
        """Load what is this caller's, and have what is stale refreshed meanwhile, or load it here as well."""
        load_later: Any = to_run_later(load_many, guard, policy)
        if batch.stale and load_later is None:
            try:
                batch.found |= await self._load(batch.mine + batch.stale, load_many, policy, type, guard)
            except Exception:
                if batch.mine:
                    raise
            return
        if batch.stale:

            async def refresh(leases: Sequence[Lease]) -> None:
                await self._load(leases, load_later, policy, type, guard)

            if self._refresher.refresh(batch.stale, refresh):
                for lease in batch.stale:
                    lease.is_handed_over = True
        if batch.mine:
            batch.found |= await self._load(batch.mine, load_many, policy, type, guard)

    async def _wait_for_others(self, keys: list[str], load: LocalLoad, policy: Policy, end: float) -> dict[str, Any]:
        """Return what others load, and Raised; what nobody has a lease of after that is loaded here in one call."""

        async def wait_for(key: str) -> Any:
            left = max(0.001, end - time.monotonic())
            spec = LoadSpec(self._load_of_one(load, key), policy, load.type, left, load.guard, defers=True)
            name = self._keyspace.name(key)
            server = self._keyspace.server_of(name)
            return await self._loading.fetch_again(server, name, spec, left)

        came = dict(zip(keys, await self._runner.each(wait_for, keys), strict=True))
        deferred = {key: value.failure for key, value in came.items() if value.__class__ is DeferredLoad}
        if deferred:
            failures = {self._keyspace.name(key): failure for key, failure in deferred.items() if failure is not None}
            left = max(0.0, end - time.monotonic())
            came |= await self._local.load_keys(list(deferred), load, left, failures, joins=False)
        return {key: Raised(value.error) if value.__class__ is Failed else value for key, value in came.items()}

    def _load_of_one(self, load: LocalLoad, key: str) -> Callable[[], Any]:
        async def run() -> Any:
            return load.rows([key], await self._runner.result_of(load.run([key])))[0]

        return run

    async def _load(
        self, leases: Sequence[Lease], load_many: Callable[[list[str]], Any], policy: Policy, type: Any, guard: Guard
    ) -> dict[str, Any]:
        """Load with leases in hand. Whoever gave them releases those that are not answered here."""
        begun = time.monotonic()
        handled = Handled()
        ran = False
        keys = [self._keyspace.key_of(lease.name) for lease in leases]
        found: dict[str, Any] = {}
        answers: list[tuple[Lease, Words]] = []
        try:
            self._failures.check(keys[0], guard)
            self._stats.loads += 1
            rows = await self._local.run(tuple(lease.name for lease in leases), lambda: load_many(list(keys)))
            ran = True
            cost = time.monotonic() - begun
            for key, lease, value in zip(keys, leases, rows_of(guard.name, keys, rows), strict=True):
                loaded = self._local.encode(lease.name, value, type, guard)
                found[key] = loaded.value
                options = self._answers.fill_options(lease.server, policy, loaded, cost)
                if self._state.is_too_long(lease.server.max_value, guard.name, key, loaded.data):
                    cause = self._answers.keep_unstored(lease, loaded, TOO_LARGE, policy)
                    answers.append((lease, (b"CACHE.FAIL", encode_cause(cause))))
                else:
                    answers.append((lease, (b"CACHE.FILL", loaded.data, *options)))
        except Exception as error:
            self._stats.load_errors += 1
            words = self._failures.failed([lease.name for lease in leases], error, guard, handled, ran=ran)
            await self._answers.answer_all([(lease, (b"CACHE.FAIL", *words)) for lease in leases])
            if policy.stale_if_error and not ran and not isinstance(error, guard.pass_through):
                found = await self._stale_values(leases, type)
            if len(found) < len(leases):
                raise
            return found
        except BaseException as error:
            await self._answers.fail_interrupted(leases, error)
            raise
        self._failures.succeeded(guard)
        await self._answers.answer_all(answers)
        self._state.events("load", keys=len(leases), seconds=time.monotonic() - begun)
        return found

    async def _stale_values(self, leases: Sequence[Lease], type: Any) -> dict[str, Any]:
        """Return the stale values that stand in for loads that failed, by key; each server is asked once."""
        found: dict[str, Any] = {}
        for server in {id(lease.server): lease.server for lease in leases}.values():
            names = [lease.name for lease in leases if lease.server is server]
            try:
                replies = await server.fetch_many(names, 0, 0)
            except CacheError:
                self._stats.errors += 1
                continue
            values = {name: self._loading.stale_value(reply, type) for name, reply in zip(names, replies, strict=True)}
            found |= {self._keyspace.key_of(name): value for name, value in values.items() if value is not UNREADABLE}
        return found
