"""How requests of llama-server's clients are read: models, prompts, samplers, parameters; nothing is loaded."""

from typing import Any

import pytest
from attrs import fields
from gap_models_for_tests import TINY
from hypothesis import given
from hypothesis import strategies as st
from lllms_compat.model_choice import choose
from lllms_compat.prompts import MOST, MOST_TEXTS, read_prompts
from lllms_compat.request_body import read_completion, read_infill
from lllms_compat.samplers import LETTERS, NEUTRAL, read_samplers

from lllms_core.apis import ModelCard
from lllms_core.config import parse_config
from lllms_core.errors import InvalidRequest, RequestError
from lllms_core.host import Host
from lllms_core.types import Excerpt, Sampling

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6,
)
NAMES = st.sampled_from([
    "n_predict", "max_tokens", "stop", "samplers", "response_fields", "n_indent", "t_max_predict_ms", "n_probs", "seed",
    "logit_bias", "stream", "temperature", "mirostat", "grammar", "json_schema", "repeat_last_n", "typical", "lora",
    "input_prefix", "input_suffix", "input_extra", "return_tokens", "cache_prompt", "dry_multiplier", "nonsense",
])


HOST = Host(parse_config({"models": {"bot": {"engine": "mock"}, "gap": {"engine": "llamacpp", "file": str(TINY)}}}))


@pytest.fixture
def host() -> Host:
    return HOST


@pytest.fixture
def gap() -> ModelCard:
    return HOST.model("gap")


def test_samplers_leave_the_others_out() -> None:
    """A sampler that is not in the list is off; the order that there is goes without saying, another is named."""
    asked = read_samplers(["top_k", "top_p", "infill"])
    assert asked.values["min_p"] == 0.0
    assert asked.values["temperature"] == 0.0
    assert {"top_k", "top_p"}.isdisjoint(asked.values)
    assert list(asked.unused) == ["samplers.infill"]
    assert read_samplers([]).values == {}
    assert read_samplers("kpmt").values == read_samplers(["top_k", "top_p", "min_p", "temperature"]).values
    assert list(read_samplers(["temperature", "top_k"]).unused) == ["samplers"]
    assert read_samplers(["top_k"]).values["temperature"] == 1.0


@given(st.lists(st.sampled_from([*NEUTRAL, "infill", "nonsense"])))
def test_every_sampler_is_on_or_off(names: list[str]) -> None:
    """The parameters of each sampler are replaced exactly if a list lacks it, but for what `infill` stands for."""
    values = read_samplers(names).values
    for name, off in NEUTRAL.items():
        if not names or name in names:
            assert off.keys().isdisjoint(values)
        elif not (name == "temperature" and "infill" in names):
            assert off.items() <= values.items()
    assert set(values) <= {attribute.name for attribute in fields(Sampling)}
    assert set(LETTERS.values()) >= set(NEUTRAL)


@given(JSON)
def test_any_prompt_is_read_or_refused(value: object) -> None:
    """Whatever JSON a prompt is, it is at least one text, tokens or mixture, or an error that names it."""
    try:
        prompts = read_prompts(value)
    except RequestError as error:
        assert (error.param or "").startswith("prompt")  # noqa: PT017
        return
    assert len(prompts) > 0
    assert all(isinstance(one, str | tuple | list) for one in prompts)


def test_the_forms_of_prompts() -> None:
    """A list of texts, or with a list in it, is several prompts; tokens, or tokens and texts, are one."""
    assert read_prompts("a") == ["a"]
    assert read_prompts([1, 2]) == [(1, 2)]
    assert read_prompts([1, "a"]) == [[1, "a"]]
    assert read_prompts(["a", "b"]) == ["a", "b"]
    assert read_prompts(["a", [1], [2, "b"]]) == ["a", (1,), [2, "b"]]
    assert len(read_prompts(["a"] * MOST)) == MOST
    for wrong in ([], [[]], [1, None], [-1], 1, {}, [True], ["a"] * (MOST + 1), [1, "a"] * (MOST_TEXTS + 1),
                  [[1, "a"]] * (MOST_TEXTS + 1)):
        with pytest.raises(InvalidRequest):
            read_prompts(wrong)


