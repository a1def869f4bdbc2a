"""Learn, from known facts about a template, that its model answers in messages of several channels; pure."""

import re

from lllms_core.chat.answer_format import CallFormat, ChannelFormat, ReasoningFormat
from lllms_core.chat.tags import TAG

_MESSAGE = re.compile(rf"({TAG.pattern})\s*(\w+)\s*({TAG.pattern})")
_RECIPIENT = re.compile(r"([^\s<>=]+=)([^\s<>=]*)$")


def learn_channels(
    *, calls: CallFormat | None, thoughts: ReasoningFormat | None, text_start: str, text_end: str, prompt: str,
) -> ChannelFormat | None:
    """Return the format composed of parts learnt separately; None if they do not form one.

    `calls`, `thoughts` and `text_start` are those of an `AnswerFormat`. A text ends with `text_end`; `prompt` is any
    prompt before its answer starts.
    """
    text = _MESSAGE.fullmatch(text_start)
    if text is None or thoughts is None or calls is None or calls.shape != "named":
        return None
    channel, text_channel, body = text.groups()
    thought, end = _MESSAGE.fullmatch(thoughts.start), TAG.match(thoughts.end)
    if thought is None or end is None or thought.groups() != (channel, thought[2], body) or thought[2] == text_channel:
        return None
    opening = thoughts.end[end.end() :].strip()
    before = calls.section_start + calls.call_start
    recipient = _RECIPIENT.search(before)
    where = re.search(rf"{re.escape(channel)}\s*(\w+)", before + calls.name_end)
    if not opening or not prompt.rstrip().endswith(opening) or recipient is None or where is None:
        return None
    if not calls.name_end.rstrip().endswith(body):
        return None
    kind = re.search(r"(\w*)\s*$", calls.name_end.rstrip().removesuffix(body))
    ends = [tag for text in (end[0], calls.call_end, calls.answer_end, text_end) for tag in re.findall(TAG, text)[:1]]
    return ChannelFormat(
        opening, channel, body, tuple(dict.fromkeys(ends)), text_channel, thought[2], where[1], recipient[1],
        recipient[2], kind[1] if kind is not None and kind[1] != where[1] else "",
    )
