"""A real server for tests of programs that use one: plain code, without an event loop in the test."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

from lllms_core.config import parse_config
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.serve import serve


@contextmanager
def running_server(
    models: Mapping[str, object] | None = None, plugins: Mapping[str, object] | None = None, **server: object,
) -> Iterator[str]:
    """Serve in a thread of this process, on a free port of 127.0.0.1; yields the URL.

        with running_server({"bot": {"engine": "mock"}}) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")

    `models` are tables as in a configuration, `server` holds keys of `[server]`, and `plugins` are modules or objects
    with hooks, by name, beside the installed ones. Workers are processes or threads as the models' engines say; leaving
    the block ends them all. Raises `ConfigError`.
    """
    config = parse_config({"server": {"port": 0, "shutdown_timeout": 0, **server}, "models": models or {}})
    with running_host(Host(config, Plugins.discover(disable=config.disabled_plugins, extra=plugins))) as url:
        yield url


@contextmanager
def running_host(host: Host) -> Iterator[str]:
    """Serve a host in a thread of this process, as `running_server` does; yields the URL."""
    ready: Future[str] = Future()
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(host, on_ready=ready.set_result))
    task.add_done_callback(lambda done: None if ready.done() else ready.set_exception(_reason(done)))
    thread = threading.Thread(target=_run, args=(loop, task), name="lllms-server")
    thread.start()
    try:
        yield ready.result()
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    asyncio.set_event_loop(loop)
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))


def _reason(task: "asyncio.Task[None]") -> BaseException:
    return RuntimeError("the server was stopped") if task.cancelled() else task.exception() or RuntimeError("it ended")
