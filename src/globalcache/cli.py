"""The command line: a function for each command of `globalcache`.

Exit status: 0 done; 1 there is no such key, or it could not be done (refused, address taken); 2 a wrong option; 3 no
server answers; 4 the value could not be loaded; 70 a fault of the server itself. What went wrong is one line on stderr.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from globalcache.client._sync.cache import Cache
from globalcache.client.address import DEFAULT_URL, Address
from globalcache.client.login import url_with_password
from globalcache.config import (
    ServerSettings,
    client_url,
    load_settings,
    own_url,
    show_default,
    unknown_variables,
)
from globalcache.errors import (
    AuthError,
    CacheError,
    ConfigError,
    DeadlineError,
    LoadError,
    ReplyError,
    UnavailableError,
)
from globalcache.policy import millis, seconds
from globalcache.units import format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from globalcache.server import Server

app = typer.Typer(add_completion=False)

# What wrong words on the command line raise: typer exports only its child.
_UsageError: Any = typer.BadParameter.__base__

Url = Annotated[
    str,
    typer.Option(
        "--url", "-u", envvar="GLOBALCACHE_URL", show_envvar=True, help="The server to ask.", show_default=True
    ),
]


AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def _version(wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _all(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """One shared cache for all nodes of an application."""


@app.command()
def version() -> None:
    """Show the version."""
    from globalcache import _core  # noqa: PLC0415 - clients work without it

    typer.echo(f"globalcache {_core.__version__}")


def serve(
    app: str | None = None, config: str | None = None, workers: int = 1, welcome: str | None = None, **given: Any
) -> None:
    """Run a server until it is told to stop; with MODULE:CACHE also workers that load what clients miss."""
    from globalcache import _core  # noqa: PLC0415 - clients work without it
    from globalcache.server import Server  # noqa: PLC0415

    _core.exit_on_panic()
    if config is not None:
        os.environ["GLOBALCACHE_CONFIG"] = config
    given = {name: value for name, value in given.items() if value not in (None, [])}
    for name in unknown_variables():
        _say(f"globalcache: {name} names no option and is passed over")
    # Blocked here and so in every thread that starts: they wait for sigwait below, and none is lost.
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    settings = load_settings(**given)
    text = None if welcome is None else Path(welcome).read_text(encoding="utf-8")
    supervisor = None
    options = settings.model_dump()
    if app is not None:
        from globalcache.loaders.supervisor import Supervisor  # noqa: PLC0415 - only with workers

        supervisor = Supervisor(app, workers)
        mine = own_url(settings.listen, settings.passwords())
        fixed = not mine.endswith(":0") and "GLOBALCACHE_URL" not in os.environ
        found = supervisor.start({"GLOBALCACHE_URL": mine} if fixed else {})
        if not found:
            supervisor.stop()
            # A server without its patterns would say of every row that it does not exist.
            _fail(f"{app}: its worker did not start, so neither does the server; see above", 1)
        options["loader"] = [*settings.loader, *(pattern for pattern in found if pattern not in settings.loader)]
    try:
        with Server(**options) as server:
            lines = [] if supervisor is None else supervisor.serve(own_url(server.addresses, settings.passwords()))
            _say("\n".join([_ready(server.addresses, settings), *lines, _hints(server.addresses, text)]))
            _wait(server, signals, 0.2 if settings.shutdown else 3600)
            _say("globalcache: stopping")
            if supervisor is not None:
                supervisor.stop()
    finally:
        if supervisor is not None:
            supervisor.stop()


def _wait(server: Server, signals: set[signal.Signals], every: float) -> None:
    """Wait until it is told to stop, by a signal or by a client that may; SIGHUP reads files again."""
    while not server.stopping:
        told = signal.sigtimedwait(signals, every)
        if told is not None and told.si_signo != signal.SIGHUP:
            return
        if told is not None:
            try:
                server.reload()
                _say("globalcache: read users and the files of TLS again")
            except (ConfigError, OSError) as error:
                _say(f"globalcache: nothing is changed: {error}")


@app.command(name="hash-password")
def hash_password() -> None:
    """Print the rule of a users file for a password that is read from the terminal, or from standard input."""
    import getpass  # noqa: PLC0415
    import hashlib  # noqa: PLC0415

    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    typer.echo("#" + hashlib.sha256(password.encode()).hexdigest())


def _hints(addresses: list[str], text: str | None) -> str:
    """Say what to try, with the command as it was called."""
    me = os.path.relpath(sys.argv[0]) if os.sep in sys.argv[0] else "globalcache"
    url = "" if addresses[0] == "127.0.0.1:7411" else f" -u {client_url(addresses[0])}"
    if text is not None:
        env = url and f"GLOBALCACHE_URL={url.removeprefix(' -u ')} "
        python = os.path.relpath(sys.executable) if os.sep in me else sys.executable
        for name, value in (("me", me), ("url", url), ("env", env), ("python", python)):
            text = text.replace(f"{{{name}}}", value)
        return text.rstrip()
    return (
        "Ctrl-C stops it. In a second terminal:\n"
        f"  {me} set{url} greeting hello\n"
        f"  {me} get{url} greeting\n"
        f"  {me} ping{url}"
    )


def _ready(addresses: list[str], settings: ServerSettings) -> str:
    from globalcache import _core  # noqa: PLC0415

    return (
        f"globalcache {_core.__version__}: ready on {', '.join(addresses)}  "
        f"({format_size(settings.memory)}, {settings.threads} {'thread' if settings.threads == 1 else 'threads'}; "
        f"Redis, memcached and JSON)"
    )


def _declare_serve() -> None:
    """Make a flag of every field of the settings, so that each option is declared once."""
    text: Any = Optional[str]  # noqa: UP045 - typer evaluates it
    apart: list[tuple[str, Any, Any, Any]] = [
        (
            "app",
            text,
            None,
            typer.Argument(metavar="[MODULE:CACHE]", show_default=False),
        ),
        (
            "config",
            text,
            None,
            typer.Option("--config", envvar="GLOBALCACHE_CONFIG", help="A TOML file with options."),
        ),
        ("workers", int, 1, typer.Option("--workers", min=1, max=64, help="Worker processes of MODULE:CACHE.")),
        ("welcome", text, None, typer.Option("--welcome", hidden=True)),
    ]
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared])
        for name, kind, default, declared in apart
    ]
    for name, field in ServerSettings.model_fields.items():
        kind: Any = bool if field.annotation is bool else list[str] if name in ("listen", "loader") else str
        default: Any = kind is not bool and (show_default(name) or False)
        flag = "--" + name.replace("_", "-")
        option = typer.Option(flag, help=field.description, show_default=default)
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[Optional[kind], option],  # noqa: UP045
            )
        )
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command()(serve)


_declare_serve()


@app.command()
def worker(
    target: Annotated[str, typer.Argument(metavar="MODULE:CACHE")],
    url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--url", "-u", help="The server; that of the cache unless given."),
    ] = None,
    pipes: Annotated[Optional[str], typer.Option(hidden=True)] = None,  # noqa: UP045
) -> None:
    """Load what clients miss by the loaders of MODULE:CACHE until it is told to stop."""
    from globalcache.loaders.process import run  # noqa: PLC0415 - only here

    raise typer.Exit(run(target, url, pipes))


@app.command()
def node() -> None:
    """Run a Maelstrom node: JSON messages on stdin, answers on stdout."""
    from globalcache.node import run  # noqa: PLC0415 - clients work without the native module

    run()


@app.command()
def get(key: str, url: Url = DEFAULT_URL) -> None:
    """Print the value of KEY; exit status 1 if there is none. A value that is stale is said to be so on stderr."""
    with _client(url) as client:
        value = client.command("GET", key)
        if value is None:
            raise typer.Exit(1)
        age = _staleness(client, key)
    sys.stdout.buffer.write(value + b"\n")
    if age:
        sys.stdout.flush()
        _say(age)


def _staleness(client: Cache, key: str) -> str:
    """Return what to say of a value that stands in for a newer one; nothing of a fresh one."""
    try:
        facts = client.command("CACHE.INSPECT", key)
    except ReplyError:  # a user may read and not inspect
        return ""
    # What is past its time and yet was served stands in for a load that failed.
    return {b"stale": "(stale)", b"expired": "(stale, database down)"}.get(facts[b"state"], "")


@app.command(name="set")
def set_(
    key: str,
    value: str,
    ttl: Annotated[Optional[str], typer.Option(help="Time to live, as 30s or 5m.")] = None,  # noqa: UP045
    url: Url = DEFAULT_URL,
) -> None:
    """Write VALUE under KEY."""
    words = ["SET", key, value]
    if ttl is not None:
        words += ["PX", str(millis(seconds("ttl", ttl, least=0.001)))]
    with _client(url) as client:
        client.command(*words)


@app.command()
def delete(keys: Annotated[list[str], typer.Argument(metavar="KEY...")], url: Url = DEFAULT_URL) -> None:
    """Remove keys; exit status 1 if there was none of them."""
    with _client(url) as client:
        removed = client.command("DEL", *keys)
    if removed == 0:
        raise typer.Exit(1)


@app.command()
def incr(key: str, delta: Annotated[int, typer.Argument()] = 1, url: Url = DEFAULT_URL) -> None:
    """Add DELTA to the number under KEY and print it."""
    with _client(url) as client:
        print(client.incr(key, delta))


@app.command()
def invalidate(
    keys: Annotated[Optional[list[str]], typer.Argument(metavar="KEY...")] = None,  # noqa: UP045
    tag: Annotated[Optional[list[str]], typer.Option(help="Everything that has this tag. Repeatable.")] = None,  # noqa: UP045
    url: Url = DEFAULT_URL,
) -> None:
    """Forget keys and tags, and whatever is being loaded for them; print how many keys and tags that were."""
    if not keys and not tag:
        raise ConfigError("invalidate: name a key, or a tag with --tag")
    with _client(url) as client:
        print(client.invalidate(*keys or (), tags=tag or ()))


@app.command(name="inspect")
def inspect_(key: str, url: Url = DEFAULT_URL, *, as_json: AsJson = False) -> None:
    """Tell everything that is known of KEY."""
    with _client(url) as client:
        facts = client.inspect(key)
    if as_json:
        print(json.dumps(facts))
        return
    shown = {
        "state": facts["state"],
        "age": _span(facts["age_ms"]),
        "fresh for": _span(facts["fresh_ms"]),
        "ends in": _span(facts["ttl_ms"]),
        "stands in for": _span(facts["grace_ms"]),
        "tags": str(facts["tags"]),
        "version": str(facts["version"]),
        "size": f"{facts['size']} bytes",
        "load took": _span(facts["cost_ms"]),
        "lease": facts["lease"],
        "held off for": _span(facts["held_off_ms"]),
        "failed with": facts["failure"],
        "waiting": str(facts["waiters"]),
        "loaded by": facts["served"] or "whoever misses",
    }
    for name, text in shown.items():
        if text:
            print(f"{name:<14} {text}")


@app.command()
def stats(url: Url = DEFAULT_URL, *, as_json: AsJson = False) -> None:
    """Tell what a server has done so far."""
    with _client(url) as client:
        facts = client.server_info()[0]
    if as_json:
        print(json.dumps(facts))
        return
    names = {
        "hits": "keyspace_hits",
        "misses": "keyspace_misses",
        "loads": "loads",
        "evicted": "evicted_keys",
        "expired": "expired_keys",
        "commands": "total_commands_processed",
        "connections": "connected_clients",
        "used memory": "used_memory_human",
    }
    for name, field in names.items():
        if field in facts:
            print(f"{name:<14} {facts[field]}")


@app.command()
def ping(
    wait: Annotated[str, typer.Option(help="Try again for so long, as 10s.")] = "0", url: Url = DEFAULT_URL
) -> None:
    """Tell by the exit status whether a server answers."""
    deadline = time.monotonic() + seconds("wait", wait)
    while True:
        try:
            with _client(url) as client:
                client.ping()
                typer.echo("PONG")
                return
        except AuthError:
            # It is there, which is all that is asked: health checks need no password.
            typer.echo("NOAUTH")
            return
        except ConfigError:
            raise
        except CacheError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


@app.command()
def bench(  # noqa: PLR0913 - a flag each
    url: Url = DEFAULT_URL,
    *,
    protocol: Annotated[str, typer.Option(help="What the server speaks: resp or memcached.")] = "resp",
    connections: Annotated[int, typer.Option(help="Connections, all open all the time.")] = 50,
    pipeline: Annotated[int, typer.Option(help="Requests that a connection sends before it waits.")] = 1,
    value_size: Annotated[str, typer.Option(help="Bytes of a value.")] = "100",
    keys: Annotated[int, typer.Option(help="Keys that are written before and asked for.")] = 100_000,
    theta: Annotated[float, typer.Option(help="Skew of the keys: 0 none, 0.99 Zipf.")] = 0.99,
    reads: Annotated[float, typer.Option(help="Share of reads.")] = 0.9,
    multi: Annotated[int, typer.Option(help="Keys of one read.")] = 1,
    ttl: Annotated[str, typer.Option(help="Time to live of what is written; 0: for ever.")] = "0",
    waiters: Annotated[
        int, typer.Option(help="Clients that wait for a key together, timed from its fill, instead of other load.")
    ] = 0,
    rate: Annotated[float, typer.Option(help="Requests per second whatever the server does; 0: as many as go.")] = 0,
    seconds: Annotated[float, typer.Option(help="Length of the measurement.")] = 5,
    requests: Annotated[int, typer.Option(help="Requests after which it ends earlier; 0: none.")] = 0,
    pid: Annotated[int, typer.Option(help="Process of the server, to measure its processor time.")] = 0,
    cpu: Annotated[Optional[int], typer.Option(help="Processor to run on.")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Put load on a server and tell how fast it is; it writes keys that begin with `k:`."""
    from globalcache import _core  # noqa: PLC0415 - clients work without it

    address = Address.parse(url)
    numbers = {"connections": connections, "pipeline": pipeline, "keys": keys, "theta": theta, "reads": reads}
    numbers |= {"multi": multi, "rate": rate, "seconds": seconds, "requests": requests, "pid": pid, "waiters": waiters}
    try:
        sizes = {"value_size": parse_size(value_size), "ttl": int(parse_duration(ttl))}
        options = {"address": str(address), "protocol": protocol, "cpu": cpu, **numbers, **sizes}
        report: dict[str, float] = json.loads(_core.run_bench(json.dumps(options)))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise UnavailableError(f"{address}: {error.strerror or error}") from None
    if as_json:
        print(json.dumps(report))
        return
    print(f"{report['throughput']:,.0f} requests/s, {report['requests']:,.0f} in {report['seconds']:.1f} s")
    latencies = ("p50", "p90", "p99", "p999", "p9999", "max")
    print("latency in us: " + ", ".join(f"{name} {report[name]:,.0f}" for name in latencies))
    server = report["server_cpu_ns"]
    print(
        f"processor time for each request: generator {report['own_cpu_ns']:,.0f} ns"
        + (f", server {server:,.0f} ns" if server is not None else "")
    )
    if report["misses"] or report["errors"]:
        print(f"{report['misses']:,.0f} misses, {report['errors']:,.0f} errors")


def _span(millis: int) -> str:
    """Write a time for people; nothing where there is none."""
    if millis < 0:
        return ""
    if millis < 1000:
        return f"{millis} ms"
    seconds = millis // 1000
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    return "".join(f"{count}{unit}" for count, unit in parts if count)


def _client(url: str) -> Cache:
    """Return a client that raises; what went wrong is told by `main`, so the log is silent."""
    logging.getLogger("globalcache").setLevel(logging.ERROR)
    return Cache(url_with_password(url), on_error="raise")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(text: str, status: int) -> NoReturn:
    _say(f"globalcache: {text}")
    sys.exit(status)


def _status(error: CacheError) -> int:
    if isinstance(error, UnavailableError | DeadlineError):
        return 3
    return 4 if isinstance(error, LoadError) else 1


def main() -> NoReturn:
    """Run the command line."""
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except _UsageError as error:
        _fail(error.format_message().rstrip("."), 2)
    except ConfigError as error:
        _fail(str(error), 2)
    except CacheError as error:
        _fail(str(error), _status(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error), 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
