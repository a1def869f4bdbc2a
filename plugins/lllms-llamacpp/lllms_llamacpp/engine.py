"""The llama.cpp engine: checks and loads GGUF files."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from attrs import evolve, frozen

from lllms_core.engines import Engine, Progress
from lllms_core.engines.foresight import text_tasks, written
from lllms_core.engines.requirements import missing
from lllms_core.engines.room import fits_here, lack_of_memory
from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF, TENSOR_TYPES, describe, part_paths, read_gguf, read_parts, recommended_sampling
from lllms_core.types import Device, Finding, Memory, ModelSpec
from lllms_core.values.sizes import human_size
from lllms_llamacpp.architectures import why_not
from lllms_llamacpp.context import halved, settle, smaller
from lllms_llamacpp.devices import ask_for_devices, known_devices
from lllms_llamacpp.fitting import find
from lllms_llamacpp.hardware import NO_SUPPORT, has_gpu, told, way_out
from lllms_llamacpp.memory import estimate, offloaded, split
from lllms_llamacpp.options import Options
from lllms_llamacpp.parameters import HONOURED
from lllms_llamacpp.pooling import pooling
from lllms_llamacpp.threads import limit_spinning

if TYPE_CHECKING:
    from lllms_llamacpp.embedder import LlamaCppEmbedder
    from lllms_llamacpp.model import LlamaCppModel

logger = logging.getLogger("lllms.llamacpp")

_REMOVED = frozenset({31, 32, 33, 36, 37, 38})
"""Tensor types that were laid out for one kind of processor; today that happens at load time."""
_NOT_MODELS = {"adapter": "a LoRA adapter: name it in options.lora", "mmproj": "a projector for images"}


class LlamaCppEngine(Engine):
    """Runs GGUF models with llama.cpp, many requests in one pass."""

    name = "llamacpp"
    Options = Options
    parameters = HONOURED
    constraints = frozenset({"json_object", "json_schema", "gbnf", "lark", "regex"})
    file_suffixes = (".gguf",)
    can_preload = True
    # Large pages for the KV cache and the buffers: a decode of a 135M model takes 5 to 8 % less time.
    environment: ClassVar[Mapping[str, str]] = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

    def inspect(self, spec: ModelSpec) -> Mapping[str, str | int | float]:
        """Return the description of the file. Raises `ModelLoadFailed` if it can never be loaded."""
        return _look(spec).details

    def examine(self, spec: ModelSpec) -> Iterator[Finding]:
        """Yield what is wrong with the installation, the file, or the options for it."""
        yield from missing(self.name, "llama_cpp", "llama-cpp-python")
        try:
            path, gguf, options = _read(spec)
            read_parts(path)
            pooling(gguf, options)
        except ModelLoadFailed as error:
            yield Finding(error.message)
        else:
            yield from _find(gguf, options)

    def recommended(self, spec: ModelSpec) -> Mapping[str, object]:
        """Return the sampling parameters in the file."""
        return recommended_sampling(read_gguf(_file(spec)).metadata)

    def estimate(self, spec: ModelSpec) -> Memory:
        """Return the memory that the file's header implies, adapters included; see `lllms_llamacpp.memory`."""
        path, gguf, options = _read(spec)
        parts = _parts(path, gguf)
        return _on_devices(parts, settle(parts, options, spec.memory))

    def devices(self) -> Sequence[Device]:
        """Return llama.cpp's GPUs, as a short-lived process sees them; none if it was built without one."""
        return ask_for_devices() if has_gpu() else ()

    def hardware(self, spec: ModelSpec | None = None) -> str:
        """Say on which GPUs models compute, or why on none; without GPU support, how to get it."""
        if find_spec("llama_cpp") is None:
            return ""
        layers = -1 if spec is None else cast(Options, spec.options).gpu_layers
        return told(known_devices(), layers) if has_gpu() else f"{told(None)}; {way_out()}"

    def smaller(self, spec: ModelSpec, fits: Callable[[Memory], bool]) -> Iterator[str]:
        """Yield a context, and a number of slots, with which the model would fit."""
        path, gguf, options = _read(spec)
        parts = _parts(path, gguf)
        yield from smaller(parts, options, spec.memory, fits, lambda settled: _on_devices(parts, settled))

    def warm(self) -> None:
        """Import llama.cpp and what surrounds it, and start it, unless that would take memory of a GPU."""
        _before_import()
        import_module("lllms_llamacpp.loading")
        if not has_gpu():
            from lllms_llamacpp.native import native_log

            native_log()

    def load(self, spec: ModelSpec, progress: Progress) -> "LlamaCppModel | LlamaCppEmbedder":
        """Load the file into a new context."""
        look = _prepare(spec)
        from lllms_llamacpp.loading import load
        from lllms_llamacpp.native import NoContext

        settled, auto = look.settled, cast(Options, spec.options).context_length == "auto"
        details = look.details | {"device": told(_own_devices() if has_gpu() else None, settled.gpu_layers)}
        while True:
            try:
                model = load(evolve(spec, options=settled), look.gguf, details | _context(settled), progress)
            except NoContext as error:
                smaller = halved(settled) if auto else None
                if smaller is None:
                    raise
                logger.warning("a context of %s tokens is too large: %s", settled.context_length, error.message)
                settled = smaller
            else:
                _report(look, spec, model)
                logger.info("computes on %s", details["device"])
                return model

    def rehearse(self, spec: ModelSpec) -> None:
        """Let llama.cpp read the header and plan a context. Raises `ModelLoadFailed` with its reason."""
        look = _prepare(spec)
        from lllms_llamacpp.loading import rehearse

        rehearse(evolve(spec, options=look.settled), look.gguf, look.details)


