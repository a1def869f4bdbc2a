"""Addresses of Hugging Face mean the same as the short form."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hubs_for_tests import hub
from hypothesis import given
from hypothesis import strategies as st
from stores_for_tests import TINY

from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.builtin.downloaders.hub import HubDownloader, HubSource, read_source
from lllms_core.catalog import Catalog, model_from_source
from lllms_core.config import parse_config
from lllms_core.downloads import canonical, choose_downloader
from lllms_core.errors import ConfigError, InvalidSource, Offline
from lllms_core.plugins import Plugins
from lllms_core.store import Store

HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("address", "short"),
    [
        (f"{HUB}/a/b", "hf:a/b"),
        (f"{HUB}/a/b/", "hf:a/b"),
        (f"{HUB}/a/b/tree/main", "hf:a/b"),
        (f"{HUB}/a/b/tree/v1", "hf:a/b@v1"),
        (f"{HUB}/a/b:Q8_0", "hf:a/b:Q8_0"),
        (f"{HUB}/a/b/blob/main/x.gguf", "hf:a/b/x.gguf"),
        (f"{HUB}/a/b/resolve/v1/c/x.gguf?download=true", "hf:a/b/c/x.gguf@v1"),
        (f"{HUB}/a/b/raw/refs%2Fpr%2F1/c%20d/x.gguf", "hf:a/b/c d/x.gguf@refs/pr/1"),
        (f"{HUB}/a/b?show_file_info=x.gguf", "hf:a/b/x.gguf"),
        ("http://www.huggingface.co/a/b", "hf:a/b"),
        ("https://hf.co/a/b:Q8_0", "hf:a/b:Q8_0"),
        ("HF://a/b@main", "hf:a/b"),
        ("https://mirror.example/hub/a/b/blob/main/x.gguf", "hf:a/b/x.gguf"),
    ],
)
def test_addresses_mean_the_short_form(address: str, short: str) -> None:
    """All addresses of a repository or a file, including those of the mirror in HF_ENDPOINT, mean its short form."""
    downloaders = [HttpDownloader(), HubDownloader("https://mirror.example/hub")]
    assert canonical(address, downloaders) == short
    assert canonical(short, downloaders) == short


@pytest.mark.parametrize(
    "address",
    [
        f"{HUB}/datasets/a/b/resolve/main/x.gguf", f"{HUB}/a", f"{HUB}/a/b/discussions", f"{HUB}/a/b/blob/main",
        f"{HUB}/a/b/resolve/main/x@1.gguf", "https://mirror.example/other/a/b", "https://example.org/a/b",
        f"https://example.org/?{HUB}/a/b", "https://huggingface.co@example.org/a/b",
    ],
)
def test_other_addresses_stay_what_they_are(address: str) -> None:
    """An address outside repositories, of another host, or without a short form is unchanged."""
    downloaders = [HttpDownloader(), HubDownloader("https://mirror.example/hub")]
    assert canonical(address, downloaders) == address


def test_a_file_that_has_no_short_form_is_fetched_all_the_same() -> None:
    """A file with an @ in its name is fetched from its address."""
    assert read_source(f"{HUB}/a/b/resolve/main/x@1.gguf") == HubSource("a/b", file="x@1.gguf")


def test_the_address_of_a_folder_says_what_to_write() -> None:
    """A folder is not a model; the message names alternatives."""
    with pytest.raises(InvalidSource, match="'q8' is a folder of a/b: name a quantisation, like hf:a/b:Q4_K_M"):
        read_source(f"{HUB}/a/b/tree/main/q8")


def test_addresses_that_are_broken() -> None:
    """A malformed address is refused by name."""
    with pytest.raises(InvalidSource, match="is not a web address"):
        choose_downloader("https://[x/y", [HttpDownloader()])


@given(st.text(min_size=1, max_size=9), st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=3))
def test_the_short_form_of_any_file_means_that_file(revision: str, path: list[str]) -> None:
    """Whatever the names of a revision and a file, the canonical form of the address means the same file."""
    address = "/".join([f"{HUB}/a/b/resolve", *(quote(one, safe="") for one in (revision, *path))])
    meant = HubSource("a/b", revision, file="/".join(path))
    assert read_source(address) == meant
    assert read_source(canonical(address, [HubDownloader(HUB)])) == meant


@given(st.text(max_size=40))
def test_any_hub_source_is_read_or_refused(text: str) -> None:
    """A source is valid or refused by name; no other error occurs."""
    try:
        found = read_source(f"hf:{text}")
    except InvalidSource:
        return
    assert found is not None
    assert ".." not in found.repository.split("/")


@given(st.text(max_size=40))
def test_any_address_is_written_in_one_way(text: str) -> None:
    """An address is refused by name, or its canonical form is stable."""
    downloaders = [HttpDownloader(), HubDownloader(HUB)]
    try:
        once = canonical(f"{HUB}/{text}", downloaders)
    except InvalidSource:
        return
    assert canonical(once, downloaders) == once


def test_one_model_however_it_is_written(tmp_path: Path) -> None:
    """A file that was fetched by its address is found by its short form: without the network, and stored once."""
    with hub({"/org/repo/x-Q8_0.gguf": TINY.read_bytes()}) as site:
        downloaders = [HttpDownloader(), HubDownloader(site.url, tmp_path / "hf")]
        fetched = Store(tmp_path, downloaders).ensure(f"{site.url}/org/repo/tree/main")
        asked = len(site.requests)
        there = Store(tmp_path, downloaders, offline=True)
        assert there.ensure("hf:org/repo") == there.find(f"{site.url}/org/repo") == fetched
        with pytest.raises(Offline):
            there.ensure("hf:org/repo:Q8_0")
        assert len(site.requests) == asked
        assert [model.source for model in there.models()] == ["hf:org/repo"]
        there.delete(f"{site.url}/org/repo/")
        assert there.models() == []


def test_models_from_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--model` with an address gives the engine, name and alias of its short form; `url` gives the same source."""
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    plugins = Plugins.discover()
    for host in (HUB, "https://mirror.example"):
        name, model = model_from_source(f"{host}/org/Some-GGUF", plugins)
        assert (name, model.engine, model.source, model.aliases) == (
            "Some", "llamacpp", "hf:org/Some-GGUF", ("hf:org/Some-GGUF",),
        )
        assert model_from_source(f"{host}/org/Some-GGUF/blob/main/x-Q8_0.gguf", plugins)[0] == "x-Q8_0"
        config = parse_config({"models": {"m": {"engine": "llamacpp", "url": f"{host}/org/Some-GGUF"}}})
        assert Catalog.build(config, plugins).get("m").source == "hf:org/Some-GGUF"
    with pytest.raises(ConfigError, match=r"models\.m\.hf: 'hf:org' is not a Hugging Face source"):
        Catalog.build(parse_config({"models": {"m": {"engine": "llamacpp", "hf": "org"}}}), plugins)
