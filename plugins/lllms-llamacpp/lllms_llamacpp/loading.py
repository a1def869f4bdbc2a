"""Loads a GGUF file, with its options, into a model that is ready to answer; imports the native library."""

import re
from collections.abc import Mapping
from glob import escape
from importlib.metadata import version
from pathlib import Path

import llama_cpp.llama_cpp as llama
from attrs import asdict

from lllms_core.chat import ChatTemplate, choose_template
from lllms_core.engines import Progress
from lllms_core.engines.batching.preload import preload_tokens
from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import TENSOR_TYPES
from lllms_core.machine import at_home, file_identity
from lllms_core.types import Preload
from lllms_llamacpp.embedder import LlamaCppEmbedder, LoadedEmbedder
from lllms_llamacpp.model import FixedThreads, LlamaCppModel, Loaded, Threads
from lllms_llamacpp.native import add_loras, create_context, load_model, native_log
from lllms_llamacpp.options import Options
from lllms_llamacpp.pooling import POOLINGS
from lllms_llamacpp.sizes import Sizes, flash_for_vectors, sizes
from lllms_llamacpp.threads import ThreadTuner
from lllms_llamacpp.vocabulary import Vocabulary

_ALIKE = frozenset(
    {"context_length", "slots", "kv_size", "kept_tokens", "threads", "batch_size", "micro_batch_size", "use_mmap",
     "use_mlock", "chat_template", "tool_calls", "reasoning", "seed"},
)
"""Options that do not change the state of equal tokens."""
_SPLIT = re.compile(r"(.*)-\d+-of-(\d+)\.gguf", re.IGNORECASE)

_LOAD_MODES = {
    (False, False): llama.LLAMA_LOAD_MODE_NONE,
    (True, False): llama.LLAMA_LOAD_MODE_MMAP,
    (False, True): llama.LLAMA_LOAD_MODE_MLOCK,
    (True, True): llama.LLAMA_LOAD_MODE_MMAP_MLOCK,
}
_KV_TYPES = {name.lower(): number for number, (name, _, _) in TENSOR_TYPES.items()}
_FLASH_ATTENTION = {
    "auto": llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_POOLING: Mapping[object, int] = {name: number for number, name in POOLINGS.items()}
_ROPE_SCALING = {
    "model": llama.LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED,
    "none": llama.LLAMA_ROPE_SCALING_TYPE_NONE,
    "linear": llama.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    "yarn": llama.LLAMA_ROPE_SCALING_TYPE_YARN,
    "longrope": llama.LLAMA_ROPE_SCALING_TYPE_LONGROPE,
}


def load(
    file: Path,
    options: Options,
    allowance: int,
    details: Mapping[str, str | int | float],
    progress: Progress,
    *,
    preload: Preload | None = None,
) -> LlamaCppModel | LlamaCppEmbedder:
    """Load a model with `allowance` threads at first; it embeds if its `details` name a pooling.

    Its KV cache has room for `preload` in addition to the options' size.

    Raises `ModelLoadFailed` with llama.cpp's reason.
    """
    if "pooling" in details and preload is not None:
        raise ModelLoadFailed(f"'{file}' is a model for embeddings, which has nothing to preload; leave preload out")
    if "pooling" in details:
        return _load_embedder(file, options, allowance, details, progress)
    native_log()
    threads = _threads(options, allowance)
    model = load_model(str(file), _model_params(options), progress)
    context = None
    try:
        _check_kind(model, file)
        can_trim = not (llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model))
        # An exported state lacks the cells that have left the sliding window, which a cut would need.
        can_trim_imported = not llama.llama_model_n_swa(model)
        made = sizes(options, llama.llama_model_n_ctx_train(model), can_trim=can_trim)
        vocabulary = Vocabulary(model)
        template = _template(model, vocabulary, options)
        if preload is not None:
            made = made.beside(len(preload_tokens(preload, template, vocabulary.tokenize)))
        context = create_context(model, _context_params(options, made, threads.choose(1)), str(file))
        add_loras(model, context, options.lora)
        loaded = Loaded(
            model=model, context=context, vocabulary=vocabulary, template=template, threads=threads,
            context_length=made.context_length, kv_size=made.kv_size, kept_tokens=options.kept_tokens,
            slots=options.slots, sequences=made.sequences, batch_size=made.batch, can_trim=can_trim,
            can_trim_imported=can_trim_imported, state_key=_state_key(file, options, made.context_length),
            seed=options.seed, details=details,
        )
        result = LlamaCppModel(loaded)
        result.warm_up()
    except BaseException:
        if context is not None:
            llama.llama_free(context)
        llama.llama_model_free(model)
        raise
    return result


