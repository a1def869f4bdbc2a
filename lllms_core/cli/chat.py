"""`lllms chat`: a conversation in the terminal."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import click

from lllms_core.cli.answer_display import AnswerDisplay
from lllms_core.cli.completion import complete_models
from lllms_core.cli.generation_options import generation_options, open_voice, parameters
from lllms_core.cli.setup import examples
from lllms_core.cli.typed_lines import history_file, messages
from lllms_core.cli.voices import Voice
from lllms_core.errors import LllmsError
from lllms_core.machine import at_home
from lllms_core.types import Message

HELP = """/clear          forget the conversation
/system TEXT    start over with these instructions; without TEXT, with none
/model NAME     continue with another model; without NAME, say which one answers
/save FILE      write the conversation into a new file: as JSON if its name ends in .json, else as text
/exit           end (so do Ctrl-D, and Ctrl-C twice); Ctrl-C during an answer ends the answer
Alt-Enter, or a \\ at the end of a line, begins a new line; pasted lines are one message."""
COMMANDS = ("/clear", "/exit", "/help", "/model", "/save", "/system")


@click.command(epilog=examples(
    "lllms chat tiny-chat",
    'lllms chat ./phi3.gguf --system "You are Bob." --temperature 0',
    "lllms chat mock --url http://127.0.0.1:3000",
))
@click.argument("model", shell_complete=complete_models)
@click.option(
    "--no-history", is_flag=True, envvar="LLLMS_NO_HISTORY", show_envvar=True,
    help="Do not keep what you type; else it is kept in ~/.local/state/lllms/chat_history, for you alone.",
)
@generation_options
def chat(
    *,
    model: str,
    no_history: bool,
    system: str | None,
    no_thoughts: bool,
    verbose: bool,
    url: str | None,
    config_file: Path | None,
    **sampling: object,
) -> None:
    """Talk with MODEL; it remembers the conversation.

    MODEL is a configured model, a plugin's own, a model file, or NAME=FILE. /help lists the other inputs; lines may
    also be piped in.
    """
    def opened(model: str) -> Voice:
        voice = open_voice(model, url, config_file, verbose=verbose)
        try:
            voice.check()
        except BaseException:
            voice.close()
            raise
        return voice

    display = AnswerDisplay(model, thoughts=not no_thoughts, verbose=verbose)
    with Dialogue(opened, display, parameters(sampling), system) as dialogue:
        dialogue.hold(None if no_history else history_file(os.environ))


class Dialogue:
    """The conversation so far, and the loop that continues it."""

    def __init__(
        self, opened: Callable[[str], Voice], display: AnswerDisplay, sampling: Mapping[str, object],
        system: str | None,
    ) -> None:
        self._opened = opened
        self._display = display
        self._voice = opened(display.model)
        self._sampling = sampling
        self._system = system
        self._said: list[Message] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._voice.close()

    def hold(self, history: Path | None) -> None:
        """Take messages until input ends."""
        if sys.stdin.isatty():
            click.echo(f"{self._display.model}: type a message; /help lists the commands, Ctrl-D ends", err=True)
        for text in messages(COMMANDS, history):
            command, _, rest = text.strip().partition(" ")
            if command in {"/exit", "/quit"}:
                return
            try:
                self._take(text, command, rest.strip())
            except LllmsError as error:
                # Only this turn failed: the conversation continues without it.
                click.echo(f"Error: {error}", err=True)

    def _take(self, text: str, command: str, rest: str) -> None:
        match command:
            case "/clear":
                self._said = []
            case "/system":
                self._system, self._said = rest or None, []
            case "/help":
                click.echo(HELP)
            case "/model":
                self._change_model(rest)
            case "/save":
                self._save(rest)
            case _ if command.startswith("/") and command[1:].isalpha() and "\n" not in text:
                click.echo(f"no command {command}; /help lists them", err=True)
            case _ if command:
                self._answer(text)

    def _conversation(self) -> list[Message]:
        return [*([] if self._system is None else [Message("system", self._system)]), *self._said]

    def _answer(self, text: str) -> None:
        before = self._said
        self._said = [*before, Message("user", text)]
        try:
            self._display.show(self._voice.chat(self._conversation(), self._sampling))
        except KeyboardInterrupt:
            if not self._display.text:
                click.echo()
        except LllmsError:
            self._said = before
            if not self._display.text:
                click.echo()  # piped, there is a line for each message
            raise
        heard = self._display.text
        self._said = [*self._said, Message("assistant", heard)] if heard else before

    def _change_model(self, name: str) -> None:
        if name:
            voice = self._opened(name)  # raises if there is none, and the present one stays
            self._voice.close()
            self._voice, self._display.model = voice, name
        click.echo(f"model: {self._display.model}")

    def _save(self, name: str) -> None:
        if not name:
            click.echo("/save needs the name of a file, like /save talk.txt", err=True)
            return
        file = at_home(name)
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(_written(self._conversation(), self._display.model, as_json=file.suffix == ".json"))
        except OSError as error:
            click.echo(f"Error: {file} cannot be written: {error.strerror}; choose another name", err=True)
        else:
            click.echo(f"saved in {file}")


def _written(conversation: list[Message], model: str, *, as_json: bool) -> str:
    if as_json:
        said = [{"role": one.role, "content": one.content} for one in conversation]
        return json.dumps({"model": model, "messages": said}, indent=2, ensure_ascii=False) + "\n"
    return "\n\n".join(f"{one.role}: {one.content}" for one in conversation) + "\n"
