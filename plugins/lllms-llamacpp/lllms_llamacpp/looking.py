"""What the headers of a model's files say, given its options; nothing is loaded."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from attrs import evolve, frozen

from lllms_core.engines.foresight import text_tasks, written
from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF, TENSOR_TYPES, describe, part_paths, read_gguf, read_parts
from lllms_core.types import Finding, Memory, ModelSpec
from lllms_llamacpp import hardware
from lllms_llamacpp.architectures import why_not
from lllms_llamacpp.context import settle
from lllms_llamacpp.device_memory import (
    estimate_on,
    layers_on_gpus,
    looks_for_gpus,
    settle_layers,
    without_gpus,
)
from lllms_llamacpp.devices import used
from lllms_llamacpp.fitting import find
from lllms_llamacpp.gpus import Gpu, chosen, rooms_on
from lllms_llamacpp.hardware import told
from lllms_llamacpp.options import Options
from lllms_llamacpp.pooling import pooling
from lllms_llamacpp.without_effect import without_effect

Details = Mapping[str, str | int | float]
Gpus = Callable[[], Sequence[Gpu]]

_REMOVED = frozenset({31, 32, 33, 36, 37, 38})
"""Tensor types that were laid out for one kind of processor; today that happens at load time."""
_NOT_MODELS = {"adapter": "a LoRA adapter: name it in options.lora", "mmproj": "a projector for images"}


@frozen
class Look:
    """The findings of one reading of a model's files."""

    gguf: GGUF
    parts: Sequence[GGUF]
    settled: Options
    warnings: Sequence[Finding]
    details: dict[str, str | int | float]


def look(spec: ModelSpec, gpus: Gpus | None = None) -> Look:
    """Read the headers of a model's files. Raises `ModelLoadFailed` if it can never be loaded.

    `gpus` looks for the GPUs; without it, nothing is said of them.
    """
    path, gguf, options = read(spec)
    pools = pooling(gguf, options)
    parts = read_all(path, gguf)
    findings = [*find(gguf, options), *without_effect(parts, options)]
    refuse(findings)
    if pools is None:
        tasks = text_tasks(gguf, templated=options.chat_template is not None)
    else:
        tasks = frozenset({"rerank" if pools == "rank" else "embed", "tokenize", "detokenize"})
    settled = settle(parts, options, spec.memory)
    details: dict[str, str | int | float] = {"tasks": written(tasks), **context_details(settled)}
    details = describe(gguf, path) | details | ({} if pools is None else {"pooling": pools})
    if gpus is not None:
        settled = settle_all(parts, settled, spec, gpus)
        details |= device_details(parts, options, settled, gpus)
    return Look(gguf, parts, settled, findings, details)


def settle_all(parts: Sequence[GGUF], options: Options, spec: ModelSpec, gpus: Gpus) -> Options:
    """Return the options of `context.settle` with numbers for the layers on GPUs, if there are any."""
    there_are = hardware.has_gpu() if spec.devices is None else bool(spec.devices)
    if not there_are or not looks_for_gpus(options):
        return without_gpus(parts, options)
    found = gpus()
    return settle_layers(parts, options, found, rooms_on(found, spec.device_memory))


def memory_of(parts: Sequence[GGUF], settled: Options, gpus: Sequence[Gpu] | None) -> Memory:
    """Return the memory of a model with settled options, adapters included."""
    memory = estimate_on(parts, settled, gpus)
    return evolve(memory, weights=memory.weights + sum(_size(lora.path) for lora in settled.lora))


def context_details(settled: Options) -> dict[str, int]:
    """Return the context to report."""
    return {"context_length": int(settled.context_length)}


def device_details(parts: Sequence[GGUF], options: Options, settled: Options, gpus: Gpus) -> dict[str, str | int]:
    """Return what to report of the GPUs: on what the model computes, and how many layers are there."""
    if not hardware.has_gpu():
        return {"device": told(None)}
    layers, count, experts = layers_on_gpus(parts, settled)
    if not looks_for_gpus(options):
        why = "devices is empty" if options.devices == () else "gpu_layers is 0"
        return {"device": f"CPU ({why})", "gpu_layers": f"0 of {count}"}
    found = gpus()
    devices = chosen(settled, found) or used(found)
    known = layers or (options.gpu_layers == "auto" and options.devices != ())
    return {"device": told(devices, layers, count if known else 0, experts), "gpu_layers": f"{layers} of {count}"}


def refuse(findings: Iterable[Finding]) -> None:
    """Raise `ModelLoadFailed` with the first fault."""
    for finding in findings:
        if finding.fatal:
            raise ModelLoadFailed(finding.text)


def find_all(spec: ModelSpec, gpus: Gpus) -> Iterator[Finding]:
    """Yield what is wrong with a model's file, or with the options for it."""
    try:
        path, gguf, options = read(spec)
        parts = read_parts(path)
        pooling(gguf, options)
        if hardware.has_gpu():
            chosen(options, gpus())
    except ModelLoadFailed as error:
        yield Finding(error.message)
    else:
        yield from find(gguf, options)
        yield from without_effect(parts, options, gpus)


def read(spec: ModelSpec) -> tuple[Path, GGUF, Options]:
    """Return a model's file, its header and its options. Raises `ModelLoadFailed` for a file that is not a model."""
    path = file_of(spec)
    gguf = read_gguf(path)
    _check(gguf, path)
    return path, gguf, cast(Options, spec.options)


def read_all(path: Path, first: GGUF) -> Sequence[GGUF]:
    """Return the headers of all files of a model; the first is read already."""
    return (first,) if (first.metadata.number("split.count") or 1) == 1 else read_parts(path)


def file_of(spec: ModelSpec) -> Path:
    """Return a model's file. Raises `ModelLoadFailed` if it names none."""
    if spec.file is None:
        raise ModelLoadFailed(f"model '{spec.name}' names no file; set models.{spec.name}.file to a GGUF file")
    return spec.file


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise ModelLoadFailed(f"'{file}' cannot be read: {error.strerror}") from None


def _check(gguf: GGUF, path: Path) -> None:
    parts, part = gguf.metadata.number("split.count") or 1, gguf.metadata.number("split.no") or 0
    if part:
        first = part_paths(path)[0]
        name = "the first part" if first == path else f"the first, '{first}'"
        raise ModelLoadFailed(f"'{path}' is part {part + 1} of {parts}; name {name}, the others are found")
    if not gguf.architecture:
        raise ModelLoadFailed(f"'{path}' names no architecture (general.architecture): it is not a model")
    kind = gguf.metadata.text("general.type")
    if kind in _NOT_MODELS:
        raise ModelLoadFailed(f"'{path}' is not a model but {_NOT_MODELS[kind]}")
    reason = why_not(gguf.architecture)
    if reason is not None:
        raise ModelLoadFailed(f"'{path}' {reason}")
    removed = sorted({TENSOR_TYPES[one.type][0] for one in gguf.tensors if one.type in _REMOVED})
    if removed:
        raise ModelLoadFailed(
            f"'{path}' has tensors of the type {', '.join(removed)}, which llama.cpp no longer loads; "
            f"use the same model as {removed[0][:-4]}",
        )
    if not gguf.metadata.text("tokenizer.ggml.model"):
        raise ModelLoadFailed(f"'{path}' has no tokenizer, so that it cannot read or write text")
    if not os.access(path, os.R_OK):
        raise ModelLoadFailed(f"'{path}' may not be read")
