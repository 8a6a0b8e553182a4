"""The doors of the server as a register per key: RESP, memcached, JSON over TCP, and Maelstrom nodes over stdin.

Each is one client: `ask` sends one operation and returns its outcome. Whatever leaves the outcome open raises OSError
(TimeoutError is one), after which the door connects anew. Values are integers, which every protocol writes alike.
"""

from __future__ import annotations

import json
import queue
import random
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Protocol

from tests.conftest import GLOBALCACHE

if TYPE_CHECKING:
    from tests.model.history import Kind, Outcome, State

Answer = tuple["Outcome", "State"]


class Door(Protocol):
    """One client of one protocol."""

    kinds: tuple[Kind, ...]

    def ask(self, kind: Kind, key: str, value: State, expected: State) -> Answer:
        """Do it and return the outcome; raises OSError if that is unknown."""

    def close(self) -> None:
        """Let go of the connection."""


class _Lines:
    """A socket that is read line by line and opened anew after a failure."""

    def __init__(self, address: str, timeout: float) -> None:
        host, port = address.rsplit(":", 1)
        self._target = (host, int(port))
        self._timeout = timeout
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes) -> bytes:
        """Send and return the first line of the answer."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._target, timeout=self._timeout)
                self._file = self._socket.makefile("rb")
            self._socket.sendall(request)
            return self.line()
        except OSError:
            self.close()
            raise

    def line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            self.close()
            raise ConnectionResetError("the server has gone")
        return line.rstrip(b"\r\n")

    def close(self) -> None:
        if self._socket is not None:
            self._file.close()
            self._socket.close()
            self._socket = None


class Resp:
    """GET, SET, SET IFEQ GET, DEL and SET NX."""

    kinds: tuple[Kind, ...] = ("read", "write", "cas", "delete", "add")

    def __init__(self, address: str, timeout: float = 5.0) -> None:
        self._lines = _Lines(address, timeout)

    def ask(self, kind: Kind, key: str, value: State, expected: State) -> Answer:
        request = {
            "read": f"GET {key}",
            "write": f"SET {key} {value}",
            "cas": f"SET {key} {value} IFEQ {expected} GET",
            "delete": f"DEL {key}",
            "add": f"SET {key} {value} NX",
        }[kind]
        head = self._lines.exchange(request.encode() + b"\r\n")
        found = int(self._lines.line()) if head[:1] == b"$" and head != b"$-1" else None
        if kind == "read":
            return ("missing" if found is None else "ok"), found
        if kind == "cas":
            return ("missing" if found is None else "ok" if found == expected else "differs"), None
        answers: dict[bytes, Outcome] = {b"+OK": "ok", b":1": "ok", b":0": "missing", b"$-1": "differs"}
        return answers[head], None

    def close(self) -> None:
        self._lines.close()


class Memcached:
    """The text commands. A gets and a cas with its number are one compare-and-set, since values are unique."""

    kinds: tuple[Kind, ...] = ("read", "write", "cas", "delete", "add")

    def __init__(self, address: str, timeout: float = 5.0) -> None:
        self._lines = _Lines(address, timeout)

    def ask(self, kind: Kind, key: str, value: State, expected: State) -> Answer:
        if kind in {"read", "cas"}:
            found, number = self._get(key)
            if kind == "read" or found is None:
                return ("missing" if found is None else "ok"), found
            if found != expected:
                return "differs", None
            done = self._store(f"cas {key} 0 0", value, number)
        elif kind == "delete":
            done = self._lines.exchange(f"delete {key}\r\n".encode())
        else:
            done = self._store(f"{'set' if kind == 'write' else 'add'} {key} 0 0", value, "")
        answers: dict[bytes, Outcome] = {
            b"STORED": "ok",
            b"DELETED": "ok",
            b"NOT_FOUND": "missing",
            b"EXISTS": "differs",
            b"NOT_STORED": "differs",
        }
        return answers[done], None

    def _store(self, command: str, value: State, number: str) -> bytes:
        return self._lines.exchange(f"{command} {len(str(value))} {number}\r\n{value}\r\n".encode())

    def _get(self, key: str) -> tuple[State, str]:
        head = self._lines.exchange(f"gets {key}\r\n".encode())
        if head == b"END":
            return None, ""
        found = int(self._lines.line())
        assert self._lines.line() == b"END"
        return found, head.split()[-1].decode()

    def close(self) -> None:
        self._lines.close()


def body_of(kind: Kind, key: str, value: State, expected: State) -> dict[str, Any]:
    """Write an operation as Maelstrom's lin-kv does; delete is ours."""
    body: dict[str, Any] = {"type": kind, "key": key}
    if kind == "write":
        body["value"] = value
    elif kind == "cas":
        body |= {"from": expected, "to": value}
    return body


