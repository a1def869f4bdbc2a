"""Several downloads or verifications at once, with visible progress."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

import click
from attrs import field, frozen
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lllms_core.cli.figures import can_redraw, printable, printable_lines
from lllms_core.errors import DownloadCancelled, LllmsError
from lllms_core.status import DownloadStatus, moved, progress_text
from lllms_core.store import Download, StoredModel

AT_ONCE = 4
_END_SECONDS = 3.0
"""After Ctrl-C, transfers get this long to record what they have; one that waits for a server does not notice it."""
_LOOK_SECONDS = 0.2
_LINE_SECONDS = 30.0
"""Without a terminal, a line is printed at each tenth, and after this long in any case."""
_NAME, _ABOUT, _BAR = 28, 46, (6, 40)
"""Terminal columns for the names, for the text about each, and for the bars: at least and at most."""
_INTERRUPTED = 130
"""The exit code of programs that Ctrl-C has ended."""


@frozen
class Transfer:
    """One job."""

    name: str
    work: Callable[[Download], StoredModel]
    done: Callable[[StoredModel], str]
    """The line to print when it is done."""
    download: Download = field(init=False)

    @download.default
    def _watched(self) -> Download:
        return Download(self.name)


class Display(Protocol):
    """Shows the progress of transfers, and their results."""

    def note(self, text: str) -> None:
        """Show a remark at once."""

    def show(self, name: str, status: DownloadStatus) -> None:
        """Show the state of one transfer; called several times a second."""

    def tell(self, text: str, *, error: bool = False) -> None:
        """Show a line that stays."""


def carry_out(transfers: Sequence[Transfer]) -> None:
    """Carry out all transfers, some at once; results go to stdout, errors and progress to stderr.

    Exits with code 1 if any failed, and with 130 after Ctrl-C, which keeps the bytes received.
    """
    failed = False
    running: dict[Future[StoredModel], Transfer] = {}
    with display() as shown:
        try:
            _start(transfers, running)
            for future in _as_they_end(running, shown):
                transfer = running.pop(future)
                try:
                    shown.tell(transfer.done(future.result()))
                except (LllmsError, OSError) as error:
                    failed = True
                    shown.tell(_fault(transfer.name, error), error=True)
        except KeyboardInterrupt:
            _cancel(running, shown)
            raise click.exceptions.Exit(_INTERRUPTED) from None
    if failed:
        raise click.exceptions.Exit(1)


def _start(transfers: Sequence[Transfer], running: dict[Future[StoredModel], Transfer]) -> None:
    """Start the transfers, in threads that do not keep the program alive, and add them to `running`."""
    jobs: SimpleQueue[tuple[Future[StoredModel], Transfer]] = SimpleQueue()

    def work() -> None:
        with suppress(Empty):
            while True:
                future, transfer = jobs.get_nowait()
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(transfer.work(transfer.download))
                except BaseException as error:  # noqa: BLE001  # raised where the result is taken
                    future.set_exception(error)

    running.update((Future(), one) for one in transfers)
    for job in running.items():
        jobs.put(job)
    for _ in range(min(AT_ONCE, len(running))):
        Thread(target=work, name="lllms transfer", daemon=True).start()


def _fault(name: str, error: BaseException) -> str:
    return f"Error: {error}" if name in str(error) else f"Error: {name}: {error}"


def _short(name: str) -> str:
    """Return the end of a long name, which is more telling than its start."""
    return name if len(name) <= _NAME else f"…{name[1 - _NAME:]}"


def _as_they_end(running: dict[Future[StoredModel], Transfer], display: Display) -> Iterator[Future[StoredModel]]:
    noted: set[str] = set()
    while running:
        ended, _ = wait(running, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        for transfer in running.values():
            status = transfer.download.status
            if status.note and transfer.name not in noted:
                noted.add(transfer.name)
                display.note(f"{transfer.name}: {status.note}")
            display.show(transfer.name, status)
        yield from ended


def _cancel(running: dict[Future[StoredModel], Transfer], display: Display) -> None:
    for future, transfer in running.items():
        future.cancel()
        transfer.download.cancel()
    ended, _ = wait(running, _END_SECONDS)
    for future, transfer in running.items():
        error = future.exception() if future in ended and not future.cancelled() else None
        if error is not None and not isinstance(error, DownloadCancelled):
            display.tell(_fault(transfer.name, error), error=True)
    display.tell("interrupted; the bytes received are kept, and the next attempt resumes there", error=True)


@contextmanager
def display() -> Iterator[Display]:
    """Show progress on stderr: bars on a terminal that can redraw them, else a line now and then."""
    if not can_redraw(sys.stderr):
        yield _Lines()
        return
    from rich.console import Console

    console = Console(stderr=True)
    bar = BarColumn(max(_BAR[0], min(_BAR[1], console.width - _NAME - _ABOUT)))
    columns = TextColumn("{task.description}"), bar, TextColumn("{task.fields[about]}")
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as progress:
        bars = _Bars(progress)
        try:
            yield bars
        finally:
            progress.stop()
            bars.finish()


class _Lines:
    """An occasional line for each transfer: for logs and pipes."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, int, float]] = {}

    def note(self, text: str) -> None:
        """Print it at once."""
        click.echo(printable(text), err=True)

    def show(self, name: str, status: DownloadStatus) -> None:
        """Print a new state, and progress."""
        tenth = 10 * moved(status) // status.total if status.total else 0
        state, before, since = self._told.get(name, ("starting", 0, time.monotonic()))
        news = (status.state, tenth) != (state, before) or time.monotonic() - since > _LINE_SECONDS
        if news and status.state not in {"done", "failed"}:
            self._told[name] = status.state, tenth, time.monotonic()
            share = f"{moved(status) / status.total:.0%}, " if status.total else ""
            click.echo(f"{printable(name)}: {share}{progress_text(status)}", err=True)

    def tell(self, text: str, *, error: bool = False) -> None:
        """Print it at once."""
        click.echo(printable_lines(text), err=error)


class _Bars:
    """A bar for each transfer; permanent lines are printed after the bars."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._lines: list[tuple[str, bool]] = []

    def note(self, text: str) -> None:
        """Print it above the bars."""
        self._progress.console.print(escape(printable(text)), highlight=False)

    def show(self, name: str, status: DownloadStatus) -> None:
        """Move the bar."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(escape(_short(printable(name))), total=None, about="")
        ended = status.state in {"done", "failed"}
        about = status.state if ended else progress_text(status)
        completed = status.total if status.state == "done" else moved(status)
        self._progress.update(self._tasks[name], completed=completed, total=status.total, about=about)

    def tell(self, text: str, *, error: bool = False) -> None:
        """Keep it for the end."""
        self._lines.append((text, error))

    def finish(self) -> None:
        """Print the lines kept."""
        for text, error in self._lines:
            click.echo(printable_lines(text), err=error)
