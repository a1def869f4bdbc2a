"""A gpt4all model that answers one request at a time."""

from collections.abc import Generator, Mapping, Sequence
from itertools import chain, repeat
from time import time

from attrs import field, frozen

from lllms_core.chat import ChatTemplate, Segment
from lllms_core.chat.prompt import Prompt as ChatPrompt
from lllms_core.chat.prompt import chat_prompt
from lllms_core.engines.answer_text import AnswerText
from lllms_core.engines.base import Opening, Opens
from lllms_core.engines.serial import Pause, Piece, Reused, SerialModel
from lllms_core.engines.session_link import Resident
from lllms_core.errors import EngineFailed, InvalidRequest
from lllms_core.queries import Tokens
from lllms_core.types import ChatRequest, Request, TextRequest, Usage
from lllms_gpt4all.native import NativeModel
from lllms_gpt4all.prompt import Prompt, continue_from, make_prompt
from lllms_gpt4all.structured import Checker, attempts
from lllms_gpt4all.vocabulary import Vocabulary

_STOPS = tuple(
    f"### {word}".encode() for word in ("Instruction", "Prompt", "Response", "Human", "Assistant", "Context")
)
"""Texts at which gpt4all always ends an answer. To find them, it looks ahead."""


@frozen
class Loaded:
    """The result of a load."""

    native: NativeModel
    vocabulary: Vocabulary
    template: ChatTemplate | None
    context_length: int
    threads: int | None
    """The configured count; None: as the pool grants."""
    details: Mapping[str, str | int | float] = field(factory=dict)


