"""`lllms check`: check the whole setup, other machines included, without loading a model."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lllms_core.cli.figures import learnt_of, learnt_text, memory_text
from lllms_core.cli.inspection import hardware_of
from lllms_core.cli.setup import config_option, examples, read_config
from lllms_core.downloads import shown
from lllms_core.errors import ConfigError, LllmsError
from lllms_core.placements import LOCAL
from lllms_core.tracebacks import described
from lllms_core.types import Finding
from lllms_core.values.sizes import human_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lllms_core.catalog import Catalog, CatalogEntry
    from lllms_core.config import Config
    from lllms_core.plugins import Plugins
    from lllms_core.pool.budget import DeviceRoom, Need
    from lllms_core.pool.state import MemoryLimit


@click.command(epilog=examples(
    "lllms check",
    "lllms check --config lllms.toml",
))
@config_option
def check(config_file: Path | None) -> None:
    """Check the configuration, the plugins and the model files; load nothing.

    With a placement, each of its machines is checked, too: a worker is started there and ended again.

    Exits with code 1 if anything is wrong, and names every fault.
    """
    from lllms_core.catalog import Catalog
    from lllms_core.cli.cluster import check_cluster
    from lllms_core.config import Config
    from lllms_core.config.key_file import exposed
    from lllms_core.plugins import Plugins
    from lllms_core.pool.models import PoolModel
    from lllms_core.pool.needs import memory_limit, spare_workers
    from lllms_core.store.weights import finder, open_store

    problems: list[str] = []
    readable = False
    config = Config()
    try:
        config = read_config(config_file)
    except ConfigError as error:
        problems += error.message.splitlines()
    else:
        readable = True
        click.echo(f"configuration: {config.path or 'none, the defaults'}")
    plugins = Plugins.discover(disable=config.disabled_plugins)
    for report in plugins.reports:
        if report.error:
            problems.append(f"plugin {report.name}: {report.error}")
        else:
            click.echo(f"plugin {report.name}: {'disabled' if report.disabled else ', '.join(report.provides)}")
    # Without a readable configuration, the models are unknown.
    find = finder(open_store(config, plugins))
    catalog = Catalog.examine(config, plugins, find) if readable else Catalog()
    for problem in catalog.problems:
        problems += problem.text.splitlines()
    warnings = [text] if (text := exposed(config.server.api_keys_file)) else []
    sound: list[CatalogEntry] = []
    far = config.placement.kind != LOCAL  # then no instance runs on this machine
    limit = None if far else memory_limit(
        config.server, spare_workers(config.server, map(PoolModel.of, catalog.entries)),
    )
    devices = {} if far else _gpus(config, catalog)
    for entry in catalog.entries:
        findings = _examine(entry, config, limit, devices, alone=len(catalog.entries) == 1, far=far)
        for finding in findings:
            (problems if finding.fatal else warnings).append(f"models.{entry.name}: {finding.text}")
        if entry.here and not any(finding.fatal for finding in findings):
            sound.append(entry)
    problems += _about_access(config)
    warnings += _about_models_of_keys(config, catalog)
    problems += _about_sessions(config, plugins)
    problems += _about_memory(config, sound, limit, devices, alone=len(catalog.entries) == 1)
    cluster = check_cluster(config, plugins, catalog, sound)
    problems += cluster.problems
    warnings += cluster.warnings
    for text in warnings:
        click.echo(f"Warning: {text}", err=True)
    for text in problems:
        click.echo(f"Error: {text}", err=True)
    if problems:
        raise click.exceptions.Exit(1)
    click.echo("everything can be served, but see the warnings" if warnings else "everything is fine")


def _gpus(config: "Config", catalog: "Catalog") -> "Mapping[str, DeviceRoom]":
    """Return the memory of the GPUs that the models' engines use, and describe it."""
    from lllms_core.pool.devices import device_rooms

    devices = device_rooms(config.server, [entry.engine for entry in catalog.entries])
    for name, room in devices.items():
        click.echo(f"GPU {name}: {human_size(room.total)} of memory, of which lllms may use {human_size(room.limit)}")
    return devices


def _about_memory(
    config: "Config", entries: "Sequence[CatalogEntry]", limit: "MemoryLimit | None",
    devices: "Mapping[str, DeviceRoom]", *, alone: bool,
) -> list[str]:
    """Return the models that can never be loaded within the memory limits, beside those that are kept loaded."""
    from lllms_core.pool.budget import used
    from lllms_core.pool.devices import limits_of
    from lllms_core.pool.models import PoolModel
    from lllms_core.pool.needs import need_of
    from lllms_core.pool.shortages import too_large

    if limit is None:
        return []
    on_gpus = limits_of(devices)
    told = {
        entry.name: need_of(PoolModel.of(entry), entry.spec, limit.instances, alone=alone, devices=on_gpus).least
        for entry in entries
    }
    needs = {
        entry.name: told[entry.name].raised(learnt_of(entry, config, told[entry.name].told).private)
        if entry.config.memory is None else told[entry.name]
        for entry in entries
    }
    kept = {entry.name: [needs[entry.name]] * entry.config.min_instances for entry in entries}
    total = used((), [need for all_of in kept.values() for need in all_of])
    problems: list[str] = []
    if total > limit.instances:
        each = ", ".join(f"{name} {len(of)} x {human_size(of[0].total)}" for name, of in kept.items() if of)
        problems.append(
            f"server.memory_limit: the instances that models keep loaded (min_instances) need about {human_size(total)}"
            f" ({each}), but all instances together may use {human_size(limit.instances)}; keep fewer, or raise the"
            " limit",
        )
    for entry in entries:
        need = needs[entry.name]
        others = [one for other, all_of in kept.items() if other != entry.name for one in all_of]
        beside = used((), others) if total <= limit.instances else 0  # of which the line above tells
        if need.total > limit.instances or used((), [*others, need]) > limit.instances >= total:
            if beside and need == told[entry.name]:
                need = need_of(
                    PoolModel.of(entry), entry.spec, limit.instances - beside, alone=alone, devices=on_gpus,
                ).least
                told[entry.name] = need
            problems.append(f"models.{entry.name}: {too_large(need, beside, limit, told[entry.name])}")
    return [*problems, *_about_gpus(needs, kept, devices)]


