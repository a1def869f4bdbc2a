"""Prompts for an answer that fills a gap between two texts, with excerpts of other files before them."""

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from lllms_core.errors import UnsupportedParameter
from lllms_core.types import Excerpt, TextRequest

LONG = 16
"""Characters per token that are tokenised of a text of which only an end may be used; code has 3 to 4."""
STEPS = 8
"""A prompt's beginning is left out in steps of an eighth of the room, so that a text that grows keeps its beginning for
a while, and with it its evaluated tokens."""


@frozen
class GapMarks:
    """The tokens of a vocabulary that show a gap."""

    before: int
    after: int
    middle: int
    repository: int | None = None
    """Precedes the name of the repository; None if the model knows no other files."""
    file: int | None = None
    """Precedes the name of each file."""


class Vocabulary(Protocol):
    """What is needed of a vocabulary."""

    @property
    def gap(self) -> GapMarks | None:
        """The tokens that show a gap."""

    @property
    def bos(self) -> list[int]:
        """The token with which a prompt begins, if any."""

    def text_tokens(self, text: str, *, parse_special: bool, most: int | None = None) -> list[int]:
        """Return the tokens of a text; it may stop after `most`."""


def gap_prompt(vocabulary: Vocabulary, request: TextRequest, context_length: int) -> list[int]:
    """Return a prompt whose answer belongs between `request.prompt` and `request.suffix`.

    With `input_extra`, texts are code, in which nothing is a control token, and whatever leaves no room for the answer
    is left out. Raises `UnsupportedParameter` if the vocabulary has no tokens for gaps.
    """
    marks = vocabulary.gap
    if marks is None:
        raise UnsupportedParameter(
            f"model '{request.model}' was not trained to fill in the middle: its vocabulary has no tokens for it; "
            "leave 'suffix' out",
            "suffix", "unsupported_parameter",
        )
    bos = vocabulary.bos
    if request.input_extra is None:
        most = 2 * context_length
        prompt = _tokens(vocabulary, request.prompt, most)
        if prompt[:1] == bos:
            bos = []
        behind = vocabulary.text_tokens(request.suffix or "", parse_special=True, most=most)
        return [*bos, marks.before, *prompt, marks.after, *behind, marks.middle]
    answer = context_length // 4
    room = context_length - min(answer, answer if request.max_tokens is None else request.max_tokens) - len(bos) - 3
    given, most = request.prompt, LONG * context_length
    prompt = [*given] if isinstance(given, tuple) else vocabulary.text_tokens(given[-most:], parse_special=False)
    behind = vocabulary.text_tokens((request.suffix or "")[:most], parse_special=False)
    prompt, behind = fit(prompt, behind, room)
    before = _excerpts(vocabulary, marks, request.input_extra, room - len(prompt) - len(behind), most)
    return [*bos, *before, marks.before, *prompt, marks.after, *behind, marks.middle]


def fit(prompt: Sequence[int], behind: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """Return the end of a prompt and the beginning of a suffix that fit; the suffix may have a quarter at least."""
    room = max(room, 0)
    behind = behind[: max(room // 4, room - len(prompt))]
    excess = len(prompt) - (room - len(behind))
    if excess <= 0:
        return [*prompt], [*behind]
    step = max(1, room // STEPS)
    return [*prompt[-(-excess // step) * step :]], [*behind]


def _tokens(vocabulary: Vocabulary, text: str | tuple[int, ...], most: int) -> list[int]:
    return [*text] if isinstance(text, tuple) else vocabulary.text_tokens(text, parse_special=True, most=most)


def _excerpts(
    vocabulary: Vocabulary, marks: GapMarks, excerpts: Sequence[Excerpt], room: int, most: int,
) -> list[int]:
    """Return the tokens of the last excerpts that fit."""
    head: list[int] = []
    end: list[int] = []
    if marks.repository is not None and marks.file is not None:
        head = [marks.repository, *vocabulary.text_tokens("repository\n", parse_special=False)]
    if marks.file is not None:
        end = [marks.file, *vocabulary.text_tokens("untitled\n", parse_special=False)]
    room -= len(head) + len(end)
    found: list[list[int]] = []
    for one in reversed(excerpts):
        if len(one.text) > most:
            break
        name = one.name or "untitled"
        if marks.file is None:
            tokens = vocabulary.text_tokens(f"\n\n--- {name} ---\n\n{one.text}", parse_special=False)
        else:
            tokens = [marks.file, *vocabulary.text_tokens(f"{name}\n{one.text}", parse_special=False)]
        room -= len(tokens)
        if room < 0:
            break
        found.append(tokens)
    if not found:
        return []
    return [*head, *(token for tokens in reversed(found) for token in tokens), *end]
