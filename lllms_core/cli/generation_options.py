"""The options shared by the commands that ask a model."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from lllms_core.cli.model_options import given_options, model_options
from lllms_core.cli.setup import api_key_option, config_option, given_key
from lllms_core.cli.unknown_models import consent_option
from lllms_core.cli.voices import LocalVoice, RemoteVoice, Voice

_OPTIONS: tuple[Callable[[Callable[..., None]], Callable[..., None]], ...] = (
    click.option("--system", metavar="TEXT", help="Instructions at the start of the conversation."),
    click.option("--max-tokens", type=click.IntRange(1), help="At most this many tokens in an answer."),
    click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token."),
    click.option("--top-p", type=click.FloatRange(0, 1), help="Keep the likeliest tokens up to this probability."),
    click.option("--top-k", type=click.IntRange(0), help="Keep this many of the likeliest tokens; 0 keeps all."),
    click.option("--min-p", type=click.FloatRange(0, 1), help="Drop tokens below this fraction of the likeliest one."),
    click.option("--repeat-penalty", type=float, help="Above 1: less repetition."),
    click.option("--seed", type=int, help="The same seed gives the same answer."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; up to four times."),
    model_options,
    click.option("--no-thoughts", is_flag=True, help="Do not show the model's thoughts, which only a terminal gets."),
    click.option("-v", "--verbose", is_flag=True, help="Show the load, and what each answer took, on stderr."),
    click.option("--url", metavar="URL", help="Ask this running server, instead of loading the model here."),
    consent_option,
    api_key_option,
    config_option,
)


def generation_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of sampling, of engines and of output, `--system`, `--url`, `--api-key` and `--config`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def parameters(given: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters that were given, under their names in the API."""
    said = {name: value for name, value in given.items() if value not in (None, ())}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}


def open_voice(model: str, url: str | None, config_file: Path | None, *, verbose: bool = False) -> Voice:
    """Return the voice that answers: a server if there is a URL, else the model, loaded in this process."""
    if url is not None:
        for flag, _ in given_options().values():
            raise click.UsageError(f"{flag} is for a model loaded here; with --url the server's configuration decides")
        return RemoteVoice(model, url, given_key())
    debug = bool(click.get_current_context().find_root().params.get("debug"))
    # Failures are reported as errors anyway.
    level = None if debug else "info" if verbose else "critical"
    voice = LocalVoice(model, config_file, log_level=level)
    logging.getLogger("lllms.requests").setLevel(logging.WARNING)  # whose lines would stand within the answer
    return voice
