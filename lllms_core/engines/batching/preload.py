"""The tokens with which every conversation of a model begins, by its configuration; pure."""

from collections.abc import Callable, Sequence

from lllms_core.chat import ChatTemplate, Segment
from lllms_core.engines.batching.sequences import common_prefix
from lllms_core.errors import InvalidRequest, ModelLoadFailed
from lllms_core.types import Message, Preload, Role

_PROBES = ("a", "1")


def preload_tokens(
    preload: Preload, template: ChatTemplate | None, tokenize: Callable[[Sequence[Segment]], list[int]],
) -> list[int]:
    """Return the tokens that every continuation of a preload begins with.

    Raises `ModelLoadFailed` if the model's template has no place for its messages.
    """
    if preload.prefix is not None:
        return tokenize([Segment(preload.prefix, parse_special=True)])
    if template is None:
        raise ModelLoadFailed("preload.messages: the model has no chat template; preload a prefix of text instead")
    template = template.fitting(preload.tools)
    # Two continuations show which tokens the template writes after the messages, whatever follows.
    role: Role = "assistant" if preload.messages[-1].role == "user" else "user"
    try:
        one, other = (
            tokenize(template.render([*preload.messages, Message(role, probe)], tools=preload.tools))
            for probe in _PROBES
        )
    except InvalidRequest as error:
        raise ModelLoadFailed(f"preload.messages: {error.message}") from error
    return one[: common_prefix(one, other)]