def outcome_of(body: dict[str, Any]) -> Answer:
    """Read an answer by Maelstrom's error codes; raises OSError for those that leave the outcome open."""
    if body["type"] == "error":
        outcomes: dict[int, Outcome] = {20: "missing", 22: "differs"}
        if body["code"] not in outcomes:
            raise OSError(f"unknown outcome: {body}")
        return outcomes[body["code"]], None
    if body["type"] == "delete_ok":
        return "done", None
    return "ok", body.get("value")


class Json:
    """JSON over TCP, a message a line."""

    kinds: tuple[Kind, ...] = ("read", "write", "cas", "delete")

    def __init__(self, address: str, timeout: float = 5.0) -> None:
        self._lines = _Lines(address, timeout)
        self._number = 0

    def ask(self, kind: Kind, key: str, value: State, expected: State) -> Answer:
        self._number += 1
        body = {**body_of(kind, key, value, expected), "msg_id": self._number}
        line = self._lines.exchange(json.dumps({"src": "c1", "dest": "cache", "body": body}).encode() + b"\n")
        answer = json.loads(line)["body"]
        assert answer["in_reply_to"] == self._number
        return outcome_of(answer)

    def close(self) -> None:
        self._lines.close()


class Network:
    """Nodes in processes of their own; messages between them and to clients are carried late and out of order.

    `late` is the most that a message takes, in seconds.
    """

    def __init__(self, nodes: list[str], seed: int, late: float = 0.003) -> None:
        self.nodes = nodes
        self._random = random.Random(seed)
        self._late = late
        self._clients: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._processes = {
            node: subprocess.Popen([GLOBALCACHE, "node"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for node in nodes
        }
        self._readers = [threading.Thread(target=self._read, args=(one,)) for one in self._processes.values()]
        for reader in self._readers:
            reader.start()
        for node in nodes:
            init = {"type": "init", "msg_id": 1, "node_id": node, "node_ids": nodes}
            assert self.ask("c0", node, init, 10.0)["type"] == "init_ok"

    def ask(self, client: str, node: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send a message and wait for its answer; raises TimeoutError."""
        answers = self._clients.setdefault(client, queue.SimpleQueue())
        self._deliver({"src": client, "dest": node, "body": body})
        while True:
            try:
                answer = answers.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError(f"{node} did not answer") from None
            if answer["in_reply_to"] == body["msg_id"]:
                return answer

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if message["dest"] in self._clients:
                self._clients[message["dest"]].put(message["body"])
            else:
                timer = threading.Timer(self._random.random() * self._late, self._deliver, [message])
                timer.daemon = True
                timer.start()

    def _deliver(self, message: dict[str, Any]) -> None:
        pipe = self._processes[message["dest"]].stdin
        assert pipe is not None
        with self._lock:
            if not pipe.closed:
                pipe.write(json.dumps(message).encode() + b"\n")
                pipe.flush()

    def close(self) -> None:
        """End the nodes by closing what they read."""
        for process in self._processes.values():
            assert process.stdin is not None
            with self._lock:
                process.stdin.close()
        for process, reader in zip(self._processes.values(), self._readers, strict=True):
            process.wait(10)
            reader.join(10)
            assert process.stdout is not None
            process.stdout.close()


class Node:
    """A client of one node of a network, with the time-out of Maelstrom's clients."""

    kinds: tuple[Kind, ...] = ("read", "write", "cas", "delete")

    def __init__(self, network: Network, node: str, name: str, timeout: float = 5.0) -> None:
        self._network, self._node, self._name, self._timeout = network, node, name, timeout
        self._number = 0

    def ask(self, kind: Kind, key: str, value: State, expected: State) -> Answer:
        self._number += 1
        body = {**body_of(kind, key, value, expected), "msg_id": self._number}
        return outcome_of(self._network.ask(self._name, self._node, body, self._timeout))

    def close(self) -> None:
        """Nothing is held."""
