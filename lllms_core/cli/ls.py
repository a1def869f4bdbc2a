"""`lllms ls`: the models, and which of them are on this disk."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.figures import count_text, printable
from lllms_core.cli.setup import config_option, examples, read_config
from lllms_core.downloads import shown
from lllms_core.values.sizes import human_size, human_time

if TYPE_CHECKING:
    from lllms_core.cli.inventory import Listed


@click.command("ls", epilog=examples(
    "lllms ls",
    "lllms ls --json",
    "lllms ls --found",
    "lllms ls --catalog",
))
@click.option("--found", is_flag=True, help="List the models of Hugging Face, llama.cpp, LM Studio and Ollama instead.")
@click.option("--catalog", is_flag=True, help="List models to begin with instead, and which of them fit this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def ls(found: bool, catalog: bool, as_json: bool, config_file: Path | None) -> None:
    """List the models: the configured ones, or those that plugins offer, and others that were pulled.

    With --found, list the models of other programs on this disk. Their paths can be used for `file` in the
    configuration, and for `serve --model`, `run` and `chat`; they are only read, never changed. Models of Ollama can be
    named there as `ollama:NAME`, too.

    With --catalog, list well-known models that can be fetched by their names: `lllms pull`, `run` and `chat` ask before
    they do. `lllms models` is another name of this command.
    """
    if found and catalog:
        raise click.UsageError("--found and --catalog list different things; give one of them")
    if catalog:
        _list_catalog(as_json, config_file)
        return
    if found:
        _list_found(as_json)
        return
    from lllms_core.cli.inventory import Inventory

    models = Inventory.open(read_config(config_file)).models()
    if as_json:
        click.echo(json.dumps([_json(model) for model in models], indent=2, ensure_ascii=False))
    else:
        columns = ("name", "engine", "size", "quant", "parameters", "context", "on disk", "last used")
        table(columns, [_row(model) for model in models])
    for model in models:
        if model.problem and not as_json:
            click.echo(f"Warning: {model.problem}", err=True)


def _row(model: "Listed") -> list[str]:
    parameters = model.details.get("parameters")
    return [
        shown(model.name), model.engine or "-", "-" if model.size is None else human_size(model.size),
        str(model.details.get("quantisation", "-")), count_text(parameters) if isinstance(parameters, int) else "-",
        str(model.context_length or "-"), "yes" if model.here else "no",
        "-" if model.used is None else f"{human_time(max(0, time.time() - model.used))} ago",
    ]


def _json(model: "Listed") -> dict[str, object]:
    return {
        "name": shown(model.name), "engine": model.engine,
        "source": None if model.source is None else shown(model.source),
        "path": None if model.path is None else str(model.path), "size": model.size,
        "quantisation": model.details.get("quantisation"), "parameters": model.details.get("parameters"),
        "context_length": model.context_length, "on_disk": model.here, "last_used": model.used,
        "problem": model.problem,
    }


def _list_found(as_json: bool) -> None:
    from lllms_core.store.other_programs import find_models

    findings = find_models()
    if as_json:
        found = [
            {"place": one.place, "name": one.name, "path": str(one.path), "size": one.size} for one in findings.models
        ]
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif not findings.models:
        click.echo("no models of Hugging Face, llama.cpp, LM Studio or Ollama are on this disk", err=True)
    else:
        table(("place", "name", "size", "path"), [
            (one.place, one.name, human_size(one.size), str(one.path)) for one in findings.models
        ])
    for problem in findings.problems:
        click.echo(f"Warning: {problem}", err=True)


def _list_catalog(as_json: bool, config_file: Path | None) -> None:
    from lllms_core.cli.suggestions import fits_text, machine_space, of_catalog, size_text
    from lllms_core.curated import curated_models
    from lllms_core.plugins import Plugins
    from lllms_core.store.weights import open_store

    config = read_config(config_file)
    plugins = Plugins.discover(disable=config.disabled_plugins)
    space = machine_space(config, plugins)
    models = of_catalog(curated_models(), space, open_store(config, plugins))
    if as_json:
        click.echo(json.dumps([model.table() for model in models], indent=2, ensure_ascii=False))
        return
    columns = ("name", "size", "parameters", "context", "fits", "here", "licence", "good at")
    table(columns, [
        [
            model.name, size_text(model), count_text(model.parameters or 0), str(model.context_length),
            fits_text(model), "-" if model.here is None else "yes" if model.here == model.name else model.here,
            model.licence, model.good_at,
        ]
        for model in models
    ])
    if space.most is not None:
        click.echo(f"models may use {human_size(space.most)} of memory here; lllms pull NAME fetches one", err=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns; if the output is not a terminal, each on one line whatever its width.

    On a terminal too narrow for that, each row gets several lines: a truncated name is useless.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for first, *rest in rows:
        made.add_row(Text(printable(first), "bold"), *(Text(printable(one)) for one in rest))
    console = Console()
    width = sum(max(cell_len(printable(line[i])) for line in (columns, *rows)) + 2 for i in range(len(columns)))
    if not console.is_terminal:
        Console(width=width).print(made)
    elif width - 2 <= console.width:
        console.print(made)
    else:
        for first, *rest in rows:
            about = (f"{column} {value}" for column, value in zip(columns[1:], rest, strict=True) if value != "-")
            console.print(Text(printable(first), "bold"), soft_wrap=True)
            console.print(Text(f"  {printable(', '.join(about))}"), soft_wrap=True)
