"""`run` and `chat` on a terminal: what is pasted, kept, and shown while an answer is awaited; pipes get none of it."""

import json
import os
import re
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs_for_tests import Program, Terminal, address, serving

from lllms_core.cli import typed_lines
from lllms_core.cli.answer_display import AnswerDisplay, harmless
from lllms_core.cli.voices import Pieces
from lllms_core.client import TextEvent, ThoughtsEvent

pytestmark = pytest.mark.slow

CONFIG = """
[models.bot]
engine = "mock"
isolation = "thread"
[[models.bot.options.script]]
when = 'one(.|\\n)*two'
replies = ["both"]
[[models.bot.options.script]]
when = "think"
thinks = "Let me see."
replies = ["done"]
[[models.bot.options.script]]
when = "red"
replies = ["\\u001b[31mred"]
[[models.bot.options.script]]
replies = ["first", "second"]
[models.other]
engine = "mock"
isolation = "thread"
options = { script = [{ replies = ["other", "others"] }] }
[models.slow]
engine = "mock"
isolation = "thread"
options = { load_seconds = 1.0, script = [{ replies = ["at last"] }] }
"""
PASTE, PASTED = "\x1b[200~", "\x1b[201~"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


@pytest.fixture
def lllms(tmp_path: Path) -> Program:
    (tmp_path / "lllms.toml").write_text(CONFIG)
    program = Program(tmp_path)
    program.environ["XDG_STATE_HOME"] = str(tmp_path / "state")
    return program


@contextmanager
def terminal(lllms: Program, *arguments: str, term: str = "xterm", **environ: str) -> Iterator[Terminal]:
    """Run lllms on a terminal, until it ends."""
    shown = Terminal()
    with shown.program(*arguments, folder=lllms.folder, environ={**lllms.environ, **environ}, term=term) as process:
        yield shown
        assert process.wait(timeout=60) == 0


def ask(shown: Terminal, typed: str, answer: str) -> str:
    """Type at the prompt, and return what is shown up to the answer."""
    shown.until(">")
    shown.type(typed)
    return shown.until(answer)


def in_one(shown: str) -> str:
    """Thoughts may arrive, and be shown, in several pieces; return what is shown with each dimmed text in one."""
    return shown.replace(PLAIN + DIM, "")


def history(lllms: Program) -> Path:
    return lllms.folder / "state" / "lllms" / "chat_history"


def test_pasted_lines_are_one_message_and_what_is_typed_is_kept(lllms: Program) -> None:
    """Lines pasted together, or begun by Alt-Enter or a backslash, are one message; the next chat offers it again.

    Their file is readable by nobody else, whatever the umask.
    """
    mask = os.umask(0)
    try:
        with terminal(lllms, "chat", "bot") as shown:
            ask(shown, f"{PASTE}one\ntwo{PASTED}\r", "both\r\n")
            ask(shown, "one\x1b\rtwo\r", "both\r\n")
            ask(shown, "one\\\rtwo\r", "both\r\n")
            shown.until(">")
            shown.type("\x04")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(history(lllms).stat().st_mode) == 0o600
    assert stat.S_IMODE(history(lllms).parent.stat().st_mode) == 0o700
    with terminal(lllms, "chat", "bot") as shown:
        ask(shown, "\x1b[A\r", "both\r\n")
        shown.until(">")
        shown.type("/ex\t\r")


def test_thoughts_are_dimmed_and_a_history_can_be_switched_off(lllms: Program) -> None:
    """Thoughts stand dimmed before the answer, which cannot command the terminal; the variable keeps nothing."""
    with terminal(lllms, "chat", "bot", LLLMS_NO_HISTORY="1") as shown:
        text = ask(shown, "think\r", "done\r\n")
        assert in_one(text).endswith(f"{DIM}Let me see.{PLAIN}\r\n\r\ndone\r\n")
        assert "\\x1b[31mred" in ask(shown, "red\r", "mred\r\n")
        shown.until(">")
        shown.type("/exit\r")
    assert not history(lllms).exists()
    assert harmless("a\tb\nc\x07\x9b\r👩‍💻 ü") == "a\tb\nc\\x07\\x9b\\r👩‍💻 ü"


