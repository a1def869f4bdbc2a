"""What an answer has been sorted into so far."""

from attrs import define, field

from lllms_core.chat.calls import CallReader
from lllms_core.types import CallPiece


@define
class SortedAnswer:
    """Where those who read an answer put what they find; whoever feeds them takes it from here."""

    reasoning: bool = False
    """Whether the next text belongs to the thoughts, as far as is known."""
    text: list[str] = field(factory=list)
    thoughts: list[str] = field(factory=list)
    pieces: list[CallPiece] = field(factory=list)
    calls: int = 0
    """How many calls there are so far."""
    call: CallReader | None = None
    """The call that is being read."""
    done: bool = False
    """Whether nothing more belongs to the answer."""
    free: bool = False
    """Whether text may be put in without being read, as long as it has no character with which a mark begins."""

    @property
    def open_call(self) -> bool:
        """Whether a call is being read of which some has come out already."""
        return self.call is not None and self.call.committed

    def add(self, text: str) -> None:
        """Put in more of the text, or of the thoughts."""
        (self.thoughts if self.reasoning else self.text).append(text)
