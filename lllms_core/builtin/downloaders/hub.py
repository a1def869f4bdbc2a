"""Model files on Hugging Face: its own library resolves, checks and authorises; its cache is used in place."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from attrs import field, frozen

from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.builtin.downloaders.quants import LATEST, Incomplete, choose, choose_file, complete
from lllms_core.builtin.downloaders.retry_policy import RETRY_POLICY, RetryPolicy
from lllms_core.downloads import Downloader, Part, RemoteFile, RemoteModel, SearchHit, shown, store_name
from lllms_core.errors import InvalidSource, Offline, SourceUnavailable
from lllms_core.machine import read_regular

ENDPOINT = "https://huggingface.co"
HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
MAIN = "main"
SHAPE = "write hf:org/repo, hf:org/repo:Q4_K_M or hf:org/repo/file.gguf@revision"

# Its library sends telemetry to the hub, unless that is switched off before the import.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_NAME = r"[A-Za-z0-9][\w.-]*"
_SOURCE = re.compile(rf"hf:(?://)?({_NAME}/{_NAME})(?::([\w.-]+)|/([^@]+))?(?:@(.+))?", re.IGNORECASE | re.ASCII)


@frozen
class HubSource:
    """A repository, and the revision and the quantisation or file wanted of it."""

    repository: str
    revision: str = MAIN
    quant: str = ""
    file: str = ""

    def __str__(self) -> str:
        """Return it as a source that starts with `hf:`."""
        what = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"hf:{self.repository}{what}{'' if self.revision == MAIN else f'@{self.revision}'}"


def read_source(source: str, endpoint: str = ENDPOINT) -> HubSource | None:
    """Read a source; None for an address on the hub, or on its mirror `endpoint`, that is not in a repository.

    Raises `InvalidSource` for a malformed source that starts with `hf:`, and for the address of a folder.
    """
    if source[:3].lower() != "hf:":
        return _read_address(urlsplit(source), urlsplit(endpoint))
    found = _read_short(source)
    if found is None:
        raise InvalidSource(f"'{source}' is not a Hugging Face source: {SHAPE}")
    return found


def _read_short(source: str) -> HubSource | None:
    match = _SOURCE.fullmatch(source)
    if match is None:
        return None
    repository, tag, file, revision = match.groups()
    return HubSource(repository, revision or MAIN, _quant(tag), file or "")


def _quant(tag: str | None) -> str:
    return "" if tag is None or tag.lower() == LATEST else tag


def _read_address(address: SplitResult, endpoint: SplitResult) -> HubSource | None:
    path = address.path
    if address.netloc.lower() == endpoint.netloc.lower():  # a mirror may share its host with other things
        if not path.startswith(f"{endpoint.path}/"):
            return None
        path = path.removeprefix(endpoint.path)
    organisation, repository, *rest = [*map(unquote, path.strip("/").split("/")), ""]
    match = re.fullmatch(rf"({_NAME}/{_NAME})(?::([\w.-]+))?", f"{organisation}/{repository}", re.ASCII)
    if match is None or organisation in {"datasets", "spaces", "api"}:
        return None
    name, quant = match[1], _quant(match[2])
    match rest[:-1]:
        case []:
            shows = parse_qs(address.query).get("show_file_info", [""])  # the hub's own page about a file
            return HubSource(name, quant=quant, file=shows[0])
        case ["tree", revision]:
            return HubSource(name, revision, quant)
        case ["tree", revision, *folders]:
            raise InvalidSource(
                f"'{'/'.join(folders)}' is a folder of {name}: name a quantisation, like hf:{name}:Q4_K_M, or a file",
            )
        case ["blob" | "resolve" | "raw", revision, *file] if file:
            return HubSource(name, revision, file="/".join(file))
    return None


@frozen
class HubDownloader(Downloader):
    """`hf:org/repo:Q4_K_M` and addresses of huggingface.co, or of the mirror that `HF_ENDPOINT` names."""

    name = "hf"
    schemes = frozenset({"hf"})

    endpoint: str = field(factory=lambda: os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT)
    cache: Path | None = None
    """The cache folder of Hugging Face's own library; None: the one it is configured with."""
    policy: RetryPolicy = RETRY_POLICY

    @property
    def hosts(self) -> frozenset[str]:
        """The hub's own hosts, and its mirror's."""
        return HOSTS | {urlsplit(self.endpoint).netloc.lower()}

    def canonical(self, source: str) -> str:
        """Return the short form of an address: `hf:org/repo/file.gguf@revision`."""
        wanted = read_source(source, self.endpoint)
        return source if wanted is None or _read_short(str(wanted)) != wanted else str(wanted)

    def file_name(self, source: str) -> str:
        """Return the name of the file; for a repository, the name of a GGUF file, because only those are considered."""
        wanted = read_source(source, self.endpoint)
        if wanted is None:
            return super().file_name(source)
        repository = re.sub("(?i)-gguf$", "", wanted.repository.partition("/")[2])
        return PurePosixPath(wanted.file).name or f"{repository}.gguf"

    def find(self, source: str) -> RemoteModel | None:
        """Return the model from the cache of Hugging Face's library."""
        wanted = read_source(source, self.endpoint)
        if wanted is None:
            return HttpDownloader().find(source)
        folder = self._repository(wanted.repository)
        if not _is_plain(wanted.revision):
            return None
        try:
            commit = read_regular(folder / "refs" / wanted.revision).decode().strip()
        except (OSError, ValueError):
            commit = wanted.revision
        else:
            if not re.fullmatch(r"[\w.-]{1,200}", commit) or ".." in commit:
                return None
        snapshot = folder / "snapshots" / commit
        files = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}
        if not files:
            return None
        try:
            chosen = _choose_there(list(files), wanted)
        except Incomplete as error:
            raise Offline(f"only a part of {wanted} is on this disk: in {snapshot}, {error.message}") from error
        except InvalidSource:
            return None  # not in the cache; the hub may still have it
        return RemoteModel(
            [
                RemoteFile(self._name(wanted, file), str(files[file]), files[file].stat().st_size, path=files[file])
                for file in chosen[0]
            ],
            chosen[1],
        )

    def resolve(self, source: str) -> RemoteModel:
        """Ask the hub for the files, their sizes and their hashes."""
        wanted = read_source(source, self.endpoint)
        if wanted is None:
            return HttpDownloader().resolve(source)
        from huggingface_hub import hf_hub_url

        commit, there = self._list(wanted)
        files, note = _choose(list(there), wanted)
        found = []
        for file in files:
            size, sha256, blob = there[file]
            url = hf_hub_url(wanted.repository, file, revision=commit, endpoint=self.endpoint)
            path = self._cached(wanted, file, size, sha256 or blob)
            found.append(RemoteFile(self._name(wanted, file), url, size, sha256, path))
        return RemoteModel(found, note)

    def fetch(self, file: RemoteFile, part: Part) -> None:
        """Fetch a file, with the token that Hugging Face's library knows (`HF_TOKEN`, or `hf auth login`)."""
        from lllms_core.builtin.downloaders.transfer import Refused, fetch

        headers = self._authorization(file.url)
        try:
            fetch(file.url, part, headers, self.policy)
        except Refused as error:
            repository = re.sub(r"/resolve/.*", "", file.url, flags=re.DOTALL)
            if error.code == "GatedRepo":
                raise _gated(repository, token=bool(headers)) from error
            if error.code == "RepoNotFound":
                raise InvalidSource(f"{repository} does not exist, or it is private: then set HF_TOKEN") from error
            raise

    def search(self, words: str, most: int) -> Sequence[SearchHit]:
        """Ask the hub for the most downloaded models in GGUF files that fit these words."""
        from lllms_core.builtin.downloaders.hub_search import search_hub

        return search_hub(self.endpoint, words, most, self._authorization(f"{self.endpoint}/"))

    def _authorization(self, url: str) -> dict[str, str]:
        """Return the header with the user's token; empty without one, or if it would be sent in the clear."""
        from huggingface_hub import utils

        known = utils.build_hf_headers()  # type: ignore[attr-defined]  # public, and not marked so
        # Without https, only a mirror that is configured so gets the token: others may be listening.
        safe = urlsplit(url).scheme == "https" or url.startswith(f"{self.endpoint}/")
        return {name: value for name, value in known.items() if safe and name.lower() == "authorization"}

    def _list(self, wanted: HubSource) -> tuple[str, Mapping[str, tuple[int | None, str | None, str | None]]]:
        """Return the commit of a revision, and the size, SHA-256 and Git hash of each file of the repository."""
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        where = f"{self.endpoint}/{wanted.repository}"
        try:
            info = HfApi(endpoint=self.endpoint, library_name="lllms").model_info(
                wanted.repository, revision=wanted.revision, files_metadata=True, timeout=self.policy.connect,
            )
        except GatedRepoError as error:
            raise _gated(where, token=get_token() is not None) from error
        except RepositoryNotFoundError as error:
            raise InvalidSource(f"{where} does not exist, or it is private: then set HF_TOKEN") from error
        except RevisionNotFoundError as error:
            raise InvalidSource(f"{where} has no revision '{wanted.revision}'") from error
        except HFValidationError as error:
            raise InvalidSource(f"'{wanted.repository}' is not a valid repository name: {SHAPE}") from error
        except Exception as error:  # the HTTP errors differ between versions of the library
            raise SourceUnavailable(f"could not query {where}: {shown(str(error)) or type(error).__name__}") from error
        return info.sha or wanted.revision, {
            one.rfilename: (one.size, one.lfs.sha256 if one.lfs else None, one.blob_id) for one in info.siblings or ()
        }

    def _name(self, wanted: HubSource, file: str) -> str:
        revision = [] if wanted.revision == MAIN else [f"@{wanted.revision}"]
        host = urlsplit(self.endpoint).netloc.lower()
        return store_name(host, *wanted.repository.split("/"), *revision, *PurePosixPath(file).parts)

    def _repository(self, repository: str) -> Path:
        if self.cache is not None:
            cache = self.cache
        else:
            from huggingface_hub.constants import HF_HUB_CACHE

            cache = Path(HF_HUB_CACHE)
        return cache / f"models--{repository.replace('/', '--')}"

    def _cached(self, wanted: HubSource, file: str, size: int | None, digest: str | None) -> Path | None:
        """Return the path of this file in the cache of Hugging Face's library, from any commit."""
        if not _is_plain(file):
            return None
        for path in sorted(self._repository(wanted.repository).glob(f"snapshots/*/{_literally(file)}")):
            # The library names cached files by hash: the SHA-256, or the Git hash of files stored in Git itself.
            if path.is_file() and size in (None, path.stat().st_size) and digest in (None, path.resolve().name):
                return path
        return None


def _gated(repository: str, *, token: bool) -> SourceUnavailable:
    """Return the error for a repository with terms to accept; `token`: whether one was sent."""
    way_out = (
        "accept them there with the account of your token (HF_TOKEN), and wait if its owners have to agree; a"
        " fine-grained token needs the right to read gated repositories"
        if token else "accept them there, and set HF_TOKEN to a token of the same account"
    )
    return SourceUnavailable(f"{repository} is only for users who have accepted its terms: {way_out}")


def _choose_there(files: list[str], wanted: HubSource) -> tuple[tuple[str, ...], str]:
    """Choose among the cache's files, where models may be incomplete. Raises `Incomplete` if only such a model fits."""
    try:
        return _choose(complete(files), wanted)
    except InvalidSource:
        return _choose(files, wanted)


def _choose(files: list[str], wanted: HubSource) -> tuple[tuple[str, ...], str]:
    choice = choose_file(files, wanted.file, wanted.repository) if wanted.file else choose(
        files, wanted.quant, wanted.repository,
    )
    return choice.files, choice.note


def _is_plain(path: str) -> bool:
    """Whether a path stays inside its folder."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _literally(path: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", path)
