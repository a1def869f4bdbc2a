"""The messages typed at a prompt, with a history, or piped in line by line."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.figures import can_redraw
from lllms_core.machine import at_home

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PROMPT = "> "
MOST_HISTORY = 1 << 20
"""Bytes of the history; a larger file loses its older half when a chat begins."""


def history_file(environ: Mapping[str, str]) -> Path:
    """Return where the history is kept: in the user's folder for the state of programs."""
    return at_home(environ.get("XDG_STATE_HOME") or "~/.local/state") / "lllms" / "chat_history"


def messages(commands: Sequence[str], history: Path | None) -> Iterator[str]:
    """Yield what is typed or piped in; Ctrl-D, or Ctrl-C twice, ends it.

    At a prompt, pasted lines are one message, and the words of `commands` are completed. What is typed is kept in the
    file `history`, which only its user can read; None: nothing is kept.
    """
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    ask = _session(commands, history) if can_redraw(sys.stdout) else None
    interrupted = False
    while True:
        try:
            text = input(PROMPT) if ask is None else ask.prompt(PROMPT)
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            if interrupted:
                return
            interrupted = True
            click.echo("(Ctrl-C again, or /exit, ends)")
        else:
            interrupted = False
            yield text


def _session(commands: Sequence[str], history: Path | None) -> "PromptSession[str]":
    # The place of the cursor, which the library would ask the terminal for, may be answered into the next program.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.shortcuts import CompleteStyle

    return PromptSession(
        history=_history(history), key_bindings=_keys(), prompt_continuation="  ", reserve_space_for_menu=0,
        completer=WordCompleter(sorted(commands), sentence=True), complete_style=CompleteStyle.READLINE_LIKE,
        complete_while_typing=False,
    )


def _keys() -> "KeyBindings":
    """Let Alt-Enter, and Enter after a backslash, begin a new line."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def add_line(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def enter(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return keys


def _history(file: Path | None) -> "History":
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if file is None:
        return InMemoryHistory()
    try:
        _make_private(file)
    except OSError as error:
        click.echo(f"Warning: the history is not kept: {file}: {error.strerror}", err=True)
        return InMemoryHistory()
    return FileHistory(str(file))


def _make_private(file: Path) -> None:
    """Create the file of the history for its user alone, or shorten it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "rb+") as stream:
        os.fchmod(stream.fileno(), 0o600)
        data = stream.read()
        if len(data) > MOST_HISTORY:
            kept = data[data.find(b"\n\n#", len(data) // 2) + 1 :]
            stream.seek(0)
            stream.truncate()
            stream.write(kept)
