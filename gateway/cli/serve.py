"""`tandem serve`: find or read a configuration, start everything, say what there is, listen."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

from gateway.app import Gateway
from gateway.cli.announce import announce
from gateway.cli.arguments import add_model_dir, port
from gateway.companion_process import CompanionProcess
from gateway.config import Config, ConfigError, load
from gateway.config_privacy import Privacy
from gateway.config_sections import CacheSection, ExactCache, Server
from gateway.core.routing import Zone
from gateway.discovery import BUNDLED_TARGET, TARGET, Found, discover
from gateway.limits.keys import OpenGateway, callers_from, check_bind, is_loopback
from gateway.listen import Listeners, listener
from gateway.price_notes import price_notes
from gateway.record import JsonLog
from gateway.reload import Reloader
from gateway.rule_notes import rule_notes
from gateway.surface import Limits

logger = logging.getLogger("tandem.serve")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("serve", help="run the gateway")
    parser.add_argument("-c", "--config", type=Path, help="YAML file; without it: what is found")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=port, help="port to listen on (8080)")
    parser.add_argument("--local-only", action="store_true", help="nothing leaves this machine")
    parser.add_argument("--companion", action="store_true", help="verify drafts beside a model")
    add_model_dir(parser)
    parser.add_argument("--log-requests", action="store_true", help="one JSON line per request")
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import uvloop

    logging.basicConfig(
        level=os.environ.get("TANDEM_LOG", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Their info lines repeat per request what one record says.
    for noisy in ("httpx", "httpcore", "websockets", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        uvloop.run(serve(arguments, os.environ))
    except (ConfigError, OpenGateway) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        named = "" if error.filename is None else f"{error.filename}: "
        print(f"cannot start: {named}{error.strerror or error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass  # told to leave while starting: everything was closed on the way out
    return 0


async def serve(arguments: argparse.Namespace, env: Mapping[str, str]) -> None:
    """Run until told to stop. Everything that was started is stopped, on every way out."""
    starting = asyncio.current_task()
    assert starting is not None
    # Until the listeners take the signal over; a large model may take minutes to load.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, starting.cancel)
    async with AsyncExitStack() as stack:
        config, found, companion = await configure(arguments, env)
        check_bind(config.server.host, bool(config.callers))
        sock = bound(arguments, config)
        stack.callback(sock.close)
        if companion is not None:
            stack.push_async_callback(companion.aclose)
            await companion.start()
        gateway = Gateway(
            config,
            model_dir=arguments.model_dir,
            companion=arguments.companion,
            log=JsonLog(sys.stdout.buffer) if arguments.log_requests else None,
        )
        stack.push_async_callback(gateway.aclose)
        await gateway.start()
        apps = [(gateway.app, sock)]
        if not is_loopback(config.server.host):
            private = admin_listener(config)
            stack.callback(private.close)
            apps.append((gateway.admin(), private))
        listeners = Listeners(gateway, config.server.drain, limits_of(config.server))
        collect_seldom()
        if arguments.fd is None:
            announce(gateway, found, sock.getsockname()[1], env)
        else:
            leave_with_parent(listeners)
        if arguments.config is not None:
            watch = asyncio.create_task(reloader(arguments, env, gateway).run(), name="reload")
            stack.push_async_callback(ended, watch)
        else:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, listeners.stop)
        await listeners.serve(apps)


def reloader(arguments: argparse.Namespace, env: Mapping[str, str], gateway: Gateway) -> Reloader:
    """What keeps the gateway as its file says."""
    started = gateway.config

    def read() -> Config:
        config = completed(from_file(arguments, env), arguments, env)
        check_bind(started.server.host, bool(config.callers))
        for section in ("memory", "cache"):
            if getattr(config, section) != getattr(started, section):
                logger.warning("a change of `%s:` takes effect at the next start", section)
        fixed = {name: getattr(started.server, name) for name in ("host", "port", "admin_port")}
        if any(getattr(config.server, name) != value for name, value in fixed.items()):
            logger.warning("a change of host or port takes effect at the next start")
        return replace(config, server=config.server.model_copy(update=fixed))

    return Reloader(
        arguments.config,
        read=read,
        apply=gateway.reload,
        told=gateway.metrics.reloaded,
        beside=lambda: gateway.config.router.files,
    )


def limits_of(server: Server) -> Limits:
    return Limits(
        header_timeout=server.header_timeout,
        body_timeout=server.body_timeout,
        write_timeout=server.write_timeout,
        connections=server.max_connections,
        per_address=server.max_connections_per_address,
    )


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def configure(
    arguments: argparse.Namespace, env: Mapping[str, str]
) -> tuple[Config, Found | None, CompanionProcess | None]:
    """The configuration to run: the file's, the companion's, or what is found.

    Raises ConfigError. The bundled companion, if it is needed, has its address but is not started.
    """
    found: Found | None = None
    companion: CompanionProcess | None = None
    if arguments.config is not None:
        config = from_file(arguments, env)
    elif arguments.companion:
        config = Config.build(upstreams={TARGET: BUNDLED_TARGET})
    else:
        found = await discover(env, arguments.model_dir, local_only=arguments.local_only)
        upstreams = dict(found.upstreams)
        if found.needs_companion:
            companion = CompanionProcess(dict(env))
            upstreams[TARGET] |= {"base_url": companion.base_url, "api_key": companion.key}
        config = Config.build(upstreams=upstreams, privacy={"default": found.default_zone})
    return completed(config, arguments, env), found, companion


def from_file(arguments: argparse.Namespace, env: Mapping[str, str]) -> Config:
    """What the configuration file says. Raises ConfigError."""
    config = load(arguments.config, env)
    if arguments.local_only:
        config = replace(config, privacy=Privacy(default=Zone.MACHINE))
    return config


def completed(config: Config, arguments: argparse.Namespace, env: Mapping[str, str]) -> Config:
    """A configuration with what the command line and the environment add to it."""
    if arguments.companion:
        # The gateway before it has the cache, and its clients' `no-cache` does not reach this one.
        config = replace(config, cache=CacheSection(exact=ExactCache(memory=0)))
    callers = callers_from(config.callers, env)
    notes = price_notes(config.upstreams, date.today())
    for note in (*notes, *rule_notes(config.rules, callers)):
        logger.warning("%s", note)
    changes = {"host": arguments.host, "port": arguments.port}
    server = config.server.model_copy(update={k: v for k, v in changes.items() if v is not None})
    return replace(config, server=server, callers=callers)


def bound(arguments: argparse.Namespace, config: Config) -> socket.socket:
    """The listening socket: the one our parent made, or a new one."""
    if arguments.fd is not None:
        return socket.socket(fileno=arguments.fd)
    host, number = config.server.host, config.server.port
    try:
        return listener(host, number)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; --host and --port choose another") from None


def admin_listener(config: Config) -> socket.socket:
    """The socket of the admin port, on loopback. Raises OSError, saying where to choose another."""
    try:
        return listener("127.0.0.1", config.server.admin_port)
    except OSError as error:
        why = f"{error.strerror}; server.admin_port in the configuration chooses another"
        raise OSError(error.errno, why) from None


def collect_seldom() -> None:
    """Leave what start-up made out of garbage collection, and collect the rest more rarely.

    A request makes some hundred objects that die with it and hardly a cycle: by default every few
    requests pay for a search among all modules, a sixth of the time that a request takes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def leave_with_parent(listeners: Listeners) -> None:
    """Drain when standard input ends: whoever started us is gone."""

    def readable() -> None:
        if not os.read(0, 1024):
            asyncio.get_running_loop().remove_reader(0)
            listeners.stop()

    asyncio.get_running_loop().add_reader(0, readable)
