import random
from collections.abc import Iterator
from pathlib import Path

import hubs_for_tests
import pytest
from hubs_for_tests import COMMIT, fill_cache, hub
from hypothesis import given
from hypothesis import strategies as st
from servers_for_tests import Site, drop, instead
from stores_for_tests import TINY, sha256

from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.builtin.downloaders.hub import HubDownloader
from lllms_core.builtin.downloaders.quants import choose, choose_file, quant_of
from lllms_core.builtin.downloaders.retry_policy import RetryPolicy
from lllms_core.downloads import RemoteFile
from lllms_core.errors import ChecksumMismatch, InvalidSource, Offline, SourceUnavailable
from lllms_core.store import Store
from lllms_core.store.download import Download
from lllms_core.store.part import PartialFile

QUICK = RetryPolicy(connect=5, stall=5, pause=0.001, longest_pause=0.002)
GGUF = TINY.read_bytes()


@pytest.fixture
def site() -> Iterator[Site]:
    """A hub with one repository."""
    files = {
        "README.md": b"read me", "tiny-Q4_K_M.gguf": GGUF, "tiny-Q8_0.gguf": GGUF, "mmproj-F16.gguf": GGUF,
        "big/b-F16-00001-of-00002.gguf": GGUF, "big/b-F16-00002-of-00002.gguf": GGUF, "other/vocabulary.bin": b"words",
    }
    with hub({f"/org/repo/{name}": data for name, data in files.items()}) as one:
        yield one


def store(site: Site, tmp_path: Path, *, offline: bool = False) -> Store:
    downloader = HubDownloader(site.url, tmp_path / "hf", QUICK)
    return Store(tmp_path / "s", [HttpDownloader(QUICK), downloader], offline=offline)


@pytest.mark.parametrize(
    ("source", "names", "note"),
    [
        ("hf:org/repo", ["tiny-Q4_K_M.gguf"], "Q4_K_M"),
        ("hf:org/repo:Q8_0", ["tiny-Q8_0.gguf"], ""),
        ("hf:org/repo:q8_0", ["tiny-Q8_0.gguf"], ""),
        ("hf:org/repo:F16", ["b-F16-00001-of-00002.gguf", "b-F16-00002-of-00002.gguf"], ""),
        ("hf:org/repo/big/b-F16-00002-of-00002.gguf", ["b-F16-00001-of-00002.gguf", "b-F16-00002-of-00002.gguf"], ""),
        ("hf:org/repo/tiny-Q8_0.gguf@v2", ["tiny-Q8_0.gguf"], ""),
        ("hf:org/repo/other/vocabulary.bin", ["vocabulary.bin"], ""),
        ("{hub}/org/repo/blob/main/tiny-Q8_0.gguf", ["tiny-Q8_0.gguf"], ""),
        ("{hub}/org/repo/resolve/v2/tiny-Q8_0.gguf?download=true", ["tiny-Q8_0.gguf"], ""),
        ("{hub}/org/repo", ["tiny-Q4_K_M.gguf"], "Q4_K_M"),
    ],
)
def test_sources_of_the_hub(site: Site, tmp_path: Path, source: str, names: list[str], note: str) -> None:
    """A repository, a quantisation, a file, a revision and a web address all lead to verified files in the store."""
    model = store(site, tmp_path).ensure(source.replace("{hub}", site.url))
    assert [file.path.name for file in model.files] == names
    assert model.note == note
    place = tmp_path / "s/models" / site.url.removeprefix("http://").replace(":", "%3A") / "org/repo"
    assert all(file.owned and file.path.is_relative_to(place) for file in model.files)
    assert all(file.sha256 == sha256(file.path.read_bytes()) for file in model.files)


def test_the_hub_is_asked_once(site: Site, tmp_path: Path) -> None:
    """The files of a source are remembered: a model that is already here needs no network."""
    model = store(site, tmp_path).ensure("hf:org/repo")
    asked = len(site.requests)
    assert store(site, tmp_path).ensure("hf:org/repo") == model
    assert store(site, tmp_path, offline=True).ensure("hf:org/repo") == model
    assert len(site.requests) == asked


