"""Loads a GGUF file, with its options, into a model that is ready to answer; imports the native library."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import cast

import llama_cpp.llama_cpp as llama
from attrs import asdict, evolve, frozen

from lllms_core.chat import ChatTemplate, choose_template
from lllms_core.engines import Progress
from lllms_core.engines.batching.preload import preload_tokens
from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF, TENSOR_TYPES, part_paths
from lllms_core.machine import file_identity
from lllms_core.types import ModelSpec
from lllms_llamacpp.architectures import NOT_BY_TOKENS, WITH_ENCODER
from lllms_llamacpp.draft_model import DraftModel
from lllms_llamacpp.drafts import common_tokens, draft_options, draft_parts
from lllms_llamacpp.embedder import LlamaCppEmbedder, LoadedEmbedder
from lllms_llamacpp.longrope import takes_long_factors, use_factors_for
from lllms_llamacpp.model import FixedThreads, LlamaCppModel, Loaded, Threads
from lllms_llamacpp.native import add_loras, create_context, load_model, native_log
from lllms_llamacpp.offload import place
from lllms_llamacpp.options import Draft, Options
from lllms_llamacpp.pooling import POOLINGS
from lllms_llamacpp.sizes import Sizes, flash_for_vectors, sizes
from lllms_llamacpp.threads import ThreadTuner
from lllms_llamacpp.vocabulary import Vocabulary
from lllms_llamacpp.work import reach

_ALIKE = frozenset(
    {"context_length", "slots", "kv_size", "kept_tokens", "threads", "batch_size", "micro_batch_size", "use_mmap",
     "use_mlock", "chat_template", "tool_calls", "reasoning", "seed", "speculation", "gpu_layers", "devices",
     "split_mode", "tensor_split", "main_gpu", "kv_offload", "op_offload", "cpu_moe", "override_tensors"},
)
"""Options that do not change the state of equal tokens."""

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


Details = Mapping[str, str | int | float]


@frozen
class Opened:
    """A model file that llama.cpp has opened, with a context for it."""

    model: llama.llama_model_p
    context: llama.llama_context_p
    vocabulary: Vocabulary
    sizes: Sizes
    template: ChatTemplate | None
    can_trim: bool
    threads: Threads
    long: bool
    """Whether LongRoPE's long factors are used."""
    reach: float
    """See `work.reach`."""
    drafter: DraftModel | None = None

    def close(self) -> None:
        """Free everything."""
        if self.drafter is not None:
            self.drafter.close()
        llama.llama_free(self.context)
        llama.llama_model_free(self.model)


def load(spec: ModelSpec, gguf: GGUF, details: Details, progress: Progress) -> LlamaCppModel | LlamaCppEmbedder:
    """Load a model with this header, using `spec.threads` threads; it embeds if its `details` name a pooling.

    The options are settled (`context.settle`). The KV cache has room for `spec.preload` in addition to their size.

    Raises `ModelLoadFailed` with llama.cpp's reason.
    """
    opened = _open(spec, gguf, details, progress)
    try:
        model = (_embedder if "pooling" in details else _writer)(spec, details, opened)
        model.warm_up()
    except BaseException:
        opened.close()
        raise
    return model


def rehearse(spec: ModelSpec, gguf: GGUF, details: Details) -> None:
    """Go through a load without memory for weights and cache. Raises `ModelLoadFailed` with llama.cpp's reason."""
    _open(spec, gguf, details, lambda _: None, rehearsal=True).close()


