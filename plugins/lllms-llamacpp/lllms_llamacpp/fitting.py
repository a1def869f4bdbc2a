"""Options that do not fit a model's file: with them llama.cpp would abort during a decode, or produce nonsense."""

from collections.abc import Callable, Iterator, Sequence

from lllms_core.chat import check_templates
from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF
from lllms_core.types import Finding
from lllms_llamacpp.adapters import unfit_adapters
from lllms_llamacpp.drafts import unfit_drafts
from lllms_llamacpp.options import UNQUANTISED, Options

_BLOCK = 32
"""The size of a block, in numbers, of the KV cache's quantised types."""


def _learnt(gguf: GGUF) -> bool:
    """Whether the model has a table of positions, which it cannot exceed."""
    return any(tensor.name == "position_embd.weight" for tensor in gguf.tensors)


def _positions(gguf: GGUF, options: Options) -> Iterator[Finding]:
    trained, asked = gguf.hyperparameter("context_length"), options.context_length
    if _learnt(gguf) and trained is not None and asked != "auto" and asked > trained:
        yield Finding(f"options.context_length is {asked}, but the model knows only {trained} positions; lower it")


def _heads(gguf: GGUF, options: Options) -> Iterator[Finding]:
    if gguf.hyperparameter("attention.kv_lora_rank"):
        return  # it does not store heads
    for name, kind, key in (
        ("kv_type_k", options.kv_type_k, "attention.key_length"),
        ("kv_type_v", options.kv_type_v, "attention.value_length"),
    ):
        unfit = [size for size in _head_sizes(gguf, key) if size % _BLOCK]
        if kind not in UNQUANTISED and unfit:
            yield Finding(
                f"options.{name} is {kind}, which stores blocks of {_BLOCK} numbers, but the model's heads have "
                f"{unfit[0]}; set it to one of {', '.join(UNQUANTISED)}",
            )


def _templates(gguf: GGUF, options: Options) -> Iterator[Finding]:
    own = [gguf.metadata.text(key) for key in ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")]
    try:
        check_templates(options.chat_template, filter(None, own), options.tool_calls)
    except ModelLoadFailed as error:
        yield Finding(error.message)


def _head_sizes(gguf: GGUF, key: str) -> Iterator[int]:
    """Yield the sizes of the heads in a model's layers; layers with a window may have another one."""
    own = gguf.hyperparameter(key)
    windowed = gguf.hyperparameter(f"{key}_swa")
    yield from filter(None, (own, windowed))
    if own is None:
        # One count, or one for each layer.
        counts = gguf.metadata.get(f"{gguf.architecture}.attention.head_count", 0)
        first = counts[0] if isinstance(counts, list) and counts else counts
        if isinstance(first, int) and first:
            yield (gguf.hyperparameter("embedding_length") or 0) // first


def _trained(gguf: GGUF, options: Options) -> Iterator[Finding]:
    trained, asked = gguf.hyperparameter("context_length"), options.context_length
    scaled = options.rope_freq_base or options.rope_freq_scale or options.rope_scaling != "model"
    if trained and asked != "auto" and asked > trained and not scaled and not _learnt(gguf):
        yield Finding(
            f"options.context_length is {asked}, but the model was trained for {trained} tokens, and may write "
            "nonsense beyond them; lower it, or set options.rope_scaling and rope_freq_scale as its authors say",
            fatal=False,
        )


Look = Callable[[GGUF, Options], Iterator[Finding]]
LOOKS: Sequence[Look] = (_positions, _heads, _trained, _templates, unfit_adapters, unfit_drafts)
"""Each yields its findings about a model's header, given the options."""


def find(gguf: GGUF, options: Options) -> Iterator[Finding]:
    """Yield what is wrong with the options for this model."""
    for look in LOOKS:
        yield from look(gguf, options)
