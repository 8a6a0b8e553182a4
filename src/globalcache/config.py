"""The options of the server, each declared once.

Flags, `GLOBALCACHE_...` variables, the keys of a TOML file and the documentation all derive from the fields below.
A flag stands over a variable, a variable over the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from globalcache.errors import ConfigError
from globalcache.units import format_size, parse_duration, parse_size

PREFIX = "GLOBALCACHE_"

# Variables that container platforms set for a service of our name, and those that belong to clients.
_FOREIGN_ENDS = ("_PORT", "_HOST", "_ADDR", "_PROTO")
_OF_CLIENTS = {"GLOBALCACHE_URL", "GLOBALCACHE_CONFIG", "GLOBALCACHE_PORT"}


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _not_negative(value: float) -> float:
    if value < 0:
        raise ValueError("should not be negative")
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Duration = Annotated[float, BeforeValidator(parse_duration), AfterValidator(_not_negative)]


class ServerSettings(BaseSettings):
    """How a server runs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", validate_default=True)

    listen: Annotated[list[str], NoDecode, BeforeValidator(_split)] = Field(
        ["127.0.0.1:7411"],
        min_length=1,
        description="Address to listen on: HOST:PORT, tls://HOST:PORT, unix:///path or memcached://HOST:PORT. "
        "Can be given repeatedly.",
    )
    threads: int = Field(min(4, os.cpu_count() or 1), ge=1, le=64, description="Threads that serve connections.")
    memory: Size = Field(256 << 20, description="Memory that the cache may take.")
    eviction: Literal["s3fifo", "none", "noeviction"] = Field(
        "s3fifo", description="What happens when memory is full: s3fifo evicts, none refuses writes."
    )
    max_value: Size = Field(
        16 << 20, description="Longest value; unless it is given, a quarter of the memory if that is less."
    )
    max_clients: int = Field(10_000, ge=1, description="Connections that may be open at a time.")
    client_memory: Size = Field(256 << 20, description="Memory that the buffers of all connections may take.")
    idle_timeout: Duration = Field(
        0, description="Close connections that asked nothing for so long; 0 leaves them open."
    )
    insecure: bool = Field(
        default=False, description="Let others than this machine connect although nobody has to authenticate."
    )

    password: SecretStr | None = Field(
        None, description="Password of clients that name no user; --password-file keeps it out of the process list."
    )
    password_file: Path | None = Field(None, description="File with that password on its first line.")
    users_file: Path | None = Field(
        None, description="File of users and what they may do, in the words of Redis's ACL files; read again on SIGHUP."
    )
    tls_cert: str | None = Field(
        None, description="Certificate chain in PEM for tls:// addresses; read again on SIGHUP."
    )
    tls_key: str | None = Field(None, description="The private key of the certificate, in PEM.")
    tls_client_ca: str | None = Field(
        None, description="Authorities in PEM: every client on tls:// has to show a certificate of one of them."
    )
    loader: Annotated[list[str], NoDecode, BeforeValidator(_split)] = Field(
        [],
        max_length=256,
        description="Pattern of keys that loader workers load, as user:*; plain reads wait for one. Repeatable.",
    )
    load_timeout: Duration = Field(
        30, gt=0, description="How long a load may take: reads wait for it so long, and its lease can be renewed."
    )
    shutdown: bool = Field(default=False, description="Let memcached clients stop the server by `shutdown`.")
    debug_time: bool = Field(
        default=False,
        description="Let memcached clients move the clock by `debugtime` and end a thread by `debugpanic`: for tests.",
    )

    @model_validator(mode="after")
    def _fit_max_value(self) -> Self:
        if "max_value" not in self.model_fields_set:
            self.max_value = min(self.max_value, self.memory // 4)
        return self

    def passwords(self) -> list[str]:
        """Return the passwords of clients that name no user. Raises OSError if the file cannot be read."""
        given = [] if self.password is None else [self.password.get_secret_value()]
        if self.password_file is not None:
            given += self.password_file.read_text(encoding="utf-8").splitlines()[:1]
        return [password for password in given if password]

    def users(self) -> str:
        """Return the text of the file of users. Raises OSError if it cannot be read."""
        return "" if self.users_file is None else self.users_file.read_text(encoding="utf-8")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put flags over variables over the file, which GLOBALCACHE_CONFIG names."""
        path = os.environ.get("GLOBALCACHE_CONFIG")
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(path))) if path else sources


def load_settings(**given: Any) -> ServerSettings:
    """Return the settings with `given` over variables and file; None counts as not given.

    Raises ConfigError with one line that names the option, its value and what is allowed, and OSError if the file
    cannot be read.
    """
    path = os.environ.get("GLOBALCACHE_CONFIG")
    if path:
        # A file that is not there must not be passed over in silence.
        Path(path).open("rb").close()
    try:
        settings = ServerSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(_describe(error)) from None
    except ValueError as error:  # what the TOML parser raises
        raise ConfigError(f"{path}: {error}") from None
    if (settings.tls_cert is None) != (settings.tls_key is None) or (settings.tls_client_ca and not settings.tls_cert):
        raise ConfigError("tls-cert, tls-key: TLS needs both")
    return settings


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "options"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{name}: no such option; there are {', '.join(ServerSettings.model_fields)}"
    return f"{name.replace('_', '-')}: {first['input']!r}: {message[:1].lower()}{message[1:]}"


def client_url(address: str) -> str:
    """Return the URL under which our clients find an address that a server listens on."""
    kind, _, place = address.rpartition("://")
    return {"unix": "globalcache+unix://", "tls": "globalcaches://"}.get(kind, "globalcache://") + place


def own_url(addresses: list[str], passwords: list[str]) -> str:
    """Return the URL by which workers beside a server reach it: without TLS where possible, and with its password.

    Where there are only users with names, they are who $GLOBALCACHE_URL says.
    """
    order = {"": 0, "unix": 1, "tls": 2}
    address = min(addresses, key=lambda address: order.get(address.rpartition("://")[0], len(order)))
    scheme, _, place = client_url(address).partition("://")
    login = urlsplit(os.environ.get("GLOBALCACHE_URL", "")).netloc.rpartition("@")[0]
    if passwords:
        login = ":" + quote(passwords[0], safe="")
    return f"{scheme}://{login}@{place}" if login else f"{scheme}://{place}"


def show_default(name: str) -> str:
    """Write the default of an option as it would be given; nothing if there is none."""
    field = ServerSettings.model_fields[name]
    if field.default is None:
        return ""
    if any(getattr(part, "func", None) is parse_size for part in field.metadata):
        return format_size(field.default)
    return ", ".join(field.default) if isinstance(field.default, list) else str(field.default)


def unknown_variables() -> list[str]:
    """Return the variables with our prefix that name no option: most likely misspelt."""
    known = {PREFIX + name.upper() for name in ServerSettings.model_fields} | _OF_CLIENTS
    mine = (name for name in os.environ if name.startswith(PREFIX))
    return sorted(n for n in mine if n not in known and "_SERVICE_" not in n and not _is_foreign(n))


def _is_foreign(name: str) -> bool:
    """Tell whether a container platform made the variable, as `GLOBALCACHE_PORT_7411_TCP_ADDR` or `..._PORT`."""
    return "_PORT_" in name or name.endswith(_FOREIGN_ENDS)