def _open(
    spec: ModelSpec, gguf: GGUF, details: Details, progress: Progress, *, rehearsal: bool = False,
) -> Opened:
    file, options, preload = cast(Path, spec.file), cast(Options, spec.options), spec.preload
    pools = details.get("pooling")
    if pools is not None and preload is not None:
        raise ModelLoadFailed(f"'{file}' is a model for embeddings, which has nothing to preload; leave preload out")
    native_log()
    threads = _threads(spec, options)
    model_params, params = _params(gguf, options)
    if rehearsal:
        model_params.no_alloc, model_params.load_mode = True, llama.LLAMA_LOAD_MODE_NONE
    model = load_model(str(file), model_params, progress)
    context = None
    try:
        _check_kind(model, file)
        vocabulary = Vocabulary(model)
        can_trim = not (llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model))
        embeds = pools is not None
        made = sizes(options, can_trim=can_trim or embeds, embeds=embeds)
        template = None if embeds else _template(model, vocabulary, options)
        if preload is not None:
            made = made.beside(len(preload_tokens(preload, template, vocabulary.tokenize)))
        _fit(params, made, threads.choose(1))
        if embeds:
            params.n_outputs_max = made.batch
            params.embeddings = True
            params.pooling_type = _POOLING[pools]
            if not flash_for_vectors(options, made):
                params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = create_context(model, params, str(file))
        if not rehearsal:  # adapters need the weights
            add_loras(model, context, options.lora)
    except BaseException:
        if context is not None:
            llama.llama_free(context)
        llama.llama_model_free(model)
        raise
    long = takes_long_factors(made.context_length, gguf)
    opened = Opened(model, context, vocabulary, made, template, can_trim, threads, long, reach(model, gguf))
    if embeds or not isinstance(options.speculation, Draft):
        return opened
    try:
        return evolve(opened, drafter=_drafter(spec, gguf, made, options.speculation, rehearsal=rehearsal))
    except BaseException:
        opened.close()
        raise


def _drafter(spec: ModelSpec, gguf: GGUF, made: Sizes, draft: Draft, *, rehearsal: bool) -> DraftModel:
    """Load a draft model; its context has room for as many tokens as that of the model."""
    options = draft_options(cast(Options, spec.options), draft)
    header = draft_parts(draft.draft)[0]
    model_params, params = _params(header, options)
    if rehearsal:
        model_params.no_alloc, model_params.load_mode = True, llama.LLAMA_LOAD_MODE_NONE
    threads = _threads(spec, options)
    model = load_model(str(draft.draft), model_params, lambda _: None)
    try:
        _check_kind(model, draft.draft)
        _fit(params, made, threads.choose(1))
        context = create_context(model, params, str(draft.draft))
    except BaseException:
        llama.llama_model_free(model)
        raise
    size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    return DraftModel(
        model, context, threads, batch_size=made.batch, vocabulary=size, common=common_tokens(header, gguf),
        reach=reach(model, header),
    )


def _threads(spec: ModelSpec, options: Options) -> Threads:
    return ThreadTuner(spec.threads) if options.threads == "auto" else FixedThreads(options.threads, spec.threads)


def _writer(spec: ModelSpec, details: Details, opened: Opened) -> LlamaCppModel:
    options, made = cast(Options, spec.options), opened.sizes
    return LlamaCppModel(Loaded(
        model=opened.model, context=opened.context, vocabulary=opened.vocabulary, template=opened.template,
        threads=opened.threads, context_length=made.context_length, kv_size=made.kv_size,
        kept_tokens=options.kept_tokens, slots=made.slots, sequences=made.sequences, batch_size=made.batch,
        can_trim=opened.can_trim,
        # An exported state lacks the cells that have left the sliding window, which a cut would need.
        can_trim_imported=not llama.llama_model_n_swa(opened.model),
        state_key=_state_key(spec, options, long=opened.long), seed=options.seed, details=details,
        reach=opened.reach, speculates=options.speculation != "off", drafter=opened.drafter,
    ))


def _embedder(spec: ModelSpec, details: Details, opened: Opened) -> LlamaCppEmbedder:
    options, ranks = cast(Options, spec.options), details["pooling"] == "rank"
    template = llama.llama_model_chat_template(opened.model, b"rerank") if ranks else None
    return LlamaCppEmbedder(LoadedEmbedder(
        model=opened.model, context=opened.context, vocabulary=opened.vocabulary, threads=opened.threads,
        sizes=opened.sizes, slots=opened.sizes.slots, ranks=ranks,
        rank_template=None if template is None else template.decode(errors="replace"),
        truncate=options.truncate, matryoshka=options.matryoshka, token_inputs=options.token_inputs, details=details,
    ))


