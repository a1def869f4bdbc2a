"""The `[models.X.options]` of the llama.cpp engine; everything is checked before C code sees it."""

import re
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from attrs import Attribute, converters, field, frozen, validators

from lllms_core.chat import template_or_path
from lllms_core.engines.validators import Validator, thought_marks, whole_number
from lllms_core.machine import at_home
from lllms_core.parameters.kinds import INT32

KVType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
"""The storage types of keys or values in the KV cache."""
Pooling = Literal["mean", "cls", "last", "rank"]
"""How the vectors of a text's tokens are combined into one; "rank": into a score."""
RopeScaling = Literal["model", "none", "linear", "yarn", "longrope"]

SplitMode = Literal["none", "layer", "row"]
"""How a model is spread over several GPUs."""

CPU = "CPU"
"""ggml's name of the buffers in main memory."""
UNQUANTISED = ("f32", "f16", "bf16")
MAX_SEQUENCES = 256
"""llama.cpp's own limit for the sequences of one context."""


def _number(minimum: float) -> Validator:
    def check(_: object, attribute: "Attribute[Any]", value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < minimum:
            raise ValueError(f"{attribute.name} is {value!r}; set a finite number of at least {minimum}")

    return check


def _one_of(alias: object) -> Validator:
    words = get_args(alias)

    def check(_: object, attribute: "Attribute[Any]", value: object) -> None:
        if value not in words:
            raise ValueError(f"{attribute.name} is {value!r}; choose one of {', '.join(words)}")

    return check


def _names_or_places(_: object, attribute: "Attribute[Any]", value: object) -> None:
    assert isinstance(value, tuple)  # noqa: S101  # by its converter
    for one in value:
        _name_or_place(_, attribute, one)
    if len({*map(str, value)}) < len(value):
        raise ValueError(f"{attribute.name} is {list(value)!r}; name each GPU once")


def _name_or_place(_: object, attribute: "Attribute[Any]", value: object) -> None:
    place = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not place and not (isinstance(value, str) and value):
        raise ValueError(f'{attribute.name}: {value!r} is neither the name of a GPU, like "CUDA0", nor a place, like 0')


def _shares(_: object, attribute: "Attribute[Any]", value: object) -> None:
    assert isinstance(value, tuple)  # noqa: S101  # by its converter
    for one in value:
        _number(0)(_, attribute, one)
    if value and not any(value):
        raise ValueError(f"{attribute.name} is {list(value)!r}; give at least one GPU more than 0")


def _as_shares(given: Iterable[float]) -> tuple[float, ...]:
    return tuple(given)


def _flag_or_auto(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if not isinstance(value, bool) and value != "auto":
        raise ValueError(f'{attribute.name} is {value!r}; set true, false, or "auto"')


def _cpu_moe(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if not (value == "auto" or isinstance(value, bool) or (isinstance(value, int) and 0 <= value < 2**31)):
        raise ValueError(f'{attribute.name} is {value!r}; set true, false, a number of layers, or "auto"')


def _patterns(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f'{attribute.name} is {value!r}; set a table like {{ "ffn_.*_exps" = "CPU" }}')
    for pattern, buffer in value.items():
        if not isinstance(pattern, str) or not pattern or not isinstance(buffer, str) or not buffer:
            raise ValueError(f'{attribute.name}: {pattern!r} = {buffer!r}; write a pattern of names = "CPU", or a GPU')
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{attribute.name}: {pattern!r} is no regular expression: {error}") from None


def _as_path(given: object) -> object:
    return at_home(given) if isinstance(given, str) and given else given


@frozen
class Lora:
    """A LoRA adapter in GGUF format, applied to every request of the model."""

    path: Path = field(converter=_as_path, validator=validators.instance_of(Path))
    scale: float = field(default=1.0, validator=_number(float("-inf")))


@frozen
class Draft:
    """A smaller model of the same vocabulary, which drafts what the model then verifies in one step."""

    draft: Path = field(converter=_as_path, validator=validators.instance_of(Path))
    """Its GGUF file."""
    gpu_layers: int | Literal["auto"] = field(default="auto", validator=whole_number(-1, INT32, "auto"))
    """Its layers on the first GPU, or `main_gpu`; -1: all; "auto": all if they fit, before those of the model."""


def _speculation(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if not isinstance(value, Draft) and value not in ("auto", "off"):
        raise ValueError(f'{attribute.name} is {value!r}; set "auto", "off", or a table {{ draft = "small.gguf" }}')


@frozen
class Options:
    """The keys of `[models.X.options]` for the llama.cpp engine."""

    context_length: int | Literal["auto"] = field(default="auto", validator=whole_number(1, 2**31 - 1, "auto"))
    """Tokens that one request may hold, prompt and answer together. "auto": the trained length, as far as the KV cache
    and the buffers fit into half of the memory that the weights leave free, or a quarter if several models are
    configured. That is a cache of up to 32,768 tokens per slot, and of the trained length for two requests; with less
    memory, the slots share what there is."""
    slots: int | Literal["auto"] = field(default=4, validator=whole_number(1, MAX_SEQUENCES, "auto"))
    """Requests that run at once. "auto": as many as that memory has room for with the context, at most 8."""
    kv_size: int | None = field(default=None, validator=validators.optional(whole_number(1)))
    """Tokens of KV cache that all slots share; by default `context_length` times `slots`. With less, requests whose
    prompt and answer do not fit wait for others to end."""
    kept_tokens: int | None = field(default=None, validator=validators.optional(whole_number(0)))
    """Tokens of past conversations that stay in the KV cache while requests run, although every step reads them; by
    default `context_length`, or with stored sessions 256 of those conversations that are too short to be stored."""
    threads: int | Literal["auto"] = field(default="auto", validator=whole_number(1, 1024, "auto"))
    """"auto" follows the pool's grant and the machine's spare cores, step by step. A number is used as given, up to
    what the pool grants."""
    batch_size: int = field(default=512, validator=whole_number(1, 2**20))
    """The most tokens of one step, over all slots. Of a model that embeds: the most tokens of texts that share a pass;
    a longer text has a pass of its own."""
    micro_batch_size: int = field(default=512, validator=whole_number(1, 2**20))
    """The most tokens that pass the layers together; limited to `batch_size`."""
    gpu_layers: int | Literal["auto"] = field(default="auto", validator=whole_number(-1, INT32, "auto"))
    """Layers on GPUs, the last ones and the output; -1: all. "auto": as many as fit into the memory that is free there,
    within `server.gpu_memory_limit`. No effect without a GPU, or in a build without GPU support."""
    devices: tuple[str | int, ...] | None = field(
        default=None, converter=converters.optional(tuple), validator=validators.optional(_names_or_places),
    )
    """The GPUs to use, in this order, by name or by place in the list of `lllms plugins`; by default all but integrated
    ones, or these if there are no others. An empty list: none."""
    split_mode: SplitMode = field(default="layer", validator=_one_of(SplitMode))
    """How several GPUs share a model: "layer": each has some layers; "row": each has some rows of every matrix (CUDA,
    ROCm); "none": all is on `main_gpu`."""
    tensor_split: tuple[float, ...] = field(default=(), converter=_as_shares, validator=_shares)
    """The share of each GPU, in any unit: `[3, 1]`. By default that of the free memory."""
    main_gpu: int | str | None = field(default=None, validator=validators.optional(_name_or_place))
    """The GPU for everything with `split_mode` "none", for intermediate results with "row": its name, or its place in
    `devices`; by default the first."""
    kv_offload: bool = field(default=True, validator=validators.instance_of(bool))
    """Keep the KV cache of the layers on a GPU there; false: in main memory, where attention is then computed."""
    op_offload: bool | Literal["auto"] = field(default="auto", validator=_flag_or_auto)
    """Bring weights in main memory to the GPU for steps of 32 tokens and more, like prompts; "auto": if any layer is on
    a GPU."""
    cpu_moe: bool | int | Literal["auto"] = field(default="auto", validator=_cpu_moe)
    """The experts of a mixture that stay in main memory: true: all; a number: those of this many layers, the first
    ones. "auto", with automatic `gpu_layers`: as many as it takes to have all else on the GPU."""
    override_tensors: Mapping[str, str] = field(factory=dict, validator=_patterns)
    """Where tensors go whose names contain a match of a regular expression, the first of which counts: "CPU", or the
    name of a GPU: `{ "ffn_.*_exps" = "CPU" }`."""
    flash_attention: Literal["auto", "on", "off"] = field(
        default="auto", validator=_one_of(Literal["auto", "on", "off"]),
    )
    kv_type_k: KVType = field(default="f16", validator=_one_of(KVType))
    """The storage type of keys in the KV cache."""
    kv_type_v: KVType = field(default="f16", validator=_one_of(KVType))
    """The storage type of values in the KV cache; a quantised type needs flash attention."""
    use_mmap: bool = field(default=True, validator=validators.instance_of(bool))
    """Map the file into memory instead of reading it: loads faster, and instances of one model share the memory."""
    use_mlock: bool = field(default=False, validator=validators.instance_of(bool))
    """Prevent the weights from being swapped out."""
    chat_template: str | Path | None = field(
        default=None, converter=template_or_path, validator=validators.optional(validators.instance_of((str, Path))),
    )
    """A Jinja2 template, or the path of a file with one, instead of the model's own."""
    tool_calls: str | None = field(default=None, validator=validators.optional(validators.instance_of(str)))
    """A Jinja2 template that writes a list `tool_calls` as the model does; overrides its chat template."""
    reasoning: str = field(default="auto", validator=thought_marks)
    """The marks around the model's thoughts, like "<think>...</think>"; overrides its chat template. "none": thoughts
    are ordinary text."""
    rope_scaling: RopeScaling = field(default="model", validator=_one_of(RopeScaling))
    """How positions beyond the trained context are scaled; "model": as in its file."""
    rope_freq_base: float = field(default=0.0, validator=_number(0))
    """RoPE's base frequency; 0: the model's own."""
    rope_freq_scale: float = field(default=0.0, validator=_number(0))
    """RoPE's frequency factor, 0.5 for twice the context; 0: the model's own."""
    lora: tuple[Lora, ...] = field(
        default=(), converter=tuple, validator=validators.deep_iterable(validators.instance_of(Lora)),
    )
    """LoRA adapters, applied to every request: `lora = [{ path = "a.gguf", scale = 0.5 }]`."""
    speculation: Literal["auto", "off"] | Draft = field(default="auto", validator=_speculation)
    """Drafts of the next tokens, which one step verifies together; no answer changes. "auto": what repeats a part of
    the prompt, of the answer or of the request's `prediction`, while that is likely to save time. `{ draft = FILE }`:
    where nothing repeats, a smaller model of the same vocabulary drafts."""
    embeddings: bool | Literal["auto"] = field(default="auto", validator=_flag_or_auto)
    """Whether the model embeds texts instead of generating; "auto": if its file, or `pooling`, defines a pooling."""
    pooling: Pooling | None = field(default=None, validator=validators.optional(_one_of(Pooling)))
    """How the vectors of a text's tokens are combined into one; by default as in the model's file."""
    truncate: bool = field(default=False, validator=validators.instance_of(bool))
    """Truncate texts that are too long to embed, instead of refusing them."""
    matryoshka: bool = field(default=False, validator=validators.instance_of(bool))
    """The model's vectors may be shortened, by its training: requests may ask for fewer `dimensions`."""
    token_inputs: bool = field(default=False, validator=validators.instance_of(bool))
    """The texts to embed may be arrays of this model's own tokens. Programs that send ids by themselves mostly have
    those of OpenAI's models, whose vectors would mean nothing."""
    seed: int | None = field(default=None, validator=validators.optional(whole_number(-(2**63), 2**63 - 1)))
    """The seed of requests without one; by default each draws its own."""

    def __attrs_post_init__(self) -> None:
        if self.slots != "auto" and self.batch_size < self.slots:
            raise ValueError(f"batch_size is {self.batch_size}, but {self.slots} slots need a token each in every step")
        if self.kv_type_v not in UNQUANTISED and self.flash_attention == "off":
            raise ValueError(
                f"kv_type_v is {self.kv_type_v}, which needs flash attention; set flash_attention or kv_type_v",
            )
        if self.kv_size is not None and self.context_length != "auto" and self.kv_size < self.context_length:
            raise ValueError(
                f"kv_size is {self.kv_size}, but one request may hold {self.context_length} tokens; "
                "raise kv_size or lower context_length",
            )
        self._check_gpus()

    def _check_gpus(self) -> None:
        """Raise `ValueError` for options that contradict each other."""
        known = None if self.devices is None else len(self.devices)
        if known == 0 and self.gpu_layers not in ("auto", 0):
            raise ValueError(f"devices is empty, but gpu_layers is {self.gpu_layers}; name GPUs, or set gpu_layers = 0")
        if self.tensor_split and self.split_mode == "none":
            raise ValueError('tensor_split is set, but split_mode "none" uses a single GPU; leave one of them out')
        if known is not None and len(self.tensor_split) > known:
            raise ValueError(
                f"tensor_split has {len(self.tensor_split)} shares, but devices has {known}; give each GPU one share",
            )
        if known is not None and isinstance(self.main_gpu, int) and self.main_gpu >= known:
            raise ValueError(
                f"main_gpu is {self.main_gpu}, but devices has {known}; count from 0, or give the name of one of them",
            )
