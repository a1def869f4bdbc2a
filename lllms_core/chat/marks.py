"""The marks around calls as models really write them: with some omitted and some cut; pure."""

import re

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.reader import Reader
from lllms_core.chat.tags import TAG

_LEADING_TAG = re.compile(rf"\s*(?:{TAG.pattern})\s*")


def late_triggers(form: CallFormat) -> tuple[str, ...]:
    """Return the texts that announce a call if a model leaves out the first tags: each starts with a later tag."""
    found = []
    rest = form.trigger
    while (tag := _LEADING_TAG.match(rest)) and rest[tag.end() :].startswith("<"):
        rest = rest[tag.end() :]
        found.append(rest)
    return tuple(found)


def ends_of_call(form: CallFormat) -> tuple[str, ...]:
    """Return the texts that end a call: the form's end, also without its first tags or its last."""
    whole = form.call_end.strip()
    tags = [*TAG.finditer(whole)]
    ends = [whole, *(whole[tag.start() :] for tag in tags), *(whole[: tag.end()] for tag in tags[:1])]
    return tuple(end for end in dict.fromkeys(ends) if end)


def is_beginning(text: str, mark: str, following: str = "") -> bool:
    """Whether a text is an incomplete beginning of a mark, as `Reader.accept` reads it.

    `following`: further text that is known to come next.
    """
    if not text.strip() or not mark.strip():
        return False
    steps = Reader().accept(mark)
    next(steps)
    for at, char in enumerate(text + following):
        try:
            steps.send(char)
        except StopIteration as end:
            return bool(end.value) and at >= len(text)
    return True
