"""The `[models.X.options]` of the llama.cpp engine; everything is checked before C code sees it."""

from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from attrs import Attribute, field, frozen, validators

from lllms_core.chat import template_or_path
from lllms_core.engines.validators import Validator, thought_marks, whole_number
from lllms_core.machine import at_home

KVType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
"""The storage types of keys or values in the KV cache."""
Pooling = Literal["mean", "cls", "last", "rank"]
"""How the vectors of a text's tokens are combined into one; "rank": into a score."""
RopeScaling = Literal["model", "none", "linear", "yarn", "longrope"]

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
    gpu_layers: int = field(default=-1, validator=whole_number(-1))
    """As the option of the model."""


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
    default 256 if sessions are stored, which can restore the others, else `context_length`."""
    threads: int | Literal["auto"] = field(default="auto", validator=whole_number(1, 1024, "auto"))
    """"auto" follows the pool's grant and the machine's spare cores, step by step. A number is used as given, up to
    what the pool grants."""
    batch_size: int = field(default=512, validator=whole_number(1, 2**20))
    """The most tokens of one step, over all slots. Of a model that embeds: the most tokens of texts that share a pass;
    a longer text has a pass of its own."""
    micro_batch_size: int = field(default=512, validator=whole_number(1, 2**20))
    """The most tokens that pass the layers together; limited to `batch_size`."""
    gpu_layers: int = field(default=-1, validator=whole_number(-1))
    """Layers on the GPU; -1: all. No effect without a GPU, or in a build without GPU support."""
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
    embeddings: bool | Literal["auto"] = field(
        default="auto", validator=validators.or_(validators.instance_of(bool), validators.in_(["auto"])),
    )
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
