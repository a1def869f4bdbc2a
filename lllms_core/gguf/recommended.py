"""The sampling parameters that a model's file recommends (`general.sampling.*`)."""

from collections.abc import Mapping

from lllms_core.gguf.header import Metadata

_PREFIX = "general.sampling."
_NAMES: Mapping[str, str] = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold", "penalty_repeat": "repeat_penalty", "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau", "mirostat_eta": "mirostat_eta",
}
"""llama.cpp's names, and ours."""


def recommended_sampling(metadata: Metadata) -> dict[str, int | float]:
    """Return the recommended parameters by their names in `Sampling`; values may be out of range.

    This leaves out `general.sampling.sequence`, because the order of the samplers is fixed, and the number of tokens
    that the repetition penalty considers, except that 0 means no penalty.
    """
    found: dict[str, int | float] = {}
    for key, name in _NAMES.items():
        value = metadata.get(_PREFIX + key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            # As it was written before it became a 32-bit float: 0.6, not 0.6000000238418579.
            found[name] = float(f"{value:.7g}") if isinstance(value, float) else value
    if metadata.number(f"{_PREFIX}penalty_last_n") == 0:
        found.pop("repeat_penalty", None)
    return found
