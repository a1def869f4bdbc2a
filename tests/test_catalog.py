import os
import re
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
from attrs import frozen
from hypothesis import strategies as st

from lllms_core.catalog import Catalog, model_from_file, model_from_source
from lllms_core.config import Config, ModelConfig, parse_config, with_model
from lllms_core.engines import Engine
from lllms_core.errors import ConfigError, ModelLoadFailed, ModelUnknown
from lllms_core.hookspecs import hookimpl
from lllms_core.parameters import Generation
from lllms_core.plugins import Plugins
from lllms_core.requests import build_request
from lllms_core.text.wildcards import NamePattern
from lllms_core.types import ModelOffer, Sampling


@frozen
class Options:
    context_length: int = 4096
    slots: int = 1


class Reader(Engine):
    name = "reader"
    Options = Options
    file_suffixes = (".weights", ".w")
    parameters = frozenset({"temperature", "seed"})

    def load(self, spec, progress):
        raise NotImplementedError


class Thinker(Engine):
    name = "thinker"
    isolation = "thread"
    needs_file = False

    def load(self, spec, progress):
        raise NotImplementedError


class Plugin:
    def __init__(self, *engines, offers=()):
        self.engines, self.offers = engines, offers

    @hookimpl
    def lllms_engines(self):
        return self.engines

    @hookimpl
    def lllms_models(self):
        return self.offers


def plugins(*offers, **extra):
    both = {"two": Plugin(Reader(), Thinker(), offers=offers), **extra}
    return Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra=both)


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "some.weights"
    file.write_bytes(b"1234")
    return file


def config(models_dir, **models):
    return parse_config({"server": {"models_dir": str(models_dir)}, "models": models})


def problems(models_dir, **models):
    with pytest.raises(ConfigError) as caught:
        Catalog.build(config(models_dir, **models), plugins())
    return str(caught.value).splitlines()


def test_an_entry_has_all_that_is_needed_to_run_the_model(weights):
    """Engine, plugin, absolute file, typed options, defaults and isolation are settled before any model is loaded."""
    model = {
        "engine": "reader", "file": str(weights), "aliases": ["short"], "options": {"slots": 2},
        "defaults": {"temperature": 0, "max_tokens": 7},
    }
    catalog = Catalog.build(config(weights.parent, big=model), plugins())
    (entry,) = catalog.entries
    assert catalog.get("big") is catalog.get("short") is entry
    assert (entry.name, entry.aliases, entry.engine.name, entry.plugin) == ("big", ("short",), "reader", "two")
    assert (entry.spec.name, entry.spec.file, entry.spec.options) == ("big", weights, Options(slots=2))
    assert entry.defaults == Generation(Sampling(temperature=0.0), max_tokens=7)
    assert entry.isolation == "process"
    assert entry.config.max_instances == 1


def test_isolation_is_the_engines_unless_configured():
    """An engine declares where its instances run, and the configuration may override it."""
    models = {"a": {"engine": "thinker"}, "b": {"engine": "thinker", "isolation": "process"}}
    catalog = Catalog.build(config("/nowhere", **models), plugins())
    assert [entry.isolation for entry in catalog.entries] == ["thread", "process"]


