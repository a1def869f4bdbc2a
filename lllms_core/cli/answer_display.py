"""Shows an answer as it arrives: its text on stdout; progress and thoughts on stderr, if that is a terminal."""

import sys
from contextlib import closing
from typing import TYPE_CHECKING
from unicodedata import category

import click

from lllms_core.cli.figures import can_redraw
from lllms_core.cli.voices import Awaited, Pieces
from lllms_core.client import TextEvent, ThoughtsEvent, UsageEvent

if TYPE_CHECKING:
    from rich.status import Status

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class AnswerDisplay:
    """Shows the answers of a model, one after the other."""

    def __init__(self, model: str, *, thoughts: bool = True, verbose: bool = False) -> None:
        self.model = model
        self._thoughts = thoughts
        self._verbose = verbose
        self._person = sys.stderr.isatty()
        """Whether somebody watches stderr."""
        self._plain = not can_redraw(sys.stderr)
        """Whether the terminal takes no escape sequences."""
        self._status: Status | None = None
        self._thinking = False
        self.text = ""
        """What was heard of the answer."""

    def show(self, pieces: Pieces) -> None:
        """Show an answer to its end, and end its line; raises what the answer raises, after the end of a line begun."""
        self.text, usage = "", None
        try:
            with closing(pieces):
                self._wait(f"waiting for {self.model}")
                for piece in pieces:
                    match piece:
                        case Awaited(text):
                            self._wait(text)
                        case ThoughtsEvent(text):
                            self._think(text)
                        case TextEvent(text) if text:
                            self._say(text)
                        case UsageEvent():
                            usage = piece
        except BaseException as error:
            self._end_wait()
            self._end_thoughts()
            if self._person and isinstance(error, KeyboardInterrupt):
                click.echo(" (cancelled)", nl=False, err=True)
            if self.text:
                click.echo()
            raise
        self._end_wait()
        self._end_thoughts()
        click.echo()
        if self._verbose and usage is not None:
            click.echo(figures(usage), err=True)

    def _say(self, text: str) -> None:
        self._end_wait()
        self._end_thoughts()
        self.text += text
        click.echo(harmless(text) if sys.stdout.isatty() else text, nl=False, color=True)  # else codes are removed

    def _think(self, text: str) -> None:
        if not self._thoughts or not self._person:
            self._wait("thinking")
            return
        self._end_wait()
        if not self._thinking and self._plain:
            sys.stderr.write("(thinking) ")
        self._thinking = True
        shown = harmless(text)
        sys.stderr.write(shown if self._plain else f"{_DIM}{shown}{_PLAIN}")
        sys.stderr.flush()

    def _end_thoughts(self) -> None:
        if self._thinking:
            self._thinking = False
            sys.stderr.write("\n\n")
            sys.stderr.flush()

    def _wait(self, text: str) -> None:
        """Show what the answer waits for, in a line that disappears."""
        if not self._person or self._plain or self._verbose or self.text or self._thinking:
            return
        if self._status is not None:
            self._status.update(_line(text))
            return
        from rich.console import Console

        self._status = Console(stderr=True).status(_line(text), spinner="line")  # a spinner in ASCII
        self._status.start()

    def _end_wait(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def figures(usage: UsageEvent) -> str:
    """Describe what an answer took."""
    seconds = usage.timings
    speed = usage.completion_tokens / seconds["answer"] if seconds.get("answer") else 0
    parts = [f"{usage.completion_tokens} tokens in {seconds.get('answer', 0):.2f} s"]
    parts += [f"{speed:.1f} tokens/s"] if speed else []
    parts += [f"{usage.reasoning_tokens} of them thoughts"] if usage.reasoning_tokens else []
    cached = f", {usage.cached_tokens} of them cached" if usage.cached_tokens else ""
    parts += [f"prompt: {usage.prompt_tokens} tokens{cached}, {seconds.get('prompt', 0):.2f} s"]
    parts += [f"load {seconds['load']:.2f} s"] if seconds.get("load") else []
    return ", ".join(parts)


def harmless(text: str) -> str:
    """Escape the control characters of a model's text, which could command the terminal."""
    return "".join(one if one in "\n\t" or category(one) != "Cc" else ascii(one)[1:-1] for one in text)


def _line(text: str) -> str:
    from rich.markup import escape

    return f"[dim]{escape(harmless(text))}"
