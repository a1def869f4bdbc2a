"""`EmbeddingModel`: which inputs share a pass."""

from collections.abc import Sequence
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.engines import EmbeddingModel
from lllms_core.errors import ContextOverflow, InvalidRequest
from lllms_core.queries import Embeddings, EmbedRequest, Relevance, RerankRequest, Text
from lllms_core.types import Delta, TextRequest


class Counting(EmbeddingModel):
    """A token is a character; the vector of an input encodes its length. Records the sizes of all passes."""

    def __init__(self, batch_size: int = 8, sequences: int = 3, context_length: int = 6, **options: bool) -> None:
        super().__init__(
            slots=8, context_length=context_length, batch_size=batch_size, sequences=sequences, dimensions=2, **options,
        )
        self.passes: list[list[int]] = []

    def tokenize(self, text: Text, room: int | None) -> list[int]:
        return [1] * len(text if room is None else text[:room])

    def pair(self, query: str, document: str, room: int | None) -> list[int]:
        return self.tokenize(query + document, room)

    def encode(self, inputs: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        self.passes.append([len(tokens) for tokens in inputs])
        return [[1.0, 0.0] if "embed" in self.tasks else [len(tokens) / 10] for tokens in inputs]


def run(model: EmbeddingModel) -> list[Delta]:
    deltas: list[Delta] = []
    while not model.idle:
        deltas += model.step()
    return deltas


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=12), min_size=1, max_size=5))
def test_every_input_is_encoded_once(requests: list[list[int]]) -> None:
    """Each input is in exactly one pass, only a lone long input exceeds the pass size, and each answer is complete."""
    model = Counting(context_length=12)
    for number, sizes in enumerate(requests):
        model.open_embed(EmbedRequest(str(number), "m", tuple("x" * size for size in sizes)))
    answers = {delta.request_id: delta.finish.result for delta in run(model) if delta.finish}
    assert sorted(chain(*model.passes)) == sorted(chain(*requests))
    assert all(len(sizes) == 1 or (sum(sizes) <= 8 and 2 <= len(sizes) <= 3) for sizes in model.passes)
    for number, sizes in enumerate(requests):
        answer = answers[str(number)]
        assert isinstance(answer, Embeddings)
        assert (len(answer.vectors), answer.tokens) == (len(sizes), sum(sizes))


def test_requests_take_turns() -> None:
    """A short request is not kept waiting by a long one that came first, even if that fills whole passes."""
    model = Counting()
    model.open_embed(EmbedRequest("long", "m", ("xxxxxx",) * 10))
    model.open_embed(EmbedRequest("short", "m", ("xxx",)))
    assert not model.step()
    assert [delta.request_id for delta in model.step()] == ["short"]


def test_a_long_input_has_a_pass_of_its_own() -> None:
    """`batch_size` bounds a shared pass; an input beyond it, up to the context, runs alone, in its turn."""
    model = Counting(batch_size=4, context_length=6)
    assert model.context_length == 6
    model.open_embed(EmbedRequest("long", "m", ("x", "xxxxxx", "xx")))
    model.open_embed(EmbedRequest("short", "m", ("xx", "x")))
    run(model)
    assert model.passes == [[1, 2, 1], [6], [2]]


def test_too_long_inputs_are_refused_or_cut() -> None:
    """An input beyond the context is refused by its index, with both numbers; with `truncate` it is cut."""
    with pytest.raises(ContextOverflow, match=r"'input\[1\]' has 7 tokens, but model 'm' reads 6") as raised:
        Counting().open_embed(EmbedRequest("r", "m", ("x", "xxxxxxx")))
    assert raised.value.param == "input[1]"
    model = Counting(truncate=True)
    model.open_embed(EmbedRequest("r", "m", ("xxxxxxx",)))
    run(model)
    assert model.passes == [[6]]


def test_dimensions_need_a_model_that_allows_them() -> None:
    """Fewer dimensions are refused unless the model was trained for them; its own number never is."""
    with pytest.raises(InvalidRequest, match="not trained for shorter"):
        Counting().open_embed(EmbedRequest("r", "m", ("x",), dimensions=1))
    Counting().open_embed(EmbedRequest("r", "m", ("x",), dimensions=2))
    model = Counting(can_shorten=True)
    model.open_embed(EmbedRequest("r", "m", ("x",), dimensions=1))
    [delta] = run(model)
    assert delta.finish is not None
    assert isinstance(delta.finish.result, Embeddings)
    assert [list(vector) for vector in delta.finish.result.vectors] == [[1.0]]


def test_a_ranking_model_gives_scores_only() -> None:
    """A model that ranks scores each document against the query, and neither embeds nor writes."""
    model = Counting(ranks=True)
    assert model.tasks == {"rerank"}
    model.open_rerank(RerankRequest("r", "m", "q", ("x", "xxx")))
    [delta] = run(model)
    assert delta.finish is not None
    assert isinstance(delta.finish.result, Relevance)
    assert delta.finish.result.scores == pytest.approx((0.2, 0.4))
    assert delta.finish.usage.prompt_tokens == 6
    with pytest.raises(InvalidRequest, match="/v1/rerank"):
        model.open(TextRequest("w", "m", prompt="x"))


def test_cancel_ends_a_request() -> None:
    """A cancelled request is gone before its next pass; an unknown id does nothing."""
    model = Counting()
    model.open_embed(EmbedRequest("r", "m", ("xxxxxx",) * 3))
    assert not list(model.step())
    [delta] = model.cancel("r")
    assert delta.finish is not None
    assert (delta.finish.reason, delta.finish.result) == ("cancelled", None)
    assert model.idle
    assert not list(model.cancel("r"))
