"""The parts into which an answer has been sorted so far."""

from attrs import define, field

from lllms_core.chat.calls import CallReader
from lllms_core.types import CallPiece


@define
class SortedAnswer:
    """Collects the parts that an answer's readers find, for their feeder to take."""

    reasoning: bool = False
    """Whether the next text belongs to the thoughts, as far as is known."""
    text: list[str] = field(factory=list)
    thoughts: list[str] = field(factory=list)
    pieces: list[CallPiece] = field(factory=list)
    calls: int = 0
    """The number of calls so far."""
    call: CallReader | None = None
    """The call that is being read."""
    done: bool = False
    """Whether the answer is complete."""
    free: bool = False
    """Whether text may be added without being read, as long as it has no character with which a mark starts."""

    @property
    def open_call(self) -> bool:
        """Whether a call is being read, and part of it has been output."""
        return self.call is not None and self.call.committed

    def add(self, text: str) -> None:
        """Add more of the text, or of the thoughts."""
        (self.thoughts if self.reasoning else self.text).append(text)
