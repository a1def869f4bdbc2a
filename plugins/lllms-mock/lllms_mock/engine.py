"""The engine: copy this file to start one of your own."""

import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import cast

from lllms_core.engines import TOOL_PARAMETERS, Engine, Progress
from lllms_core.engines.answer_text import AnswerText
from lllms_core.engines.serial import Piece, SerialModel
from lllms_core.engines.session_link import Session, SessionLink
from lllms_core.errors import ContextOverflow, ModelLoadFailed
from lllms_core.queries import Embeddings, Tokens
from lllms_core.types import ChatRequest, Memory, Message, ModelSpec, PromptScores, Request, TextRequest
from lllms_mock.call_notation import FORMAT, offered, write_calls, write_thoughts
from lllms_mock.conversations import Recall, tokens_of
from lllms_mock.options import Call, Line, Options
from lllms_mock.rules import Rules
from lllms_mock.rules_file import read_rules
from lllms_mock.script import break_off, certain, lengthen, pace, score, strike
from lllms_mock.splitting import as_bytes, split_bytes, split_words
from lllms_mock.word_vectors import vector

ELIZA = Path(__file__).with_name("eliza.toml")


class MockModel(SerialModel):
    """A chatbot that answers according to its options. Each answer depends only on its request.

    Sessions only report how much of a prompt was heard before.
    """

    answer_format = FORMAT
    can_shorten = True

    def __init__(self, options: Options, rules: Rules) -> None:
        self.slots = options.slots
        self.context_length = options.context_length
        self.token_inputs = options.token_inputs
        self._options = options
        self._rules = rules
        self._recall: Recall | None = None
        self.state_key = options.tokenizer if options.sessions else None

    def use_sessions(self, link: SessionLink) -> None:
        """Store and find conversations through `link`."""
        self._recall = Recall(link)

    def found(self, request_id: str, session: Session | None) -> None:
        """Pass the session to the answer that waits for it."""
        if self._recall is not None:
            self._recall.found(request_id, session)

    def details(self) -> Mapping[str, str | int | float]:
        """Return the memory declared in the options."""
        return {"memory": self._options.memory}

    def count_tokens(self, text: str) -> int:
        """Return the exact number of tokens that an answer of this text would be charged."""
        return len(self._split(text))

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return a vector for each text; the script's faults apply here, too."""
        tokens = 0
        read = []
        for text in texts:
            pieces = self._split(text)
            if len(pieces) > self.context_length and not self._options.truncate:
                raise ContextOverflow(
                    f"a text has {len(pieces)} tokens, but the mock reads {self.context_length}; shorten it, raise "
                    "options.context_length, or set options.truncate",
                    "input", "context_length_exceeded",
                )
            pieces = pieces[: self.context_length]
            tokens += len(pieces)
            read.append(b"".join(map(as_bytes, pieces)).decode(errors="ignore"))
            line = self._heard(text)
            if line.fault is not None and line.fault != "hang":
                strike(line.fault)
        return Embeddings([vector(split_words(text), self._options.dimensions) for text in read], tokens)

    def to_tokens(self, text: str, *, add_special: bool) -> Tokens:  # noqa: ARG002  # nothing is ever added
        """Return the bytes of the text."""
        pieces = split_bytes(text)
        return Tokens(tuple(piece[0] for piece in pieces), tuple(pieces))

    def to_text(self, tokens: Sequence[int]) -> str:
        """Return the text of these bytes; a larger number is written out, so that any client's tokens are accepted."""
        return b"".join(bytes([one]) if one < 256 else b" <%d>" % one for one in tokens).decode(errors="replace")

    def score_prompt(self, prompt: str, request: TextRequest) -> PromptScores:
        """Score every token of the prompt as certain."""
        first, *rest = self._split(prompt) or [b""]
        return PromptScores(as_bytes(first), tuple(certain(piece, request.top_logprobs or 0) for piece in rest))

    def complete(self, prompt: str, request: TextRequest) -> Iterable[Piece]:
        """Answer the prompt as if it were the first message of a conversation."""
        return self._answer([Message("user", prompt)], request)

    def chat(self, request: ChatRequest) -> Iterable[Piece]:
        """Answer the last message of the user; the others are the chatbot's memory."""
        return self._answer(request.messages, request)

    def _answer(self, messages: Sequence[Message], request: Request) -> Iterable[Piece]:
        options = self._options
        heard = _asked(messages)
        said = {message.content for message in messages if message.role == "assistant"}
        line = self._heard(heard[-1])
        if line.fault in {"refuse", "raise-open"}:
            strike(line.fault)
        chat = request if isinstance(request, ChatRequest) else None
        calls = self._calls(line, messages, request)
        if calls:
            text = write_calls(calls)
        elif line.replies:
            text = line.replies[(len(heard) - 1) % len(line.replies)]
        else:
            text = self._rules.reply(heard, said, request.sampling)
        if line.thinks and (chat is None or chat.reasoning_effort != "none"):
            text = write_thoughts(line.thinks) + text
        pieces: Iterable[Piece] = self._split(text)
        if line.tokens is not None:
            pieces = lengthen(self._split(text), self._split(f" {text}"), line.tokens)
        if line.fault is not None:
            pieces = break_off(pieces, line.fault, line.after)
        if options.first_token or options.tokens_per_second is not None:
            pieces = pace(pieces, options.first_token, options.tokens_per_second)
        pieces = score(pieces, request.top_logprobs or 0) if request.scored else pieces
        if self._recall is None or not request.cache_prompt:
            return pieces
        tokens = tokens_of(messages, [self._split(message.content) for message in messages])
        return chain(self._recall.remember(request.id, tokens), pieces)

    def answer_text(self, request: Request, index: int) -> AnswerText:
        """Return an answer's reader; the script's calls cannot break, so their arguments need not be held back."""
        messages = request.messages if isinstance(request, ChatRequest) else ()
        output = super().answer_text(request, index)
        output.kept = bool(self._calls(self._heard(_asked(messages)[-1]), messages, request))
        return output

    def _calls(self, line: Line, messages: Sequence[Message], request: Request) -> Sequence[Call]:
        """Return the calls of a line's answer."""
        if not isinstance(request, ChatRequest) or messages[-1].role == "tool":
            return []
        return offered(line.calls, request.tools)

    def _heard(self, text: str) -> Line:
        """Return the script's line for this text."""
        return next((line for line in self._options.script if re.search(line.when, text, re.IGNORECASE)), Line())

    def _split(self, text: str) -> Sequence[str | bytes]:
        return split_words(text) if self._options.tokenizer == "words" else split_bytes(text)