def test_files_are_found_absolute_at_home_or_from_here(weights, tmp_path, monkeypatch):
    """A file can be named absolutely, from the home folder or from the working directory: all lead to the same file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given in (str(weights), f"~/{weights.name}", weights.name):
        catalog = Catalog.build(config(tmp_path, m={"engine": "reader", "file": given}), plugins())
        assert catalog.get("m").spec.file == weights


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    """The error has the full path that was tried, and, for a file in the models folder, what to write instead."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store/sub").mkdir(parents=True)
    (tmp_path / "store/sub/old.w").write_bytes(b"1234")
    hint = f'write file = "{tmp_path / "store/sub/old.w"}"'
    models = {name: {"engine": "reader", "file": file} for name, file in {"m": "none.w", "o": "sub/old.w"}.items()}
    assert problems(tmp_path / "store", **models) == [
        f"models.m.file: there is no file {tmp_path / 'none.w'}",
        f"models.o.file: there is no file {tmp_path / 'sub/old.w'}; there is one in server.models_dir: {hint}",
    ]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({}, "models.m.file: missing; engine 'reader' cannot load a model without file, url or hf"),
        ({"file": ""}, "models.m.file: is empty"),
        ({"file": "a\0b"}, "models.m.file: "),
        ({"file": "."}, "models.m.file: {folder} is a folder"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, keys, fault, monkeypatch):
    """An engine that needs a file gets one."""
    monkeypatch.chdir(tmp_path)
    (found,) = problems(tmp_path, m={"engine": "reader", **keys})
    assert found.startswith(fault.format(folder=tmp_path))


def test_options_are_checked_against_the_engine(weights):
    """Every wrong key of every model is named, all at once."""
    models = {
        "a": {"engine": "reader", "file": str(weights), "options": {"context_length": "x", "slot": 1}},
        "b": {"engine": "thinker", "options": {"slots": 1}},
    }
    assert problems("/", **models) == [
        "models.a.options.context_length: expected an integer, got 'x'",
        "models.a.options.slot: unknown key (did you mean 'slots'?)",
        "models.b.options.slots: unknown key (nothing can be set here)",
    ]


def test_an_unknown_engine_is_explained():
    """The error lists the available engines, and says why the plugin that should provide this one does not."""
    (found,) = problems("/", m={"engine": "raeder"})
    assert found.startswith("models.m.engine: no engine 'raeder' (there are: reader, thinker)")

    def lllms_engines():
        return []

    broken = SimpleNamespace(lllms_engines=lllms_engines)
    catalog = Catalog.examine(config("/", m={"engine": "broken"}), plugins(broken=broken))
    assert "plugin 'broken' failed: lllms_engines lacks the @hookimpl marker" in catalog.problems[0].text


def test_defaults_that_the_engine_ignores_are_refused(weights):
    """A default without effect is an error, unless its value asks for nothing."""
    model = {"engine": "reader", "file": str(weights), "defaults": {"top_k": 5, "min_p": 0, "stop": "x", "seed": 0}}
    assert problems("/", m=model) == ["models.m.defaults.top_k: engine 'reader' does not honour it; leave it out"]


class Adviser(Reader):
    """Its file holds the recommended parameters, one per line."""

    name = "adviser"
    parameters = frozenset({"temperature", "top_k", "top_p"})

    def recommended(self, spec):
        return {name: float(value) for name, value in (line.split() for line in spec.file.read_text().splitlines())}


def test_a_file_recommends_defaults(weights):
    """A file's recommendations rank between the configuration and the core; wrong or unsupported ones are left out."""
    weights.write_text("temperature 0.25\ntop_p 0.5\ntop_k 7.5\nmin_p 0.5\nnonsense 1\n")
    model = {"engine": "adviser", "file": str(weights), "defaults": {"temperature": 0.5}}
    catalog = Catalog.build(config("/", m=model), plugins(other=Plugin(Adviser())))
    assert catalog.get("m").defaults == Generation(Sampling(temperature=0.5, top_p=0.5))
    request = build_request(catalog.get("m"), "1", None, "x", {"top_p": 0.75})
    assert (request.sampling.temperature, request.sampling.top_p) == (0.5, 0.75)


def test_a_replaced_file_recommends_anew(weights):
    """At the next load the catalog has the new file's recommendations; an unreadable file recommends nothing."""
    weights.write_text("temperature 0.25\n")
    catalog = Catalog.build(config("/", m={"engine": "adviser", "file": str(weights)}), plugins(o=Plugin(Adviser())))
    first = catalog.get("m")
    assert catalog.place("m", weights) == first.footprint
    assert catalog.get("m") is first
    weights.write_text("temperature 0.75\n")
    assert catalog.place("m", weights) != first.footprint
    assert catalog.get("m").defaults.sampling.temperature == 0.75
    weights.write_text("broken")
    catalog.place("m", weights)
    assert catalog.get("m").defaults == Generation()


