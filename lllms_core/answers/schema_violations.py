"""The unenforced restrictions of a request's schemas that its answer breaks; pure."""

import json
from collections.abc import Iterator, Sequence
from time import thread_time

from lllms_core.answers.answer import Answer, Choice
from lllms_core.text.json_schema import KEYWORDS, SECONDS, NoSchema, SchemaCheck, Unchecked
from lllms_core.text.pointers import write_pointer
from lllms_core.types import ChatRequest, Request

UNCHECKED = ";unchecked"
"""Marks the name of an unchecked restriction: its check failed, or would take too long."""


def find_unkept(request: Request, answer: Answer) -> tuple[str, ...]:
    """Return the names of the restrictions that an answer breaks, as in `Delta.unenforced`, or that were not checked.

    Only what nothing enforced is checked, and only what is whole: an answer that was cut keeps to no schema. This may
    take half a second, so call it in a thread.
    """
    if not answer.unenforced:
        return ()
    end = thread_time() + SECONDS
    found: list[str] = []
    for param in dict.fromkeys(name.partition("#")[0] for name in answer.unenforced):
        names = [name for name in answer.unenforced if name.partition("#")[0] == param]
        schema = _schema(request, param)
        texts = [text for choice in answer.choices for text in _texts(choice, param)]
        if not texts or schema is None:
            continue
        try:
            check = SchemaCheck(json.loads(schema), max(end - thread_time(), 0))
            for text in texts:
                places = check.find_violations(json.loads(text), max(end - thread_time(), 0))
                found += _broken(param, names, [write_pointer(place) for place in places])
        except (Unchecked, NoSchema, ValueError, RecursionError):
            found += [name + UNCHECKED for name in names if name not in found]
    return tuple(dict.fromkeys(found))


def keywords(names: Sequence[str]) -> list[str]:
    """Return the keywords at the end of these names: a log must not contain a client's own words."""
    ends = {name.removesuffix(UNCHECKED).rpartition("/")[2] for name in names}
    return sorted({end if end in KEYWORDS else "other" for end in ends})


def _schema(request: Request, param: str) -> str | None:
    constraint = request.constraint
    if constraint is not None and param == constraint.param:
        return constraint.text
    tools = request.tools if isinstance(request, ChatRequest) else ()
    return next((json.dumps(tool.parameters) for tool in tools if param == f"tools.{tool.name}"), None)


def _texts(choice: Choice, param: str) -> Iterator[str]:
    """Yield the parts of an answer that a schema applies to."""
    if choice.reason not in {"stop", "tool_calls"}:
        return
    message = choice.message
    if param.startswith("tools."):
        yield from (call.arguments for call in message.tool_calls if param == f"tools.{call.name}")
    elif message.content:
        yield message.content


def _broken(param: str, names: Sequence[str], pointers: Sequence[str]) -> Iterator[str]:
    """Yield the restrictions that violations belong to: inside them or, like an `anyOf`, around them."""
    for pointer in pointers:
        broken = f"{param}{pointer}"
        related = [
            name for name in names if name == broken or name.startswith(f"{broken}/")
            or (broken.startswith(f"{name}/") and not name.endswith("#"))
        ]
        yield from related or [broken]
