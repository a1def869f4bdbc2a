"""Embedding engines that behave, or misbehave, as their input says; in a module that worker processes can import."""

import threading
from collections.abc import Sequence

from attrs import frozen
from engines_for_tests import strike

from lllms_core.engines import Engine, Model, Progress, SerialModel
from lllms_core.queries import Embeddings, Tokens
from lllms_core.types import ModelSpec, Request

STARTED = threading.Event()
"""Set while a text "hang" is being embedded."""


@frozen
class Options:
    tokens: bool = True


class Plain(SerialModel):
    """Embeds as (length, number of spaces, 1). The text "fault FAULT" triggers that fault; "slow" takes a while."""

    slots = 2
    can_shorten = True

    def __init__(self) -> None:
        self.calls: list[int] = []

    def embed(self, texts: Sequence[str]) -> Embeddings:
        self.calls.append(len(texts))
        for text in texts:
            word, _, rest = text.partition(" ")
            if word == "fault":
                strike(rest)
            if word == "slow":
                STARTED.set()
                threading.Event().wait(0.002)
        return Embeddings([[len(text), text.count(" "), 1] for text in texts], sum(len(t.split()) for t in texts))


class Rich(Plain):
    """Also has prompts, and tokens, which are the characters' code points."""

    token_inputs = True

    def to_tokens(self, text: str, *, add_special: bool) -> Tokens:
        text = f"<{text}>" if add_special else text
        return Tokens(tuple(map(ord, text)), tuple(one.encode() for one in text))

    def to_text(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def to_prompt(self, request: Request) -> str:
        return "\n".join(message.content for message in request.messages or ())


class EmbedderEngine(Engine):
    name = "embedder"
    Options = Options
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        assert isinstance(spec.options, Options)
        return Rich() if spec.options.tokens else Plain()
