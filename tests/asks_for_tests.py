"""Requests with known answers, each with its own secret, and the answers that are right while workers die."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from attrs import frozen
from hostile_for_tests import CHAT, TEXT, TINY
from lines_for_tests import Answer

ECHO, SCRIPTED = "echo", "scripted"
"""A mock that repeats its input, and the tests' own engine."""
WORDS = ("blimp", "zebra", "apple")
"""Words that the trained model knows by heart."""
SECRET = re.compile(rb"q[0-9]+x[0-9a-f]{12}")
CAUSES = {
    "engine_died", "engine_failed", "model_not_available", "overloaded", "waited_too_long", "queue_full", "timeout",
    "shutting_down", "invalid_request",
}
"""The error codes that name a cause, which `internal_error` does not."""


@frozen
class Ask:
    """A request and its expected answer."""

    path: str
    body: Mapping[str, object]
    expected: Callable[[str], bool] | None
    """Whether a text is the right answer; None accepts any."""
    own: bytes
    stream: bool

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
            text, error = self._read(answer)
        except (ValueError, KeyError, IndexError) as fault:
            return "unreadable", f"{answer.status} {fault!r} {answer.body[:300]!r}"
        if error is not None:
            named = error["code"] in CAUSES or answer.status in range(400, 429)
            return str(error["code"]), "" if named and error["message"] else f"names no cause: {error}"
        right = self.expected is None or self.expected(text)
        return "right" if right else "wrong", "" if right else f"got {text[:200]!r}"

    def _read(self, answer: Answer) -> tuple[str, dict[str, Any] | None]:
        """Return the text, and the error that ended it. Raises `ValueError` if the stream has no end."""
        if answer.status != 200:
            return "", answer.json()["error"]
        if not self.stream:
            choice = answer.json()["choices"][0]
            return choice["message"]["content"] if "message" in choice else choice["text"], None
        text = ""
        for line in answer.body.split(b"\n"):
            if line == b"data: [DONE]":
                return text, None
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return text, event["error"]
            for choice in event["choices"]:
                text += choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
        raise ValueError("the stream ends without an end")


def plain(number: int, secret: str, *, stream: bool) -> Sequence[Ask]:
    """A request to each model, whose answer contains this client's secret and no other."""
    word = WORDS[number % len(WORDS)]
    said = [{"role": "user", "content": f"My name is Bob. The secret word is {word}. Do not forget it."},
            {"role": "assistant", "content": "Okay, Bob."}, {"role": "user", "content": "What is the secret word?"}]
    own = secret.encode()
    asks = [
        Ask(CHAT, {"model": ECHO, "messages": [{"role": "user", "content": f"my secret is {secret}"}]},
            lambda text: text == f"I heard my secret is {secret}", own, stream),
        Ask(TEXT, {"model": SCRIPTED, "prompt": f"echo {secret} is mine", "max_tokens": 100},
            lambda text: text == f"{secret} is mine", own, stream),
    ]
    if find_spec("lllms_llamacpp") is None:
        return asks
    others = set(WORDS) - {word}
    tiny = {"model": TINY, "messages": said, "temperature": 0, "max_tokens": 40}
    return [
        *asks, Ask(CHAT, tiny, lambda text: word in text and not any(other in text for other in others), own, stream),
    ]
