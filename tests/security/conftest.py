"""Certificates of an authority that tests make for themselves."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trustme

import globalcache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


@dataclass
class Certificates:
    """An authority, what it signed, and files in a folder."""

    authority: trustme.CA
    folder: Path

    def files(
        self, name: str, *names: str, authority: trustme.CA | None = None, expired: bool = False
    ) -> dict[str, str]:
        """Write a certificate and its key; return them as options of a server."""
        signed = (authority or self.authority).issue_cert(
            *(names or ("localhost", "127.0.0.1")), not_after=YESTERDAY if expired else None
        )
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.unlink(missing_ok=True)
        for blob in signed.cert_chain_pems:
            blob.write_to_path(cert, append=True)
        signed.private_key_pem.write_to_path(key)
        return {"tls_cert": str(cert), "tls_key": str(key)}

    @property
    def ca(self) -> str:
        """The file with the authority's own certificate."""
        path = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(path)
        return str(path)

    def context(self, shown: dict[str, str] | None = None) -> ssl.SSLContext:
        """Return what a client uses that trusts the authority and shows a certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        if shown is not None:
            context.load_cert_chain(shown["tls_cert"], shown["tls_key"])
        return context


@pytest.fixture(scope="session")
def authorities() -> tuple[trustme.CA, trustme.CA]:
    return trustme.CA(), trustme.CA()


@pytest.fixture
def certificates(authorities: tuple[trustme.CA, trustme.CA], tmp_path: Path) -> Certificates:
    return Certificates(authorities[0], tmp_path)


@pytest.fixture
def start() -> Iterator[Callable[..., globalcache.Server]]:
    """Start servers with options, which end with the test."""
    started: list[globalcache.Server] = []

    def begin(**options: Any) -> globalcache.Server:
        started.append(globalcache.Server(**{"memory": "16MiB", "threads": 1} | options))
        return started[-1]

    yield begin
    for server in started:
        server.stop()
