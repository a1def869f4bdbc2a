"""A name that no model here has: the catalogue's model of that name, if the user agrees, or advice."""

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from lllms_core.curated import CuratedModel, Space, curated_models, is_named, known_model, needed, ranked
from lllms_core.errors import ModelUnknown
from lllms_core.values.sizes import human_size
from lllms_core.values.violations import closest

if TYPE_CHECKING:
    from lllms_core.config import Config
    from lllms_core.plugins import Plugins
    from lllms_core.store import Store

YES = "lllms.yes"
"""The key in a command's context for whether `--yes` was given; other commands than those that may fetch lack it."""
MOST = 3
"""Models of a kind that an error names."""
BEGIN = 6_000_000_000
"""Bytes of the largest model that is proposed to somebody who has named none that we know: larger ones are slow."""


def consent_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--yes`, for commands that may fetch a model of the catalogue."""
    return click.option(
        "-y", "--yes", is_flag=True, expose_value=False, callback=_remember,
        help="Fetch a model of the catalogue (lllms models --catalog) without asking.",
    )(function)


def _remember(context: click.Context, _: click.Parameter, yes: bool) -> None:
    context.meta[YES] = yes


def curated_source(wanted: str, config: "Config", plugins: "Plugins", store: "Store", names: Iterable[str]) -> str:
    """Return the source of the catalogue's model of this name, if its files are here, or the user agrees to fetch them.

    Raises `ModelUnknown`, with the `names` that there are and the way to others.
    """
    from lllms_core.catalog import loads_gguf
    from lllms_core.cli.suggestions import is_here, machine_space

    model = known_model(wanted)
    if model is not None and loads_gguf(plugins):
        if is_here(model.source, store):
            return model.source
        context = click.get_current_context(silent=True)
        yes = None if context is None or store.offline else context.meta.get(YES)
        if yes or (yes is not None and sys.stdin.isatty()):
            _ask(wanted, model, machine_space(config, plugins), yes=yes)
            return model.source
    raise ModelUnknown("\n".join(_advice(wanted, names, config, plugins, store)))


def _ask(wanted: str, model: CuratedModel, space: Space, *, yes: bool) -> None:
    """Say what would be fetched, and end the program unless the user agrees."""
    for line in _told(wanted, model, space):
        click.echo(line, err=True)
    if not yes:
        click.confirm("Fetch it?", abort=True, err=True)


def _told(wanted: str, model: CuratedModel, space: Space) -> Iterator[str]:
    """Yield the facts that a user needs to agree."""
    from lllms_core.store.other_programs import find_ollama

    for found in find_ollama().models:
        if known_model(found.name) is model:
            yield f"Ollama has this model: {found.source} can be used without fetching anything"
    yield f"'{wanted}' is not here. The catalogue has {model.summary},"
    yield f"good at: {model.good_at}; from {model.source}"
    if not space.holds(model.size):
        yield f"Warning: {_too_large(model, space)}"


def _too_large(model: CuratedModel, space: Space) -> str:
    room = "" if space.most is None else f", and models may use {human_size(space.most)} here"
    return f"{model.name} does not fit: it takes about {human_size(needed(model.size))} of memory{room}"


def _advice(
    wanted: str, names: Iterable[str], config: "Config", plugins: "Plugins", store: "Store",
) -> Iterator[str]:
    """Yield the lines of the error: the models here and in other programs, and commands that fetch others."""
    from lllms_core.catalog import loads_gguf, way_to_engine
    from lllms_core.cli.suggestions import machine_space
    from lllms_core.store.other_programs import find_models

    there = sorted(names)
    close = closest(wanted, there)
    meant = f" (did you mean '{close}'?)" if close else ""
    failed = "".join(f"; plugin '{report.name}' failed: {report.error}" for report in plugins.reports if report.error)
    yield (
        f"no model '{wanted}'{meant}, and it is neither a file nor a source like hf:org/repo; "
        f"there are: {', '.join(there) or 'none'}{failed}"
    )
    if is_repository(wanted):
        yield f"if that is a repository of the Hugging Face Hub: {_command(f'hf:{wanted}')}"
    for found in [one for one in find_models().models if is_named(wanted, one.name)][:MOST]:
        yield f"on this machine, of {found.place}: {_command(found.source)}"
    space = machine_space(config, plugins)
    matches = ranked(wanted, curated_models(), space)
    if matches and not space.holds(matches[0].size):
        yield _too_large(matches[0], space)
    fitting = [model for model in matches if space.holds(model.size)][:MOST]
    fitting = fitting or proposed(curated_models(), space)
    if fitting:
        yield "models to fetch that fit this machine:"
    for model in fitting:
        yield f"  {_command(model.source, chats=model.task == 'chat')}  ({model.summary})"
    known = known_model(wanted)
    context = click.get_current_context(silent=True)
    if store.offline:
        yield "offline mode is on, so nothing can be fetched now"
    elif known in fitting and known is not None and context is not None and YES in context.meta:
        yield f"--yes fetches {known.name} without asking"
    if not loads_gguf(plugins):
        yield f"no engine here loads such files: {way_to_engine(plugins)}"
    yield f"more: lllms search {shlex.quote(wanted)}, lllms models --catalog"


def is_repository(wanted: str) -> bool:
    """Whether a name may be a repository of the hub without its scheme: `org/repo`, `org/repo:Q4_K_M`."""
    return re.fullmatch(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?", wanted, re.ASCII) is not None


def proposed(models: Sequence[CuratedModel], space: Space) -> list[CuratedModel]:
    """Return the model to begin with on this machine, if any fits: for chats, and not so large that it is slow."""
    fitting = [
        model for model in models if model.task == "chat" and "code" not in model.words and model.size <= BEGIN
        and (space.most is None or 2 * needed(model.size) <= space.most)
    ]
    return [max(fitting, key=lambda model: model.size)] if fitting else []


def _command(source: str, *, chats: bool = True) -> str:
    """Return the line by which the current command takes a source; one that cannot chat is served."""
    context = click.get_current_context(silent=True)
    name = "pull" if context is None else context.info_name
    form = {"run": "lllms run {} PROMPT", "chat": "lllms chat {}", "serve": "lllms serve --model {}"}
    if not chats:
        form["run"] = form["chat"] = form["serve"]
    return form.get(name or "", "lllms pull {}").format(shlex.quote(source))
