"""What the hub's search tells, and how it fails."""

import json
import re
from collections.abc import Iterator

import pytest
from hubs_for_tests import hub
from hypothesis import given
from hypothesis import strategies as st
from servers_for_tests import Site, hang, instead

from lllms_core.builtin.downloaders import hub_search
from lllms_core.builtin.downloaders.file import FileDownloader
from lllms_core.builtin.downloaders.hub import HubDownloader
from lllms_core.builtin.downloaders.hub_search import read_hits, separate
from lllms_core.downloads import SearchHit
from lllms_core.errors import SourceUnavailable


@pytest.fixture
def site() -> Iterator[Site]:
    names = ("org/small-GGUF/s-Q4_K_M.gguf", "org/small-GGUF/s-Q8_0.gguf", "org/gated-small-GGUF/g-Q8_0.gguf",
             "org/small-plain/README.md", "org/other-GGUF/o-Q4_K_M.gguf")
    with hub({f"/{name}": b"GGUF" for name in names}) as site:
        yield site


def test_the_hub_is_searched(site):
    """A hit has the source that `pull` would choose, its size by parameters and quantisation, context and licence."""
    hits = HubDownloader(site.url).search("small", 10)
    assert hits == [
        SearchHit("hf:org/gated-small-GGUF:Q8_0", 1_062_500_000, 10**9, 4096, "apache-2.0",
                  "its terms must be accepted first"),
        SearchHit("hf:org/small-GGUF:Q4_K_M", 606_250_000, 10**9, 4096, "apache-2.0"),
    ], "a repository without GGUF files is left out"
    assert len(HubDownloader(site.url).search("small", 1)) == 1
    [asked] = {path.partition("?")[0] for path, _ in site.requests}
    assert asked == "/api/models"
    assert all("filter=gguf" in path and "sort=downloads" in path for path, _ in site.requests)


@pytest.mark.parametrize(("words", "asked"), [
    ("llama3.2", "llama 3.2"), ("Llama-3.2:3b", "Llama 3.2 3b"), ("phi4:latest", "phi 4"), ("bge-m3", "bge m3"),
    ("deepseek-r1", "deepseek r1"), ("  small   code ", "small code"), ("org/Repo_x", "org Repo x"), ("é2", "é2"),
])
def test_the_hub_is_asked_for_single_words(words, asked):
    """The hub looks for each word anywhere in a name, so that names which write them together are taken apart."""
    assert separate(words) == asked


def test_the_token_goes_along(site, monkeypatch):
    """The user's token is sent, so that private repositories are found."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    HubDownloader(site.url).search("small", 1)
    [headers] = site.seen
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer hf_secret"


@pytest.mark.parametrize(("fault", "told"), [
    (instead(503), "the server answers 503"), (instead(401), "the server answers 401"),
    (instead(200, body=b"<html>"), "is not JSON"), (instead(200, body=b"[" * 100_000), "is not JSON"),
])
def test_failures_are_told(site, fault, told):
    """An answer other than results is an error with the address, without its query."""
    site.faults = [fault]
    with pytest.raises(SourceUnavailable, match=told) as caught:
        HubDownloader(site.url).search("secret words", 5)
    assert f"{site.url}/api/models" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_silent_hub_is_not_waited_for(site, monkeypatch):
    """The search has a time limit of its own."""
    monkeypatch.setattr(hub_search, "SECONDS", 0.2)
    site.faults = [hang(3)]
    with pytest.raises(SourceUnavailable, match=r"no answer within 0\.2 s"):
        HubDownloader(site.url).search("small", 5)


def test_a_huge_answer_is_refused(site, monkeypatch):
    """An answer beyond the limit is not read to its end."""
    monkeypatch.setattr(hub_search, "MOST_BYTES", 1000)
    site.faults = [instead(200, body=json.dumps(["x" * 5000]).encode())]
    with pytest.raises(SourceUnavailable, match="longer than 1000 bytes"):
        HubDownloader(site.url).search("small", 5)


def test_no_server_is_told():
    """An address where nothing listens is an error."""
    with pytest.raises(SourceUnavailable, match=re.escape("http://127.0.0.1:1/api/models")):
        HubDownloader("http://127.0.0.1:1").search("small", 5)


def test_others_find_nothing():
    """A downloader without a search finds nothing."""
    assert FileDownloader().search("small", 5) == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(["a/b", "m-Q4_K_M.gguf", "license:mit"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["id", "siblings", "rfilename", "gguf", "total", "context_length", "tags", "gated"]), inner,
    ),
    max_leaves=15,
)


@given(JSON | st.lists(st.fixed_dictionaries({
    "id": st.just("a/b"), "siblings": st.lists(st.fixed_dictionaries({"rfilename": JSON}), max_size=3), "gguf": JSON,
    "tags": JSON, "gated": JSON,
}), max_size=3))
def test_any_answer_is_read(answer):
    """Whatever the hub answers, the hits hold texts and positive numbers only."""
    for hit in read_hits(answer):
        assert hit.source.startswith("hf:")
        assert all(one is None or (type(one) is int and one > 0) for one in (hit.parameters, hit.context_length))
        assert hit.size is None or (type(hit.size) is int and hit.size >= 0)
        assert type(hit.licence) is str