@frozen
class _Look:
    """The findings of one reading of a model's files."""

    gguf: GGUF
    parts: Sequence[GGUF]
    settled: Options
    warnings: Sequence[Finding]
    details: dict[str, str | int | float]


def _look(spec: ModelSpec) -> _Look:
    """Read the headers of a model's files. Raises `ModelLoadFailed` if it can never be loaded."""
    path, gguf, options = _read(spec)
    pools = pooling(gguf, options)
    findings = [*_find(gguf, options)]
    refuse(findings)
    if pools is None:
        tasks = text_tasks(gguf, templated=options.chat_template is not None)
    else:
        tasks = frozenset({"rerank" if pools == "rank" else "embed", "tokenize", "detokenize"})
    parts = _parts(path, gguf)
    settled = settle(parts, options, spec.memory)
    told: dict[str, str | int | float] = {"tasks": written(tasks), **_context(settled)}
    details = describe(gguf, path) | told | ({} if pools is None else {"pooling": pools})
    return _Look(gguf, parts, settled, findings, details)


def _prepare(spec: ModelSpec) -> _Look:
    """Look at the files before the native library is imported, which then reads the environment."""
    refuse(missing(LlamaCppEngine.name, "llama_cpp", "llama-cpp-python"))
    look = _look(spec)
    memory = _memory(look.parts, look.settled)
    # The rest can be reclaimed, or is estimated.
    certain = evolve(memory, weights=0 if memory.mapped else memory.weights, compute=0)
    if lack_of_memory(certain) is not None:
        options = cast(Options, spec.options)
        ways = smaller(look.parts, options, spec.memory, fits_here, lambda settled: _memory(look.parts, settled))
        raise ModelLoadFailed(str(lack_of_memory(memory, ways)))
    for finding in look.warnings:
        logger.warning("%s", finding.text)
    _before_import()
    return look


def _find(gguf: GGUF, options: Options) -> Iterator[Finding]:
    """Yield what is wrong with a model for this build of llama.cpp."""
    yield from find(gguf, options)
    if options.gpu_layers > 0 and not has_gpu():
        text = f"gpu_layers is {options.gpu_layers}, but {NO_SUPPORT}, so that all layers are on the CPU; {way_out()}"
        yield Finding(text, fatal=False)


def _own_devices() -> Sequence[Device]:
    """Return the GPUs that this process, a worker, uses itself."""
    from llama_cpp._ggml import libggml

    from lllms_llamacpp.device_list import list_devices

    return [Device(str(one["name"]), int(one["total"]), int(one["free"])) for one in list_devices(libggml)]


def _before_import() -> None:
    """Set what the native library reads from the environment."""
    limit_spinning()
    # Without this, an abort in native code starts a debugger for a backtrace, which takes seconds.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")


def _report(look: _Look, spec: ModelSpec, model: "LlamaCppModel | LlamaCppEmbedder") -> None:
    """Log what "auto" has chosen."""
    options, trained = cast(Options, spec.options), look.gguf.hyperparameter("context_length")
    text = f"a request may hold {model.context_length} tokens"
    if options.context_length == "auto":
        text += ' (context_length is "auto")'
    text += f"; the model was trained for {trained or 'an unknown number'}"
    if options.context_length == "auto" and trained and model.context_length < trained:
        share = "fit into the free memory" if spec.memory is None else f"fit into {human_size(spec.memory)}"
        text += f", but no more {share}"
    if options.slots == "auto":
        text += f'; {model.slots} may run at once (slots is "auto")'
    logger.info("%s", text)


def refuse(findings: Iterable[Finding]) -> None:
    """Raise `ModelLoadFailed` with the first fault."""
    for finding in findings:
        if finding.fatal:
            raise ModelLoadFailed(finding.text)


def _read(spec: ModelSpec) -> tuple[Path, GGUF, Options]:
    """Return a model's file, its header and its options. Raises `ModelLoadFailed` for a file that is not a model."""
    path = _file(spec)
    gguf = read_gguf(path)
    _check(gguf, path)
    return path, gguf, cast(Options, spec.options)


def _parts(path: Path, first: GGUF) -> Sequence[GGUF]:
    """Return the headers of all files of a model; the first is read already."""
    return (first,) if (first.metadata.number("split.count") or 1) == 1 else read_parts(path)


def _memory(parts: Sequence[GGUF], settled: Options) -> Memory:
    memory = estimate(parts, settled)
    adapters = sum(_size(lora.path) for lora in settled.lora)
    memory = evolve(memory, weights=memory.weights + adapters)
    return offloaded(parts, settled, memory) if settled.gpu_layers != 0 and has_gpu() else memory


def _on_devices(parts: Sequence[GGUF], settled: Options) -> Memory:
    """Return the estimate with the GPUs by their names; for the server, since it may start a process."""
    memory = _memory(parts, settled)
    return split(parts, settled, memory, known_devices()) if memory.device else memory


def _context(settled: Options) -> dict[str, int]:
    return {"context_length": int(settled.context_length)}


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise ModelLoadFailed(f"'{file}' cannot be read: {error.strerror}") from None


def _file(spec: ModelSpec) -> Path:
    if spec.file is None:
        raise ModelLoadFailed(f"model '{spec.name}' names no file; set models.{spec.name}.file to a GGUF file")
    return spec.file


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
