"""Turn a GGUF file and its options into a model that is ready to answer; imports the native library."""

import sys
from pathlib import Path
from typing import cast

from lllms_core.chat import ChatTemplate, choose_template
from lllms_core.engines import Progress
from lllms_core.gguf import GGUF, describe
from lllms_core.types import ModelSpec
from lllms_gpt4all.embedder import Gpt4AllEmbedder, LoadedEmbedder
from lllms_gpt4all.library import backend_library, choose_libraries, native_log
from lllms_gpt4all.model import Gpt4AllModel, Loaded
from lllms_gpt4all.native import NativeModel, Source, load_native
from lllms_gpt4all.options import Options
from lllms_gpt4all.preflight import EMBEDDING, context_size
from lllms_gpt4all.vocabulary import Vocabulary

_ALL_LAYERS = 1 << 15


def load(spec: ModelSpec, gguf: GGUF, context_length: int, progress: Progress) -> Gpt4AllModel | Gpt4AllEmbedder:
    """Load a model whose file has passed the preflight. Raises `ModelLoadFailed` with the native reason."""
    choose_libraries()
    progress(0.0)
    options = cast(Options, spec.options)
    model = (_load_embedder if gguf.architecture in EMBEDDING else _load_writer)(spec, gguf, context_length, options)
    model.use_threads(spec.threads)
    try:
        progress(1.0)
    except BaseException:
        model.close()
        raise
    return model


def _load_writer(spec: ModelSpec, gguf: GGUF, context_length: int, options: Options) -> Gpt4AllModel:
    source = _source(spec, options, context_size(context_length))
    native = NativeModel(source)
    try:
        native.batch_size = options.batch_size
        vocabulary = _vocabulary(source)
        control = vocabulary.control_tokens()
        tool_use = gguf.metadata.text("tokenizer.chat_template.tool_use")
        own = gguf.metadata.text("tokenizer.chat_template") or tool_use
        written = choose_template(options.chat_template, own, control)
        template = None if written is None else ChatTemplate(
            written, bos_token=vocabulary.bos_token, eos_token=vocabulary.eos_token, control_tokens=control,
            call_template=options.tool_calls, reasoning=options.reasoning,
            tool_use=tool_use if options.chat_template is None else None,
        )
        details = describe(gguf, Path(source.path))
        return Gpt4AllModel(Loaded(
            native=native, vocabulary=vocabulary, template=template, context_length=context_length,
            threads=_threads(options), details=details,
        ))
    except BaseException:
        native.close()
        raise


def _load_embedder(spec: ModelSpec, gguf: GGUF, context_length: int, options: Options) -> Gpt4AllEmbedder:
    source = _source(spec, options, context_length)
    native = load_native(source)
    try:
        loaded = LoadedEmbedder(
            native=native, vocabulary=_vocabulary(source), context_length=context_length, threads=_threads(options),
            truncate=options.truncate, matryoshka=options.matryoshka, token_inputs=options.token_inputs,
            details=describe(gguf, Path(source.path)),
        )
        return Gpt4AllEmbedder(loaded)
    except BaseException:
        native.close()
        raise


def _source(spec: ModelSpec, options: Options, size: int) -> Source:
    backend, device = choose_backend(options.device)
    layers = _ALL_LAYERS if options.gpu_layers < 0 else options.gpu_layers
    return Source(str(cast(Path, spec.file)), backend, device, size, layers)


def _vocabulary(source: Source) -> Vocabulary:
    return Vocabulary(backend_library(source.backend), native_log(source.backend), source.path)


def _threads(options: Options) -> int | None:
    """Return the count that the options fix; None: as the pool grants."""
    return None if options.threads == "auto" else options.threads


def choose_backend(device: str) -> tuple[str, str | None]:
    """Return the library for a device, and the library's name of the device; None for the CPU."""
    if sys.platform == "darwin":
        return ("cpu", None) if device == "cpu" else ("metal", None)
    if device == "cpu":
        return "kompute", None
    if device in {"cuda", "kompute"}:
        return device, "gpu"
    if device.startswith("cuda:"):
        return "cuda", device.removeprefix("cuda:")
    return "kompute", device.removeprefix("kompute:")
