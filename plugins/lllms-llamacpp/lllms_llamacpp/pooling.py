"""Whether a model generates or embeds text, and how it combines its tokens' vectors: by its file and the options."""

from collections.abc import Mapping

from lllms_core.errors import ModelLoadFailed
from lllms_core.gguf import GGUF
from lllms_llamacpp.options import Options, Pooling

POOLINGS: Mapping[int, Pooling] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""By their numbers in files; 0 means none."""

_FOR_TEXT = ("kv_size", "kept_tokens", "chat_template", "seed")
_FOR_VECTORS = ("truncate", "matryoshka", "token_inputs")


def pooling(gguf: GGUF, options: Options) -> Pooling | None:
    """Return the model's pooling; None if it generates text. Raises `ModelLoadFailed` for options that do not fit."""
    own = POOLINGS.get(gguf.hyperparameter("pooling_type") or 0)
    chosen = options.pooling or own
    embeds = chosen is not None if options.embeddings == "auto" else options.embeddings
    if not embeds:
        _refuse(options, ("pooling", *_FOR_VECTORS), "the model generates text", "options.embeddings = true")
        return None
    if chosen is None:
        raise ModelLoadFailed(
            "the model's file does not say how to combine the vectors of a text's tokens; set options.pooling to "
            '"mean", "cls" or "last", as its authors say',
        )
    if chosen == "rank" and own != "rank":
        raise ModelLoadFailed('options.pooling is "rank", but the model was not trained to rank; leave it out')
    _refuse(options, _FOR_TEXT, "the model embeds text", "options.embeddings = false")
    return chosen


def _refuse(options: Options, names: tuple[str, ...], why: str, way_out: str) -> None:
    """Raise `ModelLoadFailed` for options without effect: none is silently ignored."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value is not False:
            raise ModelLoadFailed(f"options.{name} has no effect, because {why}; leave it out, or set {way_out}")
