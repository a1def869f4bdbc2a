"""Models that other programs have on this machine: found in place, only read.

Hugging Face, llama.cpp, LM Studio and Ollama each keep theirs in their own folder; the path of a found model can be
used for `file` in a configuration, and so can the name of one of Ollama's: `ollama:llama3.2:3b`.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Literal

from attrs import field, frozen

from lllms_core.gguf import is_model_file, part_paths
from lllms_core.machine import read_regular
from lllms_core.store.ollama_manifests import left_out, ollama_name, ollama_weights

Place = Literal["huggingface", "llama.cpp", "lmstudio", "ollama"]

_OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")
"""The models of the service that Ollama's installer sets up on Linux."""


@frozen
class FoundModel:
    """A model of another program."""

    place: Place
    name: str
    """That program's name for it."""
    path: Path
    """The weights file, of a split model the first part: a value for `file`."""
    size: int
    """Bytes of all parts."""
    left_out: tuple[str, ...] = ()
    """Parts that its program uses beside the weights, and lllms does not."""

    @property
    def source(self) -> str:
        """What to write for `file`, `--model`, `run` and `chat`."""
        return f"ollama:{self.name}" if self.place == "ollama" else str(self.path)


@frozen
class Findings:
    """The models found, and the paths that could not be read."""

    models: tuple[FoundModel, ...]
    """Sorted by place and name."""
    problems: tuple[str, ...]


def find_models(
    environ: Mapping[str, str] = os.environ, home: Path | None = None, platform: str = sys.platform,
) -> Findings:
    """Search the folders of the other programs. Missing folders hold no models."""
    disk = _Disk()
    home = home or Path.home()
    found: list[FoundModel] = []
    found += _huggingface(huggingface_folder(environ, home), disk)
    found += _models("llama.cpp", llamacpp_folder(environ, home, platform), disk)
    for folder in _lmstudio_folders(home, disk):
        found += _models("lmstudio", folder, disk)
    for folder in ollama_folders(environ, home, platform):
        found += _ollama(folder, disk)
    return _findings(found, disk)


def find_ollama(
    environ: Mapping[str, str] = os.environ, home: Path | None = None, platform: str = sys.platform,
) -> Findings:
    """Search the folders of Ollama only."""
    disk = _Disk()
    folders = ollama_folders(environ, home or Path.home(), platform)
    return _findings([model for folder in folders for model in _ollama(folder, disk)], disk)


def _findings(found: list[FoundModel], disk: "_Disk") -> Findings:
    # Of two with one name, the first counts: folders and revisions are in order of precedence.
    models = {(model.place, model.name): model for model in reversed(found)}
    return Findings(tuple(models[key] for key in sorted(models)), tuple(disk.problems))


# -- where they are ----------------------------------------------------------------------------------------------------


def huggingface_folder(environ: Mapping[str, str], home: Path) -> Path:
    """Return the cache of the Hugging Face hub."""
    hub = _given(environ, "HF_HUB_CACHE", home) or _given(environ, "HUGGINGFACE_HUB_CACHE", home)
    return hub or (_given(environ, "HF_HOME", home) or _cache(environ, home) / "huggingface") / "hub"


def llamacpp_folder(environ: Mapping[str, str], home: Path, platform: str) -> Path:
    """Return the download folder of llama.cpp's programs."""
    if folder := _given(environ, "LLAMA_CACHE", home):
        return folder
    if platform == "darwin":
        return home / "Library" / "Caches" / "llama.cpp"
    if platform == "win32":
        return (_given(environ, "LOCALAPPDATA", home) or home / "AppData" / "Local") / "llama.cpp"
    return _cache(environ, home) / "llama.cpp"


def ollama_folders(environ: Mapping[str, str], home: Path, platform: str) -> list[Path]:
    """Return the folders of Ollama's models: the configured one, else the user's, and the service's on Linux."""
    if folder := _given(environ, "OLLAMA_MODELS", home):
        return [folder]
    return [home / ".ollama" / "models", *([_OLLAMA_SERVICE] if platform == "linux" else [])]


