"""The server: an application on a port, from opening the socket to the last signal to stop."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lllms_core.config import ServerConfig, open_keyring, parse_config
from lllms_core.config.key_file import exposed
from lllms_core.config.rules import is_loopback
from lllms_core.config.settings import UNIX
from lllms_core.errors import ConfigError, LllmsError
from lllms_core.host import Host
from lllms_core.host.file_watch import FileWatch
from lllms_core.host.reloads import Step
from lllms_core.log import configure_logging
from lllms_core.machine import yield_quickly
from lllms_core.observers.traces import exporting
from lllms_core.web.limits import ConnectionLimits, connections_for, raise_descriptor_limit
from lllms_core.web.unix_socket import SocketFile, listen_at

if TYPE_CHECKING:
    from lllms_core.web.tls import Certificate

LOG = logging.getLogger("lllms.serve")

BACKLOG = 1024
FLUSH_SECONDS = 3.0
"""The time that the bytes of the last answer have to reach the client."""

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *(() if HANGUP is None else (HANGUP,)))

OnReady = Callable[[str], None]
"""Called with the URL of the server, like `http://127.0.0.1:3000`; that of a Unix socket is `unix:PATH`."""
OnStop = Callable[[], None]
"""Called after the first signal to stop, while requests are still running."""


def serve_llms(
    listen: Mapping[str, object] | None = None,
    concurrency: int | None = None,
    models: Mapping[str, object] | None = None,
    **server: object,
) -> None:
    """Serve models until SIGINT, SIGTERM or SIGHUP; blocking. The equivalent of a configuration file in Python.

        serve_llms(listen={"port": 3000}, concurrency=2, models={"tiny": {"engine": "llamacpp", "file": "tiny.gguf"}})

    `listen` holds `host` and `port`; `server` any other key of `[server]`. Raises `ConfigError`.
    """
    settings = {**server, **(listen or {})}
    if concurrency is not None:
        settings["concurrency"] = concurrency
    config = parse_config({"server": settings, "models": models or {}})
    configure_logging(config.server.log_level, config.server.log_format)
    asyncio.run(serve(Host(config), on_ready=lambda url: LOG.info("listening on %s", url)))


async def serve(
    host: Host, *, on_ready: OnReady | None = None, on_stop: OnStop | None = None, watch: bool = False,
) -> None:
    """Serve `host` on the address of its configuration until SIGINT, SIGTERM or SIGHUP, then close it.

    A host that can read its configuration again does so at SIGHUP, unless its terminal was closed, and with `watch`
    also when the files of its configuration change.

    It starts the host, and calls `on_ready` once requests are answered and the instances that models keep are loaded.
    After the first signal new requests are refused, and the running ones have `server.shutdown_timeout` seconds to
    finish, which `on_stop` may tell; a second signal ends them at once. If it cannot listen, raises `ConfigError`
    before anything is loaded.
    """
    server = host.config.server
    open_keyring(server)  # now, as everything that can be wrong
    certificate = _certificate(host)
    watching = FileWatch(host) if watch else None
    tls = None if certificate is None else certificate.contexts
    listener = listen(server.host, server.port)
    file = None if server.socket_path is None else SocketFile(server.socket_path)
    url = server.host if file is not None else _url(listener, "http" if tls is None else "https")
    _warn(server)
    host.reloads.join(
        lambda config: Step() if config.server == host.config.server else Step(lambda: _warn(host.config.server)),
    )
    with _signals(host) as signals:
        up, stopped = asyncio.Event(), asyncio.Event()
        web = asyncio.create_task(_serve_http(host, listener, tls, up, stopped))
        looking = None if watching is None else asyncio.create_task(watching.run())
        try:
            async with exporting(host.history):
                await _run(host, web, up, signals, ready=lambda: None if on_ready is None else on_ready(url),
                           stopping=on_stop or (lambda: None))
        finally:
            stopped.set()
            if looking is not None:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
            # A client that does not read its answer must not delay the end of the server.
            await asyncio.wait([web], timeout=FLUSH_SECONDS + 1)
            web.cancel()
            await asyncio.gather(web, return_exceptions=True)
            if file is not None:
                file.remove()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; with port 0 the system chooses a port. Raises `ConfigError` with the reason.

    With "unix:PATH" as `host` it is a Unix socket, see `listen_at`.
    """
    if host.startswith(UNIX):
        return listen_at(Path(host.removeprefix(UNIX)), BACKLOG)
    name = host.strip("[]")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # "localhost" means 127.0.0.1 first: that is where clients look for it.
        family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        both = name == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except socket.gaierror as error:
        raise ConfigError(f"server.host: '{host}' is not an address of this machine: {error.strerror}") from error
    except OSError as error:
        way_out = "; stop the program that uses it, or choose another port (0 takes a free one)"
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}{way_out}") from error


