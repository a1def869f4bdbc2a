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
    between: bool = False
    """Whether the marks between two calls are being read."""
    cut: bool = False
    """Whether the answer ended inside a call, or in the marks that announce one."""
    last: str = ""
    """The last character of the text."""
    done: bool = False
    """Whether the answer is complete."""
    free: bool = False
    """Whether text may be added without being read, as long as it has no character with which a mark starts."""

    def add(self, text: str) -> None:
        """Add more of the text, or of the thoughts."""
        if self.reasoning:
            self.thoughts.append(text)
        elif text:
            self.text.append(text)
            self.last = text[-1]
