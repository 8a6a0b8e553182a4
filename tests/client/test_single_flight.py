"""Loads without a lease, one at a time for a key and process."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from globalcache import DeadlineError
from globalcache.client.flights import Flights
from globalcache.client.leases import NoLease
from globalcache.client.refresher_tasks import AsyncRefresher
from globalcache.client.single_flight import SingleFlight
from globalcache.client.single_flight_tasks import AsyncSingleFlight
from tests.client.loads import (
    GUARD,
    Outside,
    load_once,
)
from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Iterable


def test_who_has_no_room_in_time_gives_others_no_error() -> None:
    """Two threads want one key while all loads that may run at a time do: the impatient one gives up, the other loads.

    The impatient one came first, so the other waits for it.
    """
    single_flight = SingleFlight(Flights(1))
    busy, go = threading.Event(), threading.Event()
    got: list[Any] = []

    def occupy() -> bool:
        busy.set()
        return go.wait(10)

    first = threading.Thread(target=load_once, args=(single_flight, b"busy", occupy))
    first.start()
    assert busy.wait(10)
    impatient = threading.Thread(target=give_up, args=(single_flight,))
    impatient.start()
    until(lambda: b"k" in single_flight._flights)  # noqa: SLF001
    patient = threading.Thread(target=lambda: got.append(load_once(single_flight, b"k", lambda: 7)))
    patient.start()
    impatient.join(10)
    go.set()
    for thread in (first, patient):
        thread.join(10)
    assert got == [7]


def give_up(single_flight: SingleFlight) -> None:
    with pytest.raises(DeadlineError, match="1 loads run already"):
        load_once(single_flight, b"k", lambda: 1, 0.05)


def test_room_that_is_lost_with_its_frame_is_free_again() -> None:
    """Loads are interrupted while they have room; each traceback is kept, as a log keeps it."""
    single_flight, kept = SingleFlight(Flights(2)), list[Outside]()

    def stop() -> None:
        raise Outside

    for _ in range(5):
        with pytest.raises(Outside) as raised:
            single_flight.limited(stop, 1)
        kept.append(raised.value)
    assert load_once(single_flight, b"k", lambda: 7, 1) == 7


def test_no_more_loads_run_than_there_is_room_for() -> None:
    single_flight, running, most = SingleFlight(Flights(3)), list[int](), list[int]()
    go = threading.Barrier(3)

    def load() -> int:
        running.append(1)
        most.append(len(running))
        go.wait(10)
        return running.pop()

    threads = [threading.Thread(target=load_once, args=(single_flight, b"%d" % number, load)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (max(most), len(most)) == (3, 12)


def leave_unfinished(single_flight: AsyncSingleFlight, refresher: AsyncRefresher) -> None:
    """Begin a load and a refresh in a loop that is closed before they end."""
    loop = asyncio.new_event_loop()

    async def never() -> None:
        await loop.create_future()

    async def begin() -> None:
        load = asyncio.create_task(single_flight.do([b"k"], GUARD, lambda *_: never(), time.monotonic() + 10))
        lease: Any = NoLease(None, b"k")
        assert refresher.refresh([lease], lambda _: never())
        await asyncio.sleep(0.001)
        assert not load.done()

    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(begin())
    loop.close()


def test_what_a_closed_loop_left_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops are closed while a load and a refresh run in them, which therefore never end.

    A loop that comes later, perhaps at the same address, neither joins such a load nor counts such a refresh.
    """
    monkeypatch.setattr("globalcache.client.refresher_tasks.MOST_QUEUED", 2)
    single_flight, refresher = AsyncSingleFlight(Flights(1)), AsyncRefresher()
    for _ in range(5):
        leave_unfinished(single_flight, refresher)

    async def load(_: object, outcomes: dict[bytes, Any]) -> None:
        outcomes[b"k"] = 7

    async def run() -> Any:
        ran, lease = asyncio.Event(), NoLease(None, b"k")

        async def refresh(_: object) -> None:
            ran.set()

        assert refresher.refresh([lease], refresh)  # type: ignore[list-item]
        mine, _ = await single_flight.do([b"k"], GUARD, load, time.monotonic() + 10)
        await ran.wait()
        return mine.outcome(b"k")

    assert asyncio.run(run()) == 7
    flights = single_flight._flights  # noqa: SLF001
    left = len(flights), len(flights.slots.taken), len(refresher._tasks)  # noqa: SLF001
    assert left == (0, 0, 0)
    assert (len(single_flight._leaders), len(refresher._semaphores)) == (1, 1)  # noqa: SLF001


def test_a_load_that_nobody_wants_any_more_leaves_the_line() -> None:
    """Four tasks hold all slots. Of those that stand in line behind them callers give up, and others join in time."""
    single_flight, ran, go = AsyncSingleFlight(Flights(4)), list[bytes](), asyncio.Event()
    flights = single_flight._flights  # noqa: SLF001

    async def load(names: Iterable[bytes], outcomes: dict[bytes, Any]) -> None:
        ran.extend(names)
        await go.wait()
        outcomes.update(dict.fromkeys(names, 7))

    def ask(name: bytes, wait: float = 20) -> asyncio.Task[Any]:
        return asyncio.create_task(single_flight.do([name], GUARD, load, time.monotonic() + wait))

    async def run() -> None:
        first = [ask(b"busy%d" % number) for number in range(4)]
        await asyncio.sleep(0.01)
        alone = [ask(b"alone%d" % number, 0.01) for number in range(100)]
        together = [ask(b"together") for _ in range(3)]
        left = [ask(b"left") for _ in range(2)]
        await asyncio.sleep(0.05)
        for task in (*together[:2], *left):  # the first of them leads
            task.cancel()
        ended = await asyncio.gather(*alone, *left, return_exceptions=True)
        assert {type(error) for error in ended} == {DeadlineError, asyncio.CancelledError}
        while len(flights) > 5:  # noqa: ASYNC110 - it is no event
            await asyncio.sleep(0.01)
        assert len(flights.slots._line) == 1  # noqa: SLF001
        go.set()
        await asyncio.gather(*first)
        mine, others = await together[2]
        assert others.get(b"together", mine).outcome(b"together") == 7

    asyncio.run(asyncio.wait_for(run(), 20))
    assert sorted(ran) == [b"busy0", b"busy1", b"busy2", b"busy3", b"together"]
