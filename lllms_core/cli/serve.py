"""`lllms serve`: the server, and its announcement when it is ready."""

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.setup import config_option, config_reader, examples, read_config, select, start_log

if TYPE_CHECKING:
    from lllms_core.config import Config, ServerConfig
    from lllms_core.host import Host
    from lllms_core.host.reloads import Step


@click.command(epilog=examples(
    "lllms serve",
    "lllms serve --model ./phi3.gguf --port 8080",
    "lllms serve --model hf:org/repo:Q4_K_M",
    "lllms serve --config lllms.toml --model phi3 --model mock",
))
@config_option
@click.option("--host", help="The address to listen on, or unix:PATH; by default 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port; by default 3000; 0: any free one.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME|FILE|SOURCE",
    help="Offer only this: a configured model, a plugin's own, a model file, or a source to fetch (hf:org/repo, "
    "https://...). May be given several times.",
)
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
    load the configuration again: only what has changed is touched.
    """
    from lllms_core.host import Host
    from lllms_core.plugins import Plugins

    flags = {"host": host, "port": port, "insecure": insecure, "log_level": "debug" if verbose else log_level}
    config = read_config(config_file, flags)
    start_log(config)
    plugins = Plugins.discover(disable=config.disabled_plugins)
    again = config_reader(config.path, flags)  # the file that was found stays the one
    llms = Host(select(config, plugins, models), plugins, read=lambda: select(again(), plugins, models))
    llms.reloads.join(lambda new: _follow(llms.config.server, new))
    asyncio.run(_serve(llms, watch_files=watch_files))


def _follow(before: "ServerConfig", config: "Config") -> "Step":
    """Return the step of a reload by which the log takes its settings."""
    from lllms_core.host.reloads import Step

    wanted = config.server.log_level, config.server.log_format
    same = wanted == (before.log_level, before.log_format)
    return Step((lambda: None) if same else (lambda: start_log(config)))


async def _serve(host: "Host", *, watch_files: bool = False) -> None:
    """Serve, and show the downloads before the server is ready."""
    from lllms_core.cli.startup import watch
    from lllms_core.serve import serve

    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watching = asyncio.create_task(watch(host, ready))

    async def announce_alone(address: str) -> None:
        ready.set_result(None)
        await watching
        announce(host, address)

    announcing: set[asyncio.Task[None]] = set()
    try:
        await serve(
            host, on_ready=lambda address: announcing.add(asyncio.create_task(announce_alone(address))),
            watch=watch_files,
        )
    finally:
        watching.cancel()
        await asyncio.gather(watching, *announcing, return_exceptions=True)


def announce(host: "Host", address: str) -> None:
    """Print the models, the address and an example request."""
    if sys.stdout.isatty():
        _announce_in_colour(host, address)
    else:
        for name, engine, plugin, description in _offers(host):
            click.echo(f"model {name}: engine {engine} of plugin {plugin}{f'; {description}' if description else ''}")
        for problem in _problems(host):
            click.echo(problem)
        click.echo(f"listening on {address}")
        if line := curl(host, address):
            click.echo(f"try: {line}")
        sys.stdout.flush()


def curl(host: "Host", address: str) -> str | None:
    """Return a shell line that chats with the first model; None if there are no models."""
    if not host.catalog.entries:
        return None
    body = {"model": host.catalog.entries[0].name, "messages": [{"role": "user", "content": "Hi!"}]}
    server = host.config.server
    where = [f"{address.rstrip('/')}/v1/chat/completions"]
    if server.socket_path is not None:
        where = ["--unix-socket", str(server.socket_path), "http://localhost/v1/chat/completions"]
    if server.tls_certificate is not None:
        where = ["--cacert", str(server.tls_certificate), *where]
    line = shlex.join(["curl", *where, "-H", "Content-Type: application/json", "-d", json.dumps(body)])
    return f'{line} -H "Authorization: Bearer $LLLMS_API_KEY"' if server.has_keys else line


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


def _announce_in_colour(host: "Host", address: str) -> None:
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
    if line := curl(host, address):
        # Printed verbatim: wrapped or coloured, it could not be copied.
        click.echo(f"\n{line}\n")
