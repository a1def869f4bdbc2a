"""From a GGUF file and its options to a model that is ready to answer; imports the native library."""

import sys
from pathlib import Path
from typing import cast

from lllms_core.chat import ChatTemplate, choose_template
from lllms_core.engines import Progress
from lllms_core.gguf import GGUF, describe
from lllms_core.types import ModelSpec
from lllms_gpt4all.library import backend_library, choose_libraries, native_log
from lllms_gpt4all.model import Gpt4AllModel, Loaded
from lllms_gpt4all.native import NativeModel
from lllms_gpt4all.options import Options
from lllms_gpt4all.preflight import context_size
from lllms_gpt4all.vocabulary import Vocabulary

_ALL_LAYERS = 1 << 15


def load(spec: ModelSpec, gguf: GGUF, context_length: int, progress: Progress) -> Gpt4AllModel:
    """Load a model whose file has passed the preflight. Raises `ModelLoadFailed` with the native reason."""
    file, options = cast(Path, spec.file), cast(Options, spec.options)
    choose_libraries()
    backend, device = choose_backend(options.device)
    progress(0.0)
    native = NativeModel(
        str(file), backend=backend, device=device, context_size=context_size(context_length),
        gpu_layers=_ALL_LAYERS if options.gpu_layers < 0 else options.gpu_layers,
    )
    try:
        native.batch_size = options.batch_size
        vocabulary = Vocabulary(backend_library(backend), native_log(backend), str(file))
        control = vocabulary.control_tokens()
        source = choose_template(options.chat_template, gguf.metadata.text("tokenizer.chat_template"), control)
        template = None if source is None else ChatTemplate(
            source, bos_token=vocabulary.bos_token, eos_token=vocabulary.eos_token, control_tokens=control,
        )
        configured = None if options.threads == "auto" else options.threads
        model = Gpt4AllModel(Loaded(native, vocabulary, template, context_length, configured, describe(gguf, file)))
        model.use_threads(spec.threads)
    except BaseException:
        native.close()
        raise
    progress(1.0)
    return model


def choose_backend(device: str) -> tuple[str, str | None]:
    """The library that serves a device, and the name by which that knows it; None for the CPU."""
    if sys.platform == "darwin":
        return ("cpu", None) if device == "cpu" else ("metal", None)
    if device == "cpu":
        return "kompute", None
    if device in {"cuda", "kompute"}:
        return device, "gpu"
    if device.startswith("cuda:"):
        return "cuda", device.removeprefix("cuda:")
    return "kompute", device.removeprefix("kompute:")
