"""The bytes of one answer, sorted into text, thoughts and calls."""

from lllms_core.chat.answer_format import AnswerFormat
from lllms_core.chat.parser import AnswerParser, Pieces
from lllms_core.errors import EngineFailed
from lllms_core.text import OutputText
from lllms_core.types import ChatRequest, FinishReason, Request

PLAIN = AnswerFormat()


class AnswerText:
    """Turns bytes into text, thoughts and calls, each output as soon as it is certain.

    Stop strings count wherever they come. Feed it one token at a time: it counts those of the thoughts.
    """

    def __init__(self, request: Request, form: AnswerFormat = PLAIN, *, thinking: bool = False, index: int = 0) -> None:
        """`thinking`: the prompt has opened the thoughts."""
        self.reasoning_tokens = 0
        self._output = OutputText(request.stop)
        self._parser: AnswerParser | None = None
        self._marks = ""
        chat = request if isinstance(request, ChatRequest) else None
        tools = () if chat is None else chat.tools
        if form.reasoning is not None or form.text_start or form.channels is not None or tools:
            # Ids are unique in their conversation: with several answers, they include the answer's number.
            self._parser = AnswerParser(
                form, tools, answer_id=f"{request.id}_{index}" if index else request.id,
                parallel=chat is None or chat.parallel_tool_calls, thinking=thinking,
            )
            self._marks = "\0".join(form.markers)

    @property
    def decoded(self) -> int:
        """The number of complete characters, shown or not."""
        return self._output.decoded

    @property
    def passed(self) -> int:
        """The number of those that no stop string can hide anymore."""
        return self._output.passed

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met, or the only call that was wanted is complete."""
        return self._output.stopped or (self._parser is not None and self._parser.done)

    @property
    def stop(self) -> str | None:
        """The stop string that was met."""
        return self._output.stop

    @property
    def thinking(self) -> bool:
        """Whether the thoughts have begun and not ended."""
        return self._parser is not None and self._parser.reasoning

    @property
    def kept(self) -> bool:
        """Whether a grammar keeps the next call from breaking, so that its arguments are output as they are written."""
        return self._parser is not None and self._parser.kept

    @kept.setter
    def kept(self, kept: bool) -> None:
        if self._parser is not None:
            self._parser.kept = kept

    def mark(self, control: str) -> bytes:
        """Return the bytes of a control token that marks calls or thoughts; none for any other, which nothing reads."""
        return control.encode() if control and control in self._marks else b""

    def feed(self, piece: bytes) -> Pieces:
        """Take a token's bytes, and return everything that is complete and safe to show.

        Raises `EngineFailed` for an answer that is nested too deeply to be read.
        """
        text = self._output.feed(piece)
        parser = self._parser
        if parser is None:
            return Pieces(text)
        thought = parser.reasoning
        try:
            pieces = parser.feed(text)
        except RecursionError:
            raise EngineFailed("the model has written a call that is nested too deeply to be read") from None
        if thought or parser.reasoning:
            self.reasoning_tokens += 1
        return pieces

    def end(self, reason: FinishReason) -> tuple[Pieces, FinishReason]:
        """Return everything held back, once no more comes, and why the answer ended.

        An answer that ended by itself with calls ended for them; one that stopped inside a call was cut.
        """
        text = self._output.flush()
        parser, stop = self._parser, self._output.stop
        if parser is None:
            return Pieces(text), reason
        try:
            pieces = parser.feed(text)
            pieces = pieces.followed_by(parser.finish(complete=reason == "stop" and not stop, following=stop or ""))
        except RecursionError:
            return Pieces(text), reason  # nested too deeply to be read
        if reason == "stop" and (parser.cut or parser.calls):
            reason = "length" if parser.cut else "tool_calls"
        return pieces, reason
