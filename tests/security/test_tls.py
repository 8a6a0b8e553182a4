"""TLS as clients see it: who gets in with which certificate, what happens when files change, what is sent over it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

import globalcache
from globalcache.loaders import app
from tests.conftest import GLOBALCACHE, Wire, tool

if TYPE_CHECKING:
    from collections.abc import Callable

    import trustme

    from .conftest import Certificates

TLS = "tls://127.0.0.1:0"


def place(server: globalcache.Server) -> tuple[str, int]:
    host, port = server.address.removeprefix("tls://").rsplit(":", 1)
    return host, int(port)


def connect(server: globalcache.Server, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(place(server), timeout=10), server_hostname="127.0.0.1")


def shown(server: globalcache.Server, context: ssl.SSLContext) -> int:
    """Return the number of the certificate that the server shows."""
    with connect(server, context) as client:
        found = client.getpeercert()
    assert found is not None
    return int(str(found["serialNumber"]), 16)


def ping(client: ssl.SSLSocket) -> bytes:
    client.sendall(b"PING\r\n")
    return client.recv(64)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(
    certificates: Certificates, start: Callable[..., globalcache.Server], version: ssl.TLSVersion
) -> None:
    server = start(listen=[TLS], **certificates.files("server"))
    context = certificates.context()
    context.minimum_version = context.maximum_version = version
    with connect(server, context) as client:
        assert ping(client) == b"+PONG\r\n"


def test_old_versions_are_refused(certificates: Certificates, start: Callable[..., globalcache.Server]) -> None:
    server = start(listen=[TLS], **certificates.files("server"))
    context = certificates.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(server, context)


def test_redis_py_reads_and_writes(certificates: Certificates, start: Callable[..., globalcache.Server]) -> None:
    server = start(listen=[TLS], memory="64MiB", **certificates.files("server"))
    with redis.Redis.from_url(server.redis_url, ssl_ca_certs=certificates.ca) as client:
        big = os.urandom(5 << 20)
        assert client.set("k", big)
        assert client.get("k") == big
        assert client.mget(["k"] * 4) == [big] * 4


def test_our_client_and_its_command_line(certificates: Certificates, start: Callable[..., globalcache.Server]) -> None:
    server = start(listen=[TLS], **certificates.files("server"))
    assert server.url.startswith("globalcaches://")
    with globalcache.Cache(server.url, tls=certificates.context()) as cache:
        cache.set("k", [1, 2])
        assert cache.get("k") == [1, 2]

    async def read() -> Any:
        async with globalcache.AsyncCache(server.url, tls=certificates.context()) as cache:
            return await cache.get("k")

    assert asyncio.run(read()) == [1, 2]
    environment = os.environ | {"SSL_CERT_FILE": certificates.ca}
    done = subprocess.run([GLOBALCACHE, "ping", "-u", server.url], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"PONG\n")


def test_authorities_and_certificates_by_path(
    certificates: Certificates, start: Callable[..., globalcache.Server]
) -> None:
    """A URL and `tls=` name files, for both faces, the command line and workers; the server asks for a certificate."""
    server = start(listen=[TLS], tls_client_ca=certificates.ca, **certificates.files("server"))
    mine = certificates.files("client", "client@example.org")
    shown = f"cert={mine['tls_cert']}&key={mine['tls_key']}"
    full = f"{server.url}?ca={certificates.ca}&{shown}"
    with globalcache.Cache(full) as cache:
        cache.set("k", 1)
    with globalcache.Cache(f"{server.url}?{shown}", tls=certificates.ca) as cache:
        assert cache.get("k") == 1

    async def read(url: str, **options: Any) -> Any:
        async with globalcache.AsyncCache(url, **options) as cache:
            return await cache.get("k")

    assert asyncio.run(read(full)) == asyncio.run(read(f"{server.url}?{shown}", tls=Path(certificates.ca))) == 1
    done = subprocess.run([GLOBALCACHE, "get", "k", "-u", full], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, b"1\n"), done.stderr

    cache = globalcache.AsyncCache(full).sync

    @cache.loader("row:{id:int}", ttl="1m")
    def row(id: int) -> int:
        return id

    async def work() -> Any:
        ready = asyncio.Event()
        working = asyncio.create_task(app.work(cache, None, ready.set))
        await asyncio.wait_for(ready.wait(), 10)
        found = await asyncio.to_thread(cache.command, "GET", "row:7")
        os.kill(os.getpid(), signal.SIGTERM)
        await working
        return found

    assert asyncio.run(work()) == b"7"
    cache.close()


@pytest.mark.parametrize(
    ("query", "options", "line"),
    [
        ("?ca=/none.pem", {}, "ca: /none.pem: No such file or directory"),
        ("", {"tls": "/none.pem"}, "ca: /none.pem: No such file or directory"),
        (f"?ca={__file__}", {}, f"ca: {__file__}: not the PEM files that are wanted"),
        ("?cert=/none.pem", {}, "cert, key: /none.pem: No such file or directory"),
        ("?key=/none.pem", {}, "key: there is no cert that it belongs to"),
        ("", {"tls": 7}, "tls: int: should be an ssl.SSLContext, or the path of a file of authorities"),
    ],
)
def test_a_client_names_files_that_do_not_fit(query: str, options: dict[str, Any], line: str) -> None:
    with (
        pytest.raises(globalcache.ConfigError, match=re.escape(line)),
        globalcache.Cache(f"globalcaches://127.0.0.1:1{query}", on_error="raise", **options) as cache,
    ):
        cache.get("k")
    with pytest.raises(globalcache.ConfigError, match="ca, cert and key belong to globalcaches://"):
        globalcache.Cache("globalcache://127.0.0.1:1?ca=ca.pem")


def test_openssl(certificates: Certificates, start: Callable[..., globalcache.Server]) -> None:
    files = certificates.files("server")
    server = start(listen=[TLS], tls_client_ca=certificates.ca, **files)
    mine = certificates.files("client", "client@example.org")
    host, port = place(server)
    with tool("openssl") as path:
        command = [path, "s_client", "-connect", f"{host}:{port}", "-CAfile", certificates.ca, "-quiet"]
        command += ["-verify_return_error", "-verify_ip", host, "-cert", mine["tls_cert"], "-key", mine["tls_key"]]
        done = subprocess.run(command, input=b"PING\r\nQUIT\r\n", capture_output=True, timeout=20, check=False)
    assert done.stdout == b"+PONG\r\n+OK\r\n", done.stderr


@pytest.mark.parametrize(("names", "expired"), [((), True), (("cache.example.org",), False)])
def test_clients_refuse_certificates_expired_or_of_others(
    certificates: Certificates, start: Callable[..., globalcache.Server], names: tuple[str, ...], expired: bool
) -> None:
    server = start(listen=[TLS], **certificates.files("server", *names, expired=expired))
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(server, certificates.context())
    with (
        redis.Redis.from_url(server.redis_url, ssl_ca_certs=certificates.ca) as client,
        pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.ping()
    with (
        globalcache.Cache(server.url, tls=certificates.context(), on_error="raise") as cache,
        pytest.raises(globalcache.CacheError),
    ):
        cache.get("k")


@pytest.mark.parametrize("kind", ["missing", "expired", "of another authority", "good"])
def test_a_client_shows_a_certificate_where_that_is_asked_for(
    certificates: Certificates,
    authorities: tuple[trustme.CA, trustme.CA],
    start: Callable[..., globalcache.Server],
    kind: str,
) -> None:
    server = start(listen=[TLS], tls_client_ca=certificates.ca, **certificates.files("server"))
    mine = None
    if kind != "missing":
        signer = authorities[kind == "of another authority"]
        mine = certificates.files("client", "client", authority=signer, expired=kind == "expired")
    if kind == "good":
        with connect(server, certificates.context(mine)) as client:
            assert ping(client) == b"+PONG\r\n"
        return
    # With TLS 1.3 the client has done its part before the server looks: it hears of it when it reads.
    answer = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError), connect(server, certificates.context(mine)) as client:
        answer = ping(client)
    assert answer == b""
    assert server.stats()["commands"] == 0


def test_requests_in_the_clear_end_a_connection_with_tls(
    certificates: Certificates, start: Callable[..., globalcache.Server]
) -> None:
    server = start(listen=[TLS], **certificates.files("server"))
    with socket.create_connection(place(server), timeout=10) as client:
        client.sendall(b"SET k v\r\n" * 10)
        reply = client.recv(64)  # an alert, or nothing
        assert b"OK" not in reply
    assert server.stats()["commands"] == 0


def test_a_stalled_reader_gets_everything_in_the_end(
    certificates: Certificates, start: Callable[..., globalcache.Server]
) -> None:
    server = start(listen=[TLS], **certificates.files("server"))
    value = os.urandom(1 << 20)
    with connect(server, certificates.context()) as client:
        client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n" % (len(value), value) + b"GET k\r\n" * 40)
        deadline = time.monotonic() + 10
        while server.stats()["client_bytes"] < len(value) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.stats()["client_bytes"] < 8 << 20
        wanted = b"+OK\r\n" + (b"$%d\r\n%b\r\n" % (len(value), value)) * 40
        got = bytearray()
        while len(got) < len(wanted):
            chunk = client.recv(1 << 16)
            assert chunk, len(got)
            got += chunk
        assert got == wanted


def test_new_files_count_for_new_connections(
    certificates: Certificates, start: Callable[..., globalcache.Server]
) -> None:
    files = certificates.files("server")
    server = start(listen=[TLS], **files)
    context = certificates.context()
    with connect(server, context) as old:
        first = shown(server, context)
        certificates.files("server")
        assert shown(server, context) == first
        server.reload()
        second = shown(server, context)
        assert second != first
        (certificates.folder / "server.pem").write_text("no certificate")
        with pytest.raises(globalcache.ConfigError, match=r"tls-cert: .*server\.pem"):
            server.reload()
        assert shown(server, context) == second
        assert ping(old) == b"+PONG\r\n"


def test_sighup_reads_files_again(certificates: Certificates, serve: Callable[..., Any]) -> None:
    files = certificates.files("server")
    process = serve("--tls-cert", files["tls_cert"], "--tls-key", files["tls_key"], listen=TLS)
    stderr = process.process.stderr

    def told(words: str) -> None:
        line = next(line for line in stderr if line.startswith("globalcache:"))
        assert words in line

    certificates.files("server")
    process.process.send_signal(signal.SIGHUP)
    told("read users and the files of TLS again")
    (certificates.folder / "server.key").write_text("no key")
    process.process.send_signal(signal.SIGHUP)
    told("nothing is changed: tls-key: ")
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(10) == 0


def test_files_that_do_not_fit_are_named(certificates: Certificates, start: Callable[..., globalcache.Server]) -> None:
    files, others = certificates.files("server"), certificates.files("other")
    for options, words in [
        ({"tls_cert": files["tls_cert"]}, "tls-cert, tls-key: TLS needs both"),
        ({"tls_cert": files["tls_cert"], "tls_key": others["tls_key"]}, "tls-key: .*other.key"),
        ({"tls_cert": "/no/such/file", "tls_key": files["tls_key"]}, "tls-cert: /no/such/file"),
        ({**files, "tls_client_ca": files["tls_key"]}, "tls-client-ca: .*server.key"),
        ({}, "TLS needs --tls-cert and --tls-key"),
    ]:
        with pytest.raises(globalcache.ConfigError, match=words):
            start(listen=[TLS], **options)


def test_a_public_address_needs_client_certificates(
    certificates: Certificates, start: Callable[..., globalcache.Server]
) -> None:
    files = certificates.files("server")
    with pytest.raises(globalcache.ConfigError, match="--insecure allows it"):
        start(listen=["tls://0.0.0.0:0"], **files)
    start(listen=["tls://0.0.0.0:0"], tls_client_ca=certificates.ca, **files)
    with pytest.raises(globalcache.ConfigError, match="--insecure allows it"):
        start(listen=["0.0.0.0:0"], tls_client_ca=certificates.ca, **files)


def received(client: ssl.SSLSocket) -> bytes:
    """Read until the server ends the connection."""
    got = b""
    while chunk := client.recv(1 << 16):
        got += chunk
    return got


def half_close(client: ssl.SSLSocket) -> None:
    """Say that nothing more is sent, on the socket beneath TLS, and go on reading."""
    socket.socket.shutdown(client, socket.SHUT_WR)


def test_the_end_of_a_client_is_seen(certificates: Certificates, start: Callable[..., globalcache.Server]) -> None:
    """A client half-closes behind more than one read takes, and another one while its request waits for a load."""
    server = start(listen=[TLS, "127.0.0.1:0"], loader=["u:*"], threads=1, **certificates.files("server"))
    context = certificates.context()
    with Wire(server.addresses[1]) as plain:
        with connect(server, context) as client:
            client.sendall(b"PING\r\n" * 20_000)
            half_close(client)
            assert received(client) == b"+PONG\r\n" * 20_000
        with connect(server, context) as client:
            client.sendall(b"GET u:1\r\n")
            while b"waiters\r\n:1\r\n" not in inspected(plain):
                pass
            client.sendall(b"PING\r\n")
            half_close(client)
            plain.ask(b"SET u:1 v\r\n", b"+OK\r\n")
            assert received(client) == b"$1\r\nv\r\n+PONG\r\n"
        while server.stats()["connected"] > 1:
            pass


def inspected(wire: Wire) -> bytes:
    wire.send(b"CACHE.INSPECT u:1\r\nECHO end\r\n")
    got = b""
    while not got.endswith(b"end\r\n"):
        got += wire.socket.recv(4096)
    return got


def test_it_stops_while_clients_of_tls_wait(
    certificates: Certificates, start: Callable[..., globalcache.Server]
) -> None:
    """In the handshake, in a wait for a load, and idle: each gets the alert close_notify, then the end."""
    server = start(listen=[TLS], loader=["u:*"], threads=1, **certificates.files("server"))
    context = certificates.context()
    with (
        socket.create_connection(place(server), timeout=10) as handshaking,
        connect(server, context) as waiting,
        connect(server, context) as idle,
    ):
        waiting.sendall(b"GET u:1\r\n")
        assert ping(idle) == b"+PONG\r\n"
        server.stop()
        assert handshaking.recv(64) == b"\x15\x03\x03\x00\x02\x01\x00"
        assert (handshaking.recv(64), received(waiting), received(idle)) == (b"", b"", b"")
