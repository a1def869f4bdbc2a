"""The program itself, as people run it: in a pipe, as a server, on a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

from click.testing import CliRunner
from waits_for_tests import GUARD

from lllms_core.cli import cli


def environment(folder: Path) -> dict[str, str]:
    """The environment without what speaks to lllms or Hugging Face's library, and with no configuration in it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LLLMS_", "HF_"))}
    return {**clean, "XDG_CONFIG_HOME": str(folder)}


class Program:
    """`lllms`, in a world of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models_dir = folder / "store"
        self.errors = ""
        """What the last command wrote to stderr."""
        self.environ = {**environment(folder), "LLLMS_MODELS_DIR": str(self.models_dir), "HOME": str(folder)}

    def start(self, *arguments: str, **pipes: int) -> subprocess.Popen[str]:
        """Begin a command."""
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **pipes}
        return subprocess.Popen(
            [sys.executable, "-m", "lllms_core", *arguments], cwd=self.folder, env=self.environ, text=True, **piped,
        )

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run a command; returns what it wrote to stdout, and after a failure what it wrote to stderr."""
        process = self.start(*arguments)
        output, self.errors = process.communicate(timeout=GUARD)
        assert process.returncode == code, self.errors
        assert "Traceback" not in self.errors
        return self.errors if code else output

    def here(self, *arguments: str, code: int = 0) -> str:
        """Run a command in this process, which takes a tenth of the time of one of its own."""
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
    """Run `lllms serve` on a free port; yields the process and what it printed until it was ready."""
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
    """Return where a server listens, from what it printed."""
    return next(line.split()[-1] for line in printed if line.startswith("listening on "))


class Terminal:
    """What a program shows on its terminal, read up to one text after another."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self._shown = ""

    def until(self, text: str) -> str:
        """Wait until a text is shown, and return all up to it."""
        while text not in self._shown:
            readable, _, _ = select.select([self.ours], [], [], 30)
            assert readable, f"{text!r} is not shown: {self._shown!r}"
            self._shown += os.read(self.ours, 1024).decode(errors="replace")
        before, self._shown = self._shown.split(text, 1)
        return before + text

    def shows(self, text: str) -> bool:
        """Whether a text is shown by now."""
        while select.select([self.ours], [], [], 0)[0]:
            self._shown += os.read(self.ours, 1024).decode(errors="replace")
        return text in self._shown

    def rest(self) -> str:
        """Wait until the program has let go of the terminal, and return what is shown and was not read yet."""
        shown = self._shown.encode()
        while select.select([self.ours], [], [], GUARD)[0]:
            try:
                shown += os.read(self.ours, 65536)
            except OSError:  # that is how a terminal ends when nobody writes to it any more
                return shown.decode(errors="replace")
        raise AssertionError(f"the program does not end: {shown.decode(errors='replace')!r}")

    def type(self, text: str) -> None:
        """Press keys."""
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
