"""`lllms run`: one answer."""

import sys
from pathlib import Path

import click

from lllms_core.cli.answer_display import AnswerDisplay
from lllms_core.cli.completion import complete_models
from lllms_core.cli.generation_options import generation_options, open_voice, parameters
from lllms_core.cli.setup import examples
from lllms_core.types import Message


@click.command(epilog=examples(
    'lllms run tiny-chat "Count to 5."',
    "lllms run ./phi3.gguf - --max-tokens 200 < question.txt",
    'lllms run ./phi3.gguf "Hi!" --context 8192 --gpu-layers 20 -o kv_type_k=q8_0',
    'lllms run tiny-chat --raw "Once upon a time" --temperature 0',
    'lllms run hf:org/repo:Q4_K_M "Hi!"',
    'lllms run tiny-chat "Hi!" --url http://127.0.0.1:3000',
))
@click.argument("model", shell_complete=complete_models)
@click.argument("prompt", nargs=-1)
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text, without a chat.")
@generation_options
def run(
    *,
    model: str,
    prompt: tuple[str, ...],
    raw: bool,
    system: str | None,
    no_thoughts: bool,
    verbose: bool,
    url: str | None,
    config_file: Path | None,
    **sampling: object,
) -> None:
    """Write MODEL's answer to PROMPT to stdout, as it comes; progress and thoughts go to a terminal only.

    MODEL is a configured model, a plugin's own, a model file, or a source to fetch (hf:org/repo). PROMPT may be - to
    read stdin, as it is by default if that is a pipe.
    """
    if raw and system is not None:
        raise click.UsageError("--system is only for a chat, which --raw is not; put the text into PROMPT")
    text = _text(model, prompt)
    display = AnswerDisplay(model, thoughts=not no_thoughts, verbose=verbose)
    with open_voice(model, url, config_file, verbose=verbose) as voice:
        if raw:
            pieces = voice.complete(text, parameters(sampling))
        else:
            messages = [] if system is None else [Message("system", system)]
            pieces = voice.chat([*messages, Message("user", text)], parameters(sampling))
        display.show(pieces)


def _text(model: str, prompt: tuple[str, ...]) -> str:
    """Return the prompt: the words given, or what is piped in."""
    if prompt not in {(), ("-",)}:
        return " ".join(prompt)
    text = "" if not prompt and sys.stdin.isatty() else sys.stdin.read()
    if not prompt and not text.strip():
        raise click.UsageError(
            f"Missing argument 'PROMPT': give a text, or - to read it from stdin; to talk: lllms chat {model}",
        )
    return text