def _params(gguf: GGUF, options: Options) -> tuple[llama.llama_model_params, llama.llama_context_params]:
    """Return the parameters of a model and of its context, except the sizes."""
    model = llama.llama_model_default_params()
    model.load_mode = _LOAD_MODES[options.use_mmap, options.use_mlock]
    context = llama.llama_context_default_params()
    context.kv_unified = True
    # Models with sliding windows keep their cells until another decode takes them, so that a sequence can usually be
    # cut anywhere and continued; see `earliest_cut`.
    context.swa_full = True
    context.flash_attn_type = _FLASH_ATTENTION[options.flash_attention]
    context.type_k = _KV_TYPES[options.kv_type_k]
    context.type_v = _KV_TYPES[options.kv_type_v]
    context.rope_scaling_type = _ROPE_SCALING[options.rope_scaling]
    context.rope_freq_base = options.rope_freq_base
    context.rope_freq_scale = options.rope_freq_scale
    place(model, context, options)
    use_factors_for(sizes(options, can_trim=True).context_length, gguf, model, context)
    return model, context


def _fit(params: llama.llama_context_params, made: Sizes, threads: int) -> None:
    """Set the sizes of a context, and its threads."""
    params.n_ctx = made.kv_size
    params.n_batch = made.batch
    params.n_ubatch = made.micro_batch
    params.n_seq_max = made.sequences
    # A step has one row of logits per request; by default llama.cpp reserves memory for one row per token.
    params.n_outputs_max = made.sequences
    params.n_threads = params.n_threads_batch = threads


def _check_kind(model: llama.llama_model_p, file: Path) -> None:
    if llama.llama_model_has_encoder(model):
        raise ModelLoadFailed(f"'{file}' {WITH_ENCODER}")
    if not llama.llama_model_has_decoder(model) or llama.llama_model_is_diffusion(model):
        raise ModelLoadFailed(f"'{file}' {NOT_BY_TOKENS}")


def _state_key(spec: ModelSpec, options: Options, *, long: bool = False) -> str:
    """Return a key of everything that a state depends on: files, versions, and all options except `_ALIKE`.

    The context's length, which may differ between two loads if it is "auto", only affects LongRoPE's factors. Where
    the files are makes no difference: on another machine they may have other paths.
    """
    values = asdict(options, filter=lambda attribute, _: attribute.name not in _ALIKE)
    others = part_paths(cast(Path, spec.file))
    files = [part for part in others if part.exists()] if len(others) > 1 else []
    identities = [file_identity(one, spec.identities) for one in sorted(files)]
    values["lora"] = [(file_identity(lora.path, spec.identities), lora.scale) for lora in options.lora]
    parts = [version("llama-cpp-python"), version("lllms-llamacpp"), str(long), repr(sorted(values.items()))]
    return " ".join([*parts, *identities])


def _template(model: llama.llama_model_p, vocabulary: Vocabulary, options: Options) -> ChatTemplate | None:
    control = vocabulary.control_tokens()
    own, tool_use = _own_template(model), _own_template(model, b"tool_use")
    source = choose_template(options.chat_template, own or tool_use, control)
    if source is None:
        return None
    return ChatTemplate(
        source, bos_token=vocabulary.bos_token, eos_token=vocabulary.eos_token, control_tokens=control,
        call_template=options.tool_calls, reasoning=options.reasoning,
        tool_use=tool_use if options.chat_template is None else None,
    )


def _own_template(model: llama.llama_model_p, name: bytes | None = None) -> str | None:
    """Return the template of this name in the model's file, by default the plain one."""
    own = llama.llama_model_chat_template(model, name)
    return None if own is None else str(own, "utf-8", "replace")
