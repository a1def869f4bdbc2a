"""The program as users run it: in a pipe, as a server, on a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

from click.testing import CliRunner
from waits_for_tests import GUARD

from lllms_core.cli import cli


def environment(folder: Path) -> dict[str, str]:
    """The environment without variables for lllms or Hugging Face's library, and without a configuration.

    Servers keep no spare worker, so that each process of theirs has a model.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LLLMS_", "HF_"))}
    return {**clean, "XDG_CONFIG_HOME": str(folder), "LLLMS_SPARE_WORKERS": "0"}


class Program:
    """`lllms`, in its own isolated environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models_dir = folder / "store"
        self.errors = ""
        """The last command's stderr."""
        self.environ = {**environment(folder), "LLLMS_MODELS_DIR": str(self.models_dir), "HOME": str(folder)}

    def start(self, *arguments: str, **pipes: int) -> subprocess.Popen[str]:
        """Begin a command."""
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **pipes}
        return subprocess.Popen(
            [sys.executable, "-m", "lllms_core", *arguments], cwd=self.folder, env=self.environ, text=True, **piped,
        )

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run a command and return its stdout, or its stderr if it failed."""
        process = self.start(*arguments)
        output, self.errors = process.communicate(timeout=GUARD)
        assert process.returncode == code, self.errors
        assert "Traceback" not in self.errors
        return self.errors if code else output

    def here(self, *arguments: str, code: int = 0) -> str:
        """Run a command in this process, in a tenth of the time that a new process takes."""
        others = dict.fromkeys(name for name in os.environ if name.startswith(("LLLMS_", "HF_")))
        with chdir(self.folder):
            result = CliRunner(env={**others, **self.environ}).invoke(cli, arguments, prog_name="lllms")
        self.errors = result.stderr
        assert isinstance(result.exception, SystemExit | None), result.exception
        assert result.exit_code == code, self.errors
        return self.errors if code else result.stdout

    def files(self) -> list[str]:
        """Name the files in the store."""
        root = self.models_dir / "models"
        return sorted(file.name for file in root.rglob("*") if file.is_file())


@contextmanager
def serving(
    folder: Path, *arguments: str, environ: Mapping[str, str] | None = None,
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run `lllms serve` on a free port; yields the process and the lines it printed until it was ready."""
    argv = [sys.executable, "-m", "lllms_core", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=environment(folder) if environ is None else environ,
    )
    assert process.stdout is not None
    try:
        printed: list[str] = []
        while not (printed and printed[-1].startswith("try: ")):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            printed.append(line.rstrip("\n"))
        yield process, printed
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def address(printed: list[str]) -> str:
    """Return a server's address from the lines it printed."""
    return next(line.split()[-1] for line in printed if line.startswith("listening on "))


class Terminal:
    """A program's terminal output, read piece by piece, up to a given text each time."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self._shown = ""
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")  # a read may end inside a character

    def until(self, text: str) -> str:
        """Wait until a text is shown, and return all output up to it."""
        while text not in self._shown:
            readable, _, _ = select.select([self.ours], [], [], GUARD)
            assert readable, f"{text!r} is not shown: {self._shown!r}"
            self._shown += self._decoder.decode(os.read(self.ours, 1024))
        before, self._shown = self._shown.split(text, 1)
        return before + text

    def shows(self, text: str) -> bool:
        """Whether a text has been shown yet."""
        while select.select([self.ours], [], [], 0)[0]:
            self._shown += self._decoder.decode(os.read(self.ours, 1024))
        return text in self._shown

    def rest(self) -> str:
        """Wait until the program has closed the terminal, and return its unread output."""
        shown = self._shown.encode() + self._decoder.getstate()[0]
        while select.select([self.ours], [], [], GUARD)[0]:
            try:
                shown += os.read(self.ours, 65536)
            except OSError:  # how a terminal ends once it has no writers
                return shown.decode(errors="replace")
        raise AssertionError(f"the program does not end: {shown.decode(errors='replace')!r}")

    def type(self, text: str) -> None:
        """Type keys."""
        os.write(self.ours, text.encode())

    @contextmanager
    def program(
        self, *arguments: str, folder: Path, environ: Mapping[str, str] | None = None, term: str = "dumb",
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run lllms on this terminal."""
        process = subprocess.Popen(
            [sys.executable, "-m", "lllms_core", *arguments], stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            cwd=folder, env={**(environment(folder) if environ is None else environ), "TERM": term},
            start_new_session=True,
        )
        os.close(self.theirs)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            os.close(self.ours)
