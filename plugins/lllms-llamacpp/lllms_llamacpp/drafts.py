"""Whether a draft model fits a model, by the headers of both files, and what memory it takes."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from attrs import evolve

from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF, part_paths, read_parts
from lllms_core.machine import file_identity
from lllms_core.types import Finding
from lllms_llamacpp.architectures import why_not
from lllms_llamacpp.network import read_network
from lllms_llamacpp.options import Draft, Options

_KIND, _TOKENS = "tokenizer.ggml.model", "tokenizer.ggml.tokens"
PADDING = 128
"""The vocabularies of one family may differ in so many unused tokens at their end."""


def unfit_drafts(gguf: GGUF, options: Options) -> Iterator[Finding]:
    """Yield a fault for a draft model that cannot draft for the model."""
    if not isinstance(options.speculation, Draft):
        return
    try:
        _check(options.speculation.draft, gguf)
    except ModelLoadFailed as error:
        yield Finding(f"options.speculation: {error.message}")


def draft_parts(path: Path) -> tuple[GGUF, ...]:
    """Return the headers of a draft model's files. Raises `ModelLoadFailed`."""
    others = part_paths(path)
    return _read(path, tuple(file_identity(one) for one in others if one.exists()))


@lru_cache(maxsize=4)
def _read(path: Path, identities: tuple[str, ...]) -> tuple[GGUF, ...]:  # noqa: ARG001  # changed files are read again
    return tuple(read_parts(path))


def draft_options(options: Options, draft: Draft) -> Options:
    """Return the options by which a draft model is loaded, from the settled ones of its model."""
    # It is small: on one GPU it needs no copies between several.
    return evolve(
        options, speculation="off", lora=(), embeddings=False, pooling=None, gpu_layers=draft.gpu_layers,
        split_mode="none", tensor_split=(), cpu_moe=False, override_tensors={},
    )


def common_tokens(one: GGUF, other: GGUF) -> int:
    """Return how many tokens both vocabularies have."""
    return min(one.metadata.length(_TOKENS), other.metadata.length(_TOKENS))


def _check(path: Path, gguf: GGUF) -> None:
    """Raise `ModelLoadFailed` for a draft model that cannot draft for this one."""
    parts = draft_parts(path)
    if (reason := why_not(parts[0].architecture)) is not None:
        raise ModelLoadFailed(f"'{path}' {reason}")
    if read_network(parts).recurrent:
        raise ModelLoadFailed(
            f"'{path}' is recurrent, so that wrong drafts cannot be taken back; name a draft model with attention",
        )
    _check_vocabulary(path, parts[0], gguf)


def _check_vocabulary(path: Path, draft: GGUF, gguf: GGUF) -> None:
    """Raise `ModelLoadFailed` for a draft model whose tokens are not the model's."""
    way_out = "name a smaller model of the same family"
    kind, own = draft.metadata.text(_KIND), gguf.metadata.text(_KIND)
    if kind != own:
        raise ModelLoadFailed(f"'{path}' has a vocabulary of the kind {kind}, but the model's is {own}; {way_out}")
    sizes = draft.metadata.length(_TOKENS), gguf.metadata.length(_TOKENS)
    if abs(sizes[0] - sizes[1]) > PADDING:
        raise ModelLoadFailed(f"'{path}' has {sizes[0]} tokens, but the model has {sizes[1]}; {way_out}")
    theirs, ours = draft.metadata.get(_TOKENS, []), gguf.metadata.get(_TOKENS, [])
    assert isinstance(theirs, list) and isinstance(ours, list)  # noqa: PT018, S101  # they have a length
    for token, (one, other) in enumerate(zip(theirs, ours, strict=False)):
        if one != other:
            raise ModelLoadFailed(f"token {token} of '{path}' is {one!r}, but the model's is {other!r}; {way_out}")