def _load_embedder(
    file: Path, options: Options, allowance: int, details: Mapping[str, str | int | float], progress: Progress,
) -> LlamaCppEmbedder:
    native_log()
    threads = _threads(options, allowance)
    model = load_model(str(file), _model_params(options), progress)
    context = None
    try:
        _check_kind(model, file)
        ranks = details["pooling"] == "rank"
        made = sizes(options, llama.llama_model_n_ctx_train(model), can_trim=True, embeds=True)
        params = _context_params(options, made, threads.choose(1))
        params.n_outputs_max = made.batch
        params.embeddings = True
        if not flash_for_vectors(options, made):
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.pooling_type = _POOLING[details["pooling"]]
        context = create_context(model, params, str(file))
        add_loras(model, context, options.lora)
        template = llama.llama_model_chat_template(model, b"rerank") if ranks else None
        result = LlamaCppEmbedder(LoadedEmbedder(
            model=model, context=context, vocabulary=Vocabulary(model), threads=threads, sizes=made,
            slots=options.slots, ranks=ranks,
            rank_template=None if template is None else template.decode(errors="replace"),
            truncate=options.truncate, matryoshka=options.matryoshka, details=details,
        ))
        result.warm_up()
    except BaseException:
        if context is not None:
            llama.llama_free(context)
        llama.llama_model_free(model)
        raise
    return result


def _threads(options: Options, allowance: int) -> Threads:
    return ThreadTuner(allowance) if options.threads == "auto" else FixedThreads(options.threads, allowance)


def _model_params(options: Options) -> llama.llama_model_params:
    params = llama.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.load_mode = _LOAD_MODES[options.use_mmap, options.use_mlock]
    return params


def _context_params(options: Options, made: Sizes, threads: int) -> llama.llama_context_params:
    params = llama.llama_context_default_params()
    params.n_ctx = made.kv_size
    params.n_batch = made.batch
    params.n_ubatch = made.micro_batch
    params.n_seq_max = made.sequences
    # A step has one row of logits per request; by default llama.cpp reserves memory for one row per token.
    params.n_outputs_max = made.sequences
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = True
    # Models with sliding windows keep their cells until another decode takes them, so that a sequence can usually be
    # cut anywhere and continued; see `earliest_cut`.
    params.swa_full = True
    params.flash_attn_type = _FLASH_ATTENTION[options.flash_attention]
    params.type_k = _KV_TYPES[options.kv_type_k]
    params.type_v = _KV_TYPES[options.kv_type_v]
    params.rope_scaling_type = _ROPE_SCALING[options.rope_scaling]
    params.rope_freq_base = options.rope_freq_base
    params.rope_freq_scale = options.rope_freq_scale
    return params


def _check_kind(model: llama.llama_model_p, file: Path) -> None:
    if llama.llama_model_has_encoder(model):
        raise ModelLoadFailed(f"'{file}' is a model with an encoder, which this engine cannot run yet")
    if not llama.llama_model_has_decoder(model) or llama.llama_model_is_diffusion(model):
        raise ModelLoadFailed(f"'{file}' is a model that does not generate text token by token")


def _state_key(file: Path, options: Options, context_length: int) -> str:
    """Return a key of everything that a state depends on: files, versions, and all options except `_ALIKE`."""
    values = asdict(options, filter=lambda attribute, _: attribute.name not in _ALIKE)
    split = _SPLIT.fullmatch(file.name)
    files = [*file.parent.glob(f"{escape(split[1])}-*-of-{split[2]}.gguf")] if split else []
    files += [at_home(lora.path) for lora in options.lora]
    parts = [version("llama-cpp-python"), version("lllms-llamacpp"), str(context_length), repr(sorted(values.items()))]
    return " ".join([*parts, *(file_identity(one) for one in sorted(files))])


def _template(model: llama.llama_model_p, vocabulary: Vocabulary, options: Options) -> ChatTemplate | None:
    control = vocabulary.control_tokens()
    own = llama.llama_model_chat_template(model, None)
    source = choose_template(options.chat_template, None if own is None else str(own, "utf-8", "replace"), control)
    if source is None:
        return None
    return ChatTemplate(
        source, bos_token=vocabulary.bos_token, eos_token=vocabulary.eos_token, control_tokens=control,
        call_template=options.tool_calls, reasoning=options.reasoning,
    )
