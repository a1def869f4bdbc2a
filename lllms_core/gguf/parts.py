"""The files of a model by their names: the parts of a split model, and files that only accompany models; pure."""

import re
from pathlib import Path

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE | re.DOTALL)
_COMPANIONS = ("mmproj", "imatrix", "mtp-")
"""Words in the names of GGUF files that belong to a model, but are not models: llama.cpp's list."""


def part_names(name: str) -> list[str]:
    """Return the names of all parts if `name` is a part of a split GGUF file, else just `name`."""
    match = _PART.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return [name]
    return [f"{match[1]}-{number:05}-of-{match[3]}{match[4]}" for number in range(1, int(match[3]) + 1)]


def part_paths(path: Path) -> list[Path]:
    """Return the paths of all parts of a split GGUF file, given any of them; otherwise just `path`."""
    return [path.with_name(name) for name in part_names(path.name)]


def is_model_file(name: str) -> bool:
    """Whether a file's name is that of a GGUF model, not of a projector, an importance matrix or a draft head."""
    name = name.lower()
    return name.endswith(".gguf") and not any(word in name for word in _COMPANIONS)
