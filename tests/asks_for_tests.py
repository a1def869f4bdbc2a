"""Requests with known answers, each with its own secret, and the answers that are right while workers die."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

from attrs import frozen
from dialects_for_tests import CHATS, COMPLETIONS, Dialect
from hostile_for_tests import TINY
from lines_for_tests import Answer

ECHO, SCRIPTED, SECOND = "echo", "scripted", "second"
"""A mock that repeats its input, the tests' own engine, and the trained model in gpt4all."""
WORDS = ("blimp", "zebra", "apple")
"""Words that the trained model knows by heart."""
SECRET = re.compile(rb"q[0-9]+x[0-9a-f]{12}")
CAUSES = {
    "engine_died", "engine_failed", "model_not_available", "overloaded", "waited_too_long", "queue_full", "timeout",
    "shutting_down", "invalid_request", "cancelled", "insufficient_memory",
}
"""The error codes that name a cause, which `internal_error` does not."""
UNNAMED = re.compile(r"\binternal\b|unexpected", re.IGNORECASE)
"""What a message says that names no cause; some dialects have no code beside it."""


@frozen
class Ask:
    """A request and its expected answer."""

    dialect: Dialect
    body: Mapping[str, object]
    expected: Callable[[str], bool] | None
    """Whether a text is the right answer; None accepts any."""
    own: bytes
    stream: bool

    @property
    def path(self) -> str:
        return self.dialect.path

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def data(self) -> bytes:
        return json.dumps({**self.body, "stream": self.stream}).encode()

    def judge(self, answer: Answer) -> tuple[str, str]:
        """Return the outcome in a word, and its problem, if any."""
        others = set(SECRET.findall(answer.body)) - {self.own}
        if others:
            return "another's secret", f"{len(others)} secrets of others in {answer.body[:300]!r}"
        try:
            text, error = self.dialect.read(answer, stream=self.stream)
        except (ValueError, KeyError, IndexError) as fault:
            return "unreadable", f"{answer.status} {fault!r} {answer.body[:300]!r}"
        if error is not None:
            code, message = error["code"], error["message"]
            named = not UNNAMED.search(message) if code in {"", "server_error"} else code in CAUSES
            named |= answer.status in range(400, 429)
            return code or f"error {answer.status}", "" if named and message else f"names no cause: {error}"
        right = self.expected is None or self.expected(text)
        return "right" if right else "wrong", "" if right else f"got {text[:200]!r}"


def ask(
    dialect: Dialect, model: str, said: str | Sequence[Mapping[str, str]], expected: Callable[[str], bool] | None,
    own: bytes, *, stream: bool, most: int = 100, **more: object,
) -> Ask:
    """A request in a dialect."""
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
    return Ask(dialect, {"model": model, **dialect.body(messages, most), **more}, expected, own, stream)


def plain(number: int, secret: str, *, stream: bool, chat: int = 0) -> Sequence[Ask]:
    """A request to each model, whose answer contains this client's secret and no other, in a dialect of `CHATS`."""
    dialect = CHATS[chat % len(CHATS)]
    word = WORDS[number % len(WORDS)]
    said = [{"role": "user", "content": f"My name is Bob. The secret word is {word}. Do not forget it."},
            {"role": "assistant", "content": "Okay, Bob."}, {"role": "user", "content": "What is the secret word?"}]
    own = secret.encode()
    others = set(WORDS) - {word}

    def knows(text: str) -> bool:
        return word in text and not any(other in text for other in others)

    asks = [
        ask(dialect, ECHO, f"my secret is {secret}", lambda text: text == f"I heard my secret is {secret}", own,
            stream=stream),
        ask(COMPLETIONS, SCRIPTED, f"echo {secret} is mine", lambda text: text == f"{secret} is mine", own,
            stream=stream),
    ]
    if find_spec("lllms_llamacpp") is not None:
        asks.append(ask(dialect, TINY, said, knows, own, stream=stream, most=40))
        if find_spec("lllms_gpt4all") is not None:
            asks.append(ask(dialect, SECOND, said, knows, own, stream=stream, most=40))
    return asks