def test_two_sources_of_one_file(site: Site, tmp_path: Path) -> None:
    """A file of two sources is fetched once, and stays until both are deleted."""
    kept = store(site, tmp_path)
    first, second = kept.ensure("hf:org/repo"), kept.ensure("hf:org/repo:Q4_K_M")
    assert first.files == second.files
    assert sum("/cdn/" in path for path, _ in site.requests) == 1
    assert kept.delete("hf:org/repo") == []
    assert kept.delete("hf:org/repo:Q4_K_M") == list(second.files)


def test_the_hubs_hash_is_checked(site: Site, tmp_path: Path) -> None:
    """A file whose hash differs from the hub's listing is never committed."""
    good = site.files["/org/repo/tiny-Q8_0.gguf"]
    site.faults = [lambda *_: None, lambda *_: site.files.update({"/org/repo/tiny-Q8_0.gguf": good[:-1] + b"!"})]
    with pytest.raises(ChecksumMismatch, match="was expected"):
        store(site, tmp_path).ensure("hf:org/repo:Q8_0")
    assert not list((tmp_path / "s/models").rglob("*.gguf*"))


def test_a_new_commit_does_not_lose_what_has_arrived(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A download resumes after a new commit in the repository, if this file is the same."""
    half = len(GGUF) // 2
    site.faults = [lambda *_: None, lambda *_: None, drop(half)] + [drop(0)] * 10
    with pytest.raises(SourceUnavailable):
        store(site, tmp_path).ensure("hf:org/repo:Q8_0")
    site.faults = []
    monkeypatch.setattr(hubs_for_tests, "COMMIT", "f" * 40)
    store(site, tmp_path).ensure("hf:org/repo:Q8_0")
    assert site.requests[-2:] == [
        (f"/org/repo/resolve/{'f' * 40}/tiny-Q8_0.gguf", f"bytes={half}-{len(GGUF) - 1}"),
        ("/cdn/org/repo/tiny-Q8_0.gguf", f"bytes={half}-{len(GGUF) - 1}"),
    ]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("hf:org/none", InvalidSource, ".*/org/none does not exist, or it is private: then set HF_TOKEN"),
        ("hf:org/repo@v9", InvalidSource, "org/repo has no revision 'v9'"),
        ("hf:org/repo:Q2_K", InvalidSource, "org/repo has no 'Q2_K'; there are: F16, Q4_K_M, Q8_0"),
        ("hf:org/repo/x.gguf", InvalidSource, "org/repo has no file 'x.gguf'; its models are: big/b-F16-00001-of"),
        ("hf:org", InvalidSource, "write hf:org/repo"),
        ("hf:", InvalidSource, "write hf:org/repo"),
        ("hf:../..", InvalidSource, "write hf:org/repo"),
    ],
)
def test_what_the_hub_does_not_have(
    site: Site, tmp_path: Path, source: str, error: type[Exception], message: str,
) -> None:
    """A source that leads to nothing is refused, with the available alternatives."""
    with pytest.raises(error, match=message):
        store(site, tmp_path).ensure(source)


def test_a_gated_repository(site: Site, tmp_path: Path) -> None:
    """The error for a repository with terms says where to accept them."""
    site.faults = [instead(403, {"X-Error-Code": "GatedRepo"})]
    with pytest.raises(SourceUnavailable, match=r"accept them there, and set HF_TOKEN"):
        store(site, tmp_path).ensure("hf:org/repo")


@pytest.mark.parametrize(
    ("token", "way_out"),
    [(None, ", and set HF_TOKEN to a token of the same account"), ("hf_x", " with the account of your token ")],
)
@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_file(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, token: str | None, way_out: str,
) -> None:
    """If the listing is public, but the file is not, the error names the page with the terms, and HF_TOKEN."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    site.faults = [lambda *_: None, instead(status, {"X-Error-Code": "GatedRepo"})]
    terms = f"^{site.url}/org/repo is only for users who have accepted its terms: accept them there{way_out}"
    with pytest.raises(SourceUnavailable, match=terms):
        store(site, tmp_path).ensure("hf:org/repo:Q8_0")


def test_a_private_file(site: Site, tmp_path: Path) -> None:
    """The hub's answer for hidden files is explained, too; any other refusal is reported as usual."""
    site.faults = [lambda *_: None, instead(401, {"X-Error-Code": "RepoNotFound"})]
    with pytest.raises(InvalidSource, match="org/repo does not exist, or it is private: then set HF_TOKEN"):
        store(site, tmp_path).ensure("hf:org/repo:Q8_0")
    site.faults = [lambda *_: None, instead(403, {})]
    with pytest.raises(SourceUnavailable, match="it needs a login, or the link has expired"):
        store(site, tmp_path).ensure("hf:org/repo:Q8_0")


def test_an_unreachable_hub(tmp_path: Path) -> None:
    """A hub that does not answer is an error that names it; files in the cache still work."""
    with hub({}) as site:
        pass
    with pytest.raises(SourceUnavailable, match=f"could not query {site.url}/org/repo"):
        store(site, tmp_path).ensure("hf:org/repo")
    fill_cache(tmp_path / "hf", "org/repo", {"x-Q8_0.gguf": GGUF})
    assert store(site, tmp_path).ensure("hf:org/repo").note == "Q8_0, the only one"


def test_the_token_goes_to_the_hub_only(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that Hugging Face's library finds is sent to the hub, but not to redirect targets."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with hub({"/org/repo/tiny-Q8_0.gguf": GGUF}) as cdn:
        site.faults = [
            lambda *_: None,
            instead(302, {"Location": f"{cdn.url}/cdn/org/repo/tiny-Q8_0.gguf"}),
        ]
        store(site, tmp_path).ensure("hf:org/repo:Q8_0")
    sent = [{name.lower(): value for name, value in headers.items()} for headers in (*site.seen, *cdn.seen)]
    assert [headers.get("authorization") for headers in sent] == ["Bearer hf_secret", "Bearer hf_secret", None]


@pytest.mark.parametrize("configured", [True, False])
def test_the_token_goes_over_plain_http_only_where_that_is_configured(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: bool,
) -> None:
    """Without TLS anybody may listen: only a mirror that is configured with http gets the token."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    remote = RemoteFile("tiny-Q8_0.gguf", f"{site.url}/org/repo/tiny-Q8_0.gguf", len(GGUF))
    part = PartialFile(tmp_path / "tiny-Q8_0.gguf", remote, None, Download("hf:org/repo"))
    downloader = HubDownloader(site.url if configured else "https://huggingface.co", tmp_path / "hf", QUICK)
    downloader.fetch(remote, part)
    part.close(keep=False)
    sent = {name.lower(): value for name, value in site.seen[-1].items()}
    assert sent.get("authorization") == ("Bearer hf_secret" if configured else None)


def test_the_cache_of_the_library_is_used_in_place(site: Site, tmp_path: Path) -> None:
    """A file in the cache of Hugging Face's library is verified once and used in place, even from another commit."""
    fill_cache(tmp_path / "hf", "org/repo", {"tiny-Q8_0.gguf": GGUF}, "f" * 40)
    kept = store(site, tmp_path)
    model = kept.ensure("hf:org/repo:Q8_0")
    assert model.path == tmp_path / "hf/models--org--repo/snapshots" / ("f" * 40) / "tiny-Q8_0.gguf"
    assert (model.files[0].owned, model.files[0].sha256) == (False, sha256(GGUF))
    assert len(site.requests) == 1
    assert kept.find("hf:org/repo:Q8_0") == model
    assert kept.delete("hf:org/repo:Q8_0") == []
    assert model.path.exists()


def test_another_file_of_the_same_name_in_the_cache_is_not_used(site: Site, tmp_path: Path) -> None:
    """An older version of a file in the cache is not used in place of the hub's current one."""
    fill_cache(tmp_path / "hf", "org/repo", {"tiny-Q8_0.gguf": GGUF[::-1]})
    assert store(site, tmp_path).ensure("hf:org/repo:Q8_0").files[0].owned


@pytest.mark.parametrize("same", [True, False])
def test_what_git_itself_holds_is_told_by_gits_hash(tmp_path: Path, same: bool) -> None:
    """If the hub knows no SHA-256, a file of another commit is used only if it is identical, not just of equal size."""
    other = GGUF if same else GGUF[:-1] + bytes([GGUF[-1] ^ 1])
    with hub({"/org/repo/a-plain.gguf": GGUF}) as site:
        fill_cache(tmp_path / "hf", "org/repo", {"a-plain.gguf": other}, "f" * 40)
        model = store(site, tmp_path).ensure("hf:org/repo/a-plain.gguf")
        assert model.path.read_bytes() == GGUF
        assert model.files[0].owned != same


def test_offline_finds_the_cache(site: Site, tmp_path: Path) -> None:
    """In offline mode the library's cache works by quantisation, file and revision; the rest is an error at once."""
    files = {"a-Q8_0.gguf": GGUF, "sub/a-F16-00001-of-00002.gguf": GGUF, "sub/a-F16-00002-of-00002.gguf": GGUF}
    fill_cache(tmp_path / "hf", "org/repo", files)
    kept = store(site, tmp_path, offline=True)
    assert kept.ensure("hf:org/repo:Q8_0").path.name == "a-Q8_0.gguf"
    assert kept.ensure(f"hf:org/repo/a-Q8_0.gguf@{COMMIT}").path.name == "a-Q8_0.gguf"
    assert len(kept.ensure("hf:org/repo:F16").files) == 2
    for source in ["hf:org/repo:Q2_K", "hf:org/none", "hf:org/repo@../main", f"{site.url}/org/repo/blob/v7/x.gguf"]:
        with pytest.raises(Offline, match="is not on this disk, and offline mode is on"):
            kept.ensure(source)
    assert site.requests == []


@pytest.mark.parametrize(
    ("file", "quant"),
    [
        ("Phi-3-mini-4k-instruct-q4.gguf", "Q4"), ("phi-3.Q4_K_M.gguf", "Q4_K_M"), ("x-IQ2_XXS.gguf", "IQ2_XXS"),
        ("x-UD-Q4_K_XL.gguf", "Q4_K_XL"), ("x-bf16.gguf", "BF16"), ("x.fp16.gguf", "F16"),
        ("Q8_0/x-00001-of-00002.gguf", "Q8_0"),
        ("x-MXFP4.gguf", "MXFP4"), ("qwen2-Q5_K_S-Q6_K.gguf", "Q6_K"), ("x-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("q4/x.gguf", "Q4"),
        ("x-IQ4_NL_4_4.gguf", "IQ4_NL_4_4"), ("x-NVFP4.gguf", "NVFP4"), ("x-Q1_0.gguf", "Q1_0"), ("x-Q4_5.gguf", ""),
    ],
)
def test_quant_of(file: str, quant: str) -> None:
    """The quantisation is derived from the end of the name, or from the folder."""
    assert quant_of(file) == quant


@pytest.mark.parametrize(
    ("files", "chosen", "note"),
    [
        (["x-Q4_K_M.gguf", "x-Q8_0.gguf"], "x-Q4_K_M.gguf", "Q4_K_M"),
        (["x-Q2_K.gguf", "x-Q5_K_M.gguf"], "x-Q5_K_M.gguf", "Q5_K_M, the closest to Q4_K_M"),
        (["x-F16.gguf", "x-Q8_0.gguf"], "x-Q8_0.gguf", "Q8_0, the closest to Q4_K_M"),
        (["model.gguf", "mmproj-model-f16.gguf", "README.md"], "model.gguf", "model.gguf, the only one"),
        (["x-UD-Q4_K_M.gguf", "x-Q4_K_M.gguf"], "x-Q4_K_M.gguf", "Q4_K_M"),
    ],
)
def test_the_default_quantisation(files: list[str], chosen: str, note: str) -> None:
    """Q4_K_M, otherwise the nearest by bits; the note names the choice."""
    choice = choose(files, "", "org/repo")
    assert (choice.files, choice.note) == ((chosen,), note)


@pytest.mark.parametrize(
    ("files", "wanted", "message"),
    [
        (["README.md", "model.safetensors"], "", "has no GGUF file; look for a repository"),
        (["a.gguf", "b.gguf"], "", "has several models, name one, like hf:org/repo/a.gguf"),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "Q8_0", "more than one of these, name one: a-Q8_0.gguf, b-Q8_0.gguf"),
    ],
)
def test_no_choice(files: list[str], wanted: str, message: str) -> None:
    """If no file matches, or too many do, the message says what to write."""
    with pytest.raises(InvalidSource, match=message):
        choose(files, wanted, "org/repo")


@pytest.mark.parametrize(
    ("files", "tag", "chosen"),
    [
        (["x-UD-Q4_K_XL.gguf", "x-Q4_K_M.gguf"], "UD-Q4_K_XL", "x-UD-Q4_K_XL.gguf"),
        (["x-UD-Q4_K_M.gguf", "x-Q4_K_M.gguf"], "ud-q4_k_m", "x-UD-Q4_K_M.gguf"),
        (["x-UD-Q4_K_M.gguf", "x-Q4_K_M.gguf"], "Q4_K_M", "x-Q4_K_M.gguf"),
        (["x-UD-Q4_K_XL.gguf", "x-Q8_0.gguf"], "Q4_K_XL", "x-UD-Q4_K_XL.gguf"),
        (["x-Q4_0_4_4.gguf", "x-Q4_0_8_8.gguf", "x-Q4_0.gguf"], "Q4_0", "x-Q4_0.gguf"),
        (["x.mmproj-Q8_0.gguf", "x.Q8_0.gguf"], "Q8_0", "x.Q8_0.gguf"),
        (["imatrix-Q8_0.gguf", "x-MTP-Q8_0.gguf", "y.imatrix.gguf", "x-Q8_0.gguf"], "Q8_0", "x-Q8_0.gguf"),
        (["x-q4.gguf", "x-fp16.gguf"], "q4", "x-q4.gguf"),
        (["x-q4.gguf", "x-fp16.gguf"], "", "x-q4.gguf"),
        (["x-q4.gguf", "x-fp16.gguf"], "F16", "x-fp16.gguf"),
        (["x-BF16.gguf", "x-F16.gguf"], "F16", "x-F16.gguf"),
        (["x-BF16.gguf", "x-Q8_0.gguf"], "F16", "x-BF16.gguf"),
        (["x-Q4_K_M.gguf", "x-Q8_0.gguf"], "latest", "x-Q4_K_M.gguf"),
        (["Q8_0/x-00001-of-00001.gguf", "F16/x-00001-of-00001.gguf"], "q8_0", "Q8_0/x-00001-of-00001.gguf"),
        (["it-F16/x-Q8_0.gguf", "x-F16.gguf"], "F16", "x-F16.gguf"),
        (["x-1.5B-instruct.gguf", "x-7B-instruct.gguf"], "7b", "x-7B-instruct.gguf"),
        (["x-Q4_0_4_4.gguf", "x-Q6_K.gguf"], "", "x-Q6_K.gguf"),
        (["mmproj-x-Q4_K_M.gguf", "x-mmproj.gguf", "x-IQ2_XXS.gguf"], "", "x-IQ2_XXS.gguf"),
    ],
)
def test_tags_are_read_as_llama_cpp_reads_them(files: list[str], tag: str, chosen: str) -> None:
    """A tag matches in any case, before "." or "-", anywhere in a path; files that accompany models do not match."""
    for order in (files, files[::-1]):
        assert choose(order, tag, "org/repo").files == (chosen,)


@pytest.mark.parametrize("tag", ["Q4_0", "Q4_K", "4_K_M.", "nonsense"])
def test_a_tag_that_no_file_has(tag: str) -> None:
    """A tag that is only the beginning of another tag does not match."""
    with pytest.raises(InvalidSource, match=f"has no '{tag}'; there are: Q4_0_4_4, Q4_K_M"):
        choose(["x-Q4_K_M.gguf", "x-Q4_0_4_4.gguf"], tag, "org/repo")


@given(
    st.lists(st.sampled_from(["Q4_K_M", "UD-Q4_K_M", "Q4_0", "Q4_0_4_4", "BF16", "F16"]), min_size=1, unique=True),
    st.randoms(),
)
def test_each_file_of_a_repository_can_be_named_by_its_tag(tags: list[str], chance: random.Random) -> None:
    """Whatever the other files, their order and their case, a tag means the file with exactly this tag."""
    files = [f"org-model-{tag}.gguf" for tag in tags]
    chance.shuffle(files)
    for tag in tags:
        assert choose(files, tag.lower(), "org/repo").files == (f"org-model-{tag}.gguf",)


def test_latest_is_no_tag(site: Site, tmp_path: Path) -> None:
    """A source with `:latest` is the same model as without it."""
    kept = store(site, tmp_path)
    assert kept.ensure("hf:org/repo:latest") == kept.ensure("hf:org/repo")
    assert kept.canonical(f"{site.url}/org/repo:Latest") == "hf:org/repo"


@pytest.mark.parametrize("source", ["hf:org/repo:F16", "hf:org/repo/big/b-F16-00001-of-00002.gguf"])
def test_a_listing_that_lacks_a_part(site: Site, tmp_path: Path, source: str) -> None:
    """If a repository's split model is incomplete, the error names the missing part, even the first."""
    for part in ("2", "1"):
        missing = f"big/b-F16-0000{part}-of-00002.gguf"
        there = site.files.pop(f"/org/repo/{missing}")
        with pytest.raises(InvalidSource, match=f"org/repo lacks '{missing}', one of the 2 parts of this model"):
            store(site, tmp_path).ensure(source)
        site.files[f"/org/repo/{missing}"] = there
    assert len(store(site, tmp_path).ensure(source).files) == 2


def test_an_incomplete_model_in_the_cache(site: Site, tmp_path: Path) -> None:
    """Offline, or while the hub is unreachable, the missing part is named; other models in the cache still work."""
    fill_cache(tmp_path / "hf", "org/repo", {"big/b-F16-00001-of-00002.gguf": GGUF})
    offline = store(site, tmp_path, offline=True)
    for source in ("hf:org/repo", "hf:org/repo:F16", "hf:org/repo/big/b-F16-00001-of-00002.gguf"):
        with pytest.raises(Offline, match=r"only a part of hf:org/repo.* lacks 'big/b-F16-00002-of-00002\.gguf'"):
            offline.ensure(source)
    site.faults = [instead(503, {})] * 20
    with pytest.raises(SourceUnavailable, match=r"could not query .*; only a part of .* lacks 'big/b-F16-00002"):
        store(site, tmp_path).ensure("hf:org/repo:F16")
    fill_cache(tmp_path / "hf", "org/repo", {"tiny-Q8_0.gguf": GGUF})
    assert offline.ensure("hf:org/repo").note == "Q8_0, the only one"


def test_a_split_model_must_be_complete() -> None:
    """A part that the repository lacks is an error, not a model with a hole."""
    with pytest.raises(InvalidSource, match=r"org/repo lacks 'x-00002-of-00002\.gguf', one of the 2 parts"):
        choose_file(["x-00001-of-00002.gguf"], "x-00001-of-00002.gguf", "org/repo")


@given(st.lists(st.sampled_from(["Q4_K_M", "Q8_0", "F16", "IQ1_S", "", "nonsense"]), max_size=6), st.randoms())
def test_choosing_does_not_depend_on_the_order(quants: list[str], chance: random.Random) -> None:
    """However the hub orders its files, the same one is chosen, or none."""
    files = [f"m{number}-{quant}.gguf" for number, quant in enumerate(quants)]
    answers = set()
    for _ in range(3):
        chance.shuffle(files)
        try:
            answers.add(choose(files, "", "org/repo").files)
        except InvalidSource:
            answers.add(())
    assert len(answers) == 1