class Gpt4AllModel(SerialModel):
    """Texts and conversations in one gpt4all context, which keeps the last conversation for its next turn."""

    def __init__(self, loaded: Loaded) -> None:
        self.context_length = loaded.context_length
        self.tasks = type(self).tasks - (set() if loaded.template else {"chat", "render"})
        self._loaded = loaded
        self._native = loaded.native
        self._vocabulary = loaded.vocabulary
        self._prompt = Prompt((), (), ())
        self._chat = ChatPrompt(())
        self._text: AnswerText | None = None
        self._checker: Checker | None = None
        self._used = 0.0
        self._forgotten = False

    def details(self) -> Mapping[str, str | int | float]:
        """Return the file's own metadata."""
        return self._loaded.details

    def use_threads(self, count: int) -> None:
        """Compute with at most `count` threads, from the next token on."""
        configured = self._loaded.threads
        self._native.use_threads(max(1, count if configured is None else min(configured, count)))

    def prepare(self, request: Opens) -> Opening:
        """Render and tokenise the prompt, and refuse one that can never fit."""
        if not isinstance(request, Request):
            return super().prepare(request)
        checker = None if request.constraint is None else Checker(request.constraint)
        chat, prompt = self._made(request)
        if not prompt.tokens:
            raise InvalidRequest(
                f"the prompt is empty, but model '{request.model}' needs at least one token", "prompt",
            )
        prepare = super().prepare

        def take() -> None:
            self._checker, self._chat, self._prompt = checker, chat, prompt
            prepare(request)()

        return take

    def prompt_tokens(self, request: Request) -> int:  # noqa: ARG002  # the prompt has just been made from it
        """Return the number of tokens of the rendered prompt."""
        return len(self._prompt.tokens)

    def answer_text(self, request: Request, index: int) -> AnswerText:
        """Return the reader of an answer, in the model's notation of calls and thoughts."""
        self._text = AnswerText(request, self._chat.form, thinking=self._chat.thinking, index=index)
        return self._text

    def chat(self, request: ChatRequest) -> Generator[Piece, None, Usage | None]:
        """Answer a conversation."""
        return self._answer(request)

    def complete(self, prompt: str, request: TextRequest) -> Generator[Piece, None, Usage | None]:  # noqa: ARG002  # see `open`
        """Continue a text."""
        return self._answer(request)

    def to_tokens(self, text: str, *, add_special: bool) -> Tokens:
        """Return the tokens of a text, with control tokens parsed; BOS first if requested."""
        ids = self._vocabulary.tokenize(_readable(text, "text"), parse_special=True, after=[], most=self.most_tokens)
        if not add_special and self._vocabulary.adds_bos:
            del ids[0]
        return self._vocabulary.shown(ids)

    def to_text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens as their names. Raises `InvalidRequest` for unknown ones."""
        return self._vocabulary.join(tokens)

    def to_prompt(self, request: ChatRequest) -> str:
        """Return the prompt for a chat."""
        return "".join(segment.text for segment in self._shown(request).segments)

    def residents(self) -> Sequence[Resident]:
        """Return the last conversation, or the running one."""
        tokens = () if self._forgotten else tuple(self._native.tokens)
        return [Resident(0, tokens, self._used if self.idle else time())] if tokens else []

    def forget(self, key: int) -> None:  # noqa: ARG002  # noqa: ARG002  # there is at most one
        """Empty the context, now or when its request has ended."""
        self._forgotten = not self.idle
        if self.idle:
            self._native.cut(0)

    def close(self) -> None:
        """Free the model."""
        self._native.close()
        self._vocabulary.close()

    def _made(self, request: Request) -> tuple[ChatPrompt, Prompt]:
        """Return the prompt of a request, as text and as tokens; only the beginning of one that is too long."""
        chat = self._shown(request)
        return chat, make_prompt(self._without_bos(chat.segments), self._vocabulary, self.enough_tokens)

    def _shown(self, request: Request) -> ChatPrompt:
        """Return the model's input. Raises `RequestError` for anything that it cannot be shown."""
        if isinstance(request, TextRequest):
            return ChatPrompt([Segment(_readable(self.prompt_text(request), "prompt"), parse_special=True)])
        if self._loaded.template is None:
            raise InvalidRequest(
                f"model '{request.model}' has no chat template; set options.chat_template or use /v1/completions",
                "messages",
            )
        shown = chat_prompt(self._loaded.template, request)
        for segment in shown.segments:
            _readable(segment.text, "messages")
        return shown

    def _without_bos(self, segments: Sequence[Segment]) -> list[Segment]:
        """Return a prompt without the BOS that gpt4all adds."""
        bos, (first, *others) = self._vocabulary.bos_token, segments
        if bos and self._vocabulary.adds_bos and first.parse_special and first.text.startswith(bos):
            first = Segment(first.text.removeprefix(bos), parse_special=True)
        return [first, *others]

    def _answer(self, request: Request) -> Generator[Piece, None, Usage | None]:
        if not request.cache_prompt:
            self._native.cut(0)
        try:
            if self._checker is not None:
                return (yield from self._write_json(request, self._checker))
            yield from self._read_prompt(request)
            yield from self._write(request)
        finally:
            if not request.cache_prompt or self._forgotten:
                self._native.cut(0)
                self._forgotten = False
            self._used = time()
        return None

    def _write_json(self, request: Request, checker: Checker) -> Generator[Piece, None, Usage]:
        """Generate until an answer matches the request; the usage is that of this answer."""
        asked, shown, form = 0, self._text, self._chat.form
        # The output has no thoughts, but its reader waits for their end if the prompt has opened them.
        before = form.reasoning.end if form.reasoning is not None and shown is not None and shown.thinking else ""
        for attempt in attempts(request, checker):
            asked += 1
            self._chat, self._prompt = self._made(attempt)
            limit = self.answer_limit(attempt, len(self._prompt.tokens))
            reader = self.answer_text(attempt, 0)
            text, tokens, cached, found = "", 0, 0, None
            for piece in chain(self._read_prompt(attempt), self._write(attempt)):
                if isinstance(piece, Reused):
                    cached = piece.tokens
                if isinstance(piece, bytes):
                    tokens += 1
                    text += reader.feed(piece).text
                    found = checker.find(text) if piece.rstrip().endswith((b"}", b"]")) else None
                if found is not None or tokens == limit:
                    break
                yield Pause(0.0)  # lets a pending cancel through
            found = found or checker.find(text + reader.end("stop")[0].text)
            if found is not None:
                yield before + found
                # An answer of maximum length ends by its usage, not by its limit.
                yield from repeat(b"", min(tokens, limit - 1) - 1)
                return Usage(len(self._prompt.tokens), tokens, cached)
        raise EngineFailed(
            f"the model did not write the JSON that '{request.constraint.param if request.constraint else ''}' asks "
            f"for in {asked} attempts; ask for a simpler one, raise max_tokens or temperature, or use "
            'engine = "llamacpp", which enforces a schema',
        )

    def _write(self, request: Request) -> Generator[Piece, None, None]:
        """Generate until the model ends the answer."""
        while True:
            token = self._native.sample(request.sampling)
            if token is None or self._vocabulary.is_end(token):
                return
            piece = self._vocabulary.piece(token)
            yield piece if piece or self._text is None else self._text.mark(self._vocabulary.text(token).decode())
            if self._looked_ahead(token):
                # The logits are those of a token that was taken back: this restores the right ones.
                self._native.cut(len(self._native.tokens) - 1)
                self._native.read(self._vocabulary.piece(token).decode(errors="replace"), parse_special=False)

    def _read_prompt(self, request: Request) -> Generator[Piece, None, None]:
        """Evaluate the new part of the prompt; a cancel can take effect between two batches."""
        prompt, native = self._prompt, self._native
        keep, rest = continue_from(native.tokens, prompt, self._vocabulary)
        yield Reused(keep)
        native.cut(keep)
        if request.sampling.temperature and request.sampling.seed is not None:
            native.seed(request.sampling.seed)
        while not self._read(rest):
            yield Pause(0.0)
            keep, rest = continue_from(native.tokens, prompt, self._vocabulary)
            native.cut(keep)
        if native.tokens != list(prompt.tokens):
            found = next((i for i, (a, b) in enumerate(zip(native.tokens, prompt.tokens, strict=False)) if a != b), -1)
            raise EngineFailed(f"gpt4all has evaluated a different prompt than it was given, from token {found} on")

    def _read(self, segments: list[Segment]) -> bool:
        """Evaluate texts; False if an interrupt ended it early."""
        return all(
            self._native.read(
                segment.text, parse_special=segment.parse_special, go_on=lambda: not self.interrupt.is_set(),
            )
            for segment in segments
        )

    def _looked_ahead(self, token: int) -> bool:
        """Whether gpt4all has evaluated tokens after this one, because it may start one of its stop texts."""
        if self._vocabulary.is_special(token):
            return False
        piece = self._vocabulary.text(token)
        return any(piece.endswith(stop[:length]) for stop in _STOPS for length in range(1, len(stop)))


def _readable(text: str, param: str) -> str:
    """Return the text, if gpt4all can read it."""
    if "\0" in text:
        raise InvalidRequest(f"'{param}' has a NUL character, where gpt4all would stop; leave it out", param)
    return text
