"""Learn the form of calls from a prompt whose template describes it in words but renders no call; pure."""

import re

from attrs import evolve

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.tags import TAG, alike

_NAME, _ARGUMENTS = r'"(name|tool_name|function_name)"', r'"(arguments|parameters|args)"'
_VALUE = r'("[^"\n]*"|<[^<>\n]{1,60}>|\{[^{}]*\}|[\w .-]{1,60})'
_EXAMPLE = re.compile(
    rf"\{{\s*{_NAME}\s*:\s*{_VALUE}\s*,\s*{_ARGUMENTS}\s*:\s*{_VALUE}\s*\}}"
    rf"|\{{\s*{_ARGUMENTS}\s*:\s*{_VALUE}\s*,\s*{_NAME}\s*:\s*{_VALUE}\s*\}}",
)
"""A call with placeholders for its name and its arguments."""
_LIST_END = re.compile(r"[^\[\]]{0,400}\]")
_IN_WORDS = re.compile(rf"({TAG.pattern})[^\n.<>\[\]]{{0,60}}\bfollowed by\b[^\n.<>\[\]]{{0,60}}\b(?:list|array)\b")
"""A mark, and words that say that a list follows it."""
_ABOUT_CALLS = re.compile(r"tool|call|action|function", re.IGNORECASE)
_LONGEST_SENTENCE = 400
_ENDS = (
    ("START", "END"), ("start", "end"), ("BEGIN", "END"), ("begin", "end"), ("<|", "<|/"), ("<", "</"), ("[", "[/"),
)
"""Parts of the marks before a list, and of those after it."""


def learn_told(prompt: str, plain: str) -> CallFormat | None:
    """Return the form described in a prompt with tools but not in a `plain` one; None if there is none.

    The prompt shows a call with placeholders, in tags or in a list, or says that a JSON list follows a mark.
    """
    start = alike(prompt, plain)
    told = prompt[start : len(prompt) - alike(prompt[start:][::-1], plain[start:][::-1])]
    for example in _EXAMPLE.finditer(told):
        return _from_example(told, example)
    for mark in _IN_WORDS.finditer(told):
        if _ABOUT_CALLS.search(mark[1]):
            return _from_words(told, mark)
    return None


def _from_example(told: str, example: re.Match[str]) -> CallFormat:
    name, arguments = (example[1], example[3]) if example[1] else (example[7], example[5])
    form = _object(name, arguments)
    before, after = told[: example.start()], told[example.end() :]
    head = before.rstrip()
    if head.endswith("[") and (ending := _LIST_END.match(after)):
        head, after = head[:-1], after[ending.end() :]
        start, end = _around(head, after)
        return evolve(
            form, section_start=f"{start}[" if start else "[", separator=", ", section_end=f"]{end}".rstrip(),
        )
    start, end = _around(before, after)
    return evolve(form, call_start=start, call_end=end, separator="\n" if start else "", parallel=bool(start))


def _around(before: str, after: str) -> tuple[str, str]:
    """Return the tags directly before and after an example, with the white space between; "" if there are none."""
    start = re.search(rf"({TAG.pattern})\s*$", before)
    if start is None:
        return "", ""
    end = re.match(rf"\s*({TAG.pattern})", after)
    return start[0], end[0] if end is not None and end[1] != start[1] else ""


def _from_words(told: str, mark: re.Match[str]) -> CallFormat:
    sentence = told[mark.start() : mark.start() + _LONGEST_SENTENCE]
    line = sentence.partition("\n")[0]
    name, arguments = re.search(_NAME, line), re.search(_ARGUMENTS, line)
    form = _object(name[1], arguments[1]) if name and arguments else _object("name", "arguments")
    closing = (mark[1].replace(one, other, 1) for one, other in _ENDS if one in mark[1])
    end = next((tag for tag in closing if tag in sentence), "")
    # If it contains the space, a model may write one or none.
    return evolve(form, section_start=f"{mark[1]} [", separator=", ", section_end=f"]{end}")


def _object(name: str, arguments: str) -> CallFormat:
    return CallFormat(
        "object", name_path=(name,), arguments_path=(arguments,),
        parts=(f'{{"{name}": ', f', "{arguments}": ', "}"),
    )
