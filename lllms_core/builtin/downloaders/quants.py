"""Choose a model among the files of a repository by its tag, as llama.cpp does, or by its quantisation; pure."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from attrs import frozen

from lllms_core.errors import InvalidSource
from lllms_core.gguf import is_model_file, part_names

DEFAULT = "Q4_K_M"
"""A good balance of size and quality, which nearly every repository has."""

BITS: Mapping[str, float] = {
    "F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_K_XL": 10.0, "Q8_0": 8.5, "Q8": 8.5, "Q6_K_XL": 7.2, "Q6_K_L": 6.7,
    "Q6_K": 6.56, "Q6": 6.56, "Q5_K_XL": 5.8, "Q5_K_L": 5.75, "Q5_K_M": 5.69, "Q5_K_S": 5.54, "Q5_1": 6.0, "Q5_0": 5.5,
    "Q5": 5.6, "Q4_K_L": 4.95, "Q4_K_XL": 4.93, "Q4_K_M": 4.85, "Q4_K_S": 4.58, "Q4_1": 5.0, "Q4_0": 4.56, "Q4": 4.7,
    "IQ4_NL": 4.5, "NVFP4": 4.5, "MXFP4": 4.25, "IQ4_XS": 4.25, "Q3_K_XL": 4.4, "Q3_K_L": 4.27, "Q3_K_M": 3.91,
    "Q3_K_S": 3.5, "Q3": 3.9, "IQ3_M": 3.66, "IQ3_S": 3.44, "IQ3_XS": 3.3, "IQ3_XXS": 3.06, "Q2_K_L": 3.2,
    "Q2_K_XL": 3.2, "Q2_K": 3.0, "Q2_K_S": 2.9, "Q2": 3.0, "IQ2_M": 2.7, "IQ2_S": 2.5, "IQ2_XS": 2.31, "Q2_0": 2.25,
    "IQ2_XXS": 2.06, "TQ2_0": 2.06, "IQ1_M": 1.75, "TQ1_0": 1.69, "IQ1_S": 1.56, "Q1_0": 1.13,
}
"""Approximate bits per weight."""

_QUANT = re.compile(
    r"(?<![A-Z0-9])(BF16|F16|F32|FP16|FP32|MXFP4|NVFP4|TQ[12]_0|Q4_0_[48]_[48]|IQ4_NL_4_[48]"
    r"|I?Q[1-8]_(?:K(?:_(?:XXL|XL|L|M|S))?|NL|XXS|XS|S|M|[01])|Q[1-8])(?![A-Z0-9]|_[0-9])",
)
LATEST = "latest"
"""The tag that means "no tag", as in Ollama and llama.cpp."""
_OTHER_NAMES = {"FP16": "F16", "FP32": "F32"}


@frozen
class ChosenFiles:
    """The files of one model, and the reason for the choice."""

    files: tuple[str, ...]
    note: str = ""


def quant_of(file: str) -> str:
    """Return the quantisation in a file's name, like `Q4_K_M`; empty if there is none."""
    for part in reversed(PurePosixPath(file.upper()).parts):
        found = [match[1] for match in _QUANT.finditer(part)]
        if found:
            return _OTHER_NAMES.get(found[-1], found[-1])
    return ""


class Incomplete(InvalidSource):
    """A part of the chosen model is missing."""


