"""The marks around calls as models really write them: some left out, some cut; pure."""

import re

from lllms_core.chat.answer_format import ANY_ID, ANY_NUMBER, CallFormat
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
    """Return the texts that end a call: the end that the form has, and that without its first tags, or its last."""
    whole = form.call_end.strip()
    tags = [*TAG.finditer(whole)]
    ends = [whole, *(whole[tag.start() :] for tag in tags), *(whole[: tag.end()] for tag in tags[:1])]
    return tuple(end for end in dict.fromkeys(ends) if end)


def is_beginning(text: str, mark: str, following: str = "") -> bool:
    """Whether a text is a beginning of a mark, and not all of it; white space does not count.

    `following`: more text of which it is known that it came next.
    """
    found, known = _solid(text), _solid(re.split(f"[{ANY_ID}{ANY_NUMBER}]", mark)[0])
    whole = known == _solid(mark)
    if not found or not known or (whole and len(found) >= len(known)):
        return False
    found += _solid(following)
    return known.startswith(found) or found.startswith(known)


def _solid(text: str) -> str:
    return "".join(text.split())
