"""The llama.cpp engine: checks and loads GGUF files."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, cast

from attrs import evolve

from lllms_core.engines import Engine, Progress
from lllms_core.engines.requirements import missing
from lllms_core.engines.room import fits_here, lack_of_memory
from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF, read_gguf, recommended_sampling
from lllms_core.types import Device, Finding, Memory, ModelSpec
from lllms_core.values.sizes import human_size
from lllms_llamacpp import devices, hardware
from lllms_llamacpp.context import halved, settle, smaller
from lllms_llamacpp.device_memory import looks_for_gpus
from lllms_llamacpp.gpus import Gpu, chosen
from lllms_llamacpp.hardware import told, way_out
from lllms_llamacpp.looking import (
    Look,
    context_details,
    file_of,
    find_all,
    look,
    memory_of,
    read,
    read_all,
    refuse,
    settle_all,
)
from lllms_llamacpp.options import Options
from lllms_llamacpp.parameters import HONOURED
from lllms_llamacpp.threads import limit_spinning

if TYPE_CHECKING:
    from lllms_llamacpp.embedder import LlamaCppEmbedder
    from lllms_llamacpp.model import LlamaCppModel

logger = logging.getLogger("lllms.llamacpp")


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
        # Whoever says what it may take of each GPU has looked for them already.
        return look(spec, None if spec.device_memory is None else devices.known_gpus).details

    def examine(self, spec: ModelSpec) -> Iterator[Finding]:
        """Yield what is wrong with the installation, the file, or the options for it."""
        yield from missing(self.name, "llama_cpp", "llama-cpp-python")
        yield from find_all(spec, devices.known_gpus)

    def recommended(self, spec: ModelSpec) -> Mapping[str, object]:
        """Return the sampling parameters in the file."""
        return recommended_sampling(read_gguf(file_of(spec)).metadata)

    def estimate(self, spec: ModelSpec) -> Memory:
        """Return the memory that the file's header implies, adapters included; see `lllms_llamacpp.memory`."""
        path, gguf, options = read(spec)
        parts = read_all(path, gguf)
        return _measure(parts, spec, settle(parts, options, spec.memory))

    def devices(self) -> Sequence[Device]:
        """Return llama.cpp's GPUs, as a short-lived process sees them; none if it was built without one."""
        return devices.used(devices.ask_for_gpus()) if hardware.has_gpu() else ()

    def hardware(self, spec: ModelSpec | None = None) -> str:
        """Say on which GPUs models compute, or why on none; without GPU support, how to get it."""
        if find_spec("llama_cpp") is None:
            return ""
        if not hardware.has_gpu():
            return f"{told(None)}; {way_out()}"
        found = devices.known_gpus()
        if spec is None:
            return told(devices.used(found))
        options = cast(Options, spec.options)
        try:
            layers = 0 if options.devices == () else options.gpu_layers
            return told(chosen(options, found) or devices.used(found), layers)
        except ModelLoadFailed as error:
            return error.message

    def smaller(self, spec: ModelSpec, fits: Callable[[Memory], bool]) -> Iterator[str]:
        """Yield a context, and a number of slots, with which the model would fit."""
        path, gguf, options = read(spec)
        parts = read_all(path, gguf)
        yield from smaller(parts, options, spec.memory, fits, lambda settled: _measure(parts, spec, settled))

    def warm(self) -> None:
        """Import llama.cpp and what surrounds it, and start it, unless that would take memory of a GPU."""
        _before_import()
        import_module("lllms_llamacpp.loading")
        if not hardware.has_gpu():
            from lllms_llamacpp.native import native_log

            native_log()

    def load(self, spec: ModelSpec, progress: Progress) -> "LlamaCppModel | LlamaCppEmbedder":
        """Load the file into a new context."""
        found = _prepare(spec)
        from lllms_llamacpp.loading import load
        from lllms_llamacpp.native import NoContext

        settled, auto = found.settled, cast(Options, spec.options).context_length == "auto"
        while True:
            try:
                details = found.details | context_details(settled)
                model = load(evolve(spec, options=settled), found.gguf, details, progress)
            except NoContext as error:
                smaller = halved(settled) if auto else None
                if smaller is None:
                    raise
                logger.warning("a context of %s tokens is too large: %s", settled.context_length, error.message)
                settled = smaller
            else:
                _report(found, spec, model)
                return model

    def rehearse(self, spec: ModelSpec) -> None:
        """Let llama.cpp read the header and plan a context. Raises `ModelLoadFailed` with its reason."""
        found = _prepare(spec)
        from lllms_llamacpp.loading import rehearse

        rehearse(evolve(spec, options=found.settled), found.gguf, found.details)


def _before_import() -> None:
    """Set what the native library reads from the environment."""
    limit_spinning()
    # Without this, an abort in native code starts a debugger for a backtrace, which takes seconds.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")


def _prepare(spec: ModelSpec) -> Look:
    """Look at the files before the native library is imported, which then reads the environment."""
    refuse(missing(LlamaCppEngine.name, "llama_cpp", "llama-cpp-python"))
    found = look(spec, _own_gpus)
    gpus = _own_gpus() if hardware.has_gpu() and looks_for_gpus(found.settled) else None
    memory = memory_of(found.parts, found.settled, gpus)
    # The rest can be reclaimed, or is estimated.
    certain = evolve(memory, weights=0 if memory.mapped else memory.weights, compute=0)
    if lack_of_memory(certain) is not None:
        options = cast(Options, spec.options)
        ways = smaller(found.parts, options, spec.memory, fits_here, lambda settled: memory_of(
            found.parts, settle_all(found.parts, settled, spec, _own_gpus), gpus,
        ))
        raise ModelLoadFailed(str(lack_of_memory(memory, ways)))
    for finding in found.warnings:
        logger.warning("%s", finding.text)
    _before_import()
    return found


def _measure(parts: Sequence[GGUF], spec: ModelSpec, settled: Options) -> Memory:
    """Return the memory of a model with its context settled; for the server, since it may start a process."""
    if spec.devices is not None:  # those of another machine
        theirs = tuple(map(Gpu, spec.devices))
        return memory_of(parts, settle_all(parts, settled, spec, lambda: theirs), theirs or None)
    gpus = devices.known_gpus() if hardware.has_gpu() else None
    return memory_of(parts, settle_all(parts, settled, spec, devices.known_gpus), gpus)


def _own_gpus() -> Sequence[Gpu]:
    """Return the GPUs that this process, a worker, uses itself."""
    _before_import()
    from lllms_llamacpp.offload import own_gpus

    return own_gpus()


def _report(look: Look, spec: ModelSpec, model: "LlamaCppModel | LlamaCppEmbedder") -> None:
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
    logger.info("computes on %s", look.details["device"])
