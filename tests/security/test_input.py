"""Input that lies or is cut in the wrong place: lengths, framing, nesting; through every door.

What a header claims must cost nothing, a stream that slipped must end, and nothing behind the slip may run.
"""

from __future__ import annotations

import itertools
import json
import select
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import globalcache
    from tests.conftest import Process

# Lengths that are none, or far more than anybody may send.
WRONG = [
    "-2",
    str(2**31 - 1),
    str(2**31),
    str(2**32),
    str(2**63 - 1),
    str(2**64),
    "9" * 40,
    "+1",
    " 1",
    "1e3",
    "",
    "007",
]
SET = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has in use."""
    fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) << 10


def answer(address: str, data: bytes, seconds: float = 0.05) -> bytes | None:
    """Return what comes back until the server closes; None if it still waits for more after so long without a byte."""
    with Wire(address) as wire:
        wire.send(data)
        got = b""
        while select.select([wire.socket], [], [], seconds)[0]:
            try:
                chunk = wire.socket.recv(1 << 16)
            except ConnectionResetError:
                return got
            if not chunk:
                return got
            got += chunk
        return got or None


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    from tests.conftest import Process  # noqa: PLC0415 - a type above

    process = Process("--memory", "64MiB", "--threads", "1")
    yield process
    process.end()


@pytest.fixture
def unmoved(process: Process) -> Iterator[Process]:
    """Give a server whose memory does not grow by a MiB, and that is there afterwards."""
    with Wire(process.address) as wire:
        wire.ask(b"PING\r\n", b"+PONG\r\n")
        before = resident(process.process.pid)
        yield process
        wire.ask(b"PING\r\n", b"+PONG\r\n")
    assert resident(process.process.pid) - before < 1 << 20


@pytest.mark.parametrize("length", [*WRONG, "-1", "0"])
@pytest.mark.parametrize("mark", ["*", "$", "%", "~", ">", "=", "!", "("])
def test_lengths_of_redis_that_lie_are_errors_and_cost_nothing(unmoved: Process, mark: str, length: str) -> None:
    if mark == "*":
        got = answer(unmoved.address, f"*{length}\r\n".encode() + SET)
        if length in {"0", "-1"}:  # nothing is asked, as in Redis, and the next request counts
            assert got == b"+OK\r\n"
            return
    elif mark == "$":
        got = answer(unmoved.address, f"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n\r\n".encode())
        if length == "0":
            assert got == b"+OK\r\n"
            return
    else:
        got = answer(unmoved.address, f"*2\r\n$4\r\nECHO\r\n{mark}{length}\r\n".encode() + SET)
    assert got is not None
    assert got.startswith(b"-ERR Protocol error")
    assert got.count(b"\r\n") == 1


@pytest.mark.parametrize(
    "length", ["-2", str(2**31 - 1), str(2**31), str(2**32), str(2**63), str(2**64), "9" * 40, "1e3", ""]
)
@pytest.mark.parametrize("line", ["set k 0 0 {}", "add k 0 0 {}", "cas k 0 0 {} 1", "ms k {}", "ms k {} T10"])
def test_false_lengths_of_memcached_are_errors(unmoved: Process, line: str, length: str) -> None:
    got = answer(unmoved.address, line.format(length).encode() + b"\r\n")
    assert got is not None
    assert got.startswith((b"CLIENT_ERROR", b"SERVER_ERROR", b"ERROR"))


def test_a_promise_of_much_is_kept_in_no_buffer(unmoved: Process) -> None:
    wires = [Wire(unmoved.address) for _ in range(50)]
    for wire in wires:
        wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16777216\r\nx")
    with Wire(unmoved.address) as other:
        other.ask(b"PING\r\n", b"+PONG\r\n")
        other.send(b"INFO clients\r\n")
        assert int(other.socket.recv(4096).split(b"client_buffer_bytes:")[1].split()[0]) < 50 * 1024
    for wire in wires:
        wire.socket.close()


BROKEN = [
    b"*1\n$4\nPING\n",
    b"*1\r$4\rPING\r\r",
    b"*1\r\n$4\r\nPINGx\r\n",
    b"*1\r\n$4\r\nPI\r\n",
    b"*1\r\n$5\r\nPING\r\n\r\n",
    b"*1\r\n$3\r\nPING\r\n",
    b"*1\r\nPING\r\n",
    b"\0*1\r\n$4\r\nPING\r\n",
]


@pytest.mark.parametrize("data", BROKEN)
def test_a_slip_ends_the_stream_and_nothing_behind_it_runs(server: globalcache.Server, data: bytes) -> None:
    got = answer(server.address, data + SET * 3)
    assert got is not None
    assert b"+OK" not in got
    assert got.startswith(b"-")
    with Wire(server.address) as wire:
        wire.ask(b"EXISTS k\r\n", b":0\r\n")


@pytest.mark.parametrize("body", [b"vv", b"v", b"vvvv"])
def test_a_block_of_another_length_is_no_command(server: globalcache.Server, body: bytes) -> None:
    got = answer(server.address, b"set k 0 0 3\r\n%b\r\nset k2 0 0 1\r\nx\r\nquit\r\n" % body)
    assert got is not None
    assert b"CLIENT_ERROR bad data chunk" in got or not got.startswith(b"STORED")
    with Wire(server.address) as wire:
        wire.ask(b"GET k\r\n", b"$-1\r\n")


EXCHANGES: list[tuple[bytes, bytes]] = [
    (SET + b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"+OK\r\n$1\r\nv\r\n"),
    (b"\r\n\r\nPING\r\n\r\nECHO a\r\n", b"+PONG\r\n$1\r\na\r\n"),
    (b"set k 0 0 4\r\na\r\nb\r\nget k\r\n", b"STORED\r\nVALUE k 0 4\r\na\r\nb\r\nEND\r\n"),
    (b"ms k 2 c\r\nab\r\nmg k v\r\nmn\r\n", b"HD c"),
    (
        b'{"src":"c","dest":"cache","body":{"type":"set","msg_id":1,"key":"k","value":1}}\n',
        b'{"src":"cache","dest":"c","body":{"type":"set_ok","in_reply_to":1,"msg_id":0}}\n',
    ),
]


@pytest.mark.parametrize(("data", "reply"), EXCHANGES)
def test_every_cut_of_the_input_gives_the_same_answer(server: globalcache.Server, data: bytes, reply: bytes) -> None:
    for cuts in [*itertools.chain([range(1, len(data))], ([cut] for cut in range(1, len(data), 3)))]:
        with Wire(server.address) as wire:
            for start, end in itertools.pairwise([0, *cuts, len(data)]):
                wire.send(data[start:end])
            wire.expect(reply)


def test_nesting_and_crowds_are_refused(unmoved: Process) -> None:
    deep = b"*1\r\n" * 100_000
    got = answer(unmoved.address, deep)
    assert got is not None
    assert got.startswith(b"-ERR Protocol error: expected '$', got '*'")
    got = answer(unmoved.address, b"*1048577\r\n")
    assert got is not None
    assert got.startswith(b"-ERR Protocol error: invalid multibulk length")


@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_nesting_in_json_ends_no_server(unmoved: Process, value: str) -> None:
    def message(**body: Any) -> bytes:
        return json.dumps({"src": "c", "dest": "cache", "body": body}).encode()

    line = message(type="set", msg_id=1, key="k", value=0).replace(b'"value": 0', b'"value":' + value.encode())
    with Wire(unmoved.address) as wire, wire.socket.makefile("rb") as lines:
        wire.send(line + b"\n" + message(type="get", msg_id=2, key="nothing") + b"\n")
        first = json.loads(lines.readline())["body"]
        assert first["type"] in {"set_ok", "error"}
        if first["type"] == "error":
            assert first["code"] == 12
        assert json.loads(lines.readline())["body"]["type"] == "get_ok"


def test_a_million_words_are_answered_within_their_limits(serve: Callable[..., Process]) -> None:
    process = serve("--memory", "64MiB", "--threads", "1")
    with Wire(process.address) as wire:
        wire.send(b"*1000000\r\n$6\r\nEXISTS\r\n" + b"$1\r\nk\r\n" * 999_999)
        wire.expect(b":0\r\n")
    assert resident(process.process.pid) < 256 << 20
