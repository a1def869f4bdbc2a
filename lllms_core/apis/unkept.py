"""The header in which an answer names the restrictions of its request's schemas that were not kept.

Its value is a list of restrictions: a parameter, then a JSON pointer into its schema, like
`response_format#/properties/tags/uniqueItems` or `tools.search#/not`. A whole answer has the header if it breaks
unenforced restrictions: the header names those, and adds `;unchecked` to those whose check failed. A stream's headers
are sent before its answer: there the header names all unenforced restrictions. Restrictions of strict schemas are
enforced, or the request is refused.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from lllms_core.answers import Answer, Stream
from lllms_core.types import Request

HEADER = "x-lllms-unkept"
MOST_CHARACTERS = 1000
"""The limit of the header; further restrictions are only counted."""

_CHECKER = ThreadPoolExecutor(1, "lllms-checker")
"""One thread: several would only compete for the interpreter with each other and the event loop."""

logger = logging.getLogger("lllms.answers")


def unkept_header(names: Sequence[str]) -> Mapping[str, str]:
    """Return the header that names these restrictions, no header for none."""
    shown, length = [], 0
    for name in names:
        length += len(name) + len(", ")
        if length > MOST_CHARACTERS:
            break
        shown.append(name)
    others = len(names) - len(shown)
    return {HEADER: ", ".join([*shown, *([f"{others} more"] if others else [])])} if names else {}


async def check_answers(streams: Sequence[Stream], answers: Sequence[Answer]) -> Mapping[str, str]:
    """Return the header of whole answers to the requests of `streams`; log a line for each answer with violations."""
    found: list[str] = []
    for stream, answer in zip(streams, answers, strict=True):
        if answer.unenforced and isinstance(stream.request, Request):
            found += await _check(stream.request, answer)
    return unkept_header(list(dict.fromkeys(found)))


async def log_unkept(streams: Sequence[Stream]) -> None:
    """Check the answers of streams that were read to the end, and log a line for each with violations."""
    for stream in streams:
        answer = stream.unenforced_answer()
        if answer is not None and isinstance(stream.request, Request):
            await _check(stream.request, answer)


async def _check(request: Request, answer: Answer) -> Sequence[str]:
    found, keywords = await asyncio.get_running_loop().run_in_executor(_CHECKER, _find, request, answer)
    if found:
        # Without the places, which contain the client's words.
        logger.warning(
            "answer %s does not keep, or may not, to %d restrictions of its schemas that nothing enforced: %s",
            answer.id, len(found), ", ".join(keywords),
        )
    return found


def _find(request: Request, answer: Answer) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names of the restrictions that an answer breaks, and their keywords."""
    # Imported late, because it imports the JSON schema library, which few requests need.
    from lllms_core.answers.schema_violations import find_unkept, keywords

    found = find_unkept(request, answer)
    return found, keywords(found)