def _about_gpus(
    needs: "Mapping[str, Need]", kept: "Mapping[str, Sequence[Need]]", devices: "Mapping[str, DeviceRoom]",
) -> "Iterator[str]":
    """Yield the models that can never be loaded into the memory of a GPU, beside those that are kept loaded."""
    from lllms_core.pool.budget import on_device
    from lllms_core.pool.shortages import too_large_for

    for device, room in devices.items():
        total = on_device(device, (), [need for all_of in kept.values() for need in all_of])
        if total > room.limit:
            yield (
                "server.gpu_memory_limit: the instances that models keep loaded (min_instances) need about"
                f" {human_size(total)} of the GPU '{device}', but may use {human_size(room.limit)}; keep fewer, or"
                " raise the limit"
            )
        for name, need in needs.items():
            others = [one for other, all_of in kept.items() if other != name for one in all_of]
            beside = on_device(device, (), others) if total <= room.limit else 0
            if need.devices.get(device) and need.devices[device] + beside > room.limit:
                yield f"models.{name}: {too_large_for(device, need, beside, room)}"


def _about_access(config: "Config") -> list[str]:
    """Return the faults of the keys and the certificate."""
    from lllms_core.config import open_keyring
    from lllms_core.web.tls import open_tls

    found: list[str] = []
    for step in (open_keyring, open_tls):
        try:
            step(config.server)
        except ConfigError as error:
            found += error.message.splitlines()
    return found


def _about_models_of_keys(config: "Config", catalog: "Catalog") -> list[str]:
    """Return the names in the keys' lists of models that fit no model."""
    from lllms_core.caller import Caller
    from lllms_core.config import open_keyring

    try:
        keys = open_keyring(config.server).keys
    except ConfigError:
        return []
    return [
        f"server.api_keys: '{name}', which the key '{key.name}' may use, fits no model"
        for key in keys for name in key.models or () if not catalog.usable(Caller(models=(name,)))
    ]


def _about_sessions(config: "Config", plugins: "Plugins") -> list[str]:
    """Return the faults of the session store."""
    from lllms_core.host import choose_session_store

    try:
        choose_session_store(config, plugins)
    except ConfigError as error:
        return error.message.splitlines()
    return []


def _examine(
    entry: "CatalogEntry", config: "Config", limit: "MemoryLimit | None", devices: "Mapping[str, DeviceRoom]",
    *, alone: bool, far: bool,
) -> list[Finding]:
    """Describe a model, and return its engine's findings; with `far`, its instances run on other machines."""
    from lllms_core.engines.room import fits_here, lack_of_memory
    from lllms_core.pool.devices import limits_of
    from lllms_core.pool.models import PoolModel
    from lllms_core.pool.needs import planned
    from lllms_core.worker.rehearsal import rehearse

    if not entry.here:
        source = shown(entry.source or "")
        click.echo(f"model {entry.name}: engine {entry.engine.name}; to be fetched or verified: {source}")
        return []
    found: list[Finding] = []
    try:
        found += entry.engine.examine(entry.spec)
        if not any(finding.fatal for finding in found):
            spec = planned(PoolModel.of(entry), entry.spec, limit, alone=alone, devices=limits_of(devices))
            details, memory = entry.engine.inspect(spec), entry.engine.estimate(spec)
            about = ", ".join(f"{key} {value}" for key, value in details.items())
            click.echo(f"model {entry.name}: engine {entry.engine.name}{f' ({about})' if about else ''}")
            if not far and (where := hardware_of(entry.engine, entry.spec)):
                click.echo(f"model {entry.name}: computes on {where}")
            if memory.total:
                click.echo(f"model {entry.name}: an instance takes about {memory_text(memory)}")
            if learnt := learnt_text(learnt_of(entry, config)):
                click.echo(f"model {entry.name}: {learnt}")
            lack = None if far else lack_of_memory(memory, entry.engine.smaller(spec, fits_here))
            found += [] if lack is None else [Finding(lack)]
        if not any(finding.fatal for finding in found):
            rehearsed = asyncio.run(rehearse(entry.engine, entry.spec))
            found += [finding for finding in rehearsed if finding not in found]
    except LllmsError as error:
        found.append(Finding(error.message))
    except Exception as error:  # noqa: BLE001  # a plugin's fault; the other models are still examined
        found.append(Finding(f"engine '{entry.engine.name}' could not examine it: {described(error)}"))
    return found
