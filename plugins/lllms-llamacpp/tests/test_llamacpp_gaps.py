"""Prompts for filling a gap: the texts around it and excerpts of other files, as far as they fit; pure."""

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from lllms_llamacpp.gaps import LONG, STEPS, GapMarks, fit, gap_prompt

from lllms_core.errors import UnsupportedParameter
from lllms_core.types import Excerpt, TextRequest

PRE, SUF, MID, REP, SEP, BOS = 1001, 1002, 1003, 1004, 1005, 1006


FILES = GapMarks(PRE, SUF, MID, REP, SEP)


@frozen
class Letters:
    """A vocabulary whose tokens are characters; a control token's text is one token where it is parsed."""

    gap: GapMarks | None = FILES
    bos: list[int] = [BOS]  # noqa: RUF008  # nothing changes it

    def text_tokens(self, text: str, *, parse_special: bool, most: int | None = None) -> list[int]:
        if parse_special:
            text = text.replace("<mid>", chr(MID))
        return [ord(one) for one in text[:most]]


def shown(tokens: list[int]) -> str:
    names = {PRE: "<pre>", SUF: "<suf>", MID: "<mid>", REP: "<rep>", SEP: "<sep>", BOS: "<bos>"}
    return "".join(names.get(one) or chr(one) for one in tokens)


def ask(prompt: str | tuple[int, ...], suffix: str | None = None, *extra: Excerpt, **fields: object) -> TextRequest:
    return TextRequest("r", "m", prompt, suffix=suffix, input_extra=extra, **fields)  # type: ignore[arg-type]


def test_excerpts_come_first_with_their_names() -> None:
    """A model that knows files gets each with its name; the current one has none."""
    request = ask("def", "end", Excerpt("one", "a.py"), Excerpt("two"))
    assert shown(gap_prompt(Letters(), request, 200)) == (
        "<bos><rep>repository\n<sep>a.py\none<sep>untitled\ntwo<sep>untitled\n<pre>def<suf>end<mid>"
    )
    assert shown(gap_prompt(Letters(), ask("def", "end"), 200)) == "<bos><pre>def<suf>end<mid>"


def test_models_that_know_no_files_get_plain_texts() -> None:
    """Without the marks of files, a line with the name comes before each excerpt."""
    request = ask("def", None, Excerpt("one", "a.py"), Excerpt("two"))
    assert shown(gap_prompt(Letters(gap=GapMarks(PRE, SUF, MID), bos=[]), request, 200)) == (
        "\n\n--- a.py ---\n\none\n\n--- untitled ---\n\ntwo<pre>def<suf><mid>"
    )


def test_code_has_no_control_tokens() -> None:
    """The text of a control token in an editor's request is text; in a plain suffix it is parsed, as in any prompt."""
    around = gap_prompt(Letters(), ask("a<mid>", "b<mid>", Excerpt("c<mid>", "<mid>")), 200)
    assert around.count(MID) == 1
    plain = TextRequest("r", "m", "a<mid>", suffix="b")
    assert gap_prompt(Letters(), plain, 200).count(MID) == 2


def test_a_model_without_marks_refuses() -> None:
    """The error names the suffix."""
    with pytest.raises(UnsupportedParameter, match="not trained to fill in the middle") as caught:
        gap_prompt(Letters(gap=None), ask("a"), 200)
    assert caught.value.param == "suffix"


def test_the_last_excerpts_stay() -> None:
    """As many whole excerpts as fit, from the last one on; the texts around the gap need no room twice."""
    extra = [Excerpt(f"{number:02}" * 20, "f") for number in range(20)]
    found = shown(gap_prompt(Letters(), ask("p" * 100, "s" * 100, *extra, max_tokens=30), 512))
    assert found.count("<sep>") < 21
    assert "19" * 20 in found
    assert "00" * 20 not in found
    assert len(gap_prompt(Letters(), ask("p" * 100, "s" * 100, *extra, max_tokens=30), 512)) <= 512 - 30
    assert "<rep>" not in shown(gap_prompt(Letters(), ask("p", "s", Excerpt("e" * 600, "f")), 512))


@given(
    st.text(alphabet="ab", max_size=80) | st.lists(st.integers(0, 9), max_size=80).map(tuple),
    st.none() | st.text(alphabet="cd", max_size=80), st.lists(st.text(alphabet="ef", max_size=30), max_size=5),
    st.integers(1, 100), st.none() | st.integers(0, 200),
)
def test_there_is_always_room_for_an_answer(
    prompt: str | tuple[int, ...], suffix: str | None, extra: list[str], context: int, most: int | None,
) -> None:
    """Whatever comes, the prompt fits; what is kept of the texts is next to the gap, and all of it if possible."""
    request = ask(prompt, suffix, *(Excerpt(one, "f") for one in extra), max_tokens=most)
    tokens = gap_prompt(Letters(), request, context)
    marks = 4
    assert len(tokens) <= max(context - min(context // 4, most if most is not None else context), marks)
    before, after = tokens.index(PRE), tokens.index(SUF)
    given_ = [ord(one) for one in prompt] if isinstance(prompt, str) else [*prompt]
    kept, behind = tokens[before + 1 : after], tokens[after + 1 : -1]
    assert given_[len(given_) - len(kept) :] == kept
    assert [ord(one) for one in (suffix or "")][: len(behind)] == behind
    if len(given_) + len(suffix or "") + marks <= context * 3 // 4:
        assert (len(kept), len(behind)) == (len(given_), len(suffix or ""))


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 200))
def test_a_cut_leaves_much(prompt: int, behind: int, room: int) -> None:
    """Both texts together fill the room, but for one step of the prompt; neither takes the other's whole share."""
    kept, end = fit([1] * prompt, [2] * behind, room)
    assert len(kept) + len(end) <= room
    if prompt + behind > room:
        assert len(kept) + len(end) > room - max(1, room // STEPS)
    assert len(end) >= min(behind, room // 4)


def test_a_growing_text_keeps_its_beginning() -> None:
    """While a text grows by one token at a time, its cut moves in steps, so the evaluated tokens are reused."""
    starts = {fit([*range(length)], [], 160)[0][0] for length in range(200, 300)}
    assert len(starts) <= 100 // (160 // STEPS) + 1


def test_huge_texts_are_not_tokenised_in_full() -> None:
    """Only the end of a text before the gap, and the beginning of one after it, are looked at."""
    seen: list[int] = []

    class Counting(Letters):
        def text_tokens(self, text: str, *, parse_special: bool, most: int | None = None) -> list[int]:
            seen.append(len(text))
            return super().text_tokens(text, parse_special=parse_special, most=most)

    gap_prompt(Counting(), ask("a" * 1_000_000, "b" * 1_000_000, Excerpt("c" * 1_000_000)), 100)
    assert max(seen) <= LONG * 100
