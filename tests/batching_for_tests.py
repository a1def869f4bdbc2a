"""A batching model whose answers are known, and a driver of random actions against it."""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import define, field
from hypothesis import strategies as st

from lllms_core.chat import Segment
from lllms_core.engines import BatchingModel, Feed, Interrupted
from lllms_core.types import Delta, Sampling, TextRequest, Usage

END = 0


@define
class Cell:
    token: int
    position: int
    sequences: set[int]


@define
class PickedSampler:
    """Takes the token that the model computed, and knows whether it was closed."""

    model: "FakeModel"
    closed: bool = False

    def sample(self, row: int) -> int:
        assert not self.closed
        return self.model.rows[row]

    def close(self) -> None:
        self.closed = True


class FakeModel(BatchingModel):
    """The next token is a function of all tokens of the sequence and of their positions, as the cells hold them."""

    def __init__(
        self, *, slots: int = 2, context_length: int = 64, kv_size: int = 100, can_trim: bool = True, **sizes: Any,
    ) -> None:
        super().__init__(slots=slots, context_length=context_length, kv_size=kv_size, can_trim=can_trim, **sizes)
        self.kv_size = kv_size
        self.can_trim = can_trim
        self.cells: list[Cell] = []
        self.rows: list[int] = []
        self.samplers: list[PickedSampler] = []
        self.decodes: list[list[Feed]] = []
        self.evaluated_before_interrupt = 0

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        return [ord(c) for segment in segments for c in segment.text]

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def is_end(self, token: int) -> bool:
        return token == END

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> PickedSampler:
        self.samplers.append(PickedSampler(self))
        return self.samplers[-1]

    def decode(self, feeds: Sequence[Feed]) -> Sequence[int]:
        self.decodes.append(list(feeds))
        assert len({feed.sequence for feed in feeds}) == len(feeds), "a sequence is fed twice in one decode"
        left = self.evaluated_before_interrupt if self.interrupt.is_set() else None
        self.rows = []
        last: list[int] = []
        for feed in feeds:
            for offset, token in enumerate(feed.tokens):
                if left is not None:
                    if left == 0:
                        raise Interrupted
                    left -= 1
                assert len(self.cells) < self.kv_size, "admission let more in than the cache holds"
                self.cells.append(Cell(token, feed.position + offset, {feed.sequence}))
            line = self.line(feed.sequence)
            if feed.all_logits:
                self.rows += [following(line[:end]) for end in range(feed.position + 1, len(line))]
            if feed.logits:
                self.rows.append(following(line))
                last.append(len(self.rows) - 1)
        if left is not None:
            raise Interrupted
        return last

    def line(self, sequence: int) -> list[int]:
        cells = sorted((c for c in self.cells if sequence in c.sequences), key=lambda c: c.position)
        assert [c.position for c in cells] == list(range(len(cells))), "a gap, or two tokens in one place"
        return [c.token for c in cells]

    def trim(self, sequence: int, length: int) -> bool:
        if length and not self.can_trim:
            return False
        for cell in self.cells:
            if cell.position >= length:
                cell.sequences.discard(sequence)
        self.cells = [cell for cell in self.cells if cell.sequences]
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        assert self.can_trim, "a sequence of a recurrent model cannot be copied in part"
        assert not self.line(target), "the target of a copy is not empty"
        for cell in self.cells:
            if source in cell.sequences and cell.position < length:
                cell.sequences.add(target)


def following(tokens: Sequence[int]) -> int:
    """The token that the model chooses after these."""
    value = zlib.crc32(bytes(tokens)) % 24
    return END if value == 0 else 96 + value


def reference(prompt: str, most: int) -> str:
    """The model's answer to a prompt when it runs alone."""
    tokens = [ord(c) for c in prompt]
    answer = ""
    while len(answer) < most and (token := following(tokens)) != END:
        tokens.append(token)
        answer += chr(token)
    return answer


def ask(name: str, prompt: str, most: int = 8, **fields: Any) -> TextRequest:
    return TextRequest(name, "fake", prompt=prompt, max_tokens=most, **fields)


def finish(model: BatchingModel, *, steps: int = 1000) -> dict[str, list[Delta]]:
    """Step until no request is open; the deltas of each."""
    answers: dict[str, list[Delta]] = {}
    for _ in range(steps):
        if model.idle:
            return answers
        for delta in model.step():
            answers.setdefault(delta.request_id, []).append(delta)
    raise AssertionError("the model does not come to an end")


def text(deltas: Iterable[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def answer(model: BatchingModel, request: TextRequest) -> list[Delta]:
    model.open(request)
    return finish(model)[request.id]


def usage(deltas: Sequence[Delta]) -> Usage:
    assert deltas[-1].finish is not None
    return deltas[-1].finish.usage


WORDS = st.sampled_from(["hello ", "hello there ", "what ", "is ", "my ", "name", "a", "b", "ab", "?"])
PROMPTS = st.lists(WORDS, min_size=1, max_size=6).map("".join)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), PROMPTS, st.integers(1, 12)),
        st.tuples(st.just("follow up"), st.integers(0, 20), PROMPTS),
        st.tuples(st.just("cancel"), st.integers(0, 20), st.none()),
        st.tuples(st.just("interrupt"), st.integers(0, 30), st.none()),
        st.tuples(st.just("step"), st.integers(1, 4), st.none()),
    ),
    max_size=40,
)


@define
class Driver:
    """Runs actions against a model and collects what comes out."""

    model: FakeModel
    asked: dict[str, tuple[str, int]] = field(factory=dict)
    answers: dict[str, list[Delta]] = field(factory=dict)

    def play(self, action: str, first: Any, second: Any) -> None:
        if action == "open":
            self.open(first[:40], second)
        elif action == "follow up" and self.asked:
            prompt, most = list(self.asked.values())[first % len(self.asked)]
            self.open((prompt + reference(prompt, most) + second)[:40], 6)
        elif action == "cancel" and self.asked:
            self.take(self.model.cancel(list(self.asked)[first % len(self.asked)]))
        elif action == "interrupt":
            self.model.interrupt.set()
            self.model.evaluated_before_interrupt = first
            self.take(self.model.step())
            self.model.interrupt.clear()
        elif action == "step":
            for _ in range(first):
                self.take(self.model.step())

    def open(self, prompt: str, most: int) -> None:
        name = f"r{len(self.asked)}"
        self.asked[name] = prompt, most
        self.model.open(ask(name, prompt, most))

    def take(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            self.answers.setdefault(delta.request_id, []).append(delta)

    def check(self) -> None:
        for name, (prompt, most) in self.asked.items():
            deltas = self.answers[name]
            assert [delta.last for delta in deltas].count(True) == 1
            assert deltas[-1].last
            finish = deltas[-1].finish
            assert finish is not None
            expected = reference(prompt, most)
            assert usage(deltas).prompt_tokens == len(prompt)
            assert usage(deltas).completion_tokens == sum(delta.tokens for delta in deltas)
            assert usage(deltas).cached_tokens < len(prompt)
            if finish.reason == "cancelled":
                assert expected.startswith(text(deltas))
            else:
                assert text(deltas) == expected
                assert finish.reason == ("length" if len(expected) == most else "stop")