@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_any_members_are_read_or_refused(members: dict[str, object]) -> None:
    """Whatever JSON the members are, there is a request, or an error of the client's."""
    host, card = HOST, HOST.model("gap")
    given_ = {name: value for name, value in members.items() if value is not None}
    for read in (
        lambda: read_completion(host, card, ["x"], dict(given_)), lambda: read_infill(host, card, "x", dict(given_)),
    ):
        try:
            asked = read()
        except RequestError as error:
            assert error.param  # noqa: PT017
            continue
        assert asked.first.model == "gap"
        assert asked.seconds is None or asked.seconds > 0


def test_what_the_parameters_mean(host: Host, gap: ModelCard) -> None:
    """The limit, random seeds, biases in both forms and empty strings, as llama-server takes them."""
    def read(**members: object) -> Any:
        return read_completion(host, gap, ["x"], members).first

    assert read(n_predict=-1).max_tokens is None
    assert read(n_predict=0).max_tokens == 0
    assert read(n_predict=5, max_tokens=7).max_tokens == 5
    assert read(seed=-1).sampling.seed is None
    assert read(seed=2**32 - 1).sampling.seed is None
    assert read(seed=7).sampling.seed == 7
    assert read(logit_bias=[[5, False], [6, 1000]]).sampling.logit_bias == {5: -100, 6: 100}
    assert read(logit_bias={"5": -1}).sampling.logit_bias == {5: -1}
    assert read(stop=["", "a"]).stop == ("a",)
    assert read(grammar="").constraint is None
    assert read(json_schema={"type": "object"}).constraint.kind == "json_schema"
    assert read(rep_pen=1.5).sampling.repeat_penalty == 1.5
    assert read(rep_pen=1.5, repeat_penalty=1.2).sampling.repeat_penalty == 1.2
    assert read(n_probs=100).top_logprobs == 20
    assert read(nonsense=1, return_tokens=True).unused == ("return_tokens", "nonsense")
    assert read(dry_multiplier=0, dry_penalty_last_n=0, repeat_penalty=1, repeat_last_n=0).unused == ()
    with pytest.raises(RequestError, match="repeat_last_n"):
        read(repeat_penalty=1.1, repeat_last_n=0)
    with pytest.raises(RequestError, match="lora"):
        read(lora=[{"id": 0, "scale": 0.5}])


def test_a_gap_has_its_texts(host: Host, gap: ModelCard) -> None:
    """The prompt follows the prefix; an empty suffix is one, too; excerpts come with their names."""
    asked = read_infill(host, gap, "re", {
        "input_prefix": "def f():\n", "input_suffix": "", "input_extra": [{"text": "a", "filename": None}],
        "response_fields": ["content", ""],
    })
    request = asked.first
    assert (request.prompt, request.suffix, request.input_extra) == ("def f():\nre", "", (Excerpt("a"),))
    assert asked.fields == ("content",)
    assert read_infill(host, gap, "", {"input_suffix": "x", "response_fields": [""]}).fields == ()
    with pytest.raises(RequestError, match="input_prefix"):
        read_infill(host, gap, "x", {})
    with pytest.raises(RequestError, match=r"input_extra\[0\].text"):
        read_infill(host, gap, "x", {"input_prefix": "", "input_extra": [{"filename": "a"}]})


def test_several_prompts_name_what_has_no_effect(host: Host, gap: ModelCard) -> None:
    """The ends that editors want are for a single prompt."""
    asked = read_completion(host, gap, ["a", (1, 2)], {"n_indent": 4, "t_max_predict_ms": 5})
    assert [one.prompt for one in asked.requests] == ["a", (1, 2)]
    assert {one.unused for one in asked.requests} == {("n_indent", "t_max_predict_ms")}


def test_the_choice_of_a_model(host: Host) -> None:
    """The only one; the only one that may fill gaps; the only loaded one; else an error that names the models."""
    bot, gap = host.model("bot"), host.model("gap")
    assert choose([bot], [], fills=True) is bot
    assert choose([bot, gap], [], fills=True) is gap
    assert choose([bot, gap], ["bot"], fills=False) is bot
    for loaded in ([], ["bot", "gap"]):
        with pytest.raises(InvalidRequest, match=r'there are 2: bot, gap; .* alias "default"'):
            choose([bot, gap], loaded, fills=False)
    with pytest.raises(InvalidRequest, match="there is none"):
        choose([], [], fills=False)
