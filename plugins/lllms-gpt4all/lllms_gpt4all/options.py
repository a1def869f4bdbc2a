"""The `[models.X.options]` of the gpt4all engine; everything is checked before C code sees it."""

from pathlib import Path
from typing import Literal

from attrs import field, frozen, validators

from lllms_core.chat import template_or_path
from lllms_core.engines.validators import thought_marks, whole_number

MAX_CONTEXT = 2**20
MAX_BATCH = 128
"""gpt4all's own limit for the tokens of one pass over a prompt."""


@frozen
class Options:
    """The keys of `[models.X.options]` for the gpt4all engine."""

    context_length: int | Literal["auto"] = field(default="auto", validator=whole_number(1, MAX_CONTEXT, "auto"))
    """Tokens that one request may hold, prompt and answer together. "auto": the trained length, as far as the KV cache
    and the buffers fit into half of the memory that the weights leave free, or a quarter if several models are
    configured."""
    threads: int | Literal["auto"] = field(default="auto", validator=whole_number(1, 1024, "auto"))
    """"auto" uses what the pool grants. A number is used as given, up to what the pool grants."""
    batch_size: int = field(default=MAX_BATCH, validator=whole_number(1, MAX_BATCH))
    """The most prompt tokens evaluated at once; a cancel waits for at most these."""
    device: str = field(default="cpu", validator=validators.and_(validators.instance_of(str), validators.min_len(1)))
    """"cpu", or a name that gpt4all knows: "gpu", "kompute", "cuda", "amd", "nvidia", or the name of a device."""
    gpu_layers: int = field(default=-1, validator=whole_number(-1, 2**15))
    """Layers on the GPU; -1: all. No effect unless `device` is a GPU."""
    chat_template: str | Path | None = field(
        default=None, converter=template_or_path, validator=validators.optional(validators.instance_of((str, Path))),
    )
    """A Jinja2 template, or the path of a file with one, instead of the model's own."""
    tool_calls: str | None = field(default=None, validator=validators.optional(validators.instance_of(str)))
    """A Jinja2 template that writes a list `tool_calls` as the model does; overrides its chat template."""
    reasoning: str = field(default="auto", validator=thought_marks)
    """The marks around the model's thoughts, like "<think>...</think>"; overrides its chat template. "none": thoughts
    are ordinary text."""
    truncate: bool = field(default=False, validator=validators.instance_of(bool))
    """Truncate texts that are too long to embed, instead of refusing them."""
    matryoshka: bool = field(default=False, validator=validators.instance_of(bool))
    """The model's vectors may be shortened, by its training: requests may ask for fewer `dimensions`."""
    token_inputs: bool = field(default=False, validator=validators.instance_of(bool))
    """The texts to embed may be arrays of this model's own tokens. Programs that send ids by themselves mostly have
    those of OpenAI's models, whose vectors would mean nothing."""
