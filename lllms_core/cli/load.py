"""`lllms load`: load models in a running server."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import click

from lllms_core.cli.figures import printable
from lllms_core.cli.setup import config_option, connect, examples, server_options

if TYPE_CHECKING:
    from rich.progress import Progress

ROUTE = "/api/v1/models"
_SILENCE = 60.0
"""Seconds without a word from the server after which it is given up; it sends one every few seconds."""


class _Shown(Protocol):
    def show(self, event: Mapping[str, Any]) -> None:
        """Show what a load waits for, or how far it is."""


@click.command(epilog=examples(
    "lllms load phi3",
    "lllms load phi3 --ttl 1h",
    "lllms load phi3 tiny-chat --url http://127.0.0.1:8080",
))
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--ttl", metavar="TIME",
    help="How long each may be idle before it is unloaded: seconds, or like 5m or 1h30m; -1 for ever; by default as "
    "its configuration says.",
)
@server_options
@config_option
def load(models: tuple[str, ...], ttl: str | None, url: str | None, config_file: Path | None) -> None:
    """Load MODELS in a running server, one after the other, and return when they are ready for requests.

    Files that are missing are fetched. After a failed load this tries again at once, where requests would be refused
    for a while; a model that is loaded stays so. Ctrl-C gives up waiting, and keeps the bytes received.
    """
    client = connect(url, config_file, timeout=_SILENCE)
    for name in models:
        body = {} if ttl is None else {"ttl": ttl}
        click.echo(_follow(name, client.stream(f"{ROUTE}/{quote(name, safe='')}/load", body)))


def _follow(name: str, events: Iterable[Mapping[str, Any]]) -> str:
    """Show the progress of a load, and return a line about its end."""
    from lllms_core.client import ServerError

    with _display(name) as shown:
        for event in events:
            if event.get("state") == "loaded":
                took = f" in {event['seconds']:.1f} s" if event["seconds"] else ""
                return f"{event['model']}: loaded{took}, instance {event['instance']}"
            shown.show(event)
    raise ServerError(f"the server ended its answer before {name} was loaded")


@contextmanager
def _display(name: str) -> Iterator[_Shown]:
    """Show progress on stderr: a bar on a terminal, else a line for each new state and each tenth."""
    if not sys.stderr.isatty():
        yield _Lines(name)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[about]}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, escape(printable(name)))


class _Lines:
    def __init__(self, name: str) -> None:
        self._name = name
        self._told: object = None

    def show(self, event: Mapping[str, Any]) -> None:
        """Print what is new."""
        news = event["state"], int(10 * (event["progress"] or 0)), event["position"], event["reason"]
        if news != self._told:
            self._told = news
            click.echo(printable(f"{self._name}: {event['text']}"), err=True)


class _Bar:
    def __init__(self, progress: "Progress", name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=None, about="")

    def show(self, event: Mapping[str, Any]) -> None:
        """Move the bar."""
        from rich.markup import escape

        done = event["progress"]
        total = None if done is None else 1.0
        self._progress.update(self._task, total=total, completed=done or 0.0, about=escape(printable(event["text"])))