class MockEngine(Engine):
    """Loads chatbots; needs no weights, and runs in the server's own process unless configured otherwise."""

    name = "mock"
    Options = Options
    parameters = TOOL_PARAMETERS | {
        "temperature", "top_k", "top_p", "min_p", "seed", "reasoning_effort", "logprobs", "top_logprobs", "best_of",
        "echo",
    }
    isolation = "thread"
    needs_file = False

    def inspect(self, spec: ModelSpec) -> Mapping[str, str | int | float]:
        """Return the declared memory. Raises `ModelLoadFailed` for a faulty rules file."""
        options = cast(Options, spec.options)
        _rules(options)
        return {"memory": options.memory, "tasks": ", ".join(sorted(MockModel.tasks))}

    def estimate(self, spec: ModelSpec) -> Memory:
        """Return the value of `options.memory`."""
        return Memory(weights=cast(Options, spec.options).memory)

    def load(self, spec: ModelSpec, progress: Progress) -> MockModel:
        """Take as long as the options say, then return the model or fail, as they say."""
        options = cast(Options, spec.options)
        if options.deadly and not _own_process():
            raise ModelLoadFailed(
                f"the options of model '{spec.name}' can end the whole process, which is the server's own here; "
                'set isolation = "process"',
            )
        rules = _rules(options)
        for tenth in range(10):
            progress(tenth / 10)
            time.sleep(options.load_seconds / 10)
        if options.load_fault == "fail":
            raise ModelLoadFailed(f"options.load_fault makes the load of model '{spec.name}' fail")
        if options.load_fault is not None:
            strike(options.load_fault)
        progress(1.0)
        return MockModel(options, rules)


def _asked(messages: Sequence[Message]) -> Sequence[str]:
    """Return what the user said, at least one text."""
    return [message.content for message in messages if message.role == "user"] or [""]


def _rules(options: Options) -> Rules:
    return read_rules(ELIZA if options.rules is None else options.rules)


def _own_process() -> bool:
    """Whether the model has its own process: in the server's process, it runs in a thread other than the main one."""
    return threading.current_thread() is threading.main_thread()