async def _run(
    host: Host, web: asyncio.Task[None], up: asyncio.Event, signals: "asyncio.Queue[None]", *,
    ready: Callable[[], None], stopping: OnStop,
) -> None:
    """Start the host, wait for a signal, and close the host."""
    stop = asyncio.create_task(signals.get())
    start = asyncio.create_task(_start(host, up))
    running = [start, stop]
    try:
        await asyncio.wait([start, stop, web], return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
            ready()
            running.append(asyncio.create_task(host.examine()))
            await asyncio.wait([stop, web], return_when=asyncio.FIRST_COMPLETED)
        if web.done():
            web.result()
        stopping()
    finally:
        for task in running:
            task.cancel()
        await _close(host, signals)
        await asyncio.gather(*running, return_exceptions=True)


async def _start(host: Host, up: asyncio.Event) -> None:
    await host.start()
    await up.wait()


async def _close(host: Host, signals: "asyncio.Queue[None]") -> None:
    """Close the host; a further signal ends running requests at once."""
    closing = asyncio.create_task(host.close())
    hurry = asyncio.create_task(signals.get())
    await asyncio.wait([closing, hurry], return_when=asyncio.FIRST_COMPLETED)
    if not closing.done():
        await host.close(0)
    hurry.cancel()
    await closing


async def _serve_http(
    host: Host, listener: socket.socket, tls: Callable[[], ssl.SSLContext] | None, up: asyncio.Event,
    stopped: asyncio.Event,
) -> None:
    await host.warm()
    # Imported now, while the spare workers import their engines: Quart and Hypercorn take half a second.
    from lllms_core.app import create_app
    from lllms_core.web.server import serve_app

    yield_quickly()  # lets the event loop interrupt the thread that reads large bodies
    limits = ConnectionLimits(flush=FLUSH_SECONDS, connections=connections_for(raise_descriptor_limit()))
    app = create_app(host, manage_host=False)
    up.set()
    await serve_app(app, listener, stopped.wait, limits, tls)


def _url(listener: socket.socket, scheme: str) -> str:
    name, port = listener.getsockname()[:2]
    return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"


def _certificate(host: Host) -> "Certificate | None":
    if host.config.server.tls_certificate is None:
        return None
    from lllms_core.web.tls import Certificate  # imports Hypercorn, which takes a while

    certificate = Certificate(host.config.server)
    host.reloads.join(certificate.prepare)
    return certificate


def _warn(server: ServerConfig) -> None:
    """Log what lets others in."""
    if warning := exposed(server.api_keys_file):
        LOG.warning("%s", warning)
    if not server.has_keys and not is_loopback(server.host):
        LOG.warning("there are no API keys: whoever reaches %s port %d may use the models", server.host, server.port)


def terminal_is_gone() -> bool:
    """Whether this process has no terminal to which it belongs, or that was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return True
    return False


async def _reload(host: Host) -> None:
    with contextlib.suppress(LllmsError):  # the log says why
        await host.reload()


@contextlib.contextmanager
def _signals(host: Host) -> "Iterator[asyncio.Queue[None]]":
    """Collect the stop signals instead of their usual effects; only the main thread receives any.

    SIGHUP stops the server if its terminal was closed, as it stops any program, or if there is nothing to load again;
    from anything else, such as a service manager, it means a reload.
    """
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[None] = asyncio.Queue()
    numbers = STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.getsignal(number) for number in numbers}
    if previous.get(HANGUP) == signal.SIG_IGN:
        del previous[HANGUP]  # started by `nohup`

    had_terminal = HANGUP in previous and not terminal_is_gone()
    reloading: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(host))
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    def receive(number: int, _: object) -> None:
        hung_up = had_terminal and terminal_is_gone()
        if number == HANGUP and host.reloads.possible and not hung_up:
            loop.call_soon_threadsafe(reload)
        else:
            loop.call_soon_threadsafe(received.put_nowait, None)

    for number in previous:
        # Python's handlers run only when the main thread does: a signal that arrives just before the loop starts to
        # wait, or in another thread, is noticed only at the next event. The loop's handlers wake it, but on their own
        # miss a signal while much else wakes the loop. So the loop's handler wakes, and Python's does the work.
        with contextlib.suppress(NotImplementedError):  # on Windows any signal wakes a loop
            loop.add_signal_handler(number, _woken)
            signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)
        for task in reloading:
            task.cancel()


def _woken() -> None:
    """Nothing else to do: the wake-up is enough."""