def test_an_unknown_model_is_answered_with_those_there_are():
    """The error names the models that exist, and the one that was probably meant."""
    catalog = Catalog.build(config("/", polly={"engine": "thinker", "aliases": ["bird"]}), plugins())
    with pytest.raises(ModelUnknown, match=r"no model 'poly' \(did you mean 'polly'\?\); there are: polly"):
        catalog.get("poly")
    with pytest.raises(ModelUnknown, match="no model 'x'; there are: polly"):
        catalog.get("x")
    with pytest.raises(ModelUnknown, match="none is configured, and no plugin offers one"):
        Catalog().get("x")


def test_patterns_take_the_names_that_no_model_has():
    """A name decides, then an alias, then the longest pattern that fits; of equal ones, the first."""
    aliases = {
        "big": ["claude-*", "*"], "small": ["claude-haiku-*", "fixed", "*-mini"], "tiny-mini": ["gpt-*", "a*b*c"],
    }
    catalog = Catalog.build(
        config("/", **{name: {"engine": "thinker", "aliases": own} for name, own in aliases.items()}), plugins(),
    )
    expected = {
        "claude-opus-4-8": "big", "claude-haiku-4-5-20251001": "small", "fixed": "small", "tiny-mini": "tiny-mini",
        "x-mini": "small", "gpt-5-mini": "small", "gpt-6": "tiny-mini", "org/model:latest": "big", "claude-": "big",
        "claude-haiku": "big", "abc": "tiny-mini", "a-b-b-c": "tiny-mini", "acb": "big", "": "big", "claude-*": "big",
    }
    assert {name: catalog.get(name).name for name in expected} == expected
    assert catalog.get("fixed").aliases == ("claude-haiku-*", "fixed", "*-mini")


def test_patterns_are_no_names_to_suggest():
    """An unknown name is compared with names, not with patterns."""
    catalog = Catalog.build(config("/", polly={"engine": "thinker", "aliases": ["claude-*"]}), plugins())
    with pytest.raises(ModelUnknown, match=r"no model 'claud'; there are: polly$"):
        catalog.get("claud")


@hypothesis.given(st.lists(st.sampled_from("ab*"), max_size=8), st.text("ab", max_size=12))
def test_stars_stand_for_any_text(pattern, name):
    """A pattern fits exactly the names that it fits as a regular expression whose stars are `.*`."""
    text = "".join(["*", *pattern])
    assert NamePattern(text).fits(name) is (re.fullmatch(text.replace("*", ".*"), name) is not None)


def test_without_configured_models_the_offers_are_served(weights):
    """Models that plugins offer work without configuration, and give way to configured models."""
    offers = (ModelOffer("polly", engine="thinker", description="talks"),
              ModelOffer("bookworm", engine="reader", file=weights, options={"slots": 3}))
    catalog = Catalog.build(Config(), plugins(*offers))
    assert [entry.name for entry in catalog.entries] == ["bookworm", "polly"]
    assert catalog.get("polly").description == "talks"
    assert catalog.get("bookworm").spec.options == Options(slots=3)
    configured = Catalog.build(config("/", mine={"engine": "thinker"}), plugins(*offers))
    assert [entry.name for entry in configured.entries] == ["mine"]


def test_a_broken_offer_stops_nothing():
    """An offer that cannot be served is reported as a problem, and the others are served."""
    offers = (ModelOffer("polly", engine="thinker"), ModelOffer("bad", engine="reader", file=Path("/none.w")),
              ModelOffer("a b", engine="thinker"))
    catalog = Catalog.build(Config(), plugins(*offers))
    assert [entry.name for entry in catalog.entries] == ["polly"]
    assert [(problem.name, problem.configured) for problem in catalog.problems] == [("a b", False), ("bad", False)]
    with pytest.raises(ModelLoadFailed, match=r"there is no file /none\.w \(offered by plugin 'two'\)"):
        catalog.get("bad")


