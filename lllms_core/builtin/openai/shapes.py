"""The shapes of OpenAI's answers: whole, and as the events of a stream."""

from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quote
from typing import Any, cast

from attrs import frozen

from lllms_core.answers import Choice
from lllms_core.apis import Fault, openai_shape
from lllms_core.apis.writing import comment, dumps, event
from lllms_core.builtin.openai.logprobs import ChatLogprobs, Logprobs, TextLogprobs, write_prompt
from lllms_core.builtin.openai.tool_calls import delta_values, message_value
from lllms_core.types import Delta, Finish, FinishReason, PromptScores, Task, Timings, Usage

DONE = b"data: [DONE]\n\n"

FINISH_REASONS: Mapping[FinishReason, str] = {
    "stop": "stop", "tool_calls": "tool_calls", "length": "length", "timeout": "length",
}
"""OpenAI's words: an answer that ran out of time is cut, like one that ran out of tokens. A cancelled one has no reader
left."""


@frozen
class Head:
    """The values in every part of an answer."""

    id: str
    created: int
    model: str
    fingerprint: str


@frozen
class Asked:
    """The properties of a request that determine the form of its answer."""

    chat: bool
    n: int = 1
    """Choices for each prompt."""
    scored: bool = False
    """Whether log-probabilities are wanted."""
    echoes: tuple[str, ...] = ("",)
    """The text with which the choices of each prompt begin."""
    functions: bool = False
    """Whether calls are shown in the deprecated form."""
    timings: bool = False
    """Whether the answer tells how its time was spent."""

    @property
    def count(self) -> int:
        """How many choices there are, those of the first prompt first."""
        return self.n * len(self.echoes)

    def before(self, index: int) -> str:
        """The text with which a choice begins."""
        return self.echoes[index // self.n]

    def logprobs(self, index: int) -> Logprobs:
        """A writer for the log-probabilities of a choice."""
        return ChatLogprobs() if self.chat else TextLogprobs(len(self.before(index)))


def completion_id(task: Task, stream_id: str) -> str:
    """Return the id of an answer: OpenAI's prefix, then the instance and the request."""
    return f"{'chatcmpl' if task == 'chat' else 'cmpl'}-{stream_id}"


def whole_answer(
    asked: Asked, head: Head, choices: Sequence[Choice], counts: Usage, times: Timings = Timings(),  # noqa: B008  # a frozen value
) -> dict[str, object]:
    """Return a `chat.completion` or a `text_completion`."""
    shown = [_choice(asked, index, choice) for index, choice in enumerate(choices)]
    kind = "chat.completion" if asked.chat else "text_completion"
    answer = {**_common(kind, head), "choices": shown, "usage": usage(counts)}
    return {**answer, "timings": timings(counts, times)} if asked.timings else answer


def _choice(asked: Asked, index: int, choice: Choice) -> dict[str, object]:
    logprobs = _logprobs(asked, index, choice) if asked.scored else None
    reason = finish_reason(choice.reason, functions=asked.functions)
    shown: dict[str, object] = {"index": index, "logprobs": logprobs, "finish_reason": reason}
    if asked.chat:
        return {**shown, "message": message_value(choice.message, functions=asked.functions)}
    return {**shown, "text": asked.before(index) + choice.message.content}


def _logprobs(asked: Asked, index: int, choice: Choice) -> Mapping[str, object]:
    answer = asked.logprobs(index).write(choice.scores)
    if choice.prompt_scores is None:
        return answer
    prompt = write_prompt(asked.before(index), choice.prompt_scores)
    return {key: [*prompt[key], *cast("list[object]", answer[key])] for key in prompt}


def finish_reason(reason: FinishReason, *, functions: bool) -> str:
    """Return OpenAI's word for the end of an answer."""
    return "function_call" if functions and reason == "tool_calls" else FINISH_REASONS[reason]


def usage(counts: Usage) -> dict[str, object]:
    """Return OpenAI's token counts."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning_tokens, "accepted_prediction_tokens": counts.accepted_tokens,
            "rejected_prediction_tokens": counts.rejected_tokens,
        },
    }


def timings(counts: Usage, times: Timings) -> dict[str, object]:
    """Return how the time of an answer was spent: in llama-server's names, as far as it has any.

    Of several prompts it is the time of the one that took longest, and the tokens of all.
    """
    read, written = counts.prompt_tokens - counts.cached_tokens, counts.completion_tokens
    drafted = counts.accepted_tokens + counts.rejected_tokens
    return {
        "queued_ms": _ms(times.queued), "load_ms": _ms(times.load),
        "cache_n": counts.cached_tokens,
        "prompt_n": read, "prompt_ms": _ms(times.prompt), "prompt_per_second": _rate(read, times.prompt),
        "predicted_n": written, "predicted_ms": _ms(times.answer),
        "predicted_per_second": _rate(written - 1, times.answer),
        **({"draft_n": drafted, "draft_n_accepted": counts.accepted_tokens} if drafted else {}),
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 3) if seconds > 0 and count > 0 else None


class Events:
    """Encodes the events of one streamed answer. All but the text is encoded once, since `delta` runs for every token.

    `head` is called when the answer begins, since only then the instance, and so the fingerprint, is known.
    """

    content_type = "text/event-stream"

    def __init__(self, asked: Asked, head: Callable[[], Head], *, include_usage: bool) -> None:
        self._asked = asked
        self._head = head
        self._include_usage = include_usage
        self._common: dict[str, Any] = {}
        self._logprobs = [asked.logprobs(index) for index in range(asked.count)]
        self._prompts: dict[int, PromptScores] = {}
        """The scores of the prompts, by their indices."""
        self._begun: set[int] = set()
        self._open = set(range(asked.count))
        self._before: list[str] = []
        self._after = "}}]}\n\n" if asked.chat else "}]}\n\n"

    def delta(self, delta: Delta) -> bytes:
        """Return the events for a delta: the beginning of a choice, a piece, its end; none for an empty one."""
        if delta.reasoning or delta.calls or delta.scores or delta.prompt_scores or delta.ended is not None:
            return self._rich(delta)
        if not delta.text:
            return b""
        head = b"" if delta.index in self._begun else self._begin(delta.index)
        return head + f"{self._before[delta.index]}{quote(delta.text)}{self._after}".encode()

    def end(self, finish: Finish) -> bytes:
        """Return the last events: the ends of open choices, the token counts if requested, and the end mark."""
        told = timings(finish.usage, finish.timings) if self._asked.timings else None
        final = max(self._open, default=0)
        last = b"".join([
            self._end(index, finish.reason, told if index == final else None) for index in sorted(self._open)
        ])
        if self._include_usage:
            last += event({**self._common, "choices": [], "usage": usage(finish.usage)})
        return last + DONE

    def fault(self, fault: Fault) -> bytes:
        """Return the last event of an answer that failed; no end mark follows."""
        return event(openai_shape(fault))

    def ping(self, waiting: str) -> bytes:
        """Return a comment."""
        return comment(waiting)

    def _start(self) -> None:
        """Encode what all events have in common."""
        self._common = _common("chat.completion.chunk" if self._asked.chat else "text_completion", self._head())
        if self._include_usage:
            self._common["usage"] = None
        # The choices come last, so that the text can be set between two constant strings.
        before = '"delta":{"content":' if self._asked.chat else '"text":'
        self._before = [
            f'data: {dumps(self._common)[:-1].decode()},"choices":[{{"index":{index},"logprobs":null,'
            f'"finish_reason":null,{before}'
            for index in range(self._asked.count)
        ]

    def _begin(self, index: int, *, text: bool = True) -> bytes:
        """Return the first event of a choice: a chat's role, or the prompt to echo."""
        if not self._before:
            self._start()
        self._begun.add(index)
        if self._asked.chat:
            # Nothing is sent of an answer before it is known whether it begins with text.
            return self._choice(index, {"delta": {"role": "assistant", "content": "" if text else None}})
        echo, scores = self._asked.before(index), self._prompts.get(index // self._asked.n)
        logprobs = None if scores is None else write_prompt(echo, scores)
        return self._choice(index, {"text": echo}, logprobs) if echo else b""

    def _rich(self, delta: Delta) -> bytes:
        """Return the chunks of a delta that is more than text: thoughts, text, calls, end."""
        index = delta.index
        if not self._before:
            self._start()
        if delta.prompt_scores is not None:
            self._prompts[index // self._asked.n] = delta.prompt_scores
        others = [{"delta": value} for value in delta_values(delta, functions=self._asked.functions)]
        thoughts = len(others[:1]) if delta.reasoning else 0
        chunks = [self._choice(index, content) for content in others[:thoughts]]
        if delta.text or delta.scores:
            content = {"delta": {"content": delta.text}} if self._asked.chat else {"text": delta.text}
            scores = self._logprobs[index].write(delta.scores) if delta.scores and self._asked.scored else None
            chunks.append(self._choice(index, content, scores))
        chunks += [self._choice(index, content) for content in others[thoughts:]]
        if index not in self._begun:
            chunks.insert(0, self._begin(index, text=not others))
        if delta.ended is not None:
            chunks.append(self._end(index, delta.ended))
        return b"".join(chunks)

    def _end(self, index: int, reason: FinishReason, told: Mapping[str, object] | None = None) -> bytes:
        self._open.discard(index)
        head = b"" if index in self._begun else self._begin(index)
        word = finish_reason(reason, functions=self._asked.functions)
        content: Mapping[str, object] = {"delta": {}} if self._asked.chat else {"text": ""}
        return head + self._choice(index, content, reason=word, told=told)

    def _choice(
        self, index: int, content: Mapping[str, object], logprobs: object = None, reason: str | None = None,
        told: Mapping[str, object] | None = None,
    ) -> bytes:
        choice = {"index": index, "logprobs": logprobs, "finish_reason": reason, **content}
        return event({**self._common, "choices": [choice], **({} if told is None else {"timings": told})})


def _common(kind: str, head: Head) -> dict[str, Any]:
    return {
        "id": head.id, "object": kind, "created": head.created, "model": head.model,
        "system_fingerprint": head.fingerprint,
    }