def test_a_long_history_loses_its_older_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept begins with a whole entry; a symbolic link in its place is not followed."""
    monkeypatch.setattr(typed_lines, "MOST_HISTORY", 1000)
    file = tmp_path / "history"
    entries = [f"\n# 2026\n+entry {number}\n" for number in range(100)]
    file.write_text("".join(entries))
    typed_lines._make_private(file)
    kept = file.read_text()
    assert 800 < len(kept) <= sum(map(len, entries)) // 2
    assert kept == "".join(entries)[-len(kept):]
    assert kept.startswith("\n# 2026\n+entry")
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(OSError, match="symbolic link"):
        typed_lines._make_private(tmp_path / "link")


def test_the_commands_of_a_chat(lllms: Program) -> None:
    """/model changes the model, /save writes what was said, /system begins again, /help lists all of them."""
    said = ["a", "/model other", "b", "/model nope", "/model", "/save talk.txt", "/save talk.txt", "/system Be brief.",
            "c", "/save talk.json", "/save", "/help"]
    process = lllms.start("chat", "bot", stdin=-1)
    output, errors = process.communicate("\n".join(said), timeout=60)
    answers, told = output.partition("/clear")[::2]
    assert answers == "first\nmodel: other\nothers\nmodel: other\nsaved in talk.txt\nother\nsaved in talk.json\n"
    assert set(re.findall(r"^/\w+", told, re.MULTILINE)) == {"/system", "/model", "/save", "/exit"}
    assert (lllms.folder / "talk.txt").read_text() == "user: a\n\nassistant: first\n\nuser: b\n\nassistant: others\n"
    saved = json.loads((lllms.folder / "talk.json").read_text())
    assert saved["model"] == "other"
    assert [one["role"] for one in saved["messages"]] == ["system", "user", "assistant"]
    assert "no model 'nope'" in errors
    assert "talk.txt cannot be written: File exists; choose another name" in errors
    assert "/save needs the name of a file" in errors


def test_a_server_is_watched_alike(lllms: Program) -> None:
    """With a server, too, thoughts are dimmed, and a line tells that a model is loading until its answer begins."""
    with (
        serving(lllms.folder, environ=lllms.environ) as (_, printed),
        terminal(lllms, "chat", "bot", "--url", address(printed), "--no-history") as shown,
    ):
        assert f"{DIM}Let me see.{PLAIN}" in in_one(ask(shown, "think\r", "done\r\n"))
        assert "no model 'nope'" in ask(shown, "/model nope\r", "there are: bot, other, slow")
        ask(shown, "/model slow\r", "model: slow")
        assert "loading" in ask(shown, "hi\r", "\x1b[2Kat last\r\n")
        shown.until(">")
        shown.type("/exit\r")
        for remote in ([], ["--url", address(printed)]):
            assert lllms.here("run", "bot", "think", *remote) == "done\n"
            assert lllms.errors == "", "a pipe gets no thoughts"
            assert lllms.here("run", "bot", "red", *remote) == "\x1b[31mred\n", "nor any other change"
            assert lllms.here("run", "slow", "hi", *remote) == "at last\n"
            assert lllms.errors == "", "a pipe gets no progress"


def test_a_dumb_terminal_gets_words(lllms: Program) -> None:
    """A terminal without escape sequences gets none: thoughts are marked by a word."""
    with terminal(lllms, "run", "bot", "think", term="dumb") as shown:
        assert shown.until("done\r\n") == "(thinking) Let me see.\r\n\r\ndone\r\n"


def test_thoughts_can_be_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--no-thoughts` a terminal shows that the model thinks, not what."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")

    def pieces() -> Pieces:
        yield ThoughtsEvent("Let me see.")
        yield TextEvent("done")

    AnswerDisplay("bot", thoughts=False).show(pieces())
    told = capsys.readouterr()
    assert told.out == "done\n"
    assert "thinking" in told.err
    assert "see" not in told.err


def test_verbose_tells_what_an_answer_took(lllms: Program) -> None:
    """`-v` adds the log of the load, and the figures of the answer, on stderr; stdout stays the answer."""
    assert lllms("run", "slow", "hi", "-v") == "at last\n"
    assert "loaded slow" in lllms.errors
    assert re.search(r"^2 tokens in .*, prompt: \d+ tokens, .*, load \d\.\d+ s$", lllms.errors, re.MULTILINE)


def test_ctrl_c_while_a_model_loads(lllms: Program) -> None:
    """Ctrl-C while an answer is awaited shows the cursor again, and ends `run`."""
    shown = Terminal()
    with shown.program(
        "run", "other", "hi", "-o", "first_token=60", folder=lllms.folder, environ=lllms.environ, term="xterm",
    ) as process:
        shown.until("waiting for other")
        process.send_signal(signal.SIGINT)
        shown.until("\x1b[?25h")
        shown.until("Aborted!")
        assert process.wait(timeout=60) == 1
