"""Clients beside the attackers: they know their answers, and notice one that is late, cut or different."""

import json
import re
import threading
import time
from typing import Self

from attrs import define, field
from hostile_for_tests import CHAT
from lines_for_tests import SECRET, Address, Line, head

GAP_SECONDS = 2.0
"""The longest allowed gap before a piece of a stream, in seconds; real faults take far longer."""


@define
class Witness:
    """A client that streams the same answer again and again, and notes anything unusual."""

    address: Address
    request: dict[str, object]
    expected: str | None
    """The expected answer; None: all answers must equal the first."""
    pause: float = 0.0
    answers: int = 0
    longest: float = 0.0
    """The longest gap since the last look."""
    asking: threading.Lock = field(factory=threading.Lock)
    """Held while an answer is running."""
    problems: list[str] = field(factory=list)
    _last: float = field(factory=time.monotonic)
    _stopped: threading.Event = field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop after the current answer."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(GAP_SECONDS * 4)

    def gap(self) -> float:
        """The longest gap since the last look, including the current one."""
        now = time.monotonic() - self._last if self.asking.locked() else 0.0
        longest, self.longest = max(self.longest, now), 0.0
        return longest

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with self.asking:
                    self._last = time.monotonic()
                    text = self._ask()
            except (OSError, ValueError, KeyError) as error:
                self.problems.append(f"{type(error).__name__}: {error}")
                self._stopped.wait(0.2)
                continue
            if self.expected is None:
                self.expected = text
            if text != self.expected:
                self.problems.append(f"got {text!r}")
            self.answers += 1
            self._stopped.wait(self.pause)

    def _ask(self) -> str:
        """Read one answer, event by event."""
        data = json.dumps({**self.request, "stream": True}).encode()
        text, got = "", b""
        with Line(self.address, GAP_SECONDS * 12) as line:
            line.send(head("POST", CHAT, length=len(data), close=True).replace(SECRET.encode(), b"witness"), data)
            while part := line.socket.recv(1 << 16):
                now = time.monotonic()
                self.longest, self._last = max(self.longest, now - self._last), now
                got += part
        if not got.startswith(b"HTTP/1.1 200"):
            raise ValueError(got[:500])
        for event in re.findall(rb"data: (\{.*\})", got):
            told = json.loads(event)
            if "error" in told:
                raise ValueError(told["error"])
            for choice in told["choices"]:
                text += choice["delta"].get("content") or ""
        return text