def test_examine_lists_every_problem_and_raises_none(tmp_path):
    """`check` needs everything at once, including the good models."""
    models = {"a": {"engine": "none"}, "b": {"engine": "thinker"}, "c": {"engine": "reader"}}
    catalog = Catalog.examine(config(tmp_path, **models), plugins())
    assert [problem.name for problem in catalog.problems] == ["a", "c"]
    assert [entry.name for entry in catalog.entries] == ["b"]


def test_the_fingerprint_changes_with_what_changes_answers(weights):
    """Equal set-ups share a fingerprint; another file, other options or another engine change it."""

    def fingerprint(**keys):
        model = {"engine": "reader", "file": str(weights), **keys}
        return Catalog.build(config("/", m=model), plugins()).get("m").fingerprint

    first = fingerprint()
    assert first == fingerprint(ttl=5)
    assert first.startswith("fp_")
    assert fingerprint(options={"slots": 2}) != first
    assert fingerprint(engine="thinker") != first
    os.utime(weights, ns=(1, 1))
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("file", "name"),
    [("tiny-chat.W", "tiny-chat"), ("My Model (1).w", "My-Model-1"), ("..w", "reader"), ("é.w", "reader")],
)
def test_a_file_becomes_a_model(tmp_path, file, name):
    """`serve --model FILE` finds the engine by the file's extension, and derives a valid name."""
    path = tmp_path / file
    path.touch()
    found, model = model_from_file(path, plugins())
    assert (found, model) == (name, ModelConfig("reader", str(path)))
    assert Catalog.build(with_model(Config(), found, model), plugins()).get(name).spec.file == path


def test_a_file_that_no_engine_loads_is_refused(tmp_path):
    """The error lists the known extensions; a missing file is named."""
    other = tmp_path / "x.txt"
    other.touch()
    with pytest.raises(ConfigError, match=r"no engine for x\.txt: reader loads \.weights \.w"):
        model_from_file(other, plugins())
    with pytest.raises(ConfigError, match="no file /none"):
        model_from_file(Path("/none.w"), plugins())


def test_a_file_that_two_engines_load_needs_a_word(weights):
    """If two engines load a file, neither is guessed."""

    class Second(Reader):
        name = "second"

    with pytest.raises(ConfigError, match=r"engines reader and second load some\.weights"):
        model_from_file(weights, plugins(more=Plugin(Second())))


@pytest.mark.parametrize(
    ("source", "name", "aliases"),
    [
        ("hf:org/Some-Model-GGUF:Q4_K_M", "Some-Model", ("hf:org/Some-Model-GGUF:Q4_K_M",)),
        ("hf:org/repo@refs/pr/1", "repo", ()),
        ("hf:org/repo/sub/x-Q8_0.txt@v1", "x-Q8_0", ()),
        ("https://h/models/a%20b.txt?download=true", "a-b", ()),
    ],
)
def test_models_from_sources(source, name, aliases):
    """A source gives a model its name, and is itself an alias where it can; the engine follows from the extension."""
    engine = type("Both", (Reader,), {"name": "both", "file_suffixes": (".txt", ".gguf")})()
    found, model = model_from_source(source, plugins(both=Plugin(engine)))
    assert (found, model.engine, model.source, model.aliases) == (name, "both", source, aliases)
    assert not Catalog.build(with_model(Config(), found, model), plugins(both=Plugin(engine))).get(name).here


def test_an_engine_may_leave_files_to_another(tmp_path, weights):
    """An engine that yields is chosen for a file only if no other engine loads it."""

    class Modest(Reader):
        name = "modest"
        file_suffixes = (".weights", ".old")
        yields_files = True

    both = plugins(more=Plugin(Modest()))
    assert model_from_file(weights, both)[1].engine == "reader"
    old = tmp_path / "x.old"
    old.touch()
    assert model_from_file(old, both)[1].engine == "modest"
