"""`lllms load`: load models in a running server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from lllms_core.cli.completion import complete_models
from lllms_core.cli.figures import can_redraw, printable
from lllms_core.cli.setup import config_option, connect, examples, server_options

if TYPE_CHECKING:
    from rich.progress import Progress

    from lllms_core.client import LoadStep

_SILENCE = 60.0
"""Seconds without a word from the server after which it is given up; it sends one every few seconds."""


class _Shown(Protocol):
    def show(self, step: "LoadStep") -> None:
        """Show what a load waits for, or how far it is."""


@click.command(epilog=examples(
    "lllms load phi3",
    "lllms load phi3 --ttl 1h",
    "lllms load phi3 tiny-chat --url http://127.0.0.1:8080",
))
@click.argument("models", nargs=-1, required=True, shell_complete=complete_models)
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
        with _display(name) as shown:
            loaded = client.load(name, ttl=ttl, on_progress=shown.show)
        took = f" in {loaded.seconds:.1f} s" if loaded.seconds else ""
        click.echo(f"{loaded.model}: loaded{took}, instance {loaded.instance}")


@contextmanager
def _display(name: str) -> Iterator[_Shown]:
    """Show progress on stderr: a bar on a terminal that redraws, else a line for each new state and each tenth."""
    if not can_redraw(sys.stderr):
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

    def show(self, step: "LoadStep") -> None:
        """Print what is new."""
        news = step.state, int(10 * (step.progress or 0)), step.position, step.reason
        if news != self._told:
            self._told = news
            click.echo(printable(f"{self._name}: {step.text}"), err=True)


class _Bar:
    def __init__(self, progress: "Progress", name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=None, about="")

    def show(self, step: "LoadStep") -> None:
        """Move the bar."""
        from rich.markup import escape

        done = step.progress
        total = None if done is None else 1.0
        self._progress.update(self._task, total=total, completed=done or 0.0, about=escape(printable(step.text)))
