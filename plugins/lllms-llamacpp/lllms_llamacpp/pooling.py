"""Whether a model writes text or embeds it, and how the vectors of its tokens become one: by file and options."""

from collections.abc import Mapping

from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF
from lllms_llamacpp.options import Options, Pooling

POOLINGS: Mapping[int, Pooling] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""By the number that files have for them; 0 is none."""

_FOR_TEXT = ("kv_size", "kept_tokens", "chat_template", "seed")
_FOR_VECTORS = ("truncate", "matryoshka")


def pooling(gguf: GGUF, options: Options) -> Pooling | None:
    """How the model pools; None for one that writes text. Raises `ModelLoadFailed` for options that do not fit."""
    own = POOLINGS.get(gguf.hyperparameter("pooling_type") or 0)
    chosen = options.pooling or own
    embeds = chosen is not None if options.embeddings == "auto" else options.embeddings
    if not embeds:
        _refuse(options, ("pooling", *_FOR_VECTORS), "the model is to write text", "options.embeddings = true")
        return None
    if chosen is None:
        raise ModelLoadFailed(
            "the model's file does not say how the vectors of a text's tokens become one; set options.pooling to "
            '"mean", "cls" or "last", as its authors say',
        )
    if chosen == "rank" and own != "rank":
        raise ModelLoadFailed('options.pooling is "rank", but the model was not made to rank; leave it out')
    _refuse(options, _FOR_TEXT, "the model is to embed", "options.embeddings = false")
    return chosen


def _refuse(options: Options, names: tuple[str, ...], why: str, way_out: str) -> None:
    """Nothing that somebody sets is ignored in silence."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value is not False:
            raise ModelLoadFailed(f"options.{name} does nothing here, for {why}; leave it out, or set {way_out}")
