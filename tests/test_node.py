"""The Maelstrom node: as a process, and several of them in a simulated network."""

from __future__ import annotations

import json
import random
import subprocess
from typing import Any

import pytest

from globalcache.node import MAX_PENDING, Forwarder, Node, encode
from tests.conftest import GLOBALCACHE
from tests.maelstrom import EXPECTED, INPUT

NODES = ["cache", "n1", "n2", "n3"]


def run(data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([GLOBALCACHE, "node"], input=data, capture_output=True, timeout=30, check=True)


def test_the_exchange_is_answered_byte_for_byte() -> None:
    done = run(INPUT)
    assert done.stdout == EXPECTED
    assert done.stderr == b""


def test_each_answer_is_flushed_before_the_next_request_is_sent() -> None:
    with subprocess.Popen([GLOBALCACHE, "node"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line, answer in zip(INPUT.splitlines(True), EXPECTED.splitlines(True), strict=True):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == answer
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_line_that_is_no_json_is_reported_and_skipped() -> None:
    lines = INPUT.splitlines(keepends=True)
    done = run(b"".join([lines[0], b"nonsense\n", b"[1]\n", b"\n", *lines[1:]]))
    assert done.stdout == EXPECTED
    assert done.stderr.count(b"skipped a line") == 2


def message(src: str, dest: str, **body: Any) -> dict[str, Any]:
    return {"src": src, "dest": dest, "body": body}


def started(node_id: str, node_ids: list[str]) -> Node:
    node = Node()
    init = message("c0", node_id, type="init", msg_id=1, node_id=node_id, node_ids=node_ids)
    answer = json.loads(node.feed(encode(init), 0.0))
    assert answer["body"] == {"type": "init_ok", "in_reply_to": 1, "msg_id": 0}
    assert (answer["src"], answer["dest"]) == (node_id, "c0")
    return node


@pytest.mark.parametrize("node_ids", [["n1", "cache", "n2"], ["n2", "n1"]])
def test_the_cache_is_the_node_called_cache_or_else_the_first(node_ids: list[str]) -> None:
    forwarded = json.loads(
        started("n1", node_ids).feed(encode(message("c1", "n1", type="get", msg_id=7, key="x")), 0.0)
    )
    assert forwarded["dest"] == ("cache" if "cache" in node_ids else "n2")
    assert (forwarded["src"], forwarded["body"]["key"]) == ("n1", "x")


class Network:
    """Nodes and clients; messages travel in a random order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.nodes = {node_id: started(node_id, NODES) for node_id in NODES}
        self.flying: list[bytes] = []
        self.answers: list[dict[str, Any]] = []

    def send(self, line: bytes) -> None:
        self.flying += [one + b"\n" for one in line.splitlines()]

    def settle(self) -> None:
        """Deliver until nothing flies any more."""
        while self.flying:
            line = self.flying.pop(self.random.randrange(len(self.flying)))
            dest = json.loads(line)["dest"]
            if dest in self.nodes:
                self.send(self.nodes[dest].feed(line, 0.0))
            else:
                self.answers.append(json.loads(line))

    def ask(self, client: str, node: str, **body: Any) -> dict[str, Any]:
        self.answers.clear()
        self.send(encode(message(client, node, **body)))
        self.settle()
        (answer,) = self.answers
        assert (answer["src"], answer["dest"]) == (node, client)
        assert answer["body"]["in_reply_to"] == body["msg_id"]
        reply: dict[str, Any] = answer["body"]
        return reply


def test_all_nodes_read_each_others_writes_through_the_one_cache() -> None:
    network = Network(1)
    for number, writer in enumerate(NODES):
        assert network.ask("c1", writer, type="set", msg_id=number, key="k", value=[writer])["type"] == "set_ok"
        for reader in NODES:
            reply = network.ask("c2", reader, type="get", msg_id=99, key="k")
            assert (reply["type"], reply["value"]) == ("get_ok", [writer])
    assert network.ask("c1", "n3", type="cas", msg_id=5, key="k", **{"from": [], "to": 1})["code"] == 22
    assert network.ask("c1", "n1", type="read", msg_id=6, key="none")["code"] == 20


@pytest.mark.parametrize("seed", range(20))
def test_each_of_many_clients_gets_its_own_answers(seed: int) -> None:
    network = Network(seed)
    for number in range(200):
        client, node = f"c{number % 7}", network.random.choice(NODES)
        network.send(encode(message(client, node, type="set", msg_id=number, key=number, value=number)))
    network.settle()
    assert sorted(answer["body"]["in_reply_to"] for answer in network.answers) == list(range(200))
    network.answers.clear()
    for number in range(200):
        client, node = f"c{number % 7}", network.random.choice(NODES)
        network.send(encode(message(client, node, type="get", msg_id=number, key=str(number))))
    network.settle()
    assert len(network.answers) == 200
    for answer in network.answers:
        number = answer["body"]["in_reply_to"]
        assert (answer["dest"], answer["body"]["value"]) == (f"c{number % 7}", number)


def test_a_missing_answer_is_unknown_and_a_late_one_dropped() -> None:
    forwarder = Forwarder("n1", "cache", timeout=1.0)
    sent = json.loads(forwarder.feed(message("c1", "n1", type="set", msg_id=3, key="x", value=1), 10.0))
    assert forwarder.expire(10.9) == b""
    assert forwarder.deadline() == 11.0
    (answer,) = [json.loads(line) for line in forwarder.expire(11.0).splitlines()]
    assert (answer["dest"], answer["body"]["in_reply_to"], answer["body"]["code"]) == ("c1", 3, 0)
    assert forwarder.expire(12.0) == b""
    assert forwarder.deadline() is None
    late = message("cache", "n1", type="set_ok", in_reply_to=sent["body"]["msg_id"], msg_id=0)
    assert forwarder.feed(late, 11.5) == b""


def test_what_was_never_sent_is_definitely_not_done() -> None:
    forwarder = Forwarder("n1", "cache")
    for number in range(MAX_PENDING):
        forwarder.feed(message("c1", "n1", type="get", msg_id=number, key="x"), 0.0)
    answer = json.loads(forwarder.feed(message("c1", "n1", type="get", msg_id=-1, key="x"), 0.0))
    assert (answer["dest"], answer["body"]["code"]) == ("c1", 11)


def test_a_node_whose_cache_is_silent_answers_in_time() -> None:
    init = encode(message("c0", "n1", type="init", msg_id=1, node_id="n1", node_ids=["cache", "n1"]))
    with subprocess.Popen([GLOBALCACHE, "node"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(init + encode(message("c1", "n1", type="get", msg_id=2, key="x")))
        process.stdin.flush()
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert [line["dest"] for line in lines] == ["c0", "cache", "c1"]
        assert lines[2]["body"]["code"] == 0
        process.stdin.close()
