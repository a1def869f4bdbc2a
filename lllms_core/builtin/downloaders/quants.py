"""Choose a model among the files of a repository by its quantisation; pure."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from attrs import frozen

from lllms_core.builtin.downloaders.http import split_names
from lllms_core.errors import InvalidSource

DEFAULT = "Q4_K_M"
"""A good balance of size and quality, which nearly every repository has."""

BITS: Mapping[str, float] = {
    "F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.69, "Q5_K_S": 5.54, "Q5_1": 6.0,
    "Q5_0": 5.5, "Q4_K_L": 4.95, "Q4_K_XL": 4.93, "Q4_K_M": 4.85, "Q4_K_S": 4.58, "Q4_1": 5.0, "Q4_0": 4.56,
    "IQ4_NL": 4.5, "MXFP4": 4.25, "IQ4_XS": 4.25, "Q3_K_XL": 4.4, "Q3_K_L": 4.27, "Q3_K_M": 3.91, "Q3_K_S": 3.5,
    "IQ3_M": 3.66, "IQ3_S": 3.44, "IQ3_XS": 3.3, "IQ3_XXS": 3.06, "Q2_K_L": 3.2, "Q2_K_XL": 3.2, "Q2_K": 3.0,
    "Q2_K_S": 2.9, "IQ2_M": 2.7, "IQ2_S": 2.5, "IQ2_XS": 2.31, "IQ2_XXS": 2.06, "TQ2_0": 2.06, "IQ1_M": 1.75,
    "TQ1_0": 1.69, "IQ1_S": 1.56,
}
"""Approximate bits per weight."""

_QUANT = re.compile(
    r"(?<![A-Z0-9])(BF16|F16|F32|FP16|FP32|MXFP4|TQ[12]_0|I?Q[1-8]_(?:K(?:_(?:XXL|XL|L|M|S))?|NL|XXS|XS|S|M|[01]))"
    r"(?![A-Z0-9])",
)
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


def choose(files: Sequence[str], wanted: str, where: str) -> ChosenFiles:
    """Choose the model with the quantisation `wanted`, or the one closest to `Q4_K_M` if that is empty.

    `where` names the repository, for the messages. Raises `InvalidSource` if there is none, or more than one.
    """
    models = _models(files)
    if not models:
        raise InvalidSource(f"{where} has no GGUF file; look for a repository of the same model with GGUF in its name")
    quants = {name: quant_of(name) for name in models}
    there_are = ", ".join(sorted({quant or name for name, quant in quants.items()}))
    if wanted:
        quant = _OTHER_NAMES.get(wanted.upper(), wanted.upper())
        fitting = [name for name in models if quants[name] == quant]
        if not fitting:
            raise InvalidSource(f"{where} has no '{wanted}'; there are: {there_are}")
        return ChosenFiles(models[_only(fitting, where)])
    if len(models) == 1:
        [(name, all_files)] = models.items()
        return ChosenFiles(all_files, f"{quants[name] or name}, the only one")
    known = [quant for quant in quants.values() if quant in BITS]
    if not known:
        raise InvalidSource(f"{where} has several models, name one, like hf:{where}/{min(models)}: {there_are}")
    nearest = min(known, key=lambda quant: (abs(BITS[quant] - BITS[DEFAULT]), -BITS[quant], quant))
    name = _only([name for name in models if quants[name] == nearest], where)
    return ChosenFiles(models[name], nearest if nearest == DEFAULT else f"{nearest}, the closest to {DEFAULT}")


def choose_file(files: Sequence[str], wanted: str, where: str) -> ChosenFiles:
    """Choose a file by its path, with all parts if it is split. Raises `InvalidSource` if one does not exist."""
    parts = _parts(wanted)
    missing = [part for part in parts if part not in files]
    if missing:
        models = ", ".join(sorted(_models(files))) or "none"
        raise InvalidSource(f"{where} has no file '{missing[0]}'; its models are: {models}")
    return ChosenFiles(parts)


def _models(files: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the files of each model, keyed by the first; files that accompany models are left out."""
    models = {}
    for file in files:
        name = PurePosixPath(file).name.lower()
        parts = _parts(file)
        if name.endswith(".gguf") and not name.startswith(("mmproj", "imatrix")) and parts[0] == file:
            models[file] = parts
    return models


def _parts(file: str) -> tuple[str, ...]:
    folder, slash, name = file.rpartition("/")
    return tuple(f"{folder}{slash}{part}" for part in split_names(name))


def _only(names: Sequence[str], where: str) -> str:
    # Some repositories have UD-Q4_K_M next to Q4_K_M: prefer the plain one.
    plain = [name for name in names if "ud-" not in name.lower()] or names
    if len(plain) > 1:
        raise InvalidSource(f"{where} has more than one of these, name one: {', '.join(sorted(plain))}")
    return plain[0]
