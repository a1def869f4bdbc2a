"""`lllms serve`: the server, and its announcement when it is ready."""

import asyncio
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.completion import complete_models
from lllms_core.cli.model_options import given_options, model_options, with_given
from lllms_core.cli.setup import config_option, config_reader, examples, read_config, select, start_log
from lllms_core.machine import host_and_port, passed_listener

if TYPE_CHECKING:
    import socket

    from lllms_core.config import Config, ServerConfig
    from lllms_core.host import Host
    from lllms_core.host.reloads import Step

LOG = logging.getLogger("lllms.serve")


@click.command(epilog=examples(
    "lllms serve",
    "lllms serve --model phi=./phi3.gguf --port 8080 --context 8192 --slots 2",
    "lllms serve --model hf:org/repo:Q4_K_M",
    "lllms serve --config lllms.toml --model phi3 --model mock",
))
@config_option
@click.option("--host", help="The address to listen on, or unix:PATH; by default 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port; by default 3000; 0: any free one.")
@click.option(
    "--model", "models", multiple=True, metavar="[NAME=]MODEL", shell_complete=complete_models,
    help="Offer only this: a configured model, a plugin's own, a model file, or a source to fetch (hf:org/repo, "
    "https://...); NAME=MODEL gives it another name. May be given several times.",
)
@model_options
@click.option(
    "--insecure", "--allow-remote", "insecure", is_flag=True, default=None,
    help="Allow a --host that other machines can reach without API keys.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="By default info.")
@click.option("-v", "--verbose", is_flag=True, help="Log each step of each request: --log-level debug.")
@click.option(
    "--watch", "watch_files", is_flag=True,
    help="Load the configuration again whenever it changes, or a file of keys or certificates that it names.",
)
def serve(
    *,
    config_file: Path | None,
    host: str | None,
    port: int | None,
    models: tuple[str, ...],
    insecure: bool | None,
    log_level: str | None,
    verbose: bool,
    watch_files: bool,
) -> None:
    """Serve models through the OpenAI API, until Ctrl-C.

    Without a configuration, it offers the models that the installed plugins provide. SIGHUP and `lllms reload` make it
    load the configuration again: only what has changed is touched. A socket that a service manager passes takes the
    place of --host and --port.
    """
    from lllms_core.host import Host
    from lllms_core.plugins import Plugins

    listener = passed_listener()
    place = {"host": host, "port": port} if listener is None else host_and_port(listener)
    flags = {**place, "insecure": insecure, "log_level": "debug" if verbose else log_level}
    config = read_config(config_file, flags)
    start_log(config)
    plugins = Plugins.discover(disable=config.disabled_plugins)
    again = config_reader(config.path, flags)  # the file that was found stays the one
    given = partial(with_given, plugins=plugins, given=given_options())
    llms = Host(given(select(config, plugins, models)), plugins, read=lambda: given(select(again(), plugins, models)))
    llms.reloads.join(lambda new: _follow(llms.config.server, new))
    asyncio.run(_serve(llms, listener, watch_files=watch_files))


def _follow(before: "ServerConfig", config: "Config") -> "Step":
    """Return the step of a reload by which the log takes its settings."""
    from lllms_core.host.reloads import Step

    wanted = config.server.log_level, config.server.log_format
    return Step() if wanted == (before.log_level, before.log_format) else Step(lambda: start_log(config))


async def _serve(host: "Host", listener: "socket.socket | None", *, watch_files: bool = False) -> None:
    """Serve, and show the downloads before the server is ready."""
    from lllms_core.cli.startup import watch
    from lllms_core.serve import serve

    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watching = asyncio.create_task(watch(host, ready))

    async def announce_alone(address: str) -> None:
        ready.set_result(None)
        await watching
        await announce(host, address)
        await _look_closer(host)

    announcing: set[asyncio.Task[None]] = set()
    try:
        await serve(
            host, on_ready=lambda address: announcing.add(asyncio.create_task(announce_alone(address))),
            on_stop=lambda: _tell_stop(host), watch=watch_files, listener=listener,
        )
    finally:
        for task in (watching, *announcing):
            task.cancel()
        await asyncio.gather(watching, *announcing, return_exceptions=True)


async def announce(host: "Host", address: str) -> None:
    """Print the models, the address and an example request."""
    from lllms_core.cli.first_request import suggest

    line = await suggest(host, address) or "lllms check  # says why no model can be asked"
    if sys.stdout.isatty():
        _announce_in_colour(host, address, line)
    else:
        for name, engine, plugin, description in _offers(host):
            click.echo(f"model {name}: engine {engine} of plugin {plugin}{f'; {description}' if description else ''}")
        for problem in _problems(host):
            click.echo(problem)
        click.echo(f"listening on {address}")
        click.echo(f"try: {line}")
        sys.stdout.flush()


async def _look_closer(host: "Host") -> None:
    """Log on what the engines compute; this may ask drivers, so it comes last."""
    from lllms_core.cli.inspection import hardware_of

    engines = {entry.engine.name: entry.engine for entry in host.catalog.entries}
    for name, engine in engines.items():
        if about := await asyncio.to_thread(hardware_of, engine):
            LOG.info("engine %s computes on %s", name, about)


def _tell_stop(host: "Host") -> None:
    from lllms_core.cli.farewell import farewell

    if sys.stderr.isatty():
        click.echo(f"\n{farewell(host)}", err=True)
    else:
        LOG.info("%s", farewell(host))


def _offers(host: "Host") -> list[tuple[str, str, str, str]]:
    return [
        (", ".join([entry.name, *entry.aliases]), entry.engine.name, entry.plugin, entry.description)
        for entry in host.catalog.entries
    ]


def _problems(host: "Host") -> list[str]:
    problems = [f"model {problem.name} is not offered: {problem.text}" for problem in host.catalog.problems]
    problems += [f"plugin {report.name}: {report.error}" for report in host.plugins.reports if report.error]
    if not host.catalog.entries:
        problems.append("no model is offered: configure one in lllms.toml, or install a plugin that provides one")
    return problems


def _announce_in_colour(host: "Host", address: str, line: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table("model", "engine", "from plugin", "", box=None, pad_edge=False, header_style="dim")
    for name, engine, plugin, description in _offers(host):
        table.add_row(f"[bold]{escape(name)}", escape(engine), escape(plugin), f"[dim]{escape(description)}")
    console.print(table)
    for problem in _problems(host):
        console.print(f"[yellow]{escape(problem)}")
    console.print(f"\nlistening on [bold cyan]{escape(address)}[/]  (Ctrl-C ends)")
    # Printed verbatim: wrapped or coloured, it could not be copied.
    click.echo(f"\n{line}\n")
