"""Whom a client trusts, and what it shows of itself, on globalcaches:// addresses.

globalcaches://HOST?ca=ca.pem                              a server with a certificate of that authority
globalcaches://HOST?ca=ca.pem&cert=me.pem&key=me.key       and this client shows a certificate of its own
Cache(url, tls="ca.pem")                                   the same as ?ca=
Cache(url, tls=context)                                    an ssl.SSLContext that stands over all of these
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from globalcache.errors import ConfigError

if TYPE_CHECKING:
    import ssl

    from globalcache.client.address import Address


def check_tls(given: object) -> None:
    """Raise ConfigError for what is neither a context nor the path of a file of authorities."""
    if given is None or isinstance(given, str | os.PathLike) or hasattr(given, "wrap_socket"):
        return
    raise ConfigError(f"tls: {type(given).__name__}: should be an ssl.SSLContext, or the path of a file of authorities")


def tls_context(address: Address, given: ssl.SSLContext | str | os.PathLike[str] | None) -> ssl.SSLContext | None:
    """Return the context for an address; None for one without TLS. Raises ConfigError for files that do not fit."""
    if not address.tls:
        return None
    import ssl  # noqa: PLC0415 - slow to import, and few need it

    if isinstance(given, ssl.SSLContext):
        return given
    authorities = os.fspath(given) if given is not None else address.ca
    try:
        context = ssl.create_default_context(cafile=authorities)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"ca: {authorities}: {_reason(error)}") from None
    if address.cert is not None:
        try:
            context.load_cert_chain(address.cert, address.key)
        except OSError as error:
            named = ", ".join(path for path in (address.cert, address.key) if path)
            raise ConfigError(f"cert, key: {named}: {_reason(error)}") from None
    return context


def _reason(error: OSError) -> str:
    import ssl  # noqa: PLC0415

    if isinstance(error, ssl.SSLError):
        return "not the PEM files that are wanted, or they do not belong together"
    return error.strerror or str(error)