def choose(files: Sequence[str], wanted: str, where: str) -> ChosenFiles:
    """Choose the model with the tag `wanted`, or the one closest to `Q4_K_M` if that is empty.

    Like llama.cpp, this finds a tag anywhere in a path, in any case, before a "." or "-". Of several such files, the
    one where the tag is a word of the name is chosen; `F16` matches `BF16` only if there is no other.
    `where` names the repository in messages. Raises `InvalidSource` for no model or more than one, and `Incomplete`.
    """
    models = _models(files)
    if not models:
        raise InvalidSource(f"{where} has no GGUF file; look for a repository of the same model with GGUF in its name")
    quants = {name: quant_of(name) for name in models}
    there_are = ", ".join(sorted({quant or name for name, quant in quants.items()}))
    if wanted and wanted.lower() != LATEST:
        ranks = {name: _rank(name, wanted) for name in models}
        best = min(ranks.values())
        if best == _ABSENT:
            raise InvalidSource(f"{where} has no '{wanted}'; there are: {there_are}")
        fitting = [name for name in models if ranks[name] == best]
        return ChosenFiles(_whole(models[_only(fitting, where, wanted)], files, where))
    if len(models) == 1:
        [(name, parts)] = models.items()
        return ChosenFiles(_whole(parts, files, where), f"{quants[name] or name}, the only one")
    known = [quant for quant in quants.values() if quant in BITS]
    if not known:
        raise InvalidSource(f"{where} has several models, name one, like hf:{where}/{min(models)}: {there_are}")
    nearest = min(known, key=lambda quant: (abs(BITS[quant] - BITS[DEFAULT]), -BITS[quant], quant))
    name = _only([name for name in models if quants[name] == nearest], where)
    note = nearest if nearest == DEFAULT else f"{nearest}, the closest to {DEFAULT}"
    return ChosenFiles(_whole(models[name], files, where), note)


def choose_file(files: Sequence[str], wanted: str, where: str) -> ChosenFiles:
    """Choose a file by its path, with all parts if it is split. Raises `InvalidSource` if one does not exist."""
    parts = _parts(wanted)
    if not {*parts} & {*files}:
        models = ", ".join(sorted(_models(files))) or "none"
        raise InvalidSource(f"{where} has no file '{wanted}'; its models are: {models}")
    return ChosenFiles(_whole(parts, files, where))


def complete(files: Sequence[str]) -> list[str]:
    """Return the files without those of models with a missing part."""
    there = {*files}
    return [file for file in files if there.issuperset(_parts(file))]


def _models(files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the parts of each model, keyed by the first, whether or not they are there."""
    models = {}
    for file in files:
        if is_model_file(PurePosixPath(file).name):
            parts = _parts(file)
            models[parts[0]] = parts
    return models


def _whole(parts: tuple[str, ...], files: Sequence[str], where: str) -> tuple[str, ...]:
    missing = [part for part in parts if part not in files]
    if missing:
        raise Incomplete(f"{where} lacks '{missing[0]}', one of the {len(parts)} parts of this model")
    return parts


_ABSENT = 4


def _rank(file: str, tag: str) -> int:
    """Return a tag's rank for a file, lowest for the best match; `_ABSENT` without a match."""
    quant = _OTHER_NAMES.get(tag.upper(), tag.upper())
    names = {tag.upper(), quant, *(other for other, name in _OTHER_NAMES.items() if name == quant)}
    any_name = "|".join(map(re.escape, names))
    path, name = file.upper(), PurePosixPath(file.upper()).name
    if re.search(rf"(?<![A-Z0-9])(?:{any_name})[.-]", name):
        return 0
    if re.search(rf"(?<![A-Z0-9])(?:{any_name})[./-]", path):
        return 1
    if quant_of(file) == quant:
        return 2
    return 3 if re.search(rf"(?:{any_name})[.-]", path) else _ABSENT


def _parts(file: str) -> tuple[str, ...]:
    folder, slash, name = file.rpartition("/")
    return tuple(f"{folder}{slash}{part}" for part in part_names(name))


def _only(names: Sequence[str], where: str, wanted: str = "") -> str:
    # Some repositories have UD-Q4_K_M next to Q4_K_M: prefer the plain one.
    plain = [name for name in names if "ud-" not in name.lower()]
    fitting = plain if plain and "ud-" not in wanted.lower() else names
    if len(fitting) > 1:
        raise InvalidSource(f"{where} has more than one of these, name one: {', '.join(sorted(fitting))}")
    return fitting[0]
