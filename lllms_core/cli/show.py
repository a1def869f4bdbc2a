"""`lllms show`: a model's own metadata, and the memory that it takes."""

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from lllms_core.cli.completion import complete_models
from lllms_core.cli.figures import count_text, learnt_of, learnt_text, memory_text, printable
from lllms_core.cli.setup import config_option, examples, read_config, select
from lllms_core.downloads import shown
from lllms_core.errors import ConfigError

if TYPE_CHECKING:
    from lllms_core.catalog import CatalogEntry
    from lllms_core.config import Config
    from lllms_core.gguf import GGUF, Value
    from lllms_core.types import ModelSpec

_TEMPLATE = "tokenizer.chat_template"
_LONG_LIST, _LONG_TEXT = 16, 200


@click.command(epilog=examples(
    "lllms show tiny-chat",
    "lllms show ./phi3.gguf --context-length 8192 --slots 8",
    "lllms show tiny-chat --json",
))
@click.argument("model", shell_complete=complete_models)
@click.option("--context-length", type=click.IntRange(1), metavar="N", help="Estimate memory for requests of N tokens.")
@click.option("--slots", type=click.IntRange(1), metavar="N", help="Estimate memory for N requests at once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def show(
    model: str, context_length: int | None, slots: int | None, as_json: bool, config_file: Path | None,
) -> None:
    """Show MODEL's file, its chat template, and how much memory an instance will take.

    MODEL is a configured model, a plugin's own, a model file, or a source that was pulled; nothing is loaded.
    """
    from lllms_core.catalog import Catalog
    from lllms_core.gguf import is_gguf, read_gguf
    from lllms_core.plugins import Plugins
    from lllms_core.store.weights import finder, open_store

    config = read_config(config_file)
    alone = len(config.models) < 2
    plugins = Plugins.discover(disable=config.disabled_plugins)
    sizes = {"context_length": context_length, "slots": slots}
    config = _with_options(select(config, plugins, [model]), {key: value for key, value in sizes.items() if value})
    [entry] = Catalog.build(config, plugins, finder(open_store(config, plugins))).entries
    if not entry.here:
        raise ConfigError(f"{shown(model)} is not on this disk, or not verified; run lllms pull {shown(model)}")
    entry = attrs.evolve(entry, spec=_planned(entry, config, alone=alone))
    file = entry.spec.file
    gguf = read_gguf(file) if file is not None and is_gguf(file) else None
    if as_json:
        click.echo(json.dumps(_tables(entry, config, gguf), indent=2, ensure_ascii=False))
    else:
        for line in _lines(entry, config, gguf):
            click.echo(line)


def _planned(entry: "CatalogEntry", config: "Config", *, alone: bool) -> "ModelSpec":
    """Return the spec with the memory that the model gets in a server with this configuration."""
    from lllms_core.pool.devices import device_rooms, limits_of
    from lllms_core.pool.models import PoolModel
    from lllms_core.pool.needs import memory_limit, planned, spare_workers

    model = PoolModel.of(entry)
    limit = memory_limit(config.server, spare_workers(config.server, [model]))
    devices = limits_of(device_rooms(config.server, [entry.engine]))
    return planned(model, entry.spec, limit, alone=alone, devices=devices)


def _with_options(config: "Config", options: Mapping[str, object]) -> "Config":
    """Override options of the one model; the catalog checks whether its engine has them."""
    from lllms_core.config import with_model

    [(name, model)] = config.models.items()
    return with_model(config, name, attrs.evolve(model, options={**model.options, **options}))


def _lines(entry: "CatalogEntry", config: "Config", gguf: "GGUF | None") -> Iterator[str]:
    yield f"model: {entry.name}"
    yield f"engine: {entry.engine.name} of plugin {entry.plugin}"
    if entry.source is not None:
        yield f"source: {shown(entry.source)}"
    if entry.spec.file is not None:
        yield f"file: {entry.spec.file}"
    for key, value in entry.engine.inspect(entry.spec).items():
        text = count_text(value) if key == "parameters" and isinstance(value, int) else printable(str(value))
        yield f"{key.replace('_', ' ')}: {text}"
    memory = entry.engine.estimate(entry.spec)
    if memory.total:
        yield f"memory of an instance: about {memory_text(memory)}"
    if learnt := learnt_text(learnt_of(entry, config)):
        yield learnt
    chosen = [f"{key} = {value!r}" for key, value in entry.config.options.items()]
    yield f"options: {', '.join(chosen) or 'the defaults'}"
    if defaults := _defaults(entry):
        yield f"requests that set nothing else: {', '.join(f'{name} = {value!r}' for name, value in defaults.items())}"
    if gguf is not None:
        yield "metadata:"
        yield from (f"  {printable(key)}: {_text(gguf, key)}" for key in gguf.metadata if not key.startswith(_TEMPLATE))
        for key in gguf.metadata:
            if key.startswith(_TEMPLATE) and gguf.metadata.text(key):
                yield f"chat template{key.removeprefix(_TEMPLATE).replace('.', ' ')}:"
                yield from (f"  {printable(line)}" for line in gguf.metadata.text(key).splitlines())


def _defaults(entry: "CatalogEntry") -> dict[str, object]:
    """Return the generation parameters that the file or the configuration sets for requests that do not."""
    from lllms_core.parameters import Generation

    ours, plain = ({**attrs.asdict(one), **attrs.asdict(one.sampling)} for one in (entry.defaults, Generation()))
    return {name: value for name, value in ours.items() if name != "sampling" and value != plain[name]}


def _text(gguf: "GGUF", key: str) -> str:
    """Return the value of a key in one line; long values are abbreviated."""
    if gguf.metadata.length(key) > _LONG_LIST:
        return f"[{gguf.metadata.length(key)} items]"
    text = printable(str(gguf.metadata[key]))
    return text if len(text) <= _LONG_TEXT else f"{text[:_LONG_TEXT]}... ({len(text)} characters)"


def _tables(entry: "CatalogEntry", config: "Config", gguf: "GGUF | None") -> dict[str, object]:
    memory, learnt = entry.engine.estimate(entry.spec), learnt_of(entry, config)
    values = attrs.asdict(memory)
    if not memory.devices:
        del values["devices"]
    return {
        "name": entry.name, "aliases": list(entry.aliases), "engine": entry.engine.name, "plugin": entry.plugin,
        "source": None if entry.source is None else shown(entry.source),
        "file": None if entry.spec.file is None else str(entry.spec.file),
        "details": dict(entry.engine.inspect(entry.spec)), "options": dict(entry.config.options),
        "defaults": _defaults(entry),
        "memory": {**values, "total": memory.total},
        "measured": {"private": learnt.private, "load_seconds": learnt.load_seconds} if learnt.private else None,
        "metadata": None if gguf is None else {key: _plain(gguf, key) for key in gguf.metadata},
    }


def _plain(gguf: "GGUF", key: str) -> "Value | dict[str, int] | None":
    """Return the value of a key for JSON: of a long list only its length; infinity, which JSON lacks, as text."""
    if gguf.metadata.length(key) > _LONG_LIST:
        return {"items": gguf.metadata.length(key)}
    value = gguf.metadata[key]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
