"""The `samplers` of llama-server: only those in the list act, in its order; pure."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from lllms_core.parameters.wording import cut, wrong_type

NEUTRAL: Mapping[str, Mapping[str, object]] = {
    "penalties": {"repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0},
    "dry": {"dry_multiplier": 0.0}, "top_k": {"top_k": 0}, "typ_p": {"typical_p": 1.0}, "top_p": {"top_p": 1.0},
    "min_p": {"min_p": 0.0}, "xtc": {"xtc_probability": 0.0}, "temperature": {"temperature": 1.0},
}
"""The samplers that there are, in the order in which they always act here, with the parameters that turn each off."""
SYNONYMS: Mapping[str, str] = {
    "typical_p": "typ_p", "typical": "typ_p", "temp": "temperature", "top-k": "top_k", "top-p": "top_p",
    "min-p": "min_p", "typical-p": "typ_p",
}
LETTERS: Mapping[str, str] = {
    "e": "penalties", "d": "dry", "k": "top_k", "y": "typ_p", "p": "top_p", "m": "min_p", "x": "xtc",
    "t": "temperature", "s": "top_n_sigma", "i": "infill",
}
"""The samplers as one string."""
INFILL = "infill"
"""It prefers likely tokens so strongly that taking the likeliest one is the nearest to it."""


@frozen
class Samplers:
    """What a list of samplers asks for."""

    values: Mapping[str, object]
    """Parameters, which replace those of the request."""
    unused: Sequence[str] = ()
    """The samplers, and their order, that nothing acts on."""


def read_samplers(value: object) -> Samplers:
    """Read `samplers`: an array of names, or a string of letters; empty: the usual ones. Raises `InvalidRequest`."""
    if isinstance(value, str):
        value = [LETTERS.get(letter, letter) for letter in value[:100]]
    if not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise wrong_type("samplers", "an array of strings, or a string", value)
    names = [SYNONYMS.get(one, one) for one in value]
    if not names:
        return Samplers({})
    known = [one for one in dict.fromkeys(names) if one in NEUTRAL]
    values = {key: off for name, ones in NEUTRAL.items() if name not in known for key, off in ones.items()}
    unused = [f"samplers.{cut(one)}" for one in dict.fromkeys(names) if one not in NEUTRAL]
    if known != [one for one in NEUTRAL if one in known]:
        unused.append("samplers")
    if INFILL in names and "temperature" not in known:
        values["temperature"] = 0.0
    return Samplers(values, unused)