def _lmstudio_folders(home: Path, disk: "_Disk") -> list[Path]:
    """Return the folder in LM Studio's settings, else its default, and that of older versions."""
    base = Path((disk.text(home / ".lmstudio-home-pointer") or "").strip() or home / ".lmstudio")
    settings = disk.json(base / "settings.json")
    chosen = settings.get("downloadsFolder") if isinstance(settings, dict) else None
    folder = Path(chosen) if isinstance(chosen, str) and chosen else base / "models"
    return [folder, home / ".cache" / "lm-studio" / "models"]


def _given(environ: Mapping[str, str], name: str, home: Path) -> Path | None:
    """Return the folder that a variable names, if it is set and not empty."""
    value = environ.get(name)
    if not value:
        return None
    return home / value[2:] if value.startswith(("~/", "~\\")) else Path(value)


def _cache(environ: Mapping[str, str], home: Path) -> Path:
    return _given(environ, "XDG_CACHE_HOME", home) or home / ".cache"


# -- their contents ----------------------------------------------------------------------------------------------------


def _huggingface(hub: Path, disk: "_Disk") -> Iterator[FoundModel]:
    """Yield the models of the hub's cache, `models--ORG--REPO/snapshots/REVISION/...`; the current revision first."""
    for repo in disk.folders(hub):
        kind, _, name = repo.name.partition("--")
        if kind != "models":
            continue
        current = (disk.text(repo / "refs" / "main") or "").strip()
        for snapshot in sorted(disk.folders(repo / "snapshots"), key=lambda one: (one.name != current, one.name)):
            for model in _models("huggingface", snapshot, disk):
                yield FoundModel("huggingface", f"{name.replace('--', '/', 1)}/{model.name}", model.path, model.size)


def _models(place: Place, folder: Path, disk: "_Disk") -> Iterator[FoundModel]:
    """Yield the models in a folder, named by their relative paths; parts count together, projectors do not count."""
    for file in dict.fromkeys(part_paths(one)[0] for one in disk.files(folder) if is_model_file(one.name)):
        files = part_paths(file)
        sizes = list(takewhile(lambda size: size is not None, map(disk.size, files)))  # one missing part says enough
        if len(sizes) == len(files):
            yield FoundModel(place, file.relative_to(folder).as_posix(), file, sum(filter(None, sizes)))


def _ollama(folder: Path, disk: "_Disk") -> Iterator[FoundModel]:
    """Yield the models of Ollama's manifests, `manifests/HOST/OWNER/NAME/TAG`; their weights are `blobs/sha256-...`."""
    manifests = folder / "manifests"
    for file in disk.files(manifests):
        parts = file.relative_to(manifests).parts
        if len(parts) < 3 or file.name.startswith("."):
            continue
        manifest = disk.json(file)
        digest = ollama_weights(manifest)
        if digest is None:
            continue
        blob = folder / "blobs" / digest.replace(":", "-")
        size = disk.size(blob)
        if size is not None:
            yield FoundModel("ollama", ollama_name(parts), blob, size, left_out(manifest))


@frozen
class _Disk:
    """Reads files that may be missing; an existing but unreadable one becomes a problem."""

    problems: list[str] = field(factory=list)

    def folders(self, folder: Path) -> list[Path]:
        """Return the folders in a folder, sorted."""
        try:
            return sorted(one for one in folder.iterdir() if one.is_dir())
        except OSError as error:
            self._failed(error, folder)
            return []

    def files(self, folder: Path) -> list[Path]:
        """Return all files in a folder and its subfolders, sorted."""
        def failed(error: OSError) -> None:
            self._failed(error, Path(error.filename))

        return sorted(Path(top) / name for top, _, names in os.walk(folder, onerror=failed) for name in names)

    def size(self, file: Path) -> int | None:
        """Return the bytes of a file that should exist: None for a broken link, a missing part or a missing blob."""
        try:
            return file.stat().st_size
        except OSError as error:
            self.problems.append(f"{file} cannot be read: {error.strerror}")
            return None

    def text(self, file: Path) -> str | None:
        try:
            return read_regular(file).decode("utf-8-sig", "replace")
        except OSError as error:
            self._failed(error, file)
            return None

    def json(self, file: Path) -> object:
        text = self.text(file)
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            self.problems.append(f"{file} is not JSON")
            return None

    def _failed(self, error: OSError, path: Path) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            self.problems.append(f"{path} cannot be read: {error.strerror}")
