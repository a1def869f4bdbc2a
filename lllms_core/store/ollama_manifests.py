"""Ollama's names and manifests: the file with a model's weights, and the layers that are left out; pure."""

import re
from collections.abc import Iterator, Sequence

_HOST, _OWNER = "registry.ollama.ai", "library"
_KIND = "application/vnd.ollama.image."
_WEIGHTS = f"{_KIND}model"
_LEFT_OUT = {
    "projector": "projector (mmproj) for images", "adapter": "adapter (LoRA)", "system": "system prompt",
    "params": "parameters",
}
"""The layers that change a model's answers, without the template (the weights hold one) and the licence."""
LATEST = "latest"


def ollama_name(parts: tuple[str, ...]) -> str:
    """Return Ollama's name for the model of a manifest at this path: `llama3.2:1b`, `hf.co/org/repo:Q4_K_M`."""
    *owner, tag = parts
    if owner[0] == _HOST:
        owner = owner[2:] if owner[1] == _OWNER and len(owner) > 2 else owner[1:]
    return f"{'/'.join(owner)}:{tag}"


def whole_name(written: str) -> str:
    """Return Ollama's name for a model as users write it: `llama3.2` is `llama3.2:latest`."""
    name = written.removeprefix("//").removeprefix(f"{_HOST}/").removeprefix(f"{_OWNER}/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:{LATEST}"


def fitting_name(wanted: str, names: Sequence[str]) -> str | None:
    """Return the one of these names that a whole name means: itself, in any case, or, for `:latest`, the only tag."""
    same = [name for name in names if name == wanted]
    same = same or [name for name in names if name.casefold() == wanted.casefold()]
    if not same and wanted.endswith(f":{LATEST}"):
        family = wanted.removesuffix(LATEST).casefold()
        same = [name for name in names if name.casefold().startswith(family)]
    return same[0] if len(same) == 1 else None


def ollama_weights(manifest: object) -> str | None:
    """Return the digest of a manifest's weights; None if it names none in a known form."""
    return next((digest for kind, digest in _layers(manifest) if kind == _WEIGHTS and digest), None)


def left_out(manifest: object) -> tuple[str, ...]:
    """Name the layers that Ollama uses beside the weights, and lllms does not."""
    kinds = {kind.removeprefix(_KIND) for kind, _ in _layers(manifest)}
    return tuple(told for kind, told in _LEFT_OUT.items() if kind in kinds)


def _layers(manifest: object) -> Iterator[tuple[str, str | None]]:
    """Yield the kind and digest of each layer; None for a digest that is none."""
    layers = manifest.get("layers") if isinstance(manifest, dict) else None
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and isinstance(kind := layer.get("mediaType"), str):
            digest = layer.get("digest")
            whole = isinstance(digest, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
            yield kind, digest if whole else None

