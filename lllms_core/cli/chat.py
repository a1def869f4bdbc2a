"""`lllms chat`: a conversation in the terminal."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

import click

from lllms_core.cli.generation_options import generation_options, open_voice, parameters
from lllms_core.cli.setup import examples
from lllms_core.cli.voices import Voice
from lllms_core.errors import LllmsError
from lllms_core.types import Message

HELP = """/clear          forget the conversation
/system TEXT    start over with these instructions; without TEXT, with none
/exit           end (so do Ctrl-D, and Ctrl-C twice); Ctrl-C during an answer ends the answer"""


@click.command(epilog=examples(
    "lllms chat tiny-chat",
    'lllms chat ./phi3.gguf --system "You are Bob." --temperature 0',
    "lllms chat mock --url http://127.0.0.1:3000",
))
@click.argument("model")
@generation_options
def chat(model: str, system: str | None, url: str | None, config_file: Path | None, **sampling: object) -> None:
    """Talk with MODEL; it remembers the conversation.

    MODEL is a configured model, a plugin's own, or a model file. /help lists the other inputs; lines may also be piped
    in.
    """
    with open_voice(model, url, config_file) as voice:
        Dialogue(voice, parameters(sampling), system).hold()


class Dialogue:
    """The conversation so far, and the loop that continues it."""

    def __init__(self, voice: Voice, sampling: Mapping[str, object], system: str | None) -> None:
        self._voice = voice
        self._sampling = sampling
        self._system = system
        self._said: list[Message] = []

    def hold(self) -> None:
        """Take lines until input ends."""
        for line in lines():
            command, _, rest = line.strip().partition(" ")
            if command in {"/exit", "/quit"}:
                return
            if command == "/clear":
                self._said = []
            elif command == "/system":
                self._system, self._said = rest.strip() or None, []
            elif command == "/help":
                click.echo(HELP)
            elif command.startswith("/") and command[1:].isalpha():
                click.echo(f"no command {command}; /help lists them", err=True)
            elif command:
                self._answer(line)

    def _answer(self, text: str) -> None:
        before = self._said
        asked = [*before, Message("user", text)]
        system = [] if self._system is None else [Message("system", self._system)]
        heard = ""
        try:
            with closing(self._voice.chat([*system, *asked], self._sampling)) as pieces:
                for piece in pieces:
                    heard += piece
                    click.echo(piece, nl=False)
        except KeyboardInterrupt:
            click.echo(" (cancelled)", nl=False)
        except LllmsError as error:
            # Only this turn failed: the conversation continues without it.
            heard = ""
            click.echo(f"Error: {error}", nl=False, err=True)
        click.echo()
        self._said = [*asked, Message("assistant", heard)] if heard else before


def lines() -> Iterator[str]:
    """Yield the lines typed or piped in; Ctrl-D, or Ctrl-C twice, ends it."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    with suppress(ImportError):
        import readline  # noqa: F401  # makes input() a line editor, where the system has it
    interrupted = False
    while True:
        try:
            line = input("> ")
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
            yield line
