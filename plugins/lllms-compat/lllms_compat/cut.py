"""Where an answer that fills a gap in code ends by its lines; pure."""

from attrs import define


@define
class LineCut:
    """Passes an answer on until a line, after its first one, is indented by fewer than `indent` spaces or tabs.

    Such a line belongs to what follows the gap. Blank lines do not count. With `indent` 0 everything passes at once.
    """

    indent: int
    lines: int = 0
    """The number of line breaks that have passed."""
    over: bool = False
    """Whether the answer has ended."""
    _held: str = ""
    """A line break and the white space after it, until it is known how the line begins."""

    def feed(self, text: str) -> str:
        """Return the part of the answer so far that may be shown, after this piece."""
        if not self.indent:
            self.lines += text.count("\n")
            return text
        shown: list[str] = []
        text, self._held = self._held + text, ""
        at = 0
        while not self.over:
            start = text.find("\n", at)
            if start < 0:
                shown.append(text[at:])
                break
            shown.append(text[at:start])
            rest = text[start + 1 :]
            line = rest.lstrip(" \t")
            if not line:
                self._held = text[start:]
                break
            at = start + 1
            if line[0] not in "\r\n" and len(rest) - len(line) < self.indent:
                self.over = True
                break
            shown.append("\n")
            self.lines += 1
        return "".join(shown)

    def rest(self) -> str:
        """Return what is still held, at the end of the answer: it has no more lines."""
        held, self._held = self._held, ""
        return "" if self.over else held
